"""Do the sine series and its windows equal the tutorial's?"""

import numpy as np
import pytest

from jaxrnn.data import (
    sine_datasets,
    sine_series,
    sine_windows,
    window_as_features,
    window_as_time,
)


def tutorial_windows(data, step):
    """The tutorial's padding and its function `conmat`, one window at a time."""
    data = np.append(data, np.repeat(data[-1], step))
    inputs, targets = [], []
    for i in range(len(data) - step):
        inputs.append(data[i : i + step])
        targets.append(data[i + step])
    return np.array(inputs, np.float32), np.array(targets, np.float32)


def test_series_is_a_sine_plus_uniform_noise():
    series = sine_series(2000, rng=np.random.default_rng(0))
    noise = series - np.sin(0.02 * np.arange(2000))
    np.testing.assert_allclose(noise, np.random.default_rng(0).random(2000), atol=1e-15)
    assert series.dtype == np.float64
    assert sine_series(rng=np.random.default_rng(0)).tolist() == series.tolist()


@pytest.mark.parametrize("step", [1, 2, 4, 9])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_windows_match_the_tutorial(step, dtype):
    series = (100 * sine_series(10, rng=np.random.default_rng(0))).astype(dtype)
    inputs, targets = sine_windows(series, step)
    want_inputs, want_targets = tutorial_windows(series, step)
    assert inputs.dtype == targets.dtype == np.float32
    np.testing.assert_array_equal(inputs, want_inputs)
    np.testing.assert_array_equal(targets, want_targets)
    assert (inputs[-1] == np.float32(series[-1])).all()


@pytest.mark.parametrize(
    ("layout", "shape"),
    [(window_as_features, (1, 4)), (window_as_time, (4, 1))],
    ids=["features", "time"],
)
def test_datasets_match_the_tutorial(layout, shape):
    series = sine_series(rng=np.random.default_rng(0))
    datasets = sine_datasets(series, layout=layout)
    for dataset, part in zip(datasets, (series[:900], series[900:]), strict=True):
        want_inputs, want_targets = tutorial_windows(part, 4)
        assert dataset.inputs.shape == (len(part), *shape)
        np.testing.assert_array_equal(dataset.inputs.reshape(-1, 4), want_inputs)
        np.testing.assert_array_equal(dataset.targets, want_targets)
        assert dataset.mask is None


def test_length_below_one():
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        sine_series(0, rng=np.random.default_rng(0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_value_is_named(value):
    series = sine_series(rng=np.random.default_rng(0))
    series[[950, 1200]] = value
    message = f"got 2 NaN or infinite values, the first, {value}, at position 950"
    with pytest.raises(ValueError, match=message):
        sine_windows(series)
    with pytest.raises(ValueError, match=message):
        sine_datasets(series, layout=window_as_time)


@pytest.mark.parametrize(
    ("series", "step", "message"),
    [
        (np.zeros((10, 1)), 4, r"shape \(time,\), got \(10, 1\)"),
        (np.zeros(()), 4, r"shape \(time,\), got \(\)"),
        (np.zeros(4), 4, "longer than one window of step=4 values, got 4"),
        (np.zeros(10), 0, "step must be at least 1, got 0"),
    ],
)
def test_series_and_step(series, step, message):
    with pytest.raises(ValueError, match=message):
        sine_windows(series, step)
    with pytest.raises(ValueError, match=message):
        sine_datasets(series, layout=window_as_time, step=step, train_length=5)


@pytest.mark.parametrize("train_length", [4, 16, 0, 30])
def test_both_parts_hold_a_window(train_length):
    with pytest.raises(ValueError, match=f"step=4, got {train_length} of 20 values"):
        sine_datasets(np.zeros(20), layout=window_as_time, train_length=train_length)
    sine_datasets(np.zeros(20), layout=window_as_time, train_length=5)
    sine_datasets(np.zeros(20), layout=window_as_time, train_length=15)
