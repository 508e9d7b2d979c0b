"""What is a recurrent cell? Five pure functions, and the parameters they declare."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

AnyArray = Array | np.ndarray  # what a caller may pass
Params = Mapping[str, Any]  # {name: array}
Carry = Any  # a pytree of arrays (*batch, features)
Activation = Callable[[Array], Array]
Initializer = Callable[..., Array]  # (key, shape, dtype) -> Array


class ParamSpec(NamedTuple):
    """Declares one parameter: its shape and how its initial value is drawn."""

    shape: tuple[int, ...]
    init: Initializer


def check_size(name: str, size: Any) -> None:
    """Raises a ValueError where a number of features, or of ids, is none.

    Example:
      >>> check_size("features", 0)
      Traceback (most recent call last):
      ValueError: features must be a whole number of at least 1, got 0.
    """
    is_whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    if not is_whole or size < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}.")


def as_array(name: str, values: Any) -> AnyArray:
    """Arrays as they are; nested lists, and what else holds numbers, as an array.

    Raises:
      TypeError: what is no numbers, or rows of different lengths.

    Example:
      >>> as_array("inputs", [[1.0, 2.0], [3.0, 4.0]]).shape
      (2, 2)
      >>> as_array("inputs", None)
      Traceback (most recent call last):
      TypeError: inputs must be an array of numbers, got None; np.asarray makes one of \
nested lists.
    """
    if isinstance(values, jax.Array):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OSUmM":
        return values
    try:
        return jnp.asarray(values)
    except (TypeError, ValueError) as error:
        found = f"a {type(values).__name__}"
        way_out = "np.asarray makes one of nested lists"
        if isinstance(values, str | None):
            found = repr(values)
        elif hasattr(values, "dtype"):
            found = f"an array of {values.dtype}"
        elif isinstance(values, list | tuple):
            way_out = (
                "rows of different lengths are padded, as jaxrnn.data.buckets does"
            )
        raise TypeError(
            f"{name} must be an array of numbers, got {found}; {way_out}."
        ) from error


def check_dtype(name: str, dtype: Any) -> None:
    """Raises a TypeError where something is to be computed, or kept, in no floats.

    Args:
      name: for the message.
      dtype: None passes: it stands for a default.

    Example:
      >>> check_dtype("dtype", jnp.bfloat16)
      >>> check_dtype("dtype", int)
      Traceback (most recent call last):
      TypeError: dtype must be floating point, such as jnp.float32, got int64.
    """
    if dtype is None:
        return
    try:
        found, fits = np.dtype(dtype), jnp.issubdtype(dtype, jnp.floating)
    except TypeError:  # a name that is none
        found, fits = repr(dtype), False
    if not fits:
        raise TypeError(
            f"{name} must be floating point, such as jnp.float32, got {found}."
        )


def check_key(name: str, key: Any) -> None:
    """Raises where a key is none, or several; the raw bits of one pass, as in JAX.

    Raises:
      TypeError: what is no key.
      ValueError: several keys.

    Example:
      >>> check_key("key", 0)
      Traceback (most recent call last):
      TypeError: key must be a key of JAX, got 0; make one with jax.random.key(seed).
    """
    dtype = getattr(key, "dtype", None)
    is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not is_key and (dtype != jnp.uint32 or not key.ndim):
        found = repr(key) if dtype is None else f"{dtype} of shape {key.shape}"
        raise TypeError(
            f"{name} must be a key of JAX, got {found}; make one with "
            "jax.random.key(seed)."
        )
    if key.ndim > (0 if is_key else 1):
        raise ValueError(
            f"{name} must be one key, got several of shape {key.shape}; take keys[0], "
            "or jax.vmap over the keys."
        )


class Adjoint(NamedTuple):
    """Backpropagation through the steps of one cell, written by hand.

    `jaxrnn.HoistedScan` runs `backward_data` in its backward loop, and
    `backward_weights` once, for all steps: so the loop holds no more than it must.

    Attributes:
      forward: `(params, carry, projected) -> (carry, residuals)`: `Cell.step`, and what
        the two functions below want to find again.
      backward_data: `(params, before, after, residuals, cotangent) ->
        (cotangent_before, delta)`: one step back, from the cotangent of the carry
        `after` the step to that of the carry `before` it. `delta` is any pytree that
        `backward_weights` asks for.
      backward_weights: `(params, inputs, before, residuals, delta) -> (gradients,
        of_inputs)`: the gradients of the parameters and the cotangent of the inputs.
        Every argument but `params` has leading axes: (time, *batch), or one axis for
        all of them.
      native: which loop of `native.cc` computes the same; None where there is none.
    """

    forward: Callable[[Params, Carry, Array], tuple[Carry, Any]]
    backward_data: Callable[[Params, Carry, Carry, Any, Carry], tuple[Carry, Any]]
    backward_weights: Callable[
        [Params, Any, Carry, Any, Any], tuple[dict[str, Array], Any]
    ]
    native: str | None = None


class ElementwiseAdjoint(NamedTuple):
    """The adjoint of a cell whose carry is one array, the output of its activation.

    The carries are then all that the gradients need, and one step back is

        delta_t = dL/dh_t * derivative(h_t)
        dL/dh_{t-1} += pullback(params, delta_t)

    Attributes:
      derivative: from h to the derivative of the activation, elementwise.
      pullback: `(params, delta) -> cotangent_before`.
      backward_weights: as in `Adjoint`, where `residuals` is None.
      native: as in `Adjoint`.
    """

    derivative: Activation
    pullback: Callable[[Params, Array], Array]
    backward_weights: Callable[
        [Params, Any, Array, None, Array], tuple[dict[str, Array], Any]
    ]
    native: str | None = None


class Linear(NamedTuple):
    """Says that a step is linear in the carry, one number by one.

        pack(step(params, carry, projected)) = a * pack(carry) + b

    `jaxrnn.ParallelScan` then needs no sequence of steps.

    Attributes:
      coefficients: `(params, projected) -> (a, b)`, arrays of the shape of what is
        packed, (*batch, n); neither depends on the carry.
      pack: from a carry to one array (*batch, n), real or complex.
      unpack: back; the dtype may be wider than that of the carry.
    """

    coefficients: Callable[[Params, Any], tuple[Array, Array]]
    pack: Callable[[Carry], Array] = lambda carry: carry
    unpack: Callable[[Array], Carry] = lambda packed: packed


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
    wider, `matmul` and `add_row` of `ops.py` round them where they are used.

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
      linear: how the step is linear in the carry; None where it is not.
      diagonal: True where each number of the carry depends on itself alone, so that
        the Jacobian of a step is a diagonal.

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
    adjoint: Adjoint | ElementwiseAdjoint | None = None
    noise: Callable[[PRNGKeyArray, Params, Any], tuple[Params, Any]] | None = None
    linear: Linear | None = None
    diagonal: bool = False


def check_cell(cell: Any) -> None:
    """Raises a TypeError where what is given for a cell is none.

    Example:
      >>> check_cell(mgu_cell)
      Traceback (most recent call last):
      TypeError: cell must be a Cell of jaxrnn, got mgu_cell; write mgu_cell().
    """
    if isinstance(cell, Cell):
        return
    has_name = isinstance(cell, type) or inspect.isfunction(inspect.unwrap(cell))
    name = cell.__name__ if has_name else type(cell).__name__
    call = f"{name}({', '.join(_required(cell))})" if has_name else "cell"
    if hasattr(cell, "initialize_carry"):
        way_out = (
            f"a cell of Flax runs in jaxrnn.RNN({call}), in the place of "
            "flax.linen.RNN, or one of NNX in jaxrnn.nnx.RNN"
        )
    elif has_name and not isinstance(cell, type):
        way_out = f"write {call}"
    else:
        way_out = "take one such as jaxrnn.gru, or jaxrnn.mgu_cell()"
    found = repr(cell) if isinstance(cell, str | float | None) else name
    raise TypeError(f"cell must be a Cell of jaxrnn, got {found}; {way_out}.")


def _required(function: Callable[..., Any]) -> list[str]:
    """The arguments that a function, or a class, cannot do without."""
    optional = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in optional
    ]


def specs_of(cell: Cell, in_features: int, features: int) -> dict[str, ParamSpec]:
    """The parameters that a cell declares.

    Raises:
      TypeError: where `Cell.param_specs` returns something else than `ParamSpec`s.

    Example:
      >>> specs = specs_of(gru, in_features=2, features=3)
      >>> specs["recurrent_kernel"].shape
      (3, 9)
    """
    specs = cell.param_specs(in_features, features)
    if isinstance(specs, dict):
        wrong = {name: x for name, x in specs.items() if not _is_spec(x)}
        if not wrong:
            return specs
        specs = wrong
    raise TypeError(
        f"Cell.param_specs must return {{name: ParamSpec(shape, init)}}, shape a tuple "
        f"and init a function (key, shape, dtype) -> array, that of {cell.name} "
        f"returned {specs}; write jaxrnn.ParamSpec((in_features, features), "
        "jax.nn.initializers.glorot_uniform())."
    )


def _is_spec(spec: Any) -> bool:
    is_one = isinstance(spec, ParamSpec)
    return is_one and isinstance(spec.shape, tuple) and callable(spec.init)


def some_specs(cell: Cell) -> dict[str, ParamSpec]:
    """The parameters at a size that the cell takes, where no size is known yet."""
    try:
        return specs_of(cell, 2, 2)
    except ValueError:  # it wants a multiple, such as of heads
        return specs_of(cell, 840, 840)  # of 1 to 8


def param_names(cell: Cell) -> set[str]:
    """The names of a cell's parameters, which no size changes.

    Example:
      >>> sorted(param_names(simple_rnn))
      ['bias', 'kernel', 'recurrent_kernel']
    """
    return set(some_specs(cell))


def init_params(
    cell: Cell,
    key: PRNGKeyArray,
    in_features: int,
    features: int,
    dtype: Any = jnp.float32,
) -> dict[str, Array]:
    """Draws the initial parameters of a cell: Keras' initial values, or its paper's.

    Args:
      cell: the cell to draw for.
      key: a `jax.random.key`; every parameter gets a key of its own.
      in_features: size of one input step.
      features: size of the hidden vector.
      dtype: of the parameters.

    Returns:
      `{name: array}` in the order of `cell.param_specs`.

    Raises:
      TypeError: a `cell` that is none, a dtype that is not floating point, a key that
        is none.
      ValueError: `in_features` or `features` below 1, several keys.

    Example:
      >>> params = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> {name: value.shape for name, value in params.items()}
      {'kernel': (2, 12), 'recurrent_kernel': (3, 12), 'bias': (12,)}
    """
    check_cell(cell)
    check_key("key", key)
    check_size("in_features", in_features)
    check_size("features", features)
    check_dtype("dtype", dtype)
    specs = specs_of(cell, in_features, features)
    keys = jax.random.split(key, len(specs))
    return {
        name: spec.init(key, spec.shape, dtype)
        for key, (name, spec) in zip(keys, specs.items(), strict=True)
    }
