"""Runs a cell over time: direction, mask, solver."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxrnn.cells.base import AnyArray, Carry, Cell, Params
from jaxrnn.cells.checks import check_dtype, check_key
from jaxrnn.cells.ops import is_divided
from jaxrnn.checks import (
    as_steps,
    check_functions,
    check_lengths,
    check_rnn,
    check_step,
    checked,
)
from jaxrnn.solvers.base import Solver, Steps, check_solver, flip, hold, restart
from jaxrnn.solvers.by_device import batch_axes, devices_of, run_by_device
from jaxrnn.solvers.default import default_solver


def lengths_to_mask(
    lengths: Int[AnyArray, "*batch"], time: int
) -> Bool[Array, "time *batch"]:
    """Marks the first `lengths` steps of each sequence as valid.

    Args:
      lengths: number of valid steps, from 0 to `time`.
      time: length of the time axis.

    Raises:
      TypeError: lengths that are not integers.
      ValueError: a negative `time`; lengths outside of [0, time], where they are known,
        that is outside of `jax.jit`.

    Example:
      >>> lengths_to_mask(jnp.array([2, 0]), 3).T.tolist()
      [[True, True, False], [False, False, False]]
    """
    if time < 0:
        raise ValueError(f"time must be a number of steps, 0 or more, got {time}.")
    check_lengths(lengths, time)
    lengths = jnp.asarray(lengths)
    steps = jnp.arange(time).reshape(-1, *([1] * lengths.ndim))
    return steps < lengths[None]


def rnn(
    cell: Cell,
    params: Params,
    inputs: Float[AnyArray, "time *batch in_features"],
    *,
    mask: Bool[AnyArray, "time *batch"] | None = None,
    resets: Bool[AnyArray, "time *batch"] | None = None,
    initial_carry: Carry | None = None,
    reverse: bool = False,
    hold_outputs: bool = False,
    key: PRNGKeyArray | None = None,
    dtype: Any = None,
    solver: Solver | None = None,
) -> tuple[Carry, Float[Array, "time *batch features"]]:
    """Runs `cell` over time, time axis first.

        carry_t = step(params, carry_{t-1}, project(params, inputs_t))  where mask_t
        carry_t = carry_{t-1}                                           elsewhere

    A mask may have any pattern: left padding, right padding, holes. What stands in
    `inputs` at masked steps has no influence on any value or gradient, were it NaN. A
    row without a valid step returns its initial carry (PyTorch raises there, Flax
    returns the last step's carry).

    Inputs, carry and outputs have one dtype throughout, `dtype`. Parameters keep their
    own and are rounded where they are used, and matmuls add up in float32 at least: so
    bfloat16 inputs with float32 parameters and `dtype=jnp.bfloat16` train in mixed
    precision: gradients are float32 sums of what the steps add in bfloat16.

    Args:
      cell: such as `simple_rnn`, `gru`, `lstm`.
      params: as from `init_params`.
      inputs: floating point; any number of batch axes, none too. As mask, resets and
        carry, an array or nested lists.
      mask: True = valid; None = every step is.
      resets: True at the first step of every episode: there the carry restarts from
        the cell's own initial carry, whatever came before. With `reverse` it restarts
        at the last step of every episode. None = one episode, which `initial_carry`
        belongs to.
      initial_carry: the carry before the first step (the last one with `reverse`);
        None takes the cell's own, zeros. For an LSTM a plain pair (hidden, memory)
        serves as well; Flax has the two in the other order.
      reverse: process from the last step to the first. Outputs stay in input order
        (Keras' `go_backwards` returns them reversed).
      hold_outputs: at masked steps, repeat the output of the step before (Keras'
        convention) instead of zeros.
      key: draws the noise of a cell that has some (`dropout_cell`, `zoneout_cell`);
        None = no noise, as for serving.
      dtype: of the computation; None takes what inputs and params promote to.
      solver: how the steps become a sequence; None takes `default_solver(cell)`. Every
        one works in reverse and in forward mode (`jax.jvp`, `jax.jacfwd`,
        `jax.hessian`), and under `jax.export`; where forward mode is all that runs,
        `Scan()` is the fastest.

    Returns:
      The carry after the last valid step, and the outputs, one per step. The carry
      goes in again as `initial_carry`: a sequence in pieces is the whole sequence.

    Raises:
      TypeError: inputs, mask, resets, initial carry or `dtype` of the wrong dtype, or
        no numbers; params that are no dict of arrays; a `cell`, a `key` or a `solver`
        that is none.
      ValueError: params, mask or initial carry that do not fit, or several keys; each
        message says the rule, what was found, and the way out.

    Example:
      >>> params = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> mask = lengths_to_mask(jnp.array([7, 4, 0, 1, 2]), time=7)
      >>> carry, outputs = rnn(lstm, params, jnp.ones((7, 5, 2)), mask=mask)
      >>> carry.hidden.shape, outputs.shape
      ((5, 3), (7, 5, 3))
      >>> jnp.array_equal(carry.hidden[1], outputs[3, 1]).item()
      True
    """
    steps = as_steps(inputs, mask, resets)
    carry, features = checked(check_rnn, cell, params, steps, initial_carry)
    if key is not None:
        check_key("key", key)
    if solver is not None:
        check_solver(solver)
    dtype = _dtype_of(dtype, steps.inputs, *params.values())
    check_functions(cell, params, steps.inputs.shape[1:], dtype, output=True)
    solver = solver or _default_solver(cell, features, params, steps, dtype)
    return _rnn(
        dict(params),
        carry,
        steps,
        key,
        cell=cell,
        solver=solver,
        dtype=dtype,
        reverse=reverse,
        hold_outputs=hold_outputs,
    )


def rnn_carries(
    cell: Cell,
    params: Params,
    inputs: Float[AnyArray, "time *batch in_features"],
    *,
    mask: Bool[AnyArray, "time *batch"] | None = None,
    resets: Bool[AnyArray, "time *batch"] | None = None,
    initial_carry: Carry | None = None,
    reverse: bool = False,
    key: PRNGKeyArray | None = None,
    dtype: Any = None,
    solver: Solver | None = None,
) -> tuple[Carry, Carry]:
    """As `rnn`, but returns the carries after every step in place of the outputs.

    At a masked step that is the carry handed on. The carries are in input order.

    Returns:
      The carry after the last valid step, and the carries, leaves (time, *batch,
      features).

    Raises:
      TypeError, ValueError: as `rnn`.

    Example:
      >>> params = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> last, carries = rnn_carries(lstm, params, jnp.ones((7, 5, 2)))
      >>> carries.memory.shape, jnp.array_equal(carries.memory[-1], last.memory).item()
      ((7, 5, 3), True)
    """
    steps = as_steps(inputs, mask, resets)
    carry, features = checked(check_rnn, cell, params, steps, initial_carry)
    if key is not None:
        check_key("key", key)
    if solver is not None:
        check_solver(solver)
    dtype = _dtype_of(dtype, steps.inputs, *params.values())
    check_functions(cell, params, steps.inputs.shape[1:], dtype, output=False)
    solver = solver or _default_solver(cell, features, params, steps, dtype)
    return _rnn_carries(
        dict(params),
        carry,
        steps,
        key,
        cell=cell,
        solver=solver,
        dtype=dtype,
        reverse=reverse,
    )


def rnn_step(
    cell: Cell,
    params: Params,
    carry: Carry,
    inputs: Float[AnyArray, "*batch in_features"],
    *,
    resets: Bool[AnyArray, "*batch"] | None = None,
    dtype: Any = None,
) -> tuple[Carry, Float[Array, "*batch features"]]:
    """One time step, for serving: `rnn` on a single step, without the loop.

    Args:
      cell: such as `simple_rnn`, `gru`, `lstm`.
      params: as from `init_params`.
      carry: from the step before, or `cell.initial_carry(params, batch_shape)`.
      inputs: of this step.
      resets: True where this step is the first of an episode: there the carry restarts
        before the step. None = nowhere.
      dtype: of the computation; None takes what carry and inputs promote to.

    Returns:
      The carry after the step, and its output.

    Raises:
      TypeError, ValueError: as `rnn`.

    Example:
      >>> params = init_params(gru, jax.random.key(0), in_features=2, features=3)
      >>> inputs = jnp.ones((7, 5, 2))
      >>> carry = gru.initial_carry(params, (5,))
      >>> for step_inputs in inputs:
      ...     carry, output = rnn_step(gru, params, carry, step_inputs)
      >>> jnp.allclose(output, rnn(gru, params, inputs)[1][-1], atol=1e-6).item()
      True
    """
    steps = as_steps(inputs, resets=resets)
    inputs, resets = steps.inputs, steps.resets
    carry, _ = checked(check_step, cell, params, steps, carry)
    dtype = _dtype_of(dtype, inputs, *jax.tree.leaves(carry))
    check_functions(cell, params, inputs.shape, dtype, output=True)
    return _step(dict(params), carry, inputs, resets, cell=cell, dtype=dtype)


@functools.partial(jax.jit, static_argnames=("cell", "dtype"))
def _step(
    params: Params,
    carry: Carry,
    inputs: Array,
    resets: Array | None,
    *,
    cell: Cell,
    dtype: Any,
) -> tuple[Carry, Array]:
    start = cell.initial_carry(params, inputs.shape[:-1])
    inputs, carry, start = _in_dtype(dtype, (inputs, carry, start))
    carry = restart(resets, start, carry)
    carry = cell.step(params, carry, cell.project(params, inputs))
    return carry, cell.output(carry)


def _run(
    params: Params,
    carry: Carry | None,
    steps: Steps,
    key: PRNGKeyArray | None,
    *,
    cell: Cell,
    solver: Solver,
    dtype: Any,
    reverse: bool,
) -> tuple[Carry, Carry]:
    if carry is None:
        carry = cell.initial_carry(params, steps.batch_shape)
    inputs, carry = _in_dtype(dtype, (steps.inputs, carry))
    inputs = hold(steps.mask, inputs, jnp.zeros_like(inputs))  # 0 * NaN would be NaN
    if key is not None and cell.noise is not None:
        params, inputs = cell.noise(key, params, inputs)
    steps = steps._replace(inputs=inputs)
    if not reverse:
        return run_by_device(solver, cell, params, carry, steps)
    last, carries = run_by_device(solver, cell, params, carry, steps.reversed())
    return last, flip(carries)


_rnn_carries = jax.jit(_run, static_argnames=("cell", "solver", "dtype", "reverse"))


@functools.partial(
    jax.jit, static_argnames=("cell", "solver", "dtype", "reverse", "hold_outputs")
)
def _rnn(
    params: Params,
    carry: Carry | None,
    steps: Steps,
    key: PRNGKeyArray | None,
    *,
    cell: Cell,
    solver: Solver,
    dtype: Any,
    reverse: bool,
    hold_outputs: bool,
) -> tuple[Carry, Array]:
    last, carries = _run(
        params,
        carry,
        steps,
        key,
        cell=cell,
        solver=solver,
        dtype=dtype,
        reverse=reverse,
    )
    outputs = cell.output(carries)
    if not hold_outputs:
        outputs = hold(steps.mask, outputs, jnp.zeros_like(outputs))
    return last, outputs


def _dtype_of(dtype: Any, *arrays: Any) -> Any:
    """That of the computation: the one asked for, or what the arrays promote to."""
    if dtype is None:
        # One dtype needs no promotion, which would take a fifth of an eager step.
        found = {array.dtype for array in arrays}
        weak = any(getattr(array, "weak_type", True) for array in arrays)  # or NumPy's
        dtype = jnp.result_type(*arrays) if weak or len(found) > 1 else found.pop()
    check_dtype("the dtype of a recurrence (of dtype, inputs and params)", dtype)
    return jax.dtypes.canonicalize_dtype(dtype)  # float64 is float32 without x64


def _in_dtype(dtype: Any, arrays: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype), arrays)


def _default_solver(
    cell: Cell, features: int, params: Params, steps: Steps, dtype: Any
) -> Solver:
    values = math.prod(steps.inputs.shape[:-1]) * features
    axes = batch_axes(params, steps)
    if axes is not None:  # each device runs it on its own rows
        return default_solver(cell, values // devices_of(steps, axes), dtype)
    divided = is_divided(steps.inputs, *params.values())
    return default_solver(cell, values, dtype, divided=divided)
