"""How does a noisy sine become windows to forecast from?"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Float64

from jaxrnn.data.batches import Dataset, check_count, check_rng


def sine_series(
    length: int = 2000, *, rng: np.random.Generator
) -> Float64[np.ndarray, " length"]:
    """Draws `sin(0.02 t) + u`, `u` uniform in [0, 1), at t = 0, 1, 2, ...

    Dimensionless; one period is 314 steps. The noise has mean 1/2 and variance
    1/12, so no forecast has a mean squared error below 0.0833.

    Args:
      length: number of values.
      rng: source of the noise.

    Raises:
      TypeError: an `rng` that is none, such as a seed.
      ValueError: if `length` is less than 1.

    Example:
      >>> sine_series(3, rng=np.random.default_rng(0)).round(3).tolist()
      [0.637, 0.29, 0.081]
    """
    check_count("length", length)
    check_rng(rng)
    return np.sin(0.02 * np.arange(length)) + rng.random(length)


def sine_windows(
    series: np.ndarray, step: int = 4
) -> tuple[Float32[np.ndarray, "examples step"], Float32[np.ndarray, " examples"]]:
    """Cuts a series into windows of `step` values, each with the value after it.

    The series is first extended by `step` copies of its last value, so there are
    as many windows as values. The last `step` targets are therefore copies, and
    the last window is `step` copies of the last value.

    Args:
      series: numbers `(time,)`.
      step: values per window.

    Returns:
      The windows, oldest value first, and the value that follows each; float32,
      in the units of `series`.

    Raises:
      TypeError: if `series` is not of real numbers, or `step` no whole number.
      ValueError: if `step` is less than 1, or `series` is not one finite row of
        more than `step` values.

    Example:
      >>> inputs, targets = sine_windows(np.array([1.0, 2.0, 3.0]), 2)
      >>> inputs.tolist()
      [[1.0, 2.0], [2.0, 3.0], [3.0, 3.0]]
      >>> targets.tolist()
      [3.0, 3.0, 3.0]
    """
    _check_series(series, step)
    extended = np.append(series, np.repeat(series[-1], step)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(extended, step)[: len(series)]
    return windows.copy(), extended[step:]


def window_as_features(
    windows: Float32[np.ndarray, "examples step"],
) -> Float32[np.ndarray, "examples 1 step"]:
    """Makes a window one time step of `step` features: the tutorial's layout.

    With one time step from a zero carry the recurrent kernel never acts, and a
    recurrent layer is a dense layer. `window_as_time` lets it act.

    Raises:
      ValueError: windows that are not (examples, step).

    Example:
      >>> window_as_features(np.zeros((900, 4), np.float32)).shape
      (900, 1, 4)
    """
    _check_windows(windows)
    return windows[:, None, :]


def window_as_time(
    windows: Float32[np.ndarray, "examples step"],
) -> Float32[np.ndarray, "examples step 1"]:
    """Makes a window `step` time steps of one feature.

    Raises:
      ValueError: windows that are not (examples, step).

    Example:
      >>> window_as_time(np.zeros((900, 4), np.float32)).shape
      (900, 4, 1)
    """
    _check_windows(windows)
    return windows[:, :, None]


def sine_datasets(
    series: np.ndarray,
    *,
    layout: Callable[[np.ndarray], np.ndarray],
    train_length: int = 900,
    step: int = 4,
) -> tuple[Dataset, Dataset]:
    """Makes the training and test set of a forecaster from one series.

    The series is cut first and each part is extended by itself, so no training
    window sees a test value.

    Args:
      series: numbers `(time,)`.
      layout: `window_as_features` or `window_as_time`.
      train_length: values in the training part; the rest is the test part.
      step: values per window.

    Returns:
      Train and test; inputs are laid out by `layout`, targets are `(examples,)`,
      with as many examples as the part has values.

    Raises:
      TypeError: as `sine_windows`.
      ValueError: if `train_length` leaves a part without a whole window, or as
        `sine_windows`.

    Example:
      >>> series = sine_series(rng=np.random.default_rng(0))
      >>> train, test = sine_datasets(series, layout=window_as_time)
      >>> train.inputs.shape, test.inputs.shape, test.targets.shape
      ((900, 4, 1), (1100, 4, 1), (1100,))
    """
    _check_series(series, step)
    if not step < train_length < len(series) - step:
        raise ValueError(
            f"train_length must leave both parts longer than step={step}, got "
            f"{train_length} of {len(series)} values."
        )
    parts = (series[:train_length], series[train_length:])
    (train, train_targets), (test, test_targets) = (
        sine_windows(part, step) for part in parts
    )
    return Dataset(layout(train), train_targets), Dataset(layout(test), test_targets)


def _check_windows(windows: np.ndarray) -> None:
    if windows.ndim != 2:
        raise ValueError(
            f"windows must have the shape (examples, step), got {windows.shape}; "
            "sine_windows makes them."
        )


def _check_series(series: np.ndarray, step: int) -> None:
    check_count("step", step)
    if series.dtype.kind not in "fiu":
        raise TypeError(
            f"series must be real numbers, got {series.dtype}; make windows of its "
            "parts, or convert it by series.astype(float)."
        )
    if series.ndim != 1:
        raise ValueError(
            f"series must have the shape (time,), got {series.shape}; "
            "make windows of one series at a time."
        )
    if len(series) <= step:
        raise ValueError(
            f"series must be longer than one window of step={step} values, got "
            f"{len(series)}; a longer series or a smaller step will do."
        )
    broken = np.flatnonzero(~np.isfinite(series))
    if len(broken):
        raise ValueError(
            f"series must be finite, got {len(broken)} NaN or infinite values, the "
            f"first, {series[broken[0]]}, at position {broken[0]}; fill or cut them."
        )
