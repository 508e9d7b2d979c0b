"""Do columns of pandas and Polars become series, and what is wrong get its row?"""

import io

import numpy as np
import pytest

from jaxrnn.data import series_of

pandas = pytest.importorskip("pandas")

NO_TIME = pandas.DatetimeIndex([None])
HOURS = pandas.date_range("2024-01-01", periods=6, freq="h")
CSV = "day,sales,price\n2024-01-01,3,1.5\n2024-01-02,4,1.25\n2024-01-03,6,1\n"


def frame(**columns):
    return pandas.DataFrame(
        {"time": HOURS, "a": np.arange(6), "b": np.ones(6)} | columns
    )


def test_a_csv_becomes_a_series():
    read = pandas.read_csv(io.StringIO(CSV), parse_dates=["day"])
    found = series_of(read, ["price", "sales"], time="day")
    assert found.tolist() == [[1.5, 3.0], [1.25, 4.0], [1.0, 6.0]]
    assert found.dtype == np.float64


def test_a_csv_of_polars_becomes_a_series():
    polars = pytest.importorskip("polars")
    read = polars.read_csv(io.StringIO(CSV), try_parse_dates=True)
    found = series_of(read, ["price", "sales"], time="day")
    assert found.tolist() == [[1.5, 3.0], [1.25, 4.0], [1.0, 6.0]]
    read = polars.read_csv(io.StringIO(CSV.replace(",4,", ",,")))
    with pytest.raises(
        ValueError, match=r"'sales' .* got 1 without one, in the rows 1;"
    ):
        series_of(read, ["sales"])


@pytest.mark.parametrize(
    "times",
    [
        pandas.date_range("2024-01-01", periods=6, freq="15min"),
        pandas.date_range("2023-11-01", periods=6, freq="MS"),  # of 29 to 31 days
        pandas.date_range("2023-11-30", periods=6, freq="ME"),
        pandas.date_range("2023-11-30", periods=6, freq="QE"),
        pandas.date_range("2019-01-01", periods=6, freq="YS"),
        np.arange(1990, 1996),
        np.arange(6) * 0.1,
    ],
    ids=str,
)
def test_regular_times(times):
    assert series_of(frame(time=times), ["a"], time="time").shape == (6, 1)


def swapped(values, i, j):
    values = np.array(values)
    values[[i, j]] = values[[j, i]]
    return values


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (swapped(HOURS, 2, 3), r"times must rise, got .* in row 3 of 'time'; frame"),
        ([1, 2, 2, 3, 4, 5], "times must rise, got 2 and then 2 in row 2"),
        ([1, 2, 3, 5, 6, 8], r"equal steps, got 2 before row 3 of 'time' \(3 to 5\)"),
        ([0.1, 0.2, 0.3, 0.45, 0.5, 0.6], "equal steps, got .* before row 3"),
        (HOURS.delete(2).append(HOURS[-1:] + HOURS.freq), r"row 2 .* and 1 such of 5"),
        (HOURS[:2].append([NO_TIME, HOURS[3:]]), "time in every row"),
        ([1, 2, np.nan, 4, 5, 6], r"time in every row, got 1 .*, in the rows 2; fra"),
    ],
)  # fmt: skip
def test_times_that_are_not_regular(times, message):
    broken = frame(time=times)
    with pytest.raises(ValueError, match=message):
        series_of(broken, ["a"], time="time")
    assert len(series_of(broken, ["a"])) == 6  # time=None takes the rows as they come


def test_ways_out_of_times():
    broken = frame(time=swapped(HOURS, 2, 3))
    in_order = broken.sort_values("time").drop_duplicates("time")
    assert series_of(in_order, ["a"], time="time")[:, 0].tolist() == [0, 1, 3, 2, 4, 5]
    gap = frame().drop(index=2).set_index("time").resample("h").mean()
    filled = gap.interpolate().reset_index()
    assert series_of(filled, ["a"], time="time")[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    for texts in (HOURS.astype(str), HOURS.tz_localize("Europe/Berlin")):
        other = frame(time=texts)
        with pytest.raises(
            TypeError, match=r"of dates or numbers, .*to_datetime\(fram"
        ):
            series_of(other, ["a"], time="time")
        parsed = pandas.to_datetime(other["time"], utc=True).dt.tz_localize(None)
        assert len(series_of(other.assign(time=parsed), ["a"], time="time")) == 6


def test_values_that_are_missing_are_counted():
    holes = frame(b=[1, np.nan, 3, np.inf, 5, 6])
    message = "'b' must have a finite value .* got 2 without one, in the rows 1, 3; fra"
    with pytest.raises(ValueError, match=message):
        series_of(holes, ["a", "b"])
    with pytest.raises(
        ValueError, match=r"got 6 .* in the rows 0, 1, 2, 3, 4, \.\.\.;"
    ):
        series_of(frame(b=np.full(6, np.nan)), ["b"])
    holes = holes.replace(np.inf, np.nan)
    filled = series_of(holes.interpolate(), ["b"])
    assert filled[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert len(series_of(holes.dropna(), ["b"])) == 4


def test_columns_of_other_kinds():
    words = frame(b=list("12x456"))
    with pytest.raises(TypeError, match=r"real numbers, .*to_numeric\(frame\['b'\]\)"):
        series_of(words, ["b"])
    with pytest.raises(ValueError, match="at position 2"):
        pandas.to_numeric(words["b"])
    missing = frame(b=np.array([1, None, 3, 4, 5, 6], object))
    with pytest.raises(TypeError, match=r"\.astype\(float\) converts numbers that may"):
        series_of(missing, ["b"])
    with pytest.raises(ValueError, match="in the rows 1;"):
        series_of(missing.assign(b=missing["b"].astype(float)), ["b"])
    for columns in ("a", []):
        with pytest.raises(ValueError, match="list of one or more names, got"):
            series_of(frame(), columns)
    for options in ({"columns": ["sold"]}, {"columns": ["b"], "time": "sold"}):
        with pytest.raises(
            ValueError, match=r"of the table, \[.*'b'.*\], got \['sold'\]"
        ):
            series_of(frame(), **options)


THIRDS = pandas.to_datetime(np.arange(6) * 1_000_000_000 // 3)  # of a second, in ns


@pytest.mark.parametrize(
    "times",
    [
        THIRDS,
        np.arange(6, dtype=np.uint64) * 2**61,  # the last ones are no int64
        np.array([-128, -77, -26, 25, 76, 127], np.int8),
        np.arange(6, dtype=np.float16) * 0.25,
        np.cumsum(1 + np.array([0, 0, 9, 18, 9, 9]) * 1e-7),
    ],
    ids=["thirds", "uint64", "int8", "float16", "rounded"],
)
def test_times_of_any_dtype_that_are_regular(times):
    found = series_of(pandas.DataFrame({"time": times, "a": range(6)}), ["a"])
    table = {"time": pandas.Series(times), "a": pandas.Series(range(6))}
    assert series_of(table, ["a"], time="time").tolist() == found.tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int8, np.float16])
def test_times_of_any_dtype_that_are_not_regular(dtype):
    """As of int64, whose differences are right."""
    for times in ([30, 20, 10], [10, 30, 30], [10, 20, 40]):
        messages = set()
        for of in (np.int64, dtype):
            table = {
                "time": pandas.Series(times, dtype=of),
                "a": pandas.Series([1, 2, 3]),
            }
            with pytest.raises(ValueError, match="times must rise") as error:
                series_of(table, ["a"], time="time")
            messages.add(str(error.value).replace(".0", ""))
        assert len(messages) == 1
    gap = pandas.DataFrame({"time": THIRDS.delete(2), "a": range(5)})
    with pytest.raises(ValueError, match=r"got 666666667 .* row 2 .* and 1 such of 4"):
        series_of(gap, ["a"], time="time")
