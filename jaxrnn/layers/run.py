"""What does a recurrent layer do with arrays? Linen and NNX add parameters and keys."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from jaxrnn.cells.base import Carry, Params
from jaxrnn.cells.checks import as_array
from jaxrnn.checks import as_steps, check_floating, check_marks
from jaxrnn.layers.options import CallOptions, RecurrentOptions
from jaxrnn.recurrence import lengths_to_mask, rnn, rnn_carries, rnn_step
from jaxrnn.solvers.base import Steps, flip, hold


class Ran(NamedTuple):
    """What a layer has after running, time axis first.

    Attributes:
      carry: after the last valid step.
      outputs: (time, *batch, features), in input order.
      last: (*batch, features), the output after the last valid step.
      carries: after every step, in input order, where they were asked for.
    """

    carry: Carry
    outputs: Any
    last: Any
    carries: Carry | None = None


@runtime_checkable
class Runs(Protocol):
    """A layer as the layers around it see it."""

    @property
    def call_options(self) -> CallOptions:
        """What a call returns."""
        ...

    def run(
        self,
        steps: Steps,
        initial_carry: Carry | None = None,
        *,
        reverse: bool = False,
        deterministic: bool = True,
    ) -> Ran:
        """Runs over time, time axis first.

        Args:
          steps: what is read; checked before.
          initial_carry: None takes the layer's own.
          reverse: turn the layer round. It then gives what it gives for steps in the
            opposite order, put back in order: a layer runs against its own direction, a
            stack does so layer by layer, and a Bidirectional swaps its directions.
          deterministic: False draws the noise.
        """
        ...


# From a call to `run` and back.


def to_steps(
    inputs: Any,
    *,
    mask: Any,
    lengths: Any,
    seq_lengths: Any,
    resets: Any,
    time_major: bool,
) -> Steps:
    """The arguments of a call with the time axis first, checked."""
    given = [x for x in (mask, lengths, seq_lengths) if x is not None]
    if len(given) > 1:
        raise ValueError(
            "a layer takes one of mask, lengths and seq_lengths, got several; lengths "
            "are right padding, a mask says more."
        )
    steps = jax.tree.map(jnp.asarray, as_steps(inputs, mask, resets))
    inputs, mask, resets = steps
    axes = "(time, *batch" if time_major else "(*batch, time"
    if inputs.ndim < 2:
        raise ValueError(
            f"inputs must have the axes {axes}, in_features), got shape "
            f"{inputs.shape}; a sequence of scalars is inputs[:, None]."
        )
    check_floating(inputs)
    check_marks("mask", "valid", mask, inputs, f"{axes})")
    check_marks("resets", "a new episode", resets, inputs, f"{axes})")
    if not time_major:
        inputs = jnp.moveaxis(inputs, -2, 0)
        mask, resets = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (mask, resets))
    if given and mask is None:
        mask = _mask_of(given[0], inputs)
    return Steps(inputs, mask, resets)


def _mask_of(lengths: Any, inputs: Array) -> Array:
    time, *batch_shape = inputs.shape[:-1]
    lengths = as_array("lengths", lengths)
    if lengths.shape != tuple(batch_shape):
        raise ValueError(
            f"lengths must have the batch shape of inputs {tuple(batch_shape)}, got "
            f"{lengths.shape}."
        )
    return lengths_to_mask(lengths, time)


def to_result(ran: Ran, options: CallOptions) -> Any:
    """What a call returns of a run."""

    def as_asked(sequences: Any) -> Any:
        if options.reverse and not options.keep_order:
            sequences = flip(sequences)
        axis = 0 if options.time_major else -2
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, axis), sequences)

    outputs = as_asked(ran.outputs) if options.return_sequences else ran.last
    if options.return_all_carries:
        return as_asked(ran.carries), outputs
    return (ran.carry, outputs) if options.return_carry else outputs


# One layer.


def run_cell(
    layer: RecurrentOptions,
    params: Params,
    steps: Steps,
    initial_carry: Carry | None,
    *,
    reverse: bool,
    key: PRNGKeyArray | None,
) -> Ran:
    """Runs the cell of a layer; see `Runs`."""
    cell = layer.make_noisy_cell()
    given: dict[str, Any] = {
        "mask": steps.mask,
        "resets": steps.resets,
        "initial_carry": initial_carry,
        "reverse": layer.reverse != reverse,
        "key": key,
        "dtype": layer.dtype,
        "solver": layer.solver,
    }
    if not layer.return_all_carries:
        carry, outputs = rnn(
            cell, params, steps.inputs, hold_outputs=layer.hold_outputs, **given
        )
        return Ran(carry, outputs, cell.output(carry))
    carry, carries = rnn_carries(cell, params, steps.inputs, **given)
    outputs = cell.output(carries)
    if not layer.hold_outputs:
        outputs = hold(steps.mask, outputs, jnp.zeros_like(outputs))
    return Ran(carry, outputs, cell.output(carry), carries)


def start_cell(
    layer: RecurrentOptions, params: Params, batch_shape: tuple[int, ...]
) -> Carry:
    """The carry of a layer before the first step, in the dtype of its computation.

    Raises:
      TypeError: a number in the place of a batch shape.
    """
    if not isinstance(batch_shape, tuple | list):
        raise TypeError(
            f"batch_shape must be a tuple of sizes, got {batch_shape!r}; of a single "
            "batch axis it is (batch,)."
        )
    carry = layer.make_cell().initial_carry(params, tuple(batch_shape))
    dtype = layer.dtype
    return carry if dtype is None else jax.tree.map(lambda x: _cast(x, dtype), carry)


def step_cell(
    layer: RecurrentOptions, params: Params, carry: Carry, inputs: Any, resets: Any
) -> tuple[Carry, Array]:
    """One time step of what a call computes without noise: its carry, its output.

    Raises:
      ValueError: a layer with `reverse`.
    """
    if layer.reverse:
        raise ValueError(
            "a layer steps from the first step to the last, got one with reverse=True; "
            "call it with the whole sequence."
        )
    inputs = jnp.asarray(as_array("inputs", inputs))
    check_floating(inputs)
    dtype = layer.dtype or jnp.result_type(inputs, *params.values())
    cell = layer.make_noisy_cell()
    return rnn_step(cell, params, carry, inputs, resets=resets, dtype=dtype)


def _cast(array: Array, dtype: Any) -> Array:
    return array if array.dtype == dtype else array.astype(dtype)
