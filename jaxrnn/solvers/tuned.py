"""Which sizes decide about speed? The one table of what was measured, by platform.

A value is one number of all carries: time * batch * features.

CPU    2 x86 cores, JAX 0.10. Read from `experiments/results/speed.jsonl`
       (`python experiments/benchmarks/speed.py`), which times gradients of every solver
       over shapes from 30 * 128 * 32 to 256 * 64 * 256 values, and
       `experiments/results/peers.jsonl`.
GPU    Nothing has been measured. A launch costs some microseconds, and launches have
       been counted, by compiling for an H100 on a CPU (`tests/test_gpu_programs.py`): a
       loop launches 6 to 20 kernels a step, there and back, `Fused` two for all steps.
others Nothing has been measured. Every kernel launched costs time there, so inputs are
       projected before the loop, and gradients taken from many steps at once.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax

NEVER = float("inf")


class Tuned(NamedTuple):
    """What is fast on one platform.

    Attributes:
      fused: whether `Fused` runs what it can.
      native_from: values from which a call of `Native` costs less than it saves.
      hoisted_from: values from which `HoistedScan` is as fast as `Scan` for a cell with
        an adjoint, by the name of the cell; 0 for one that is not named.
      one_chunk_below: values below which `HoistedScan` takes all steps at once.
      one_chunk_below_elementwise: the same for a cell with an `ElementwiseAdjoint`.
      chunk: steps at once above; None = all of them.
      project_first: whether inputs are projected before the loop; None leaves it to
        the solver.
      merge_rows_from: rows (time * batch) from which the gradient of a kernel is faster
        with time and batch as one axis.
    """

    fused: bool
    native_from: float
    hoisted_from: Mapping[str, float]
    one_chunk_below: float
    one_chunk_below_elementwise: float
    chunk: int | None
    project_first: bool | None
    merge_rows_from: float


TUNED = {
    "cpu": Tuned(
        fused=False,
        native_from=2_000,
        hoisted_from={"gru": 1_000_000},
        one_chunk_below=1_000_000,
        one_chunk_below_elementwise=16_000_000,  # from here on carries take 64 MB
        chunk=8,
        project_first=None,
        merge_rows_from=2_048,
    ),
    "gpu": Tuned(
        fused=True,
        native_from=NEVER,
        hoisted_from={},
        one_chunk_below=0,
        one_chunk_below_elementwise=0,
        chunk=None,
        project_first=True,
        merge_rows_from=NEVER,
    ),
}
UNMEASURED = Tuned(
    fused=False,
    native_from=NEVER,
    hoisted_from={},
    one_chunk_below=0,
    one_chunk_below_elementwise=0,
    chunk=64,
    project_first=True,
    merge_rows_from=NEVER,
)


def tuned(platform: str | None = None) -> Tuned:
    """The table of one platform, such as "cpu"; None = the one JAX runs on.

    Example:
      >>> tuned("cpu").chunk
      8
    """
    return TUNED.get(platform or jax.default_backend(), UNMEASURED)
