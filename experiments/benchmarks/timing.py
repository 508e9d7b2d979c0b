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
