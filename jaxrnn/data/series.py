"""What is a series? Real, finite numbers by time; and how are they brought near 1?"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

Columns = int | Sequence[int] | None
Several = np.ndarray | Sequence[np.ndarray]


class Scale(NamedTuple):
    """Mean and standard deviation of every column: those of the training part.

    Attributes:
      mean: (features,), or () for a series (time,).
      deviation: of the same shape, above 0.

    Example:
      >>> train = np.array([[1.0, 100.0], [3.0, 300.0]])
      >>> scale = Scale.of(train)
      >>> scale.apply(train).tolist()
      [[-1.0, -1.0], [1.0, 1.0]]
      >>> scale.invert(np.array([0.5]), targets=1).tolist()
      [250.0]
    """

    mean: Float64[np.ndarray, "..."]
    deviation: Float64[np.ndarray, "..."]

    @classmethod
    def of(cls, series: Several) -> "Scale":
        """That of one series, or of all steps of several.

        Raises:
          TypeError, ValueError: as `windows`; and a column that never changes.
        """
        values = np.concatenate([s.astype(np.float64) for s in as_several(series)])
        mean, deviation = map(np.asarray, (values.mean(axis=0), values.std(axis=0)))
        still = np.flatnonzero(np.ptp(values, axis=0) == 0)
        if len(still):
            raise ValueError(
                "every column must change in the training part, to be scaled by it, "
                f"got the same value everywhere in the columns {still.tolist()}; leave "
                f"them out, np.delete(series, {still.tolist()}, axis=1)."
            )
        return cls(mean, deviation)

    def apply(self, values: Any) -> Any:
        """Values (..., features) less the mean, in deviations."""
        _check_columns(values, self.mean)
        return (values - self.mean) / self.deviation

    def invert(self, values: Any, *, targets: Columns = ()) -> Any:
        """The values that `apply` takes to these, of the columns that are `targets`.

        Args:
          values: of NumPy or JAX, of all columns or with the axes of the targets of
            `windows`.
          targets: as for `windows`, None for all columns. To be left out where there is
            a single one: 24 columns cannot be told from 24 steps of one.

        Raises:
          TypeError: `targets` that are no numbers of columns.
          ValueError: no `targets` where there are several columns; another number of
            columns.
        """
        mean, deviation = self
        if isinstance(targets, tuple) and not targets:
            if mean.size > 1:
                raise ValueError(
                    f"targets must say of which of the {mean.size} columns the values "
                    f"of shape {np.shape(values)} are, got none; write targets=0, say, "
                    "as for windows, or targets=None for values of all columns."
                )
            targets = None
        of = index_of(targets, np.atleast_1d(mean)[None])
        if targets is not None and mean.ndim:
            mean, deviation = mean[of], deviation[of]
        _check_columns(values, mean)
        return values * deviation + mean


def as_several(series: Several) -> list[np.ndarray]:
    """One or several checked series of real, finite numbers, as a list.

    Example:
      >>> [values.shape for values in as_several([np.ones(3), np.ones(5)])]
      [(3,), (5,)]
    """
    several = [series]
    is_list = isinstance(series, list | tuple)
    if is_list and any(hasattr(one, "__len__") for one in series):
        several = series
        if not all(hasattr(one, "shape") for one in several):
            raise TypeError(
                "several series are a list of arrays, got a list of lists, which may "
                "be the steps of one; write np.asarray(series) for one series (time, "
                "features), or [np.asarray(s) for s in series] for several."
            )
    several = [np.asarray(one) for one in several]
    for number, values in enumerate(several):
        name = f"series {number}" if len(several) > 1 else "the series"
        if values.dtype.kind not in "fiub":
            raise TypeError(
                f"{name} must be of real numbers, got {values.dtype}; convert it by "
                "series.astype(float)."
            )
        if values.ndim not in (1, 2) or 0 in values.shape:
            raise ValueError(
                f"{name} must have the shape (time,) or (time, features), got "
                f"{values.shape}; several series are a list, list(series)."
            )
        if values.shape[1:] != several[0].shape[1:]:
            raise ValueError(
                f"all series must have the same features, got {several[0].shape} and, "
                f"in {name}, {values.shape}; take the columns that all have."
            )
        _check_finite(name, values)
    return several


def _check_finite(name: str, values: np.ndarray) -> None:
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        step, *column = broken[0].tolist()
        where = f"step {step}" + "".join(f", column {c}" for c in column)
        raise ValueError(
            f"{name} must be finite, got {len(broken)} NaN or infinite values, the "
            f"first, {values[tuple(broken[0])]}, at {where}; fill them, or cut there "
            "and give the pieces as a list of several series."
        )


def index_of(targets: Columns, values: np.ndarray) -> Any:
    """The index of the last axis that takes these columns.

    Example:
      >>> index_of(None, np.zeros((9, 3))), index_of(2, np.zeros((9, 3)))
      ([0, 1, 2], 2)
    """
    features = values.shape[-1]
    chosen = np.asarray(range(features) if targets is None else targets)
    if chosen.size and (chosen.dtype.kind not in "iu" or chosen.ndim > 1):
        raise TypeError(
            "targets must be the number of a column, counted from 0, or a list of "
            f"some, got {targets!r}; list(frame.columns).index(name) is that of a name."
        )
    wanted = np.atleast_1d(chosen).tolist()
    if not wanted or any(not 0 <= column < features for column in wanted):
        raise ValueError(
            f"targets must be columns of the series, from 0 to {features - 1}, got "
            f"{targets}; None takes all."
        )
    return wanted if chosen.ndim else wanted[0]


def _check_columns(values: Any, mean: Any) -> None:
    if mean.ndim and np.shape(values)[-1:] != mean.shape:
        raise ValueError(
            f"values must have the {len(mean)} columns of the scale on their last "
            f"axis, got shape {np.shape(values)}; `targets` says which columns "
            "forecasts are of."
        )
