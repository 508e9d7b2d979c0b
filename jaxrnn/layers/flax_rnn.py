"""What is the call of Flax' RNN, around a loop over any cell?"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.recurrent import flip_sequences
from jaxtyping import Array

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.cells.checks import check_cell, check_size
from jaxrnn.checks import check_lengths
from jaxrnn.layers.options import CallOptions
from jaxrnn.layers.run import Ran, to_result, to_steps
from jaxrnn.recurrence import rnn_carries
from jaxrnn.solvers.base import Solver, Steps, flip, hold, restart


class Looped(NamedTuple):
    """What a loop over the leading axis gives, in the order in which it ran.

    Attributes:
      first: the carry before the first step.
      last: the carry after the last one.
      outputs, carries: of every step.
    """

    first: Carry
    last: Carry
    outputs: Any
    carries: Carry


class Loop(NamedTuple):
    """A loop over the time steps of one cell.

    Attributes:
      feature_axes: how many axes of an input step are no batch axes.
      start: `shape of an input step -> carry`.
      run: `(steps, carry) -> Looped`.
    """

    feature_axes: int
    start: Callable[[tuple[int, ...]], Carry]
    run: Callable[[Steps, Carry], Looped]


def loop_of_cell(cell: Cell, params: Params, solver: Solver | None) -> Loop:
    """Over a cell of jaxrnn."""

    def start(shape: tuple[int, ...]) -> Carry:
        return cell.initial_carry(params, shape[:-1])

    def run(steps: Steps, carry: Carry) -> Looped:
        last, carries = rnn_carries(
            cell,
            params,
            steps.inputs,
            mask=steps.mask,
            resets=steps.resets,
            initial_carry=carry,
            solver=solver,
        )
        return Looped(carry, last, cell.output(carries), carries)

    return Loop(1, start, run)


def stepped(cell: Any, carry: Carry, step: Steps, start: Carry) -> tuple[Carry, Any]:
    """One time step of a Flax cell, with mask and resets; `start` is where it restarts.

    Returns:
      The carry, and the pair (output, carry) of this step.
    """
    carry = restart(step.resets, start, carry)
    new, output = cell(carry, step.inputs)
    new = jax.tree.map(_in_dtype_of, carry, new)
    carry = hold(step.mask, new, carry)
    return carry, (output, carry)


def _in_dtype_of(before: Array, after: Array) -> Array:
    """The carry after a step in the dtype it had, which may be the narrower float."""
    kinds = jnp.floating, jnp.complexfloating, jnp.integer, jnp.bool_
    if any(
        jnp.issubdtype(before.dtype, kind) != jnp.issubdtype(after.dtype, kind)
        for kind in kinds
    ):
        raise TypeError(
            f"the cell turns a carry of {before.dtype} into one of {after.dtype}, "
            "which would be rounded at every step; give an initial_carry of "
            f"{after.dtype}."
        )
    return after.astype(before.dtype)


def call_as_flax(
    loop: Loop,
    inputs: Array,
    initial_carry: Carry | None,
    seq_lengths: Any,
    options: CallOptions,
    mask: Any,
) -> Any:
    """Flax' rules of order, padding and axes around a loop over the leading axis.

    With a mask, which Flax has not, they are our own.
    """
    if mask is not None:
        if loop.feature_axes != 1:
            raise ValueError(
                "a mask is for a cell with one feature axis, got one with "
                f"{loop.feature_axes}; give seq_lengths."
            )
        steps = to_steps(
            inputs,
            mask=mask,
            lengths=None,
            seq_lengths=seq_lengths,
            resets=None,
            time_major=options.time_major,
        )
        ran = run_as_layer(loop, steps, initial_carry, reverse=options.reverse)
        return to_result(ran, options)
    time_axis = 0 if options.time_major else inputs.ndim - (loop.feature_axes + 1)
    batch_axes = inputs.ndim - (loop.feature_axes + 1)

    def flip_valid(sequences: Any) -> Any:
        return jax.tree.map(
            lambda x: flip_sequences(x, seq_lengths, batch_axes, time_major=True),
            sequences,
        )

    if batch_axes < 0:
        raise ValueError(
            "inputs must have a time axis before those of features, of which the cell "
            f"takes {loop.feature_axes}, got shape {inputs.shape}."
        )
    inputs = jnp.moveaxis(inputs, time_axis, 0)
    if seq_lengths is not None:
        batch_shape = inputs.shape[1 : 1 + batch_axes]
        if np.shape(seq_lengths) != batch_shape:
            raise ValueError(
                f"seq_lengths must have the batch shape of inputs {batch_shape}, got "
                f"{np.shape(seq_lengths)}."
            )
        check_lengths(seq_lengths, inputs.shape[0])
        seq_lengths = jnp.asarray(seq_lengths).astype(int)  # 0 - 1 wraps if unsigned
    if initial_carry is None:
        initial_carry = loop.start(inputs.shape[1:])
    if inputs.shape[0] == 0:
        seq_lengths = None  # nothing to flip, and the carry stays the initial one
    inputs = flip_valid(inputs) if options.reverse else inputs
    looped = loop.run(Steps(inputs), initial_carry)
    outputs = looped.outputs
    if options.reverse and options.keep_order:
        outputs = flip_valid(outputs)
    outputs = jax.tree.map(lambda x: jnp.moveaxis(x, 0, time_axis), outputs)
    if not options.return_carry:
        return outputs
    carry = looped.last
    if seq_lengths is not None:
        carry = _at(seq_lengths - 1, looped.carries, initial_carry)
    return carry, outputs


def run_as_layer(
    loop: Loop, steps: Steps, initial_carry: Carry | None, *, reverse: bool
) -> Ran:
    """Our own rules around the same loop, for the layers around an RNN; see `Runs`."""
    if loop.feature_axes != 1:
        raise ValueError(
            "a layer takes a cell with one feature axis, got one with "
            f"{loop.feature_axes}; call the RNN itself."
        )
    inputs = hold(steps.mask, steps.inputs, jnp.zeros_like(steps.inputs))  # 0 * NaN
    steps = steps._replace(inputs=inputs)
    if initial_carry is None:
        initial_carry = loop.start(inputs.shape[1:])
    if reverse:
        steps = steps.reversed()
    looped = loop.run(steps, initial_carry)
    mask = steps.mask
    outputs = hold(mask, looped.outputs, jnp.zeros_like(looped.outputs))
    # Without any step there is no last output, and it is 0, as where none is valid.
    last = (
        outputs[-1] if steps.time else jnp.zeros_like(outputs, shape=outputs.shape[1:])
    )
    if mask is not None and steps.time:
        time = mask.shape[0]
        steps_before = jnp.arange(time).reshape(-1, *([1] * (mask.ndim - 1)))
        index = jnp.where(mask, steps_before, -1).max(axis=0)
        last = _at(index, outputs, jnp.zeros_like(last))
    outputs, carries = (
        flip((outputs, looped.carries)) if reverse else (outputs, looped.carries)
    )
    return Ran(looped.last, outputs, last, carries)


def _at(index: Array, sequences: Any, without: Any) -> Any:
    """The step `index` of every row, and `without` where that is -1."""

    def pick(steps: Array, before: Array) -> Array:
        at = jnp.expand_dims(
            jnp.maximum(index, 0)[None], tuple(range(index.ndim + 1, steps.ndim))
        )
        picked = jnp.take_along_axis(steps, at, axis=0)[0]
        return hold(index >= 0, picked, jnp.broadcast_to(before, picked.shape))

    return jax.tree.map(pick, sequences, without)


def in_dtype(dtype: Any, carry: Carry) -> Carry:
    """A carry in the dtype of the computation; None leaves it."""
    return carry if dtype is None else jax.tree.map(lambda x: x.astype(dtype), carry)


NO_STEP = (
    "an RNN has no `step` and no `initial_carry`: a cell of Flax is a step by itself; "
    "call the RNN with the whole sequence, or write Recurrent(32, cell=...) around a "
    "cell of jaxrnn."
)


def check_sizes(in_features: int, features: int) -> None:
    """Raises where a cell of jaxrnn would have parameters without elements."""
    check_size("in_features, the last axis of inputs,", in_features)
    check_size("features", features)


def check_settings(
    cell: Any, *, of_jaxrnn: Mapping[str, bool], of_flax: Mapping[str, bool]
) -> None:
    """Raises where something is chosen that an RNN would ignore.

    Args:
      cell: of jaxrnn or of Flax.
      of_jaxrnn, of_flax: the settings of either, and whether they are chosen.

    Raises:
      TypeError: a `cell` that is of neither.
      ValueError: a setting, or noise, that this kind of cell has no use for.
    """
    if isinstance(cell, type) or not hasattr(cell, "initialize_carry"):
        check_cell(cell)
    ours = isinstance(cell, Cell)
    if ours and cell.noise is not None:
        raise ValueError(
            f"an RNN has no key for the noise of a cell, got {cell.name}; write "
            "Recurrent(32, cell=cell), which has one."
        )
    ignored = [
        name for name, chosen in (of_flax if ours else of_jaxrnn).items() if chosen
    ]
    if ignored:
        kind, other = ("jaxrnn", "Flax") if ours else ("Flax", "jaxrnn")
        raise ValueError(
            f"{ignored[0]} is a setting of {other} cells, got it for a cell of {kind}; "
            "leave it out (a solver says how a cell of jaxrnn is unrolled, and a Flax "
            "cell knows its own features)."
        )
