"""Are windows, splits and scales those of a loop, with no invented row and no leak?"""

import itertools
import re

import numpy as np
import pytest

from jaxrnn import data
from jaxrnn.data import Scale, split_in_time, windows

SERIES = np.random.default_rng(0).normal(size=(23, 3))
PAIR = [SERIES[:, :2], SERIES[:9, :2]]


def looped(series, width, ahead, stride, columns):
    """One window at a time, as long as there are values."""
    inputs, targets, start = [], [], 0
    while start + width + ahead <= len(series):
        inputs.append(series[start : start + width])
        targets.append(series[start + width : start + width + ahead][:, columns])
        start += stride
    return np.float32(inputs), np.float32(targets)


@pytest.mark.parametrize("width", [1, 4, 20])
@pytest.mark.parametrize("horizon", [None, 1, 3])
@pytest.mark.parametrize("stride", [1, 2, 5])
def test_windows_are_those_of_a_loop(width, horizon, stride):
    """Of all columns, of some in another order, of one; and of several series."""
    options = {"horizon": horizon, "stride": stride}
    last = 0 if horizon is None else slice(None)
    for targets, columns in ((None, [0, 1, 2]), ([2, 0], [2, 0]), (1, 1), ([1], [1])):
        found = windows(SERIES, width, targets=targets, **options)
        inputs, after = looped(SERIES, width, horizon or 1, stride, columns)
        np.testing.assert_array_equal(found.inputs, inputs)
        np.testing.assert_array_equal(found.targets, after[:, last])
        assert found.inputs.dtype == found.targets.dtype == np.float32
    if width < 5:
        found = windows(PAIR, width, targets=0, **options)
        each = [windows(one, width, targets=0, **options) for one in PAIR]
        for name in ("inputs", "targets"):
            want = np.concatenate([getattr(one, name) for one in each])
            np.testing.assert_array_equal(getattr(found, name), want)
    column = windows(SERIES[:, 1], width, **options)
    want = windows(SERIES[:, 1:2], width, targets=0, **options)
    np.testing.assert_array_equal(column.inputs, want.inputs)
    np.testing.assert_array_equal(column.targets, want.targets)


def test_thirty_six_months_have_no_invented_row():
    """The tutorial's function makes as many windows as there are values."""
    months = np.arange(36.0)
    train, test = split_in_time(months, [24], width=4)
    assert windows(train, 4).targets.tolist() == list(range(4, 24))
    assert windows(test, 4).targets.tolist() == list(range(24, 36))


def test_windows_of_a_long_series_take_its_memory_alone():
    """A terabyte of windows, which are views of four megabytes."""
    series = np.zeros((10**6, 1), np.int8)
    dataset = windows(series, 200_000, horizon=1000)
    assert dataset.inputs.nbytes > 6e11
    assert dataset.inputs.base is not None
    assert dataset.inputs.strides == (4, 4, 4)
    batch = next(data.batches(dataset, 2))
    assert batch.inputs.shape == (2, 200_000, 1)


@pytest.mark.parametrize("horizon", [None, 3])
def test_no_window_reaches_beyond_its_part(horizon):
    """The values are their own steps; each target in one part, in order."""
    steps, cuts, width = np.arange(100), [50, 80], 7
    parts = [
        windows(p, width, horizon=horizon)
        for p in split_in_time(steps, cuts, width=width)
    ]
    bounds = [0, *cuts, 100]
    for part, (first, end) in zip(parts, itertools.pairwise(bounds), strict=True):
        assert part.targets.min() == (first or width)
        assert part.targets.max() == end - 1
        assert part.inputs.max() < end - 1
        assert part.inputs.min() == max(0, first - width)
    if horizon is None:
        every = np.concatenate([part.targets for part in parts])
        np.testing.assert_array_equal(every, np.arange(width, 100))
    assert np.shares_memory(split_in_time(steps, cuts, width=width)[1], steps)


def test_static_numbers_are_the_last_columns():
    static = np.array([[10.0, 11.0], [20.0, 21.0]])
    found = windows(PAIR, 4, horizon=2, static=static)
    want = windows(PAIR, 4, horizon=2)
    np.testing.assert_array_equal(found.inputs[..., :2], want.inputs)
    np.testing.assert_array_equal(found.targets, want.targets)
    first = len(windows(PAIR[0], 4, horizon=2).targets)
    np.testing.assert_array_equal(
        found.inputs[:first, :, 2:], np.full((first, 4, 2), [10, 11])
    )
    assert (found.inputs[first:, :, 2:] == [20, 21]).all()
    one = windows(PAIR[0], 4, horizon=2, static=static[0])
    np.testing.assert_array_equal(one.inputs, found.inputs[:first])


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        (SERIES, {"width": 21, "horizon": 3}, r"21 \+ 3 steps, got 23; leave it out"),
        ([SERIES, SERIES[:4]], {}, r"4 \+ 1 steps, got 4"),
        (SERIES, {"width": 0}, "width must be at least 1, got 0"),
        (SERIES, {"horizon": 0}, "horizon must be at least 1, got 0"),
        (SERIES, {"stride": 0}, "stride must be at least 1, got 0"),
        (SERIES, {"targets": 3}, "columns of the series, from 0 to 2, got 3"),
        (SERIES, {"targets": [0, -1]}, r"from 0 to 2, got \[0, -1\]"),
        (SERIES, {"targets": []}, r"from 0 to 2, got \[\]; None takes all"),
        (SERIES[None], {}, r"got \(1, 23, 3\); several series are a list, list\("),
        ([SERIES, SERIES[:, :2]], {}, r"got \(23, 3\) and, in series 1, \(23, 2\)"),
        ([SERIES, SERIES], {"static": [1.0]}, r"each of 2 series, got shape \(1,\)"),
        (SERIES, {"static": [np.nan]}, "static must be one row of finite numbers"),
        (SERIES * 1e300, {}, r"fit into float32, .*Scale.of\(series\).apply"),
    ],
)  # fmt: skip
def test_what_has_no_windows(series, options, message, untyped):
    with pytest.raises(ValueError, match=message):
        untyped(windows)(series, **{"width": 4} | options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: windows(SERIES, 4, targets="load"), "got 'load'; list(frame.columns)"),
        (lambda: windows(SERIES[:, 0], 4, targets="load"), "got 'load'; list(frame."),
        (lambda: windows(SERIES, 4, targets=[0, 1.0]), "or a list of some, got [0, 1."),
        (lambda: windows(SERIES, "4"), "width must be a whole number, got '4'"),
        (lambda: Scale.of(SERIES).invert(SERIES, targets=["a"]), "some, got ['a']; li"),
        (lambda: split_in_time(SERIES, 0.8, width=4), "got 0.8; [int(0.8 * len(ser"),
        (lambda: split_in_time(SERIES, 12, width=4), "must be a list of steps, whole"),
        (lambda: split_in_time(SERIES, [0.8], width=4), "counted from 0, got [0.8]"),
        (lambda: split_in_time([SERIES] * 9, [5], width=4), "got a list of several; w"),
    ],
)
def test_columns_and_cuts_are_counted(call, message, untyped):
    with pytest.raises(TypeError, match=re.escape(message)):
        untyped(call)()


def test_ways_out_of_names_and_shares(untyped):
    column = ["price", "load", "wind"].index("load")
    for targets in (column, np.int64(column)):
        want = untyped(windows)(SERIES, 4, targets=targets).targets
        np.testing.assert_array_equal(want, SERIES[4:, 1].astype(np.float32))
    first, rest = split_in_time(SERIES, [int(0.8 * len(SERIES))], width=4)
    assert (len(first), len(rest)) == (18, 4 + 5)


def test_a_gap_is_named_and_cut_at():
    """NaN raises; the way out, the pieces as several series, has no window over it."""
    broken = SERIES.copy()
    broken[10, 2], broken[11, 0] = np.nan, np.inf
    message = "2 NaN or infinite values, the first, nan, at step 10, column 2; fill"
    for function in (lambda s: windows(s, 4), Scale.of):
        with pytest.raises(ValueError, match=message):
            function(broken)
    pieces = windows([broken[:10], broken[12:]], 4)
    assert len(pieces.inputs) == (10 - 4) + (11 - 4)
    with pytest.raises(ValueError, match=r"^series 1 must be finite, .* at step 10,"):
        windows([SERIES, broken], 4)
    with pytest.raises(TypeError, match="must be of real numbers, got <U1; convert it"):
        windows(np.array(list("abcdef")), 2)


def test_ways_out_of_a_series_that_does_not_fit():
    large = SERIES * 1e100
    assert windows(Scale.of(large).apply(large), 4).inputs.shape == (19, 4, 3)
    assert windows(list(SERIES[None]), 4).inputs.shape == (19, 4, 3)
    assert windows(np.array(list("123456")).astype(float), 2).targets.shape == (4,)
    still = np.column_stack([SERIES, np.ones(23)])
    message = "same value everywhere in the columns [3]; leave them out, np.delete("
    with pytest.raises(ValueError, match=re.escape(message)):
        Scale.of(still)
    assert Scale.of(np.delete(still, [3], axis=1)).mean.shape == (3,)


@pytest.mark.parametrize("cuts", [[], [4], [23], [10, 10], [12, 8]])
def test_cuts_leave_no_part_empty(cuts):
    with pytest.raises(ValueError, match=r"cuts must rise, from more than width=4 to"):
        split_in_time(SERIES, cuts, width=4)
    (a, b), (c, d) = (split_in_time(SERIES, [cut], width=4) for cut in (5, 22))
    assert [len(windows(part, 4).targets) for part in (a, b, c, d)] == [1, 18, 18, 1]


def test_as_many_columns_as_steps_are_told_apart():
    """Forecasts of 3 steps of one column look like one step of 3 columns."""
    scale = Scale.of(SERIES)
    forecasts = windows(scale.apply(SERIES), 4, horizon=3, targets=1).targets
    assert forecasts.shape[1:] == scale.mean.shape
    words = r"of which of the 3 columns the values of shape \(\d+, 3\) are, got none; "
    with pytest.raises(ValueError, match=words + "write targets=0, say"):
        scale.invert(forecasts)
    np.testing.assert_allclose(
        scale.invert(forecasts, targets=1)[0], SERIES[4:7, 1], rtol=1e-6
    )
    single = Scale.of(SERIES[:, :1])
    np.testing.assert_allclose(
        single.invert(single.apply(SERIES[:, :1])), SERIES[:, :1]
    )


def test_differences_that_float32_does_not_keep():
    """Seconds since 1970 are 128 apart in float32; scaled before, they stay."""
    times = 1.7e9 + 10 * np.arange(9.0)
    for series in (times, times.astype(int), np.stack([np.arange(9.0), times], axis=1)):
        with pytest.raises(
            ValueError, match=r"differences in float32, .* since 1970 p"
        ):
            windows(series, 4)
    scaled = Scale.of(times).apply(times)
    found = windows(scaled, 4).inputs[:, 0, 0]
    assert np.allclose(np.diff(found), np.diff(scaled)[:4])
    windows(np.full(9, 0.1), 4)  # which float32 rounds, and which differs nowhere


def test_a_list_of_numbers_is_a_series_and_one_of_lists_may_be_another(untyped):
    """A series (time, features) as lists was read as many series, one a step."""
    flat = SERIES[:, 0].tolist()
    want = windows(SERIES[:, 0], 4).inputs
    np.testing.assert_array_equal(untyped(windows)(flat, 4).inputs, want)
    for call in (lambda x: windows(x, 2), Scale.of):
        words = (
            r"a list of lists, .* write np.asarray\(series\) for one series \(time, "
        )
        with pytest.raises(TypeError, match=words):
            untyped(call)(SERIES.tolist())
    for empty in ([], np.zeros((0, 3))):
        with pytest.raises(ValueError, match=r"or \(time, features\), got \(0"):
            untyped(Scale.of)(empty)


def test_scale_is_that_of_the_training_part_and_has_an_inverse():
    """Also of several series together, of one column, and of forecasts."""
    train, rest = split_in_time(SERIES, [15], width=4)
    scale = Scale.of(train)
    np.testing.assert_allclose(scale.mean, SERIES[:15].mean(axis=0))
    np.testing.assert_allclose(scale.apply(train).std(axis=0), 1)
    np.testing.assert_allclose(scale.invert(scale.apply(rest), targets=None), rest)
    together = Scale.of([SERIES[:6], SERIES[6:15]])
    np.testing.assert_allclose(together.deviation, scale.deviation)
    for targets, horizon in itertools.product((None, 1, [2, 0]), (None, 3)):
        options = {"targets": targets, "horizon": horizon}
        scaled = windows(scale.apply(rest), 4, **options).targets
        want = windows(rest, 4, **options).targets
        found = scale.invert(scaled, targets=targets)
        np.testing.assert_allclose(found, want, atol=1e-6)
    one = Scale.of(SERIES[:, 1])
    np.testing.assert_allclose(one.invert(one.apply(np.ones((5, 2)))), 1)
    with pytest.raises(ValueError, match=r"the 3 columns .* got shape \(5, 2\); `targ"):
        scale.invert(np.ones((5, 2)), targets=None)
    with pytest.raises(ValueError, match="columns of the series, from 0 to 2, got 5"):
        scale.invert(np.ones((5, 2)), targets=5)
