"""How are threads, registers and shared memory shared out?"""

from typing import NamedTuple

REGISTERS = 65_536  # of a multiprocessor, 4 bytes each; all architectures since 2012
QUARTERS = 4  # of a multiprocessor; each has its own part of the registers
SHARED_BYTES = 232_448  # that one block may take of an H100; other GPUs have less
MAX_THREADS = 1_024  # of a block
WARP = 32


def registers_of(threads: int) -> int:
    """How many a thread may have, in a block of that many: warps live in quarters.

    Example:
      >>> registers_of(256), registers_of(288)
      (255, 168)
    """
    warps = -(-threads // (WARP * QUARTERS))  # of the fullest quarter
    return min(255, REGISTERS // QUARTERS // WARP // warps // 8 * 8)


class Plan(NamedTuple):
    """How one kernel is laid out; the numbers are constants of its source.

    Attributes:
      splits: threads that share the sums of one feature.
      threads: of a block.
      span: features that a thread multiplies with, a multiple of 4.
      kept: of them, those whose weights stay in registers.
      ahead: steps that are read ahead of their use.
      shared_bytes: of a block.
    """

    splits: int
    threads: int
    span: int
    kept: int
    ahead: int
    shared_bytes: int


def plan(
    features: int,
    *,
    weights: int,
    buffers: int,
    reductions: int,
    streams: int,
    itemsize: int,
    splits: int | None = None,
    shared_bytes: int = SHARED_BYTES,
) -> Plan | str:
    """The fastest plan that fits; or why none does, as the end of a sentence.

    With every weight in a register where that is possible: few threads a feature then
    make for short sums of many threads. Else half of the threads a block may have, so
    that each has registers, and the rest of the weights in shared memory. Where they
    fit nowhere, fewer registers are left for all else, of which some may be spilled:
    a spill costs some cycles, and what runs instead of a kernel microseconds.

    Args:
      features: the width of the hidden vector.
      weights: (features, features) parts of parameters.
      buffers: vectors in shared memory.
      reductions: sums over features.
      streams: values that a thread reads at every step.
      itemsize: bytes of what is computed in.
      splits: threads a feature; None tries 1, 2, 4, ...
      shared_bytes: that one block may take.
    """
    if features * (splits or 1) > MAX_THREADS:
        each = f", {splits} threads each," if splits else ""
        return (
            f"{features} features{each} are more than {MAX_THREADS} threads of a block"
        )
    words = itemsize // 4

    def planned(n: int, share: int) -> Plan:
        threads = -(-features * n // WARP) * WARP
        span = -(-features // (4 * n)) * 4
        roomy = weights * span <= 128 and weights * (span + 4) + 5 * streams <= 200
        ahead = 4 if roomy else 2
        others = 48 + words * (streams * (ahead + 1) + 4 * min(weights, 4))
        most = registers_of(threads) - others // share
        kept = span
        if weights and weights * span * words > most:
            kept = max(most, 0) // (weights * words) // 4 * 4
        in_shared = (
            2 * buffers * n * (span + 4)
            + 2 * reductions * WARP
            + weights * (span - kept) * threads
        )
        return Plan(n, threads, span, kept, ahead, in_shared * itemsize)

    numbers = (1, 2, 4, 8, 16, 32) if splits is None else (splits,)
    numbers = [n for n in numbers if features * n <= MAX_THREADS]
    for share in (1, 2):
        plans = [planned(n, share) for n in numbers]
        plans = [plan for plan in plans if plan.shared_bytes <= shared_bytes]
        all_kept = [plan for plan in plans if plan.kept == plan.span]
        if plans:
            most_kept = max(plans, key=lambda plan: plan.kept / plan.span)
            return all_kept[0] if all_kept else most_kept
    return (
        f"the weights of {features} features, {weights} times {features} squared, "
        "are more than one block of a GPU can hold"
    )
