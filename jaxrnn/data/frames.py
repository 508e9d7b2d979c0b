"""How does a table that pandas or Polars has read become a series?

They read CSV, Parquet, Excel and databases; here the columns are checked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64


def series_of(
    frame: Any, columns: Sequence[str], *, time: str | None = None
) -> Float64[np.ndarray, "time features"]:
    """The columns of a table as one array, if nothing is missing and time is regular.

        frame = pandas.read_csv("sales.csv", parse_dates=["date"])
        series = series_of(frame, ["sales", "price"], time="date")

    Of a table with several series, such as shops, make a list of them for `windows`:
    `[series_of(part, ["sales"], time="date") for _, part in frame.groupby("shop")]`.

    Args:
      frame: of pandas or Polars, or whatever has `frame[column].to_numpy()`; one row a
        step.
      columns: those of the series, in this order.
      time: column of the times, which must rise by equal steps (to a millionth of one,
        for times are rounded), or by calendar months (first or last day of each, say);
        None takes the rows as they come.

    Raises:
      TypeError: what is no table, a column that is not of real numbers, times that are
        no numbers or dates.
      ValueError: no column, or one that is not there; values that are missing or
        infinite; times that are missing, do not rise or leave a gap. Rows are counted
        from 0.

    Example:
      >>> class Column(list):
      ...     def to_numpy(self):
      ...         return np.array(self)
      >>> days = Column(np.arange("2024-01-01", "2024-01-04", dtype="datetime64[D]"))
      >>> frame = {"day": days, "sales": Column([3, 4, 6])}
      >>> series_of(frame, ["sales"], time="day").tolist()
      [[3.0], [4.0], [6.0]]
    """
    if not isinstance(frame, Mapping) and not hasattr(frame, "columns"):
        raise TypeError(
            f"frame must be a table of pandas or Polars, got {type(frame).__name__}; "
            "windows and Scale.of take arrays as they are."
        )
    is_list = hasattr(columns, "__len__") and not isinstance(columns, str)
    if not is_list or len(columns) == 0:
        raise ValueError(
            f"columns must be a list of one or more names, got {columns!r}; write "
            "[name]."
        )
    wanted = [*columns, *([] if time is None else [time])]
    missing = [name for name in wanted if name not in frame]
    if missing:
        raise ValueError(
            f"columns must be those of the table, "
            f"{list(getattr(frame, 'columns', frame))}, got {missing}."
        )
    series = np.stack([_numbers(frame, column) for column in columns], axis=1)
    if time is not None:
        _check_times(time, np.asarray(frame[time].to_numpy()))
    return series


def _numbers(frame: Any, column: str) -> np.ndarray:
    values = np.asarray(frame[column].to_numpy())
    if values.dtype.kind not in "fiub":
        raise TypeError(
            f"column {column!r} must be of real numbers, got {values.dtype}, such as "
            f"{values[:1].tolist()}; pandas.to_numeric(frame[{column!r}]) says which "
            "value is none, .astype(float) converts numbers that may be missing."
        )
    values = values.astype(np.float64)
    _check_rows(
        ~np.isfinite(values),
        f"column {column!r} must have a finite value in every row",
        "frame.interpolate() fills gaps, frame.dropna() leaves rows out",
    )
    return values


def _check_rows(broken: np.ndarray, rule: str, way_out: str) -> None:
    rows = np.flatnonzero(broken).tolist()
    if rows:
        more = ", ..." if len(rows) > 5 else ""
        found = f"{', '.join(map(str, rows[:5]))}{more}"
        raise ValueError(
            f"{rule}, got {len(rows)} without one, in the rows {found}; {way_out}."
        )


def _check_times(name: str, times: np.ndarray) -> None:
    if times.dtype.kind not in "fiuM":
        raise TypeError(
            f"column {name!r} must be of dates or numbers, got {times.dtype}, such as "
            f"{times[:1].tolist()}; pandas.to_datetime(frame[{name!r}], utc=True)"
            ".dt.tz_localize(None) makes dates of texts and of other zones."
        )
    _check_rows(
        np.isnat(times) if times.dtype.kind == "M" else ~np.isfinite(times),
        f"column {name!r} must have a time in every row",
        "frame.dropna() leaves rows out",
    )
    falling = np.flatnonzero(times[1:] <= times[:-1])
    if len(falling):
        row = falling[0].item()
        raise ValueError(
            f"times must rise, got {times[row]} and then {times[row + 1]} in row "
            f"{row + 1} of {name!r}; frame.sort_values({name!r}), and "
            ".drop_duplicates where a time stands twice."
        )
    steps = _steps(times)
    odd = _odd(steps)
    if len(odd) and not _is_monthly(times):
        row = odd[0].item()
        raise ValueError(
            f"times must rise by equal steps, got {steps[row]} before row {row + 1} of "
            f"{name!r} ({times[row]} to {times[row + 1]}), and {len(odd)} such of "
            f"{len(steps)}; frame.resample fills gaps, time=None takes the rows as "
            "they come."
        )


def _steps(times: np.ndarray) -> np.ndarray:
    """Those of rising times, which may be further apart than their dtype says."""
    if times.dtype.kind in "iu":
        return np.diff(times.astype(np.uint64))  # right modulo 2**64, also below 0
    return np.diff(times.astype(np.float64) if times.dtype.kind == "f" else times)


def _odd(steps: np.ndarray) -> np.ndarray:
    """Where steps differ from the usual one by more than times are rounded."""
    sizes = steps.astype(np.int64) if steps.dtype.kind == "m" else steps
    usual = np.median(sizes) if len(sizes) else 0.0
    return np.flatnonzero(np.abs(sizes.astype(np.float64) - usual) > 1e-6 * usual)


def _is_monthly(times: np.ndarray) -> bool:
    """Months, quarters or years: the same moment of each, from its start or end."""
    if times.dtype.kind != "M":
        return False
    for moments in (times, times + np.timedelta64(1, "D")):
        months = moments.astype("datetime64[M]")
        since = (moments - months).astype("timedelta64[s]")
        if not len(_odd(np.diff(months))) and (since == since[:1]).all():
            return True
    return False
