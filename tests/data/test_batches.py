"""Are datasets checked, split as Keras splits, and cut into batches of one shape?"""

import os
import re

import jax
import numpy as np
import pytest

from jaxrnn import data
from jaxrnn.data import Dataset, batches, check_dataset, num_batches, split_last
from jaxrnn.data.batches import as_batch, cut_order

os.environ.setdefault("KERAS_BACKEND", "jax")


def make_dataset(examples=10, mask=True, sample_weight=True):
    inputs = np.arange(1, 3 * examples + 1).reshape(examples, 3)
    return Dataset(
        inputs,
        np.arange(examples, dtype=np.float32),
        inputs % 2 == 0 if mask else None,
        np.arange(1, examples + 1) / 10 if sample_weight else None,
    )


BROKEN = {
    "inputs of shape (0, 3)": Dataset(np.zeros((0, 3)), np.zeros(0)),
    "inputs of shape ()": Dataset(np.zeros(()), np.zeros(1)),
    "targets must have one row": make_dataset()._replace(targets=np.zeros(9)),
    "[(10, 3)], got shape (9,)": make_dataset()._replace(sample_weight=np.ones(9)),
    "got shape (10, 1)": make_dataset()._replace(sample_weight=np.ones((10, 1))),
    "got bool of shape (10, 2)": make_dataset()._replace(mask=np.ones((10, 2), bool)),
    "got float64 of shape (10, 3)": make_dataset()._replace(mask=np.ones((10, 3))),
    "got bool of shape (10,)": make_dataset()._replace(
        inputs=np.ones(10), mask=np.ones(10, bool)
    ),
}


@pytest.mark.parametrize("message", BROKEN)
@pytest.mark.parametrize(
    "function",
    [check_dataset, lambda data: split_last(data, 0.5), lambda data: batches(data, 2)],
    ids=["check_dataset", "split_last", "batches"],
)
def test_broken_dataset(function, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        function(BROKEN[message])


def test_good_datasets():
    check_dataset(make_dataset())
    check_dataset(make_dataset(1, mask=False, sample_weight=False))
    features = np.zeros((2, 5, 7))
    check_dataset(Dataset(features, np.zeros((2, 4)), np.ones((2, 5), bool)))


@pytest.mark.parametrize("examples", [2, 7, 10, 100, 25_000])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
def test_split_last_matches_keras(examples, fraction):
    pytest.importorskip("keras")
    from keras.src.trainers.data_adapters import array_slicing

    dataset = make_dataset(examples)
    try:
        want = array_slicing.train_validation_split(tuple(dataset), fraction)
    except ValueError:  # Keras finds a part empty, and so do we
        with pytest.raises(ValueError, match="both parts of a split"):
            split_last(dataset, fraction)
        return
    parts = split_last(dataset, fraction)
    for part, want_arrays in zip(parts, want, strict=True):
        for array, want_array in zip(part, want_arrays, strict=True):
            want_array = np.asarray(want_array[:])  # Keras makes floats float32
            np.testing.assert_array_equal(array.astype(want_array.dtype), want_array)


def test_split_last_keeps_none():
    train, validation = split_last(make_dataset(10, False, False), 0.2)
    assert train.mask is validation.mask is train.sample_weight is None


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 20.0, float("nan"), "0.2", None])
def test_split_last_fraction(fraction, untyped):
    with pytest.raises(ValueError, match=f"between 0 and 1.*got {fraction!r}"):
        untyped(split_last)(make_dataset(), fraction)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_split_last_empty_part(fraction):
    dataset = make_dataset(1 if fraction < 0.5 else 10)
    with pytest.raises(ValueError, match="both parts of a split must hold"):
        split_last(dataset, fraction)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 5, 10, 16])
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("sample_weight", [True, False])
def test_batches_hold_every_example_once(batch_size, seed, mask, sample_weight):
    dataset = make_dataset(10, mask, sample_weight)
    order = list(range(10))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(10).tolist()
    found = list(
        batches(
            dataset,
            batch_size,
            rng=None if seed is None else np.random.default_rng(seed),
        )
    )
    assert len(found) == num_batches(10, batch_size)
    first = order[0]
    for batch in found:
        assert batch.inputs.shape == (batch_size, 3)
        assert batch.sample_weight.dtype == np.float32
        assert (batch.mask is None) == (not mask)
        for row in range(batch_size):
            filler = not order
            example = first if filler else order.pop(0)
            weight = dataset.sample_weight[example] if sample_weight else 1
            assert batch.sample_weight[row] == np.float32(0 if filler else weight)
            np.testing.assert_array_equal(batch.inputs[row], dataset.inputs[example])
            assert batch.targets[row] == dataset.targets[example]
            if mask:
                np.testing.assert_array_equal(batch.mask[row], dataset.mask[example])
    assert order == []


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_batches_are_cut_alike_on_the_host_and_on_the_device(batch_size):
    """By NumPy, or by JAX inside of a compiled program: the same numbers."""
    dataset = make_dataset()._replace(sample_weight=np.linspace(0, 1, 10, np.float32))

    def all_batches(dataset, order):
        rows, valid = cut_order(order, batch_size)
        taken = [jax.tree.map(lambda x, r=r: x[r], dataset) for r in rows]
        return [as_batch(part, v) for part, v in zip(taken, valid, strict=True)]

    order = np.random.default_rng(0).permutation(10)
    on_device = jax.jit(all_batches)(dataset, order)
    on_host = list(batches(dataset, batch_size, rng=np.random.default_rng(0)))
    jax.tree.map(np.testing.assert_array_equal, on_device, on_host)
    assert {x.dtype.name for b in on_host for x in (b.sample_weight, b.valid)} == {
        "float32"
    }


def test_a_weight_that_is_no_number_does_not_reach_the_filler():
    dataset = make_dataset(3)._replace(sample_weight=np.array([np.inf, 1, 1]))
    assert list(batches(dataset, 2))[1].sample_weight.tolist() == [1, 0]


def test_rng_changes_the_order_each_time():
    rng = np.random.default_rng(0)
    first, second = (
        next(batches(make_dataset(), 10, rng=rng)).targets.tolist() for _ in range(2)
    )
    assert first != second
    assert sorted(first) == sorted(second) == list(range(10))


def test_sizes_below_one():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        batches(make_dataset(), 0)
    with pytest.raises(ValueError, match="examples must be at least 1, got 0"):
        num_batches(0, 3)


@pytest.mark.parametrize(("examples", "want"), [(1, 1), (3, 1), (4, 2), (6, 2)])
def test_num_batches(examples, want):
    assert num_batches(examples, 3) == want


def make_tree(examples=5):
    rng = np.random.default_rng(0)
    series = rng.normal(size=(examples, 4, 2)).astype(np.float32)
    static = rng.normal(size=(examples, 3)).astype(np.float32)
    return Dataset(
        {"series": series, "more": (static, None)},
        [series[..., 0], static[:, 0]],
        {"series": series[..., 1] > 0},
        np.arange(examples * 4, dtype=np.float32).reshape(examples, 4),
    )


def test_trees_of_arrays():
    dataset = make_tree()
    check_dataset(dataset)
    train, validation = split_last(dataset, 0.4)
    np.testing.assert_array_equal(
        validation.inputs["more"][0], dataset.inputs["more"][0][3:]
    )
    first, second = batches(train, 2)
    np.testing.assert_array_equal(first.targets[0], dataset.targets[0][:2])
    assert second.inputs["more"][1] is None
    assert second.sample_weight.tolist() == [[8, 9, 10, 11], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("message", "change"),
    {
        "inputs['more'][0] must have one row per example of inputs (5), got shape": {
            "inputs": {"series": np.ones((5, 4)), "more": (np.ones((4, 3)),)}
        },
        "targets[1] must have one row": {"targets": [np.ones(5), np.ones(6)]},
        "mask['series'] must be of bools": {"mask": {"series": np.ones((5, 4))}},
        "mask['series'] must have one row": {"mask": {"series": np.ones(4, bool)}},
        "[(5, 3), (5, 4)], got shape (5, 2)": {"sample_weight": np.ones((5, 2))},
        "got inputs of shape []": {"inputs": {}},
        "targets[0] must be integers": {"targets": [np.full(5, 2**32)]},
    }.items(),
)
def test_broken_trees(message, change):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_dataset(make_tree()._replace(**change))


def test_leaf_that_is_no_array():
    with pytest.raises(TypeError, match=re.escape("got float at targets[1]")):
        check_dataset(make_tree()._replace(targets=[np.ones(5), 1.0]))


def test_sizes_of_bytes_are_those_of_int(untyped):
    """The negative of a byte is another byte: a slice to it would end elsewhere."""

    def made(size):
        dataset = Dataset(np.arange(300), np.arange(300))
        several = data.windows(np.arange(300), size(200), horizon=size(90))
        padded = data.pad_sequences([[1, 2, 3], [4]], size(2))
        parts = data.buckets([np.ones(2), np.ones(7)], np.ones(2), (size(2), size(200)))
        batch = next(batches(dataset, size(200)))
        stream = data.streams(np.arange(300), size(200))
        return several, padded, parts, batch, stream, num_batches(300, size(200))

    jax.tree.map(np.testing.assert_array_equal, untyped(made)(np.uint8), made(int))
