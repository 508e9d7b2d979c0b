"""All steps of any cell at once: Newton's method on the whole trajectory."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.dtypes import widened
from jaxrnn.solvers.affine import affine_scan
from jaxrnn.solvers.base import Steps, start_of
from jaxrnn.solvers.jacobians import Packing
from jaxrnn.solvers.parallel_scan import ParallelScan
from jaxrnn.solvers.primitives import no_derivative
from jaxrnn.solvers.scan import Scan
from jaxrnn.solvers.trajectory import (
    Problem,
    first_wrong,
    is_wrong,
    next_carries,
    next_carries_jacobians,
    off,
    repaired,
)


@dataclasses.dataclass(frozen=True)
class Deer:
    """Solves for the carries of all steps at once, by Newton's method, for any cell.

        x_t = f_t(x_{t-1}) for all t,    D_t = J_t D_{t-1} + f_t(x_{t-1}) - x_t

    From a guess of all carries x, one iteration takes the Jacobians J_t of all steps,
    finds what is missing, D, by an associative scan, and adds it. Beside that full step
    one is tried in which no number changes by more than `clip`; of the two each row of
    the batch takes the one that leaves less to be desired. Then all steps are taken
    once more, which brings the carries back to where the cell can get.

    The answer is never wrong: it ends where every number of every step is what the cell
    makes of the step before, to 16 eps of the dtype times 1 + its size + that of the
    carry before as far as the step feels it, |J| |x_{t-1}|, and to no more than 16 eps
    of 1 + the largest number beside it. So much is allowed because a step is only known
    to the roundings of what it adds up: taken again by another program, those of `Scan`
    too are off by an eps or two. Where Newton's method does not get there in
    `iterations`, steps are taken one by one from the first wrong one on. In chaos more
    cannot be said: there no two solvers, and no two machines, agree on the last carry.

    Derivatives do not go through the iterations. They are those of the solution: one
    affine scan in forward mode, one from the last step to the first in reverse mode, at
    every order, under `vmap` too; no loop over time. (Before JAX 0.12 a gradient
    through a `lax.scan` around it, as of `Checkpointed`, cannot be differentiated again
    and raises; a gradient of `jax.jvp` works.) In bfloat16 it iterates, and hands
    carries from step to step, in float32. A cell with `Cell.linear` is solved by
    `ParallelScan`, and a number of steps that `jax.export` leaves open by `Scan`.

    Where it wins: a small cell, long sequences, few rows, and a GPU or TPU that `Scan`
    leaves idle. An iteration costs about 2 n^3 multiplications a step and row for the
    scan, where n is the size of the carry (twice the features of an LSTM): on a CPU,
    with 8 features, 2 to 7 times what all steps take by `Scan`. Values and gradients
    alike take memory for some 3 time * rows * n^2 numbers, in one chunk of
    `Checkpointed(Deer(), chunk=1024)` at a time. XLA needs seconds to compile it. Where
    it cannot: on a CPU, with wide layers, and in chaos, where the iterations do not
    suffice and the repair does the work. Fresh cells have taken 2 to 8 iterations, at
    100 steps as at 100,000, and cells trained on the adding problem up to 12; count
    them as training goes on, with `report`.

    Attributes:
      iterations: the most there are; 0 takes all steps one by one.
      clip: the most that a number changes in the second of the two steps; None tries
        the full step alone.
      report: a function of (iterations, repaired_from) that is called on the host
        whenever the solver has run, inside `jax.jit` too, by `jax.debug.callback`:
        how many iterations it took, and the first step that was taken one by one, the
        number of steps where none was. Once for each model under `vmap`, once for each
        chunk under `Checkpointed`.

    Raises:
      ValueError: iterations below 0, a clip that is not above 0, a carry with leaves
        that are not (*batch, features).

    Example:
      >>> params = init_params(gru, jax.random.key(0), 2, 3)
      >>> inputs = jax.random.normal(jax.random.key(1), (100, 5, 2))
      >>> solver = Deer(report=lambda iterations, since: print(int(since)))
      >>> _, found = rnn(gru, params, inputs, solver=solver)
      100
      >>> jnp.allclose(found, rnn(gru, params, inputs)[1], atol=1e-5).item()
      True

    Reference: Lim et al., Parallelizing non-linear sequential models over the sequence
    length (DEER), 2023, arXiv 2309.12252; Gonzalez et al., Towards scalable and stable
    parallelization of nonlinear RNNs, 2024, arXiv 2407.19115.
    """

    iterations: int = 16
    clip: float | None = 0.5
    report: Callable[[Any, Any], None] | None = None

    def __post_init__(self) -> None:
        if operator.index(self.iterations) < 0:
            raise ValueError(
                f"iterations must be a number of at least 0, got {self.iterations}."
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(
                f"clip must be above 0, got {self.clip}; None tries full steps alone."
            )

    def __call__(
        self, cell: Cell, params: Params, carry: Carry, steps: Steps
    ) -> tuple[Carry, Carry]:
        if not isinstance(steps.time, int) or steps.time == 0:
            return Scan()(cell, params, carry, steps)
        if cell.linear is not None:
            if self.report is not None:
                jax.debug.callback(self.report, 1, steps.time)
            return ParallelScan()(cell, params, carry, steps)
        for leaf in jax.tree.leaves(carry):
            if leaf.shape[:-1] != steps.batch_shape:
                raise ValueError(
                    f"Deer takes a carry of arrays {(*steps.batch_shape, 'features')}, "
                    f"got {leaf.shape} from {cell.name}; Scan takes any."
                )
        packing = Packing.of(carry)
        start = start_of(cell, params, carry, steps)
        problem = Problem(
            params=params,
            first=widened(packing.pack(carry)),
            start=None if start is None else widened(packing.pack(start)),
            projected=jax.tree.map(_widened, cell.project(params, steps.inputs)),
            mask=steps.mask,
            resets=steps.resets,
        )
        carries = packing.unpack(_solved(cell, self, packing, problem))
        carries = jax.tree.map(lambda x, like: x.astype(like.dtype), carries, carry)
        return jax.tree.map(lambda x: x[-1], carries), carries


def _widened(x: Array) -> Array:
    return widened(x) if jnp.issubdtype(x.dtype, jnp.floating) else x


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _solved(cell: Cell, solver: Deer, packing: Packing, problem: Problem) -> Array:
    """All carries, packed: (time, *batch, n)."""
    problem = jax.tree.map(_without_derivative, problem)
    carries, wrong, iterations = _newton(cell, solver, packing, problem)
    since = first_wrong(wrong)
    if solver.report is not None:
        jax.debug.callback(solver.report, iterations, since)
    return repaired(cell, packing, problem, carries, since)


NO_SECOND = (
    "before JAX 0.12 a gradient of Deer within a lax.scan, such as that of "
    "Checkpointed, cannot be differentiated again; write the gradient of a jax.jvp "
    "(jax.jacrev(jax.jacfwd(...))), Deer without the scan, or another solver."
)


def _without_derivative(x: Array) -> Array:
    """Keeps derivatives out of the iterations, where they would be nearly right.

    JAX before 0.12 forgets the rule of `_solved` where a `lax.scan` around it is
    differentiated twice.
    """
    return no_derivative(x, NO_SECOND)


@_solved.defjvp
def _(cell: Cell, solver: Deer, packing: Packing, primals: Any, tangents: Any) -> Any:
    """Of the solution: dx_t = J_t dx_{t-1} + (what else moves step t)."""
    (problem,), (tangent,) = primals, tangents
    carries = _solved(cell, solver, packing, problem)

    def of_problem(problem: Problem) -> Array:
        return next_carries(cell, packing, problem, carries)

    _, moved = jax.jvp(of_problem, (problem,), (tangent,))
    slopes = next_carries_jacobians(cell, packing, problem, carries)
    return carries, affine_scan(slopes, moved)


class _Guess(NamedTuple):
    """A trajectory, and what is known of it.

    Attributes:
      carries: (time, *batch, n).
      new: what steps make of them.
      slopes: the Jacobians of the steps there.
      wrong: which steps are not what they should be.
      iterations: that led there.
    """

    carries: Array
    new: Array
    slopes: Array
    wrong: Array
    iterations: Array


def _newton(
    cell: Cell, solver: Deer, packing: Packing, problem: Problem
) -> tuple[Array, Array, Array]:
    """A trajectory, which of its steps are wrong, and the number of iterations."""
    steps = functools.partial(next_carries, cell, packing, problem)
    time = jax.tree.leaves(problem.projected)[0].shape[0]
    most = min(solver.iterations, time)  # Newton's method takes no more than that

    def judged(carries: Array, new: Array, iterations: Array) -> _Guess:
        slopes = next_carries_jacobians(cell, packing, problem, carries)
        wrong = is_wrong(problem, carries, new, slopes)
        return _Guess(carries, new, slopes, wrong, iterations)

    def body(guess: _Guess) -> _Guess:
        missing = affine_scan(guess.slopes, guess.new - guess.carries)
        known = jnp.isfinite(missing).all(-1, keepdims=True)

        def moved(limit: Array | float) -> tuple[Array, Array]:
            by = jnp.clip(missing, -limit, limit)
            carries = steps(jnp.where(known, guess.carries + by, guess.new))
            return carries, steps(carries)

        if solver.clip is None:
            return judged(*moved(jnp.inf), guess.iterations + 1)
        limits = jnp.asarray([jnp.inf, solver.clip], missing.dtype)
        return judged(*_better(*jax.vmap(moved)(limits)), guess.iterations + 1)

    def go_on(guess: _Guess) -> Array:
        return guess.wrong.any() & (guess.iterations < most)

    first = jnp.broadcast_to(problem.first, (time, *problem.first.shape))
    begin = judged(first, steps(first), jnp.asarray(0))
    found = jax.lax.while_loop(go_on, body, begin)
    return found.carries, found.wrong, found.iterations


def _better(tries: Array, new: Array) -> tuple[Array, Array]:
    """For each row of the batch the one of two with less `off` on average over time."""
    largest = jnp.finfo(tries.dtype).max / tries.shape[1]
    first, second = jnp.minimum(jax.vmap(off)(new, tries), largest).mean(1)
    is_first = (first <= second)[None, ..., None]
    return jnp.where(is_first, *tries), jnp.where(is_first, *new)
