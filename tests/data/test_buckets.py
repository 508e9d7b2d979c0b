"""Do batches by length give the numbers of padding, in few shapes and little filler?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import data, metrics
from jaxrnn.train.host import _train_group

WIDTHS = (3, 6, 12)
MODEL = jaxrnn.TextClassifier(20, 3, jaxrnn.GRU(4))
LENGTHS = np.random.default_rng(0).permutation(np.r_[1:4, 2, 3, 4:7, 5, 6, 7:13, 8, 9])


def ragged():
    rng = np.random.default_rng(1)
    rows = [rng.integers(1, 20, length) for length in LENGTHS]
    return rows, (np.arange(len(rows)) % 2).astype(np.float32)


def loss_fn(params, batch):
    logits = MODEL.apply({"params": params}, batch.inputs, mask=batch.mask)
    loss = optax.sigmoid_binary_cross_entropy(logits, batch.targets)
    mean = jaxrnn.Mean.of(loss, batch.sample_weight)
    return mean.value, {"loss": mean}


def test_means_of_buckets_are_those_of_the_padded_whole():
    """Each row in one bucket, with its own target and weight; before and after it."""
    rows, targets = ragged()
    weight = np.linspace(0.5, 2, len(rows)).astype(np.float32)
    ids = data.pad_sequences(rows)
    whole = data.Dataset(ids, targets, data.padding_mask(ids), weight)
    params = MODEL.init(jax.random.key(0), ids[:1])["params"]
    want = jaxrnn.evaluate(params, whole, loss_fn=loss_fn)["loss"]
    for padding in ("pre", "post"):
        options = {"padding": padding, "sample_weight": weight}
        parts = data.buckets(rows, targets, WIDTHS, **options)
        assert [part.inputs.shape for part in parts] == [(5, 3), (5, 6), (8, 12)]
        means = [jaxrnn.evaluate(params, p, loss_fn=loss_fn)["loss"] for p in parts]
        found = means[0].add(means[1]).add(means[2])
        np.testing.assert_allclose(found.weight, want.weight, rtol=1e-6)
        np.testing.assert_allclose(found.total, want.total, rtol=1e-5)


def test_every_row_once_an_epoch_in_few_shapes_and_little_filler():
    rows = [np.full(length, row) for row, length in enumerate(LENGTHS, start=1)]
    parts = data.buckets(rows, np.arange(len(rows)), WIDTHS)

    def visited(epoch):
        rng = np.random.default_rng(epoch)
        made = list(data.bucket_batches(parts, 4, rng=rng))
        valid = np.concatenate([batch.valid for batch in made])
        last = np.concatenate([batch.inputs[:, -1] for batch in made])
        targets = np.concatenate([batch.targets for batch in made])
        np.testing.assert_array_equal(last, targets + 1)
        assert sorted(targets[valid == 1]) == list(range(len(rows)))
        shapes = [batch.inputs.shape for batch in made]
        assert set(shapes) == {(3, 3), (3, 6), (4, 12)}  # 5, 5 and 8 rows, by 4
        assert (valid == 0).sum() == 2
        return shapes, targets.tolist()

    assert visited(0) == visited(0)
    assert visited(0)[0] != visited(1)[0]  # batches and rows in another order
    assert visited(0)[1] != visited(1)[1]
    in_order = [batch.targets for batch in data.bucket_batches(parts, 100)]
    want = [np.flatnonzero(np.searchsorted(WIDTHS, LENGTHS) == i) for i in range(3)]
    for found, targets in zip(in_order, want, strict=True):
        np.testing.assert_array_equal(found, targets)


def test_training_compiles_once_a_bucket_and_fills_up_no_group():
    """As many programs as buckets, of one batch each; updates are those by hand."""
    parts = data.buckets(*ragged(), WIDTHS)
    optimizer = optax.sgd(0.5)
    params = MODEL.init(jax.random.key(0), parts[0].inputs[:1])["params"]
    state = jaxrnn.init_state(params, optimizer)

    def epoch_batches(epoch):
        return data.bucket_batches(parts, 4, rng=np.random.default_rng(epoch))

    before, seen = _train_group._cache_size(), []

    def counted(params, batch):
        seen.append(batch.inputs.shape)
        return loss_fn(params, batch)

    found, history = jaxrnn.fit(
        state,
        epoch_batches,
        loss_fn=counted,
        optimizer=optimizer,
        key=jax.random.key(1),
        epochs=3,
    )
    assert _train_group._cache_size() == before + len(parts)
    assert set(seen) == {(3, 3), (3, 6), (4, 12)}

    gradient = jax.jit(jax.grad(lambda p, b: loss_fn(p, b)[0]))
    for epoch in range(3):
        for batch in epoch_batches(epoch):
            grads = gradient(params, batch)
            params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)
    for one, want in zip(*map(jax.tree.leaves, (found.params, params)), strict=True):
        np.testing.assert_allclose(one, want, atol=1e-6)
    last = metrics.values(jaxrnn.evaluate(found.params, parts[2], loss_fn=loss_fn))
    assert np.isfinite(last["loss"])
    assert history["loss"][-1] < history["loss"][0]


def test_a_target_at_every_step_is_padded_with_its_row():
    rows = [np.ones((length, 2), np.float32) * length for length in (1, 3, 2)]
    targets = [np.arange(1, 1 + len(row)) for row in rows]
    short, long = data.buckets(rows, targets, (2, 3), padding="post")
    assert short.targets.tolist() == [[1, 0], [1, 2]]
    assert short.inputs[..., 1].tolist() == [[1.0, 0.0], [2.0, 2.0]]
    assert long.targets.tolist() == [[1, 2, 3]]
    np.testing.assert_array_equal(short.mask, short.targets > 0)


ROWS = [np.arange(3), np.arange(5)]


@pytest.mark.parametrize(
    ("rows", "targets", "boundaries", "message"),
    [
        (ROWS, np.zeros(2), (4,), "last boundary, 4, got 5 steps in row 1"),
        (ROWS, np.zeros(2), (8, 4), r"must rise, .*got \[8, 4\]; sorted\(set"),
        (ROWS, np.zeros(2), (4, 4, 8), r"must rise, .*got \[4, 4, 8\]"),
        (ROWS, np.zeros(2), (), r"must rise, one or more of them, got \[\]"),
        (ROWS, np.zeros(2), (0, 8), "a boundary must be at least 1, got 0"),
        (ROWS, np.zeros(3), (8,), "one per row, 2, got 3"),
        (ROWS, ROWS[::-1], (8,), "got 5 targets for 3 steps in row 0"),
        ([], np.zeros(0), (8,), "rows must be one or more rows"),
        ([1, 2], np.zeros(2), (8,), "each with the axis of its steps, got 2 of shapes"),
        ([np.ones((2, 1)), np.ones((2, 3))], np.zeros(2), (8,), r"\[\(1,\), \(3,\)\]"),
        ([np.array([2**31])], np.zeros(1), (8,), "rows must be integers from"),
    ],
)
def test_what_fits_no_bucket(rows, targets, boundaries, message):
    with pytest.raises(ValueError, match=message):
        data.buckets(rows, targets, boundaries)


def test_an_empty_row_leaves_ids_whole_numbers(untyped):
    """An empty list is an array of floats, to which all of a bucket was promoted."""
    (part,) = untyped(data.buckets)([[1], [], [3]], np.zeros(3), (2,))
    assert part.inputs.dtype.kind == "i"
    assert part.mask.sum(axis=1).tolist() == [1, 0, 1]
    targets = np.array([0, 1, 1])
    with pytest.raises(ValueError, match=r"goes into an array, np.array\(targets\)"):
        untyped(data.buckets)([[1], [2], [3]], targets.tolist(), (2,))


def test_ways_out_of_a_row_that_is_too_long():
    for rows, boundaries in ((ROWS, (4, 5)), ([row[-4:] for row in ROWS], (4,))):
        parts = data.buckets(rows, np.zeros(2), boundaries)
        assert sum(len(part.inputs) for part in parts) == 2
    falling = (8, 4, 4)
    assert len(data.buckets(ROWS, np.zeros(2), sorted(set(falling)))) == 2


def test_options_of_buckets():
    with pytest.raises(ValueError, match="padding must be 'pre' or 'post', got 'left'"):
        data.buckets(ROWS, np.zeros(2), (8,), padding="left")
    with pytest.raises(ValueError, match="at least one dataset, got none"):
        data.bucket_batches([], 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        data.bucket_batches(data.buckets(ROWS, jnp.zeros(2), (8,)), 0)


@pytest.mark.parametrize("weight", [[1, 2], [1, 2, 3, 4], [[1], [2], [3]]])
def test_a_weight_belongs_to_each_row(weight, untyped):
    """A list of as many numbers is one; the way out leaves a row out by its weight."""
    rows = [np.arange(1, 1 + length) for length in (1, 4, 2)]
    buckets = untyped(data.buckets)
    with pytest.raises(ValueError, match=r"one number per row, 3, got .*weighs 0"):
        buckets(rows, np.zeros(3), (2, 4), sample_weight=weight)
    short, long = buckets(rows, np.zeros(3), (2, 4), sample_weight=[1.0, 0.0, 3.0])
    assert (short.sample_weight.tolist(), long.sample_weight.tolist()) == ([1, 3], [0])


def test_boundaries_of_bytes(untyped):
    """Which wrap around where one is taken off the other."""
    with pytest.raises(ValueError, match=r"boundaries must rise, .*got \[6, 3\]"):
        untyped(data.buckets)([np.ones(2)], np.zeros(1), np.array([6, 3], np.uint8))
