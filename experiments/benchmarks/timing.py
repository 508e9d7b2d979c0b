"""How is a time measured? Warm, in turns, to the end of the computation."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

Result = TypeVar("Result")


def timed(run: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of one call, to the end of its computation, and what it returned."""
    started = time.perf_counter()
    result = jax.block_until_ready(run())
    return time.perf_counter() - started, result


def compiled(function: Callable, *args: Any) -> tuple[float, jax.stages.Compiled]:
    """Seconds to trace, lower and compile a function; and the program for `args`."""
    return timed(lambda: jax.jit(function).lower(*args).compile())


def interleaved(runs: Mapping[Any, Callable], repeats: int) -> dict[Any, list[float]]:
    """Milliseconds of every repeat of every run, in turns, after a warm-up.

    In turns, so that a slow moment of the machine is shared by all.
    """
    milliseconds: dict[Any, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        timed(run)
    for _ in range(repeats):
        for name, run in runs.items():
            milliseconds[name].append(1e3 * timed(run)[0])
    return milliseconds


def bursts(
    runs: Mapping[Any, Callable],
    repeats: int,
    burst_s: float = 0.02,
    wait: Callable[[Any], Any] = jax.block_until_ready,
) -> dict[Any, list[float]]:
    """Milliseconds a call, in turns, of so many calls in a row that they last a while.

    The host gives a device the next call while it computes this one: only the last
    call of a burst is waited for, and what the host needs to start it does not count
    where the device needs longer.

    Args:
      runs: each does one call and returns what can be waited for.
      repeats: bursts of every run.
      burst_s: about how long a burst lasts; a call that takes longer is one burst.
      wait: returns when its argument, and all that was begun before it, is computed.
    """

    def burst_ms(run: Callable, calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            result = run()
        wait(result)
        return 1e3 * (time.perf_counter() - started) / calls

    calls = {}
    for name, run in runs.items():
        wait(run())
        one = burst_ms(run, calls=1)
        if one < 1e3 * burst_s:
            one = min(one, burst_ms(run, calls=3))
        calls[name] = min(max(int(1e3 * burst_s / one), 1), 1_000)
    milliseconds: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            milliseconds[name].append(burst_ms(run, calls[name]))
    return milliseconds


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and minimum, to four digits.

    Example:
      >>> summary([3.0, 1.0, 2.0])
      {'median_ms': 2.0, 'q1_ms': 1.5, 'q3_ms': 2.5, 'min_ms': 1.0}
    """
    q1, median, q3 = np.percentile(milliseconds, [25, 50, 75])
    found = {"median_ms": median, "q1_ms": q1, "q3_ms": q3, "min_ms": min(milliseconds)}
    return {name: significant(value) for name, value in found.items()}


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the ratios, round by round: a slow moment counts for both."""
    return float(np.median(np.divide(numerators, denominators)))


def significant(value: float, digits: int = 4) -> float:
    """A number without the digits that noise makes."""
    return float(f"{value:.{digits}g}")
