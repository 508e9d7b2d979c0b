"""Does training do what a plain Python loop does - and compile once?"""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from regression import (
    BATCH_SIZE,
    DATASET,
    EXAMPLES,
    OPTIMIZER,
    ORDER,
    RNG,
    assert_close,
    loss_fn,
    new_state,
    noisy_loss_fn,
    python_epoch,
)

import jaxrnn
from jaxrnn import data, metrics
from jaxrnn.train.host import _train_group

train_epoch = functools.partial(
    jaxrnn.train_epoch, loss_fn=loss_fn, optimizer=OPTIMIZER, batch_size=BATCH_SIZE
)


def test_epoch_is_a_python_loop():
    want_params, want = python_epoch(new_state(), DATASET, ORDER)
    state, means = train_epoch(new_state(), DATASET, ORDER)
    assert_close(state.params, want_params)
    assert_close(metrics.values(means), want)
    assert state.step == 3
    compiled = jaxrnn.train_epoch._cache_size()
    train_epoch(new_state(), DATASET, ORDER)
    assert jaxrnn.train_epoch._cache_size() == compiled


SHUFFLED = data.Dataset(*(x if x is None else x[np.asarray(ORDER)] for x in DATASET))
train_batches = functools.partial(
    jaxrnn.train_batches, loss_fn=loss_fn, optimizer=OPTIMIZER
)


@pytest.mark.parametrize("updates_per_call", [1, 2, 16])
def test_epoch_from_the_host_is_the_same(updates_per_call):
    """Three updates, as 1 + 1 + 1, 2 + 1 and 3; each one with its own noise."""
    options = {"loss_fn": noisy_loss_fn, "noise_key": jax.random.key(5)}
    found = train_batches(
        new_state(),
        data.batches(SHUFFLED, BATCH_SIZE),
        updates_per_call=updates_per_call,
        **options,
    )
    assert_close(found, train_epoch(new_state(), DATASET, ORDER, **options))


def test_batches_from_anywhere_of_any_shape():
    """The last one short; compiled once for each shape; of NumPy or on the device."""
    on_host = []
    for batch in data.batches(SHUFFLED, BATCH_SIZE):
        rows = slice(int(batch.valid.sum()))
        on_host.append(jax.tree.map(lambda x, rows=rows: x[rows], batch))
    assert [len(batch.inputs) for batch in on_host] == [4, 4, 2]
    want_params, want = python_epoch(new_state(), DATASET, ORDER)

    def counted(params, batch):  # which no other test has compiled
        return loss_fn(params, batch)

    before, compiled = _train_group._cache_size(), []
    for batches in (on_host, on_host, jax.device_put(on_host)):
        state, means = train_batches(new_state(), batches, loss_fn=counted)
        assert_close(state.params, want_params)
        assert_close(metrics.values(means), want)
        compiled.append(_train_group._cache_size() - before)
    assert compiled[:2] == [2, 2]


def test_sample_weights_weigh():
    """A weight of 2 is the same as having the row twice, up to the batches."""
    weight = np.array([2.0, 0.0] + [1.0] * (EXAMPLES - 2), np.float32)
    weighted = jaxrnn.evaluate(
        new_state().params, DATASET._replace(sample_weight=weight), loss_fn=loss_fn
    )
    rows = np.array([0, 0, *range(2, EXAMPLES)])
    repeated = data.Dataset(DATASET.inputs[rows], DATASET.targets[rows])
    want = jaxrnn.evaluate(new_state().params, repeated, loss_fn=loss_fn)
    assert_close(metrics.values(weighted), metrics.values(want))


def test_an_epoch_without_any_weight_leaves_the_parameters_alone():
    """Whatever the loss, here NaN and infinite: finite parameters, and nothing to say.

    The momentum of an optimizer may still move; plain SGD has none.
    """
    dataset = DATASET._replace(sample_weight=np.zeros(EXAMPLES, np.float32))

    def not_a_number(params, batch):
        values = (batch.inputs @ params["w"]).at[0].set(jnp.nan).at[1].set(jnp.inf)
        loss = jaxrnn.Mean.of(values, batch.sample_weight)
        return loss.value, {"loss": loss}

    sgd = optax.sgd(0.1)
    before = new_state().params
    state, means = jaxrnn.train_epoch(
        jaxrnn.init_state(new_state().params, sgd),
        dataset,
        ORDER,
        loss_fn=not_a_number,
        optimizer=sgd,
        batch_size=BATCH_SIZE,
    )
    jax.tree.map(np.testing.assert_array_equal, state.params, before)
    assert means["loss"] == (0, 0)
    assert np.isnan(metrics.values(means)["loss"])
    moved, _ = train_epoch(new_state(), dataset, ORDER)
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(moved.params))


@pytest.mark.parametrize("batch_size", [1, 4, 10, 64])
def test_evaluate_and_predict_do_not_depend_on_the_batch_size(batch_size):
    params = new_state().params
    found = jaxrnn.evaluate(params, DATASET, loss_fn=loss_fn, batch_size=batch_size)
    predictions = DATASET.inputs @ np.asarray(params["w"])
    want = np.mean((predictions - DATASET.targets) ** 2)
    np.testing.assert_allclose(metrics.values(found)["loss"], want, rtol=2e-6)
    predicted = jaxrnn.predict(
        params,
        DATASET.inputs,
        apply_fn=lambda params, inputs: inputs @ params["w"],
        batch_size=batch_size,
    )
    np.testing.assert_allclose(predicted, predictions, rtol=2e-6, atol=1e-6)


def test_noise_key_gives_another_key_to_every_update():
    """The oracle: one update after the other, with the keys folded by hand."""
    noise_key = jax.random.key(5)
    options = {"loss_fn": noisy_loss_fn, "optimizer": OPTIMIZER}
    state, means = jaxrnn.train_epoch(
        new_state(), DATASET, ORDER, batch_size=5, noise_key=noise_key, **options
    )
    params, opt_state, total = new_state().params, new_state().opt_state, 0.0
    for step in range(2):
        rows = ORDER[5 * step : 5 * step + 5]
        batch = data.Batch(
            DATASET.inputs[rows], DATASET.targets[rows], None, jnp.ones(5)
        )
        key = jax.random.fold_in(noise_key, step)
        (loss, _), gradients = jax.value_and_grad(noisy_loss_fn, has_aux=True)(
            params, batch, key
        )
        updates, opt_state = OPTIMIZER.update(gradients, opt_state)
        params, total = optax.apply_updates(params, updates), total + loss / 2
    assert_close(state.params, params)
    assert_close(means["loss"].value, total)


def test_no_transfer_inside_an_epoch():
    state, dataset, order = jax.device_put((new_state(), DATASET, ORDER))
    train_epoch(jax.tree.map(jnp.copy, state), dataset, order)  # compiled outside
    with jax.transfer_guard("disallow"):
        train_epoch(state, dataset, order)


# Mixed precision: a recurrence in bfloat16, everything else in float32.

IDS = RNG.integers(1, 12, (24, 6), dtype=np.int32)
FIRST_IS_ODD = data.Dataset(IDS, (IDS[:, 0] % 2).astype(np.float32))


def classifier(dtype):
    layer = jaxrnn.SimpleRNN(8, dtype=dtype, solver=jaxrnn.HoistedScan())
    return jaxrnn.TextClassifier(12, 8, layer)


def classifier_loss_fn(params, batch, dtype):
    p = jax.nn.sigmoid(classifier(dtype).apply({"params": params}, batch.inputs))
    return jaxrnn.binary_classification_loss(p, batch.targets, batch.sample_weight)


@pytest.fixture(scope="module")
def classifier_params():
    return classifier(None).init(jax.random.key(0), IDS)["params"]


def test_training_in_mixed_precision(classifier_params):
    """Near the losses of float32: 1 %, as bfloat16 has 8 bits."""
    optimizer = jaxrnn.keras_adam(0.01)
    fitted = {
        dtype: jaxrnn.fit(
            jaxrnn.init_state(classifier_params, optimizer),
            FIRST_IS_ODD,
            loss_fn=functools.partial(classifier_loss_fn, dtype=dtype),
            optimizer=optimizer,
            key=jax.random.key(0),
            epochs=20,
            batch_size=8,
        )
        for dtype in (None, jnp.bfloat16)
    }
    (_, want), (state, history) = fitted.values()
    assert want["loss"][-1] < 0.2 < 0.6 < want["loss"][0]  # there is much to learn
    np.testing.assert_allclose(history["loss"], want["loss"], rtol=0.01, atol=0.01)
    assert not np.array_equal(history["loss"], want["loss"])
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state))}
    assert dtypes == {np.dtype("float32"), np.dtype("int32")}


def equations(jaxpr, inside=()):
    """All equations, with the names of those around them."""
    for equation in jaxpr.eqns:
        yield equation, inside
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner, (*inside, equation.primitive.name))


def test_the_loop_multiplies_in_bfloat16_and_adds_in_float32(classifier_params):
    """Of the gradient: nowhere float16; wide operands outside of the loops alone."""
    batch = data.Batch(IDS, FIRST_IS_ODD.targets, None, np.ones(24, np.float32))
    loss = functools.partial(classifier_loss_fn, dtype=jnp.bfloat16)
    jaxpr = jax.make_jaxpr(jax.grad(loss, has_aux=True))(classifier_params, batch)
    found = list(equations(jaxpr.jaxpr))
    dtypes = {v.aval.dtype.name for e, _ in found for v in e.outvars}
    assert "float16" not in dtypes
    matmuls = [
        ([v.aval.dtype.name for v in (*e.invars, *e.outvars)], "scan" in inside)
        for e, inside in found
        if e.primitive.name == "dot_general"
    ]
    in_loop = [names for names, inside in matmuls if inside]
    assert len(in_loop) >= 2  # the forward pass and the backward pass
    assert all(names == ["bfloat16", "bfloat16", "float32"] for names in in_loop)
    assert all(names[-1] == "float32" for names, _ in matmuls)


def test_updates_per_call_below_one():
    with pytest.raises(ValueError, match="updates_per_call must be at least 1, got 0"):
        train_batches(new_state(), [], updates_per_call=0)
