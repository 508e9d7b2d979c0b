"""Runs a cell over time: checks, direction, mask, solver."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxrnn import native
from jaxrnn.cells.base import AnyArray, Carry, Cell, Params
from jaxrnn.solvers.base import Solver, hold, restart
from jaxrnn.solvers.hoisted import HoistedScan
from jaxrnn.solvers.native import Native, knows
from jaxrnn.solvers.scan import Scan


def lengths_to_mask(
    lengths: Int[AnyArray, "*batch"], time: int
) -> Bool[Array, "time *batch"]:
    """Marks the first `lengths` steps of each sequence as valid.

    Args:
      lengths: number of valid steps, from 0 to `time`.
      time: length of the time axis.

    Example:
      >>> lengths_to_mask(jnp.array([2, 0]), 3).T.tolist()
      [[True, True, False], [False, False, False]]
    """
    steps = jnp.arange(time).reshape(-1, *([1] * lengths.ndim))
    return steps < lengths[None]


# Values in all carries:
SMALL = 2_000  # below, a call of a native loop takes longer than a few steps in XLA
LARGE = 1_000_000  # from here on chunks cost an LSTM or GRU no time, and save memory
HUGE = 16_000_000  # from here on carries alone take 64 MB


def default_solver(cell: Cell, values: int = 0, dtype: Any = jnp.float32) -> Solver:
    """The solver that `solver=None` stands for, as measured by `experiments/speed.py`.

    On a CPU it is `Native` wherever that has a loop for the cell and the dtype, its
    loops have been compiled (`python -m jaxrnn.native`), JAXRNN_NATIVE is not 0, there
    is one device and more than a handful of steps (two thousand values): it was the
    fastest in every such shape that was measured.

    Else it is `HoistedScan` for `simple_rnn`, `ind_rnn` and `lstm`, and from a million
    values on for `gru`; and `Scan` for all others. `HoistedScan` takes all steps as one
    chunk below a million values, for `simple_rnn` and `ind_rnn` below 16 million: that
    is as fast or faster, and takes for these two about three times the memory of
    chunks, four floats a value. It then projects their inputs before the loop where
    there is a gradient. All others project in the loop.

    On other platforms nothing has been measured; there inputs are projected before the
    loop and gradients taken from more steps at once, for every kernel launched costs
    time.

    Args:
      cell: the cell to run.
      values: in all its carries, time * batch * features.
      dtype: of the computation.

    Example:
      >>> default_solver(mgu)
      Scan(unroll=1, project_first=False)
    """
    if jax.default_backend() != "cpu":
        hoisted = cell.adjoint is not None and values >= cell.adjoint.faster_from
        return HoistedScan(1, True, 64) if hoisted else Scan(project_first=True)
    known = values >= SMALL and knows(cell, dtype)
    if known and native.enabled() and jax.device_count() == 1:
        return Native()
    return default_scan(cell, values)


def default_scan(cell: Cell, values: int) -> Solver:
    """The default on a CPU where `Native` does not run; see `default_solver`.

    Example:
      >>> default_scan(simple_rnn, values=100 * 32 * 32)
      HoistedScan(unroll=1, project_first=None, chunk=None)
      >>> default_scan(lstm, values=256 * 64 * 256)
      HoistedScan(unroll=1, project_first=None, chunk=8)
      >>> default_scan(gru, values=100 * 32 * 32)
      Scan(unroll=1, project_first=False)
    """
    if cell.adjoint is None or values < cell.adjoint.faster_from:
        return Scan()
    in_chunks_from = HUGE if cell.adjoint.halves else LARGE
    return HoistedScan() if values >= in_chunks_from else HoistedScan(chunk=None)


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
      inputs: floating point; any number of batch axes, none too.
      mask: True = valid; None = every step is.
      resets: True at the first step of every episode: there the carry restarts from
        the cell's own initial carry, whatever came before. With `reverse` it restarts
        at the last step of every episode. None = one episode, which `initial_carry`
        belongs to.
      initial_carry: the carry before the first step (the last one with `reverse`);
        None takes the cell's own, zeros.
      reverse: process from the last step to the first. Outputs stay in input order
        (Keras' `go_backwards` returns them reversed).
      hold_outputs: at masked steps, repeat the output of the step before (Keras'
        convention) instead of zeros.
      key: draws the noise of a cell that has some (`dropout_cell`, `zoneout_cell`);
        None = no noise, as for serving.
      dtype: of the computation; None takes what inputs and params promote to.
      solver: how the steps become a sequence; None takes `default_solver(cell)`. For
        forward-mode derivatives pass `Scan()`.

    Returns:
      The carry after the last valid step, and the outputs, one per step. The carry
      goes in again as `initial_carry`: a sequence in pieces is the whole sequence.

    Raises:
      TypeError: inputs, mask or resets of the wrong dtype.
      ValueError: params, mask or initial carry that do not fit; each message says the
        rule, what was found, and the way out.

    Example:
      >>> params = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> mask = lengths_to_mask(jnp.array([7, 4, 0, 1, 2]), time=7)
      >>> carry, outputs = rnn(lstm, params, jnp.ones((7, 5, 2)), mask=mask)
      >>> carry.hidden.shape, outputs.shape
      ((5, 3), (7, 5, 3))
      >>> jnp.array_equal(carry.hidden[1], outputs[3, 1]).item()
      True
    """
    options = (initial_carry, reverse, hold_outputs, key, dtype, solver)
    return _checked(cell, params, inputs, mask, resets, *options, all_carries=False)


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
    options = (initial_carry, reverse, False, key, dtype, solver)
    return _checked(cell, params, inputs, mask, resets, *options, all_carries=True)


def rnn_step(
    cell: Cell,
    params: Params,
    carry: Carry,
    inputs: Float[AnyArray, "*batch in_features"],
    *,
    resets: Bool[AnyArray, "*batch"] | None = None,
) -> tuple[Carry, Float[Array, "*batch features"]]:
    """One time step, for serving: `rnn` on a single step, without the loop.

    Args:
      cell: such as `simple_rnn`, `gru`, `lstm`.
      params: as from `init_params`.
      carry: from the step before, or `cell.initial_carry(params, batch_shape)`.
      inputs: of this step, in the dtype of the carry.
      resets: True where this step is the first of an episode: there the carry restarts
        before the step. None = nowhere.

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
    check_floating(inputs)
    _check_params(cell, params, inputs.shape[-1])
    _check_carry("carry", cell, params, carry, inputs.shape[:-1])
    check_marks("resets", "a new episode", resets, inputs, axes="(*batch)")
    return _step(cell, dict(params), carry, inputs, resets)


@functools.partial(jax.jit, static_argnums=0)
def _step(
    cell: Cell, params: Params, carry: Carry, inputs: Any, resets: Any
) -> tuple[Carry, Array]:
    if resets is not None:
        start = cell.initial_carry(params, inputs.shape[:-1])
        start = jax.tree.map(lambda x, like: x.astype(like.dtype), start, carry)
        carry = restart(resets, start, carry)
    carry = cell.step(params, carry, cell.project(params, inputs))
    return carry, cell.output(carry)


def _checked(
    cell: Cell,
    params: Params,
    inputs: Any,
    mask: Any,
    resets: Any,
    initial_carry: Carry | None,
    reverse: bool,
    hold_outputs: bool,
    key: PRNGKeyArray | None,
    dtype: Any,
    solver: Solver | None,
    *,
    all_carries: bool,
) -> tuple[Carry, Any]:
    _check_inputs(inputs)
    features = _check_params(cell, params, inputs.shape[-1])
    check_marks("mask", "valid", mask, inputs)
    check_marks("resets", "a new episode", resets, inputs)
    if initial_carry is not None:
        batch_shape = inputs.shape[1:-1]
        _check_carry("initial_carry", cell, params, initial_carry, batch_shape)
    dtype = dtype or jnp.result_type(inputs, *params.values())
    if solver is None:
        values = math.prod(inputs.shape[:-1]) * features
        solver = default_solver(cell, values, dtype)
    return _rnn(
        cell,
        solver,
        reverse,
        hold_outputs,
        all_carries,
        dtype,
        dict(params),
        inputs,
        mask,
        resets,
        initial_carry,
        key,
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _rnn(
    cell: Cell,
    solver: Solver,
    reverse: bool,
    hold_outputs: bool,
    all_carries: bool,
    dtype: Any,
    params: Params,
    inputs: Array,
    mask: Array | None,
    resets: Array | None,
    carry: Carry | None,
    key: PRNGKeyArray | None,
) -> tuple[Carry, Any]:
    if carry is None:
        carry = cell.initial_carry(params, inputs.shape[1:-1])
    inputs, carry = jax.tree.map(lambda x: x.astype(dtype), (inputs, carry))
    inputs = hold(mask, inputs, jnp.zeros_like(inputs))  # 0 * NaN would be NaN
    if key is not None and cell.noise is not None:
        params, inputs = cell.noise(key, params, inputs)
    if reverse:
        if resets is not None:  # an episode ends where the next one begins
            resets = jnp.roll(resets, -1, axis=0).at[-1:].set(False)
        inputs, mask, resets = _flip((inputs, mask, resets))
    carry, carries = solver(cell, params, carry, inputs, mask, resets)
    if all_carries:
        return carry, _flip(carries) if reverse else carries
    outputs = cell.output(carries)
    if not hold_outputs:
        outputs = hold(mask, outputs, jnp.zeros_like(outputs))
    return carry, _flip(outputs) if reverse else outputs


def _flip(sequences: Any) -> Any:
    return jax.tree.map(lambda x: jnp.flip(x, axis=0), sequences)


def _check_inputs(inputs: Any) -> None:
    if inputs.ndim < 2:
        raise ValueError(
            "inputs must have the axes (time, *batch, in_features), "
            f"got shape {inputs.shape}; give a sequence of scalars as inputs[:, None]."
        )
    check_floating(inputs)


def check_floating(inputs: Any) -> None:
    """Raises a TypeError where the inputs are not floating point."""
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(
            f"inputs must be floating point, got {inputs.dtype}; embed token ids first "
            "(jaxrnn.Embed), or convert numbers with inputs.astype(jnp.float32)."
        )


def _check_params(cell: Cell, params: Params, in_features: int) -> int:
    """Returns the number of features."""
    names = set(cell.param_specs(1, 1))
    if set(params) != names:
        raise ValueError(
            f"{cell.name} takes the parameters {sorted(names)}, got {sorted(params)}; "
            "init_params(cell, ...) makes them for a cell with the same settings."
        )
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, ()), params)
    features = jax.tree.leaves(carry)[-1].shape[-1]
    for name, spec in cell.param_specs(in_features, features).items():
        if params[name].shape != spec.shape:
            raise ValueError(
                f"{cell.name} with in_features={in_features} (the last axis of inputs) "
                f"and features={features} takes {name} of shape "
                f"{spec.shape}, got {params[name].shape}."
            )
    return features


def check_marks(
    name: str, true: str, marks: Any, inputs: Any, axes: str = "(time, *batch)"
) -> None:
    """Raises where a mask or resets have another shape than the steps, or no bools."""
    if marks is None:
        return
    if marks.shape != inputs.shape[:-1]:
        raise ValueError(
            f"{name} must have the {axes} shape of inputs {inputs.shape[:-1]}, got "
            f"{marks.shape}; layers take (batch, time), rnn takes (time, *batch)."
        )
    if marks.dtype != jnp.bool_:
        raise TypeError(
            f"{name} must be boolean with True = {true}, got {marks.dtype}; write "
            f"{name} != 0 ({name} == 0 where 1 marks the opposite)."
        )


def _check_carry(
    name: str, cell: Cell, params: Params, carry: Carry, batch_shape: tuple[int, ...]
) -> None:
    expected = jax.eval_shape(lambda p: cell.initial_carry(p, batch_shape), params)
    found = jax.tree.map(lambda x: tuple(x.shape), carry)
    wanted = jax.tree.map(lambda x: tuple(x.shape), expected)
    if found != wanted:
        raise ValueError(
            f"{name} must have the shapes {wanted} for {cell.name}, got {found}; "
            "cell.initial_carry(params, batch_shape) makes one of zeros."
        )
