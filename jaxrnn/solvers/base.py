"""What is a solver, and what do a mask and a reset mean to it?"""

from collections.abc import Hashable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxrnn.cells.base import AnyArray, Carry, Cell, Params
from jaxrnn.cells.ops import as_varying


class Steps(NamedTuple):
    """What a recurrence reads, step by step; arrays with the time axis first.

    Attributes:
      inputs: (time, *batch, in_features), or a pytree of such where `cell.noise` made
        one.
      mask: (time, *batch), True = valid, or None where every step is. A masked step
        hands the carry on as it is, see `hold`.
      resets: (time, *batch), True = the carry restarts from `cell.initial_carry`
        before the step, masked or not; None where it never does.
    """

    inputs: Any
    mask: Bool[AnyArray, "time *batch"] | None = None
    resets: Bool[AnyArray, "time *batch"] | None = None

    @property
    def time(self) -> int:
        """The number of steps."""
        return jax.tree.leaves(self.inputs)[0].shape[0]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The axes between time and features."""
        return jax.tree.leaves(self.inputs)[0].shape[1:-1]

    def reversed(self) -> "Steps":
        """From the last step to the first. An episode ends where the next one begins.

        Example:
          >>> resets = jnp.array([True, False, True, False])
          >>> Steps(jnp.ones((4, 2)), resets=resets).reversed().resets.tolist()
          [False, False, True, False]
        """
        ends = None
        if self.resets is not None:
            none = jnp.zeros_like(self.resets[:1])
            ends = jnp.concatenate([self.resets[1:], none])
        return flip(self._replace(resets=ends))


def flip(sequences: Any) -> Any:
    """From the last step to the first, time axis first.

    Example:
      >>> flip({"inputs": jnp.array([1, 2, 3])})["inputs"].tolist()
      [3, 2, 1]
    """
    return jax.tree.map(lambda x: jnp.flip(x, axis=0), sequences)


@runtime_checkable
class Solver(Hashable, Protocol):
    """How the steps of a cell become a sequence.

    A solver is a frozen dataclass that is called. All solvers give the same numbers;
    they differ in speed, memory and in the derivatives that they allow. It gets the
    cell and the inputs (not the projected ones), so that it decides when to project.

    Args:
      cell: the cell to run.
      params: the cell's parameters.
      carry: the carry before the first step, leaves (*batch, features).
      steps: inputs, mask and resets of all steps.

    Returns:
      The carry after the last step, and the carries after every step (the same pytree
      with a leading time axis).
    """

    def __call__(
        self, cell: Cell, params: Params, carry: Carry, steps: Steps
    ) -> tuple[Carry, Carry]: ...


def check_solver(solver: Any) -> None:
    """Raises a TypeError where a solver is a name, or a class that was not called."""
    if isinstance(solver, type) or not callable(solver):
        found = getattr(solver, "__name__", None) or repr(solver)
        raise TypeError(
            f"solver must be one of jaxrnn, such as jaxrnn.Scan(), got {found}; None "
            "takes the default."
        )


def hold(mask: Bool[AnyArray, "*batch"] | None, new: Any, old: Any) -> Any:
    """Takes `new` where the mask is True and holds `old` where it is not.

    Args:
      mask: (*batch,), or None to take `new` everywhere.
      new: a pytree of arrays (*batch, ...).
      old: the same pytree; also gradients are routed with it.

    Example:
      >>> hold(jnp.array([True, False]), jnp.ones((2, 1)), jnp.zeros((2, 1))).tolist()
      [[1.0], [0.0]]
    """
    if mask is None:
        return new

    def select(new: Array, old: Array) -> Array:
        per_row = jnp.expand_dims(mask, tuple(range(mask.ndim, new.ndim)))
        return jnp.where(per_row, new, old)

    return jax.tree.map(select, new, old)


def restart(
    resets: Bool[AnyArray, "*batch"] | None, start: Carry, carry: Carry
) -> Carry:
    """Takes `start` where an episode begins, before the step that `resets` belong to.

    Args:
      resets: (*batch,), True = the carry restarts; None = nowhere.
      start: what it restarts from, of `start_of`.
      carry: of the step before, the same pytree.

    Example:
      >>> before = jnp.array([[5.0], [7.0]])
      >>> restart(jnp.array([True, False]), jnp.zeros((2, 1)), before).tolist()
      [[0.0], [7.0]]
    """
    return carry if resets is None else hold(resets, start, carry)


def start_of(cell: Cell, params: Params, carry: Carry, steps: Steps) -> Carry | None:
    """What a reset restarts from, in the dtypes of `carry`; None without resets.

    That is the cell's `initial_carry`, not the carry that the sequence begins with.

    Args:
      cell: the cell to run.
      params: the cell's parameters.
      carry: the carry before the first step, leaves (*batch, features).
      steps: of all time; their resets decide whether there is anything to restart.

    Example:
      >>> params = init_params(gru, jax.random.key(0), 3, 4)
      >>> carry, inputs = jnp.ones((2, 4), jnp.bfloat16), jnp.ones((5, 2, 3))
      >>> start_of(gru, params, carry, Steps(inputs)) is None
      True
      >>> steps = Steps(inputs, resets=jnp.zeros((5, 2), bool))
      >>> start = start_of(gru, params, carry, steps)
      >>> start.dtype, float(start.sum())
      (dtype(bfloat16), 0.0)
    """
    if steps.resets is None:
        return None
    start = cell.initial_carry(params, steps.batch_shape)
    start = jax.tree.map(lambda x, like: x.astype(like.dtype), start, carry)
    return as_varying(start, like=carry)
