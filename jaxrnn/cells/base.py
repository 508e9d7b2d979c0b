"""What is a recurrent cell? Five pure functions, and the parameters they declare."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxrnn.flat import may_merge_axes

AnyArray = Array | np.ndarray  # what a caller may pass
Params = Mapping[str, Any]  # {name: array}
Carry = Any  # a pytree of arrays (*batch, features)
Activation = Callable[[Array], Array]
Initializer = Callable[..., Array]  # (key, shape, dtype) -> Array


class ParamSpec(NamedTuple):
    """Declares one parameter: its shape and how its initial value is drawn."""

    shape: tuple[int, ...]
    init: Initializer


class Adjoint(NamedTuple):
    """Backpropagation through time of one cell, written by hand.

    `jaxrnn.HoistedScan` uses it to keep the backward loop down to one matmul a
    step: everything that can be done for all steps at once is done in `collect`.

    Attributes:
      forward: `(params, carry, projected) -> (carry, saved)`: `Cell.step`, which
        also returns what `backward` wants to find again.
      backward: `(params, before, after, saved, cotangent) -> (cotangent_before,
        delta)`: one step back, from the cotangent of the carry `after` the step to
        that of the carry `before` it. `delta` is any pytree `collect` asks for.
      collect: `(params, inputs, before, saved, delta) -> (gradients, of_inputs)`: the
        gradients of the parameters and the cotangent of the inputs, of all steps at
        once; every argument but `params` has a leading time axis.
      faster_from: the number of values in all carries (time * batch * features) from
        which gradients with it are as fast as those of `jaxrnn.Scan`, as
        `experiments/speed.py` measures on a CPU; from there on it is the default.
      native: which loop of `native.cc` does the same; None where there is none.
      halves: `(slope, through)`, where the carry is one array, nothing is saved, and
        `backward` is `delta = cotangent * slope(after)`, elementwise, followed by
        `through(params, delta)`. A loop can then carry delta in place of the cotangent.
    """

    forward: Callable[[Params, Carry, Array], tuple[Carry, Any]]
    backward: Callable[[Params, Carry, Carry, Any, Carry], tuple[Carry, Any]]
    collect: Callable[[Params, Any, Carry, Any, Any], tuple[dict[str, Array], Any]]
    faster_from: float
    native: str | None = None
    halves: tuple[Activation, Callable[[Params, Array], Array]] | None = None


def adjoint_of_halves(
    slope: Activation,
    through: Callable[[Params, Array], Array],
    step: Callable[[Params, Carry, Array], Carry],
    collect: Any,
    native: str | None = None,
) -> Adjoint:
    """The adjoint whose `backward` is `slope`, then `through`; see `Adjoint.halves`."""

    def forward(params: Params, carry: Array, projected: Array) -> tuple[Array, None]:
        return step(params, carry, projected), None

    def backward(
        params: Params, before: Array, after: Array, saved: None, cotangent: Array
    ) -> tuple[Array, Array]:
        del before, saved
        delta = cotangent * slope(after)
        return through(params, delta), delta

    return Adjoint(forward, backward, collect, 0, native, (slope, through))


class Cell(NamedTuple):
    """What happens at one time step, as pure functions.

    The recurrence that a cell stands for is

        carry_t = step(params, carry_{t-1}, project(params, inputs_t))
        output_t = output(carry_t)

    `project` is the part that does not depend on the carry, so a solver is free to
    run it for all steps in one matmul; `step` is the paper's equation. The output is
    read off the carry: holding the carry at a masked step then holds the output too.

    A cell is hashable and made once (`jaxrnn.simple_rnn` is a constant; builders such
    as `jaxrnn.simple_rnn_cell` return the same object for equal settings), so it is a
    good static argument of `jax.jit`.

    Everything is computed in the dtype of the carry and the inputs; parameters may be
    wider, `matmul` and `add_row` round them where they are used.

    Attributes:
      name: for error messages.
      param_specs: `(in_features, features) -> {name: ParamSpec}`.
      initial_carry: `(params, batch_shape) -> carry`; zeros in the cells here. The
        last leaf is `features` wide.
      project: `(params, inputs (*batch, in_features)) -> projected (*batch, ...)`.
      step: `(params, carry, projected) -> carry`.
      output: `carry -> (*batch, features)`.
      adjoint: the hand-written backward pass; None leaves it to JAX.
      noise: `(key, params, inputs (time, *batch, in_features)) -> (params, inputs)`:
        draws what is random while training, for all steps at once, and leaves it where
        `project` and `step` find it. None where nothing is random; see `dropout_cell`
        and `zoneout_cell`.

    Example:
      >>> params = init_params(simple_rnn, jax.random.key(0), 2, 3)
      >>> carry = simple_rnn.initial_carry(params, (5,))
      >>> projected = simple_rnn.project(params, jnp.ones((5, 2)))
      >>> carry = simple_rnn.step(params, carry, projected)
      >>> simple_rnn.output(carry).shape
      (5, 3)
    """

    name: str
    param_specs: Callable[[int, int], dict[str, ParamSpec]]
    initial_carry: Callable[[Params, tuple[int, ...]], Carry]
    project: Callable[[Params, Array], Array]
    step: Callable[[Params, Carry, Array], Carry]
    output: Callable[[Carry], Array]
    adjoint: Adjoint | None = None
    noise: Callable[[PRNGKeyArray, Params, Any], tuple[Params, Any]] | None = None


def init_params(
    cell: Cell,
    key: PRNGKeyArray,
    in_features: int,
    features: int,
    dtype: Any = jnp.float32,
) -> dict[str, Array]:
    """Draws the initial parameters of a cell, with Keras' initial values.

    Args:
      cell: the cell to draw for.
      key: a `jax.random.key`; every parameter gets a key of its own.
      in_features: size of one input step.
      features: size of the hidden vector.
      dtype: of the parameters.

    Returns:
      `{name: array}` in the order of `cell.param_specs`.

    Example:
      >>> params = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> {name: value.shape for name, value in params.items()}
      {'kernel': (2, 12), 'recurrent_kernel': (3, 12), 'bias': (12,)}
    """
    specs = cell.param_specs(in_features, features)
    keys = jax.random.split(key, len(specs))
    return {
        name: spec.init(key, spec.shape, dtype)
        for key, (name, spec) in zip(keys, specs.items(), strict=True)
    }


# What the cells here share.


def as_one_program(initializer: Initializer) -> Initializer:
    """The same values from one compilation, not from one for every operation in it."""
    return jax.jit(initializer, static_argnums=(1, 2))


glorot_uniform = as_one_program(jax.nn.initializers.glorot_uniform())
# On (features, gates*features): orthogonal rows.
orthogonal = as_one_program(jax.nn.initializers.orthogonal())
zeros = jax.nn.initializers.zeros


def fused_specs(
    gates: int, in_features: int, features: int, bias_names: tuple[str, ...]
) -> dict[str, ParamSpec]:
    """Keras' parameters: every matrix holds its `gates` side by side."""
    width = gates * features
    return {
        "kernel": ParamSpec((in_features, width), glorot_uniform),
        "recurrent_kernel": ParamSpec((features, width), orthogonal),
        **{name: ParamSpec((width,), zeros) for name in bias_names},
    }


def matmul(
    values: Float[Array, "*rows a"], kernel: Float[Array, "a b"]
) -> Float[Array, "*rows b"]:
    """`values @ kernel` in the dtype of `values`, with sums in float32 or wider.

    The kernel is rounded here and not before the loop, so that its gradient adds up in
    its own dtype: with bfloat16 values and a float32 kernel, in float32. What one step
    adds is rounded to bfloat16 before, but in `HoistedScan` (see `kernel_gradient`).
    """
    dtype = values.dtype
    sums = dtype if dtype.itemsize >= 4 else jnp.float32
    product = jnp.matmul(values, kernel.astype(dtype), preferred_element_type=sums)
    return product.astype(dtype)


def gated_matmul(
    values: Float[Array, "*rows a"],
    kernel: Float[Array, "a b"],
    masks: Float[Array, "..."] | None,
) -> Float[Array, "*rows b"]:
    """`matmul`, with a dropout mask for `values`, or one for each gate.

    Args:
      values: what is multiplied.
      kernel: the gates side by side.
      masks: (1 or gates, *batch, a); None = nothing is dropped.
    """
    if masks is None:
        return matmul(values, kernel)
    gates = jnp.split(kernel, masks.shape[0], axis=-1)
    leading = (None,) * (values.ndim + 1 - masks.ndim)  # time, where it is projected
    return jnp.concatenate(
        [
            matmul(values * mask[leading], gate)
            for mask, gate in zip(masks.astype(values.dtype), gates, strict=True)
        ],
        axis=-1,
    )


def as_row(row: Float[Array, " a"], values: Float[Array, "*rows a"]) -> Array:
    """`row` with the rank and dtype of `values` (strict promotion, written out)."""
    return jnp.expand_dims(row.astype(values.dtype), tuple(range(values.ndim - 1)))


def add_row(
    values: Float[Array, "*rows a"], row: Float[Array, " a"]
) -> Float[Array, "*rows a"]:
    """Adds `row` to every row."""
    return values + as_row(row, values)


def affine_project(params: Params, inputs: Array) -> Array:
    """Returns inputs @ kernel + bias, the latter where the cell has one."""
    projected = gated_matmul(inputs, params["kernel"], params.get("dropout"))
    return add_row(projected, params["bias"]) if "bias" in params else projected


def recurrent_project(params: Params, hidden: Array) -> Array:
    """Returns hidden @ recurrent_kernel, a matmul for all gates."""
    masks = params.get("recurrent_dropout")
    return gated_matmul(hidden, params["recurrent_kernel"], masks)


def zero_hidden(params: Params, batch_shape: tuple[int, ...]) -> Array:
    """A hidden vector of zeros (*batch, features) in the parameters' dtype."""
    recurrent_kernel = params["recurrent_kernel"]
    return jnp.zeros((*batch_shape, recurrent_kernel.shape[0]), recurrent_kernel.dtype)


MANY_ROWS = 2048  # from here on XLA:CPU is faster without a transposed copy of them


def kernel_gradient(
    kernel: Float[Array, "a b"], left: Float[Array, "*rows a"], delta: Array
) -> Float[Array, "a b"]:
    """The gradient of `kernel` in `left @ kernel`: one matmul over all leading axes.

    It adds up in the dtype of the kernel. JAX's own transpose of that product has the
    operands the other way round, which takes XLA 1.4 to 2.6 times as long on a CPU.
    """
    if may_merge_axes() and math.prod(left.shape[:-1]) >= MANY_ROWS:
        left, delta = (x.reshape(-1, x.shape[-1]) for x in (left, delta))
    rows = tuple(range(left.ndim - 1))
    sharding = jax.typeof(kernel).sharding  # of the sum over rows, where they have one
    return jax.lax.dot_general(
        left,
        delta,
        ((rows, rows), ((), ())),
        preferred_element_type=kernel.dtype,
        out_sharding=None if sharding.mesh.empty else sharding,
    )


def row_gradient(
    row: Float[Array, " a"], delta: Float[Array, "*rows a"]
) -> Float[Array, " a"]:
    """The gradient of a row that was added: the sum over all leading axes."""
    return delta.sum(axis=tuple(range(delta.ndim - 1)), dtype=row.dtype)


def affine_gradients(
    params: Params, inputs: Array, delta: Array
) -> tuple[dict[str, Array], Array]:
    """The gradients of `affine_project` without dropout, and the inputs' cotangent."""
    gradients = {"kernel": kernel_gradient(params["kernel"], inputs, delta)}
    if "bias" in params:
        gradients["bias"] = row_gradient(params["bias"], delta)
    return gradients, matmul(delta, params["kernel"].T)
