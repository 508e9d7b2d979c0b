"""What is a recurrent cell? Five pure functions, and the parameters they declare."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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
