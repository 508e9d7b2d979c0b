"""Runs a cell over time: checks, direction, mask, solver."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.cells.base import AnyArray, Carry, Cell, Params
from jaxrnn.solvers.base import Solver, hold
from jaxrnn.solvers.hoisted import HoistedScan
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


def default_solver(cell: Cell) -> Solver:
    """The solver that `solver=None` stands for.

    `HoistedScan` where `experiments/speed.py` measured its gradients faster on a CPU
    (`simple_rnn`), else `Scan`. Inputs are projected in the loop on a CPU: trials,
    which the script does not repeat yet, had it faster. On other platforms nothing has
    been measured; they are projected before the loop, which pays for every kernel that
    it launches.

    Example:
      >>> isinstance(default_solver(simple_rnn), HoistedScan)
      True
    """
    project_first = jax.default_backend() != "cpu"
    hoisted = cell.adjoint is not None and cell.adjoint.faster
    return (HoistedScan if hoisted else Scan)(project_first=project_first)


def rnn(
    cell: Cell,
    params: Params,
    inputs: Float[AnyArray, "time *batch in_features"],
    *,
    mask: Bool[AnyArray, "time *batch"] | None = None,
    initial_carry: Carry | None = None,
    reverse: bool = False,
    hold_outputs: bool = False,
    solver: Solver | None = None,
) -> tuple[Carry, Float[Array, "time *batch features"]]:
    """Runs `cell` over time, time axis first.

        carry_t = step(params, carry_{t-1}, project(params, inputs_t))  where mask_t
        carry_t = carry_{t-1}                                           elsewhere

    Everything runs in the dtype that inputs and params promote to.

    A mask may have any pattern: left padding, right padding, holes. What stands in
    `inputs` at masked steps has no influence on any value or gradient, were it NaN. A
    row without a valid step returns its initial carry (PyTorch raises there, Flax
    returns the last step's carry).

    Args:
      cell: such as `simple_rnn`, `gru`, `lstm`.
      params: as from `init_params`.
      inputs: floating point; any number of batch axes, none too.
      mask: True = valid; None = every step is.
      initial_carry: the carry before the first step (the last one with `reverse`);
        None takes the cell's own, zeros.
      reverse: process from the last step to the first. Outputs stay in input order
        (Keras' `go_backwards` returns them reversed).
      hold_outputs: at masked steps, repeat the output of the step before (Keras'
        convention) instead of zeros.
      solver: how the steps become a sequence; None takes `default_solver(cell)`. For
        forward-mode derivatives pass `Scan()`.

    Returns:
      The carry after the last valid step, and the outputs, one per step.

    Raises:
      TypeError: inputs or mask of the wrong dtype.
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
    _check_inputs(inputs)
    _check_params(cell, params, inputs.shape[-1])
    _check_mask(mask, inputs)
    if initial_carry is not None:
        expected = jax.eval_shape(
            lambda p: cell.initial_carry(p, inputs.shape[1:-1]), params
        )
        _check_initial_carry(initial_carry, expected)
    solver = default_solver(cell) if solver is None else solver
    return _rnn(
        cell, solver, reverse, hold_outputs, dict(params), inputs, mask, initial_carry
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _rnn(
    cell: Cell,
    solver: Solver,
    reverse: bool,
    hold_outputs: bool,
    params: Params,
    inputs: Array,
    mask: Array | None,
    initial_carry: Carry | None,
) -> tuple[Carry, Array]:
    dtype = jnp.result_type(inputs, *params.values())
    inputs, params = jax.tree.map(lambda x: x.astype(dtype), (inputs, params))
    carry = cell.initial_carry(params, inputs.shape[1:-1])
    if initial_carry is not None:
        carry = jax.tree.map(lambda x: x.astype(dtype), initial_carry)
    inputs = hold(mask, inputs, jnp.zeros_like(inputs))  # 0 * NaN would be NaN
    if reverse:
        inputs, mask = jax.tree.map(lambda x: jnp.flip(x, axis=0), (inputs, mask))
    carry, carries = solver(cell, params, carry, inputs, mask)
    outputs = cell.output(carries)
    if not hold_outputs:
        outputs = hold(mask, outputs, jnp.zeros_like(outputs))
    return carry, jnp.flip(outputs, axis=0) if reverse else outputs


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


def _check_params(cell: Cell, params: Params, in_features: int) -> None:
    names = set(cell.param_specs(1, 1))
    if set(params) != names:
        raise ValueError(
            f"{cell.name} takes the parameters {sorted(names)}, got {sorted(params)}; "
            "init_params(cell, ...) makes them for a cell with the same settings."
        )
    features = jax.eval_shape(lambda p: cell.output(cell.initial_carry(p, ())), params)
    for name, spec in cell.param_specs(in_features, features.shape[-1]).items():
        if params[name].shape != spec.shape:
            raise ValueError(
                f"{cell.name} with in_features={in_features} (the last axis of inputs) "
                f"and features={features.shape[-1]} takes {name} of shape "
                f"{spec.shape}, got {params[name].shape}."
            )


def _check_mask(mask: Any, inputs: Any) -> None:
    if mask is None:
        return
    if mask.shape != inputs.shape[:-1]:
        raise ValueError(
            f"mask must have the (time, *batch) shape of inputs {inputs.shape[:-1]}, "
            f"got {mask.shape}; layers take (batch, time)."
        )
    if mask.dtype != jnp.bool_:
        raise TypeError(
            f"mask must be boolean with True = valid, got {mask.dtype}; write "
            "mask != 0 (mask == 0 where 1 marks padding)."
        )


def _check_initial_carry(initial_carry: Carry, expected: Carry) -> None:
    found = jax.tree.map(lambda x: tuple(x.shape), initial_carry)
    wanted = jax.tree.map(lambda x: tuple(x.shape), expected)
    if found != wanted:
        raise ValueError(
            f"initial_carry must have the shapes {wanted}, got {found}; "
            "cell.initial_carry(params, batch_shape) makes one of zeros."
        )
