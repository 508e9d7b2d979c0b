"""Which solver runs where none is asked for? The fastest that was measured."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn import native
from jaxrnn.cells.base import Cell, ElementwiseAdjoint
from jaxrnn.cells.checks import check_cell
from jaxrnn.fused import launch
from jaxrnn.solvers.base import Solver
from jaxrnn.solvers.fused import Fused
from jaxrnn.solvers.hoisted import HoistedScan
from jaxrnn.solvers.native import Native, knows
from jaxrnn.solvers.scan import Scan
from jaxrnn.solvers.tuned import tuned


def default_solver(
    cell: Cell,
    values: Any = None,
    dtype: Any = jnp.float32,
    *,
    divided: bool = False,
    platform: str | None = None,
) -> Solver:
    """The solver that `solver=None` stands for.

    It depends on the machine: on its platform, and on whether its native loops have
    been compiled. Every solver gives the same numbers but for rounding, and allows the
    same: every derivative, and `jax.export`. Where a run must be repeated to the bit,
    write down what this function says.

    On a CPU it is `Native` wherever that has a loop for the cell and the dtype, its
    loops have been compiled (`python -m jaxrnn.native`), JAXRNN_NATIVE is not 0 and
    there are more than a handful of steps. Else it is `HoistedScan` for a cell with an
    adjoint (`gru` only where it is large) or with a step that is linear in the carry,
    and `Scan` for all others. `ParallelScan` and `Deer` run where they are asked for.
    The sizes stand in `jaxrnn.solvers.tuned`, with what they were read from.

    On a GPU it is `Fused` unless JAXRNN_FUSED is 0, and what runs where `Fused` cannot
    is `HoistedScan` or `Scan`, as on every other platform. Nothing has been measured
    there.

    Args:
      cell: the cell to run.
      values: in all its carries, time * batch * features. None where that is not known,
        which chooses `Scan`, as does a size that `jax.export` leaves open.
      dtype: of the computation.
      divided: whether a mesh holds the arrays in parts, which `Native` and `Fused`
        would gather.
      platform: such as "cpu"; None = the one JAX runs on.

    Raises:
      TypeError: a `cell` that is none.

    Example:
      >>> default_solver(mgu, values=100 * 32 * 32, platform="cpu")
      Scan(unroll=1, project_first=False)
      >>> default_solver(mgu, values=100 * 32 * 32, platform="gpu").otherwise
      Scan(unroll=1, project_first=True)
    """
    check_cell(cell)
    platform = platform or jax.default_backend()
    platform = "gpu" if platform == "cuda" else platform
    plain = default_scan(cell, values, platform=platform)
    known = isinstance(values, int)
    if tuned(platform).fused and known and not divided and launch.enabled():
        return Fused(otherwise=plain)
    enough = known and values >= tuned(platform).native_from
    if enough and not divided and knows(cell, dtype) and native.enabled():
        return Native()
    return plain


def default_scan(cell: Cell, values: Any, *, platform: str | None = None) -> Solver:
    """The default where `Native` does not run; see `default_solver`.

    Example:
      >>> default_scan(simple_rnn, values=100 * 32 * 32, platform="cpu")
      HoistedScan(unroll=1, project_first=None, chunk=None)
      >>> default_scan(lstm, values=256 * 64 * 256, platform="cpu")
      HoistedScan(unroll=1, project_first=None, chunk=8)
      >>> default_scan(gru, values=100 * 32 * 32, platform="cpu")
      Scan(unroll=1, project_first=False)
      >>> default_scan(min_gru, values=100 * 32 * 32, platform="cpu")
      HoistedScan(unroll=1, project_first=None, chunk=None)
    """
    table = tuned(platform)
    plain = Scan(project_first=bool(table.project_first))
    if not isinstance(values, int) or (cell.adjoint is None and cell.linear is None):
        return plain
    if values < table.hoisted_from.get(cell.name, 0):
        return plain
    # A linear step is cheap to take a second time: nothing but carries is kept of it.
    elementwise = cell.adjoint is None or isinstance(cell.adjoint, ElementwiseAdjoint)
    one_chunk_below = (
        table.one_chunk_below_elementwise if elementwise else table.one_chunk_below
    )
    chunk = None if values < one_chunk_below else table.chunk
    return HoistedScan(project_first=table.project_first, chunk=chunk)
