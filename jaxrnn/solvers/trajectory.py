"""Is a trajectory, a guess of all carries at once, right? If not, it is put right."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import AnyArray, Cell, Params
from jaxrnn.solvers.affine import shifted, times
from jaxrnn.solvers.base import hold, restart
from jaxrnn.solvers.jacobians import Packing, packed_step, step_jacobians

TOLERANCE = 16  # in units of eps: steps of `Scan`, taken twice, differ by 1 or 2


class Problem(NamedTuple):
    """What a trajectory follows from, with carries packed.

    Attributes:
      params: of the cell.
      first: (*batch, n), the carry before the first step.
      start: (*batch, n), what a reset restarts from; None without resets.
      projected: of all steps.
      mask, resets: as in `Steps`.
    """

    params: Params
    first: Array
    start: Array | None
    projected: Any
    mask: AnyArray | None
    resets: AnyArray | None


def befores_of(problem: Problem, carries: Array) -> Array:
    """The carry that each step starts from, (time, *batch, n)."""
    again = None if problem.start is None else problem.start[None]
    return restart(problem.resets, again, shifted(carries, problem.first))


def next_carries(
    cell: Cell, packing: Packing, problem: Problem, carries: Array
) -> Array:
    """What every step makes of the carry before it: the right trajectory is its own."""
    befores = befores_of(problem, carries)
    step = functools.partial(packed_step, cell, packing, problem.params)
    return hold(problem.mask, jax.vmap(step)(befores, problem.projected), befores)


def next_carries_jacobians(
    cell: Cell, packing: Packing, problem: Problem, carries: Array
) -> Array:
    """The slopes of `next_carries` along the carry before; 1 if masked, 0 at resets."""
    befores = befores_of(problem, carries)
    slopes = step_jacobians(cell, packing, problem.params, befores, problem.projected)
    n = carries.shape[-1]
    one = jnp.ones(n) if slopes.ndim == carries.ndim else jnp.eye(n)
    one = one.astype(slopes.dtype)
    slopes = hold(problem.mask, slopes, jnp.broadcast_to(one, slopes.shape))
    if problem.resets is None:
        return slopes
    return hold(problem.resets, jnp.zeros_like(slopes), slopes)


def off(new: Array, carries: Array) -> Array:
    """How far steps are from what they should be, relative to 1 + size: (time, *batch).

    Infinite where something is NaN.
    """
    distance = jnp.abs(new - carries).max(-1) / (1 + jnp.abs(carries).max(-1))
    return jnp.where(jnp.isnan(distance), jnp.inf, distance)


def is_wrong(problem: Problem, carries: Array, new: Array, slopes: Array) -> Array:
    """Which steps are not what the cell makes of the step before: (time, *batch).

    A number may differ by `TOLERANCE` roundings of itself and of the carry before, as
    far as it feels them, and by no more than so many of the largest one beside it: so
    a large number hides no small one that does not depend on it.
    """
    befores = befores_of(problem, carries)
    felt = 1 + jnp.abs(carries) + times(jnp.abs(slopes), jnp.abs(befores))
    largest = 1 + jnp.abs(carries).max(-1, keepdims=True)
    allowed = TOLERANCE * jnp.finfo(carries.dtype).eps * jnp.minimum(felt, largest)
    right = jnp.isfinite(felt) & (jnp.abs(new - carries) <= allowed)  # NaN is wrong
    return ~right.all(-1)


def first_wrong(wrong: Array) -> Array:
    """The first step that is wrong in any row; the number of steps if none is."""
    wrong = wrong.any(axis=tuple(range(1, wrong.ndim)))
    return jnp.where(wrong.any(), jnp.argmax(wrong), len(wrong))


def repaired(
    cell: Cell, packing: Packing, problem: Problem, carries: Array, since: Array
) -> Array:
    """The trajectory with the steps from `since` on taken one by one.

    A loop of no iteration where none is. Models that `vmap` runs side by side take
    their steps together, from the earliest of their `since` on.
    """
    steps = functools.partial(_one_by_one, cell, packing)
    return _together(steps)(problem, carries, since)


def _one_by_one(
    cell: Cell, packing: Packing, problem: Problem, carries: Array, since: Array
) -> Array:
    time = len(carries)

    def at(t: Array, tree: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, t, keepdims=False), tree
        )

    def body(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        t, carry, carries = state
        carry = restart(at(t, problem.resets), problem.start, carry)
        projected = at(t, problem.projected)
        new = packed_step(cell, packing, problem.params, carry, projected)
        carry = hold(at(t, problem.mask), new, carry)
        carries = jax.lax.dynamic_update_index_in_dim(carries, carry, t, 0)
        return t + 1, carry, carries

    carry = at(jnp.maximum(since - 1, 0), carries)
    carry = jnp.where(since == 0, problem.first, carry)
    state = (since, carry, carries)
    return jax.lax.while_loop(lambda state: state[0] < time, body, state)[2]


def _together(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function(problem, carries, since)`, one `since` for all models of a `vmap`."""
    wrapped = jax.custom_batching.custom_vmap(function)

    @wrapped.def_vmap
    def rule(
        size: int, batched: Any, problem: Problem, carries: Array, since: Array
    ) -> tuple[Array, bool]:
        *of_others, of_since = batched
        axes = jax.tree.map(lambda one: 0 if one else None, tuple(of_others))
        models = jax.vmap(function, in_axes=(*axes, None), axis_size=size)
        earliest = since.min() if of_since else since
        return _together(models)(problem, carries, earliest), True

    return wrapped
