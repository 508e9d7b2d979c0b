"""How does a series become windows to forecast from, split in time, without a leak?

Cut in time, scale by the first part, then make windows of each part:

    train, rest = split_in_time(series, [800], width=24)
    scale = Scale.of(train)
    training = windows(scale.apply(train), 24, horizon=6, targets=0)
    ...
    forecasts = scale.invert(scaled_forecasts, targets=0)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrnn.data.batches import Dataset, check_count
from jaxrnn.data.series import Columns, Several, as_several, index_of


def windows(
    series: Several,
    width: int,
    *,
    horizon: int | None = None,
    targets: Columns = None,
    stride: int = 1,
    static: Float[Any, "..."] | None = None,
) -> Dataset:
    """Cuts series into windows of `width` steps, each with what comes after it.

    Every window and every target is of values that are there; none is made up. Window i
    begins at step `i * stride`, its targets at step `i * stride + width`. The last
    steps alone, `series[None, -width:]`, are the window to forecast the future from.

    Of one series, inputs and targets are views of a copy in float32: they take the
    memory of the series, not that of all windows, until batches are made of them
    (`fit` with a function that returns `batches`; on the device a dataset is whole). Of
    several series the windows are copied.

    Args:
      series: numbers (time,) or (time, features), or a list of such, of any lengths.
      width: steps of a window.
      horizon: steps of the targets; None means the next step alone, without an axis.
      targets: column to forecast, or several; None means all. One column, or a series
        (time,), has no axis in the targets.
      stride: steps from one window to the next.
      static: numbers that hold for all of a series (features,), or one such row for
        each of several; they become the last columns of the inputs.

    Returns:
      A Dataset with inputs (examples, width, features) and targets (examples,), with
      the axes horizon and targets behind it, as a `Forecaster` of the same `horizon`
      and number of `targets` returns them. The windows of the first series come first.

    Raises:
      TypeError: a series that is not of real numbers; a size that is no whole number;
        `targets` that are no numbers of columns.
      ValueError: a series that is not (time,) or (time, features), is too short for one
        window and its targets, or has NaN or infinite values, or differences that
        float32 would not keep; series of different features; a size below 1; columns
        that are not there; `static` that is not one row a series.

    Example:
      >>> series = np.stack([np.arange(6.0), np.arange(6.0) * 10], axis=1)
      >>> dataset = windows(series, 3, horizon=2, targets=1)
      >>> dataset.inputs[1].tolist(), dataset.targets[1].tolist()
      ([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]], [40.0, 50.0])
      >>> windows([series, series[:5]], 3, horizon=2).targets.shape
      (3, 2, 2)
      >>> windows(np.arange(6.0), 3).targets.tolist()
      [3.0, 4.0, 5.0]
    """
    ahead = 1 if horizon is None else horizon
    for name, size in (("width", width), ("horizon", ahead), ("stride", stride)):
        check_count(name, size)
    width, ahead, stride = map(int, (width, ahead, stride))  # -np.uint8(1) is 255
    several = as_several(series)
    rows = _static_rows(static, len(several))
    of_all = []
    for values, row in zip(several, rows, strict=True):
        if len(values) < width + ahead:
            raise ValueError(
                f"a series must be as long as a window and its targets, {width} + "
                f"{ahead} steps, got {len(values)}; leave it out, or take a smaller "
                "width or horizon."
            )
        kept = _in_float32(values)
        inputs = kept.reshape(len(kept), -1)
        chosen = index_of(targets, inputs)
        columns = kept if kept.ndim == 1 else kept[:, chosen]
        if row is not None:
            spread = np.broadcast_to(row, (len(inputs), len(row)))
            inputs = np.concatenate([inputs, spread], axis=1)
        of_all.append(
            (
                _slid(inputs[:-ahead], width)[::stride],
                _slid(columns[width:], ahead)[::stride],
            )
        )
    inputs, after = of_all[0]
    if len(of_all) > 1:
        inputs, after = map(np.concatenate, zip(*of_all, strict=True))
    return Dataset(inputs, after[:, 0] if horizon is None else after)


def split_in_time(
    series: np.ndarray, cuts: Sequence[int], *, width: int
) -> list[np.ndarray]:
    """Cuts a series into parts for training, validation and so on, one after the other.

    The targets of a later part begin at its cut. Its first window is the `width` steps
    before that, which were there to see; no window of an earlier part, nor its targets,
    reaches beyond the cut. The parts are views.

    Args:
      series: numbers (time,) or (time, features); take several one by one.
      cuts: the step at which each part but the first begins.
      width: steps of a window.

    Raises:
      TypeError: several series; cuts that are no list of whole numbers.
      ValueError: cuts that do not rise from `width` + 1 to the last step of `series`.

    Example:
      >>> train, validation = split_in_time(np.arange(8), [5], width=2)
      >>> train.tolist(), validation.tolist()
      ([0, 1, 2, 3, 4], [3, 4, 5, 6, 7])
      >>> windows(validation, 2).targets.tolist()
      [5.0, 6.0, 7.0]

    Of several series, each with cuts of its own:
      >>> several = [np.arange(8), np.arange(20)]
      >>> parts = [split_in_time(s, [len(s) * 3 // 4], width=2) for s in several]
      >>> train, validation = zip(*parts)
      >>> windows(train, 2).targets.shape, windows(validation, 2).targets.shape
      ((17,), (7,))
    """
    check_count("width", width)
    if isinstance(series, list | tuple) and any(map(np.ndim, series)):
        raise TypeError(
            f"split_in_time cuts one series, got a {type(series).__name__} of several; "
            "write [split_in_time(s, cuts, width=width) for s in series]."
        )
    found = np.asarray(cuts)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise TypeError(
            "cuts must be a list of steps, whole numbers counted from 0, got "
            f"{cuts!r}; [int(0.8 * len(series))] leaves 0.8 of the series in the "
            "first part."
        )
    steps = [width, *cuts, len(series)]
    if len(cuts) == 0 or any(np.diff(steps) <= 0):
        raise ValueError(
            f"cuts must rise, from more than width={width} to less than the "
            f"{len(series)} steps of the series, got {list(cuts)}; "
            "[len(series) * 3 // 4] cuts off a quarter."
        )
    starts = [0, *(cut - width for cut in cuts)]
    return [series[a:b] for a, b in zip(starts, steps[1:], strict=True)]


def _in_float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        kept = values.astype(np.float32)
    if not np.isfinite(kept).all():
        raise ValueError(
            f"a series must fit into float32, got values up to {abs(values).max()}; "
            "Scale.of(series).apply(series) brings them near 1."
        )
    if values.dtype.itemsize > 2 and values.dtype != np.float32:
        lost = np.abs(kept - values).max(axis=0)
        spread = np.subtract(values.max(axis=0), values.min(axis=0), dtype=np.float64)
        columns = np.flatnonzero((spread > 0) & (lost > spread / 100)).tolist()
        if columns:
            raise ValueError(
                "a series must keep its differences in float32, which has 7 digits, "
                f"got values up to {abs(values).max()} that lie closer than that in "
                f"the columns {columns}, seconds since 1970 perhaps; Scale.of(series)"
                ".apply(series) brings them near 1."
            )
    return kept


def _static_rows(static: Any, several: int) -> list[Any]:
    if static is None:
        return [None] * several
    rows = np.asarray(static, np.float32)
    rows = rows[None] if rows.ndim == 1 and several == 1 else rows
    if rows.ndim != 2 or len(rows) != several or not np.isfinite(rows).all():
        raise ValueError(
            f"static must be one row of finite numbers for each of {several} series, "
            f"got shape {np.shape(static)}; np.stack puts rows together."
        )
    return list(rows)


def _slid(values: np.ndarray, width: int) -> np.ndarray:
    """All windows (windows, width, *features), as a view."""
    view = np.lib.stride_tricks.sliding_window_view(values, width, axis=0)
    return np.moveaxis(view, -1, 1)
