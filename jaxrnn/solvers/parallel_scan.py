"""Without a sequence of steps, and exact: for cells that are linear in the carry."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn.cells.base import Carry, Cell, Linear, Params
from jaxrnn.dtypes import widened
from jaxrnn.solvers.affine import affine_scan
from jaxrnn.solvers.base import Steps, hold, start_of
from jaxrnn.solvers.scan import Scan


@dataclasses.dataclass(frozen=True)
class ParallelScan:
    """Runs all steps at once where a step is linear in the carry; else it is `Scan`.

        x_t = a_t * x_{t-1} + b_t

    That is `min_gru`, `min_lstm`, `lru`, `rg_lru`, any cell with `Cell.linear`, and
    such a cell with dropout. Maps like these are put together in any order, so an
    associative scan takes some 2 log2(time) rounds in the place of `time` steps. The
    answer is that of `Scan` but for rounding. A mask (a = 1, b = 0 at its steps) and
    resets (a = 0) cost nothing, and all derivatives work: forward mode, reverse mode
    (one more scan, from the last step to the first), higher orders, `vmap`.

    A GPU or TPU is kept busy by all steps of one sequence; on a CPU the rounds only
    move memory, and `HoistedScan(chunk=None)` is as fast or faster, but for values in
    one case of twelve. Values take memory for 2 to 6 numbers in the place of each one
    of the carries, a gradient for some 6 + 3 k, where k numbers are projected for each:
    12 of `min_gru`, twice as many as by `HoistedScan`. With bfloat16 all is summed in
    float32. A carry that has become infinite or NaN stays so beyond a reset, where
    `Scan` starts anew. A number of steps that `jax.export` leaves open is run by
    `Scan`.

    Example:
      >>> params = init_params(min_gru, jax.random.key(0), 2, 3)
      >>> inputs = jnp.ones((7, 5, 2))
      >>> _, found = rnn(min_gru, params, inputs, solver=ParallelScan())
      >>> jnp.allclose(found, rnn(min_gru, params, inputs)[1], atol=1e-6).item()
      True

    Reference: Blelloch, Prefix sums and their applications, 1990; Martin and Cundy,
    Parallelizing linear recurrent neural nets over sequence length, 2018.
    """

    def __call__(
        self, cell: Cell, params: Params, carry: Carry, steps: Steps
    ) -> tuple[Carry, Carry]:
        known = isinstance(steps.time, int) and steps.time > 0
        if cell.linear is None or not known:
            return Scan()(cell, params, carry, steps)
        start = start_of(cell, params, carry, steps)
        projected = cell.project(params, steps.inputs)
        carries = linear_carries(cell.linear, params, carry, start, projected, steps)
        return jax.tree.map(lambda x: x[-1], carries), carries


def linear_carries(
    linear: Linear,
    params: Params,
    carry: Carry,
    start: Carry | None,
    projected: Any,
    steps: Steps,
) -> Carry:
    """The carries after every step; `carry` is the one before the first."""
    a, b = linear.coefficients(params, projected)
    # In float32 at least: a product of many numbers loses what bfloat16 has.
    a, b, first = map(widened, (a, b, linear.pack(carry)))
    a, b = hold(steps.mask, (a, b), (jnp.ones_like(a), jnp.zeros_like(b)))
    if steps.resets is not None:
        again = widened(linear.pack(start))[None]
        a, b = hold(steps.resets, (jnp.zeros_like(a), a * again + b), (a, b))
    b = b.at[0].add(a[0] * first)
    carries = linear.unpack(affine_scan(a, b))
    return jax.tree.map(lambda x, like: x.astype(like.dtype), carries, carry)
