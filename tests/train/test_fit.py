"""Is `fit` the loop that one would write, for one model and for many?"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from regression import (
    BATCH_SIZE,
    DATASET,
    EXAMPLES,
    OPTIMIZER,
    assert_close,
    loss_fn,
    new_state,
    noisy_loss_fn,
    python_epoch,
)

import jaxrnn
from jaxrnn import data, metrics

fit = functools.partial(
    jaxrnn.fit, loss_fn=loss_fn, optimizer=OPTIMIZER, batch_size=BATCH_SIZE
)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dataset": (np.ones(2), np.ones(2))}, "got tuple; write data.Dataset(inputs"),
        ({"validation": (np.ones(2), np.ones(2))}, "got tuple; write data.Dataset(inp"),
        ({"checkpoints": "runs/a"}, "got 'runs/a'; write Checkpoints('runs/a')"),
        ({"state": {}}, "must be a TrainState, got dict; write init_state(params, opt"),
        ({"early_stopping": 3}, "got 3; write EarlyStopping(patience=3), say"),
        ({"on_epoch": ["loss"]}, "got 'loss'; write on_epoch=jaxrnn.logs.print_epoch"),
        ({"key": 0}, "key must be a typed key, got 0; make one with jax.random.key(s"),
        ({"loss_fn": lambda p, batch: p["w"]}, "return (loss, {name: Mean}), the loss"),
        ({"loss_fn": "mse"}, "loss_fn must be a function (params, batch) -> (loss, {n"),
        ({"optimizer": "adam"}, "must be an Optax transformation, got 'adam'; write j"),
    ],
)
def test_what_other_fits_take_is_explained(changed, words, untyped):
    params, optimizer = {"w": jnp.zeros(())}, jaxrnn.keras_adam()
    given = {
        "state": jaxrnn.init_state(params, optimizer),
        "dataset": data.Dataset(np.ones((2, 1)), np.ones(2)),
        "loss_fn": loss_fn,
        "optimizer": optimizer,
        "key": jax.random.key(0),
        "epochs": 1,
    }
    with pytest.raises(TypeError, match=re.escape(words)):
        untyped(jaxrnn.fit)(**given | changed)


@pytest.mark.parametrize("over", [jax.vmap, jaxrnn.one_by_one])
def test_fit_with_noise_validates_without(over):
    keys = jax.random.split(jax.random.key(1), 2)
    run = functools.partial(
        jaxrnn.fit,
        loss_fn=noisy_loss_fn,
        optimizer=OPTIMIZER,
        batch_size=BATCH_SIZE,
        epochs=2,
        validation=DATASET,
    )
    states = jax.vmap(new_state)(keys)
    states, history = run(states, DATASET, key=keys, noise_key=keys, over=over)
    for i, key in enumerate(keys):
        state, want = run(new_state(key), DATASET, key=key, noise_key=key)
        assert_close({n: v[:, i] for n, v in history.items()}, want)
        at_rest = jaxrnn.evaluate(state.params, DATASET, loss_fn=loss_fn)
        assert_close(want["val_loss"][-1], metrics.values(at_rest)["loss"])
        silent = run(new_state(key), DATASET, key=key)[1]
        assert not np.allclose(silent["loss"], want["loss"])
    _, host_history = run(
        new_state(keys[0]),
        lambda epoch: data.batches(DATASET, BATCH_SIZE),
        key=keys[0],
        noise_key=keys[0],
    )
    _, want = run(
        new_state(keys[0]), DATASET, key=keys[0], noise_key=keys[0], shuffle=False
    )
    assert_close(host_history, want)


@pytest.mark.parametrize("over", [jax.vmap, jaxrnn.one_by_one])
def test_many_models_are_one_model_many_times(over):
    keys = jax.random.split(jax.random.key(1), 3)
    options = {"epochs": 2, "validation": DATASET}
    states, history = fit(
        jax.vmap(new_state)(keys), DATASET, key=keys, over=over, **options
    )
    for i, key in enumerate(keys):
        state, want = fit(new_state(key), DATASET, key=key, **options)
        assert_close(jax.tree.map(lambda x, i=i: x[i], states.params), state.params)
        assert_close({n: v[:, i] for n, v in history.items()}, want)


# Rows of its own for every model: other ones, in another order, one of them twice.
ROWS = np.array([[7, 2, 9, 4, 0, 5], [1, 3, 3, 8, 6, 2]])


@pytest.mark.parametrize("over", [jax.vmap, jaxrnn.one_by_one])
@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_are_a_dataset_of_each_model_alone(over, shuffle):
    keys = jax.random.split(jax.random.key(1), 2)
    options = {"epochs": 2, "shuffle": shuffle}
    states, history = fit(
        jax.vmap(new_state)(keys), DATASET, key=keys, rows=ROWS, over=over, **options
    )
    for i, key in enumerate(keys):
        alone = data.Dataset(DATASET.inputs[ROWS[i]], DATASET.targets[ROWS[i]])
        state, want = fit(new_state(key), alone, key=key, **options)
        assert_close(jax.tree.map(lambda x, i=i: x[i], states.params), state.params)
        assert_close({n: v[:, i] for n, v in history.items()}, want)


def test_a_row_that_is_left_out_does_not_come_back_as_filler():
    """Row 0, which holds no numbers; and 6 rows leave 2 to fill in batches of 4."""
    unknown = np.where(np.arange(EXAMPLES) == 0, np.nan, DATASET.targets)
    dataset = DATASET._replace(targets=unknown.astype(np.float32))
    run = functools.partial(fit, new_state(), key=jax.random.key(0), epochs=2)
    state, history = run(dataset, rows=ROWS[1])
    want, want_history = run(DATASET, rows=ROWS[1])
    jax.tree.map(np.testing.assert_array_equal, (state, history), (want, want_history))
    assert np.isfinite(history["loss"]).all()


def test_rows_of_one_model_are_a_python_loop():
    rows = jnp.asarray(ROWS[1])
    state, history = fit(
        new_state(), DATASET, key=jax.random.key(0), epochs=1, rows=rows, shuffle=False
    )
    want_params, want = python_epoch(new_state(), DATASET, rows)
    assert_close(state.params, want_params)
    assert_close({n: v[0] for n, v in history.items()}, want)


def test_training_compiles_the_epoch_once_short_batch_included():
    """Counted: traces of the loss in the training epoch, and XLA's compilations."""
    traced, compiled = [], []

    def counted(params, batch):
        traced.append(batch.inputs.shape)
        return loss_fn(params, batch)

    def listener(event, duration, **_):
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    by_epoch = []
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        jaxrnn.fit(
            new_state(),
            DATASET,
            loss_fn=counted,
            optimizer=OPTIMIZER,
            batch_size=BATCH_SIZE,
            epochs=4,
            validation=DATASET,
            key=jax.random.key(0),
            on_epoch=lambda epoch, record, state: by_epoch.append(len(compiled)),
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert by_epoch[0] > 0
    assert by_epoch == [by_epoch[0]] * 4  # the epochs after the first compile nothing
    assert set(traced) == {(BATCH_SIZE, 3), (256, 3)}  # training, validation


def test_fit_leaves_the_state_usable_and_is_deterministic():
    state = new_state()
    first, history = fit(state, DATASET, key=jax.random.key(3), epochs=2)
    again, _ = fit(state, DATASET, key=jax.random.key(3), epochs=2)
    other, _ = fit(state, DATASET, key=jax.random.key(4), epochs=2)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.params["w"], other.params["w"])
    assert {n: v.shape for n, v in history.items()} == {
        "loss": (2,),
        "absolute_error": (2,),
    }


def test_fit_without_shuffling_is_a_python_loop():
    state, history = fit(
        new_state(), DATASET, key=jax.random.key(0), epochs=1, shuffle=False
    )
    want_params, want = python_epoch(new_state(), DATASET, np.arange(EXAMPLES))
    assert_close(state.params, want_params)
    assert_close({n: v[0] for n, v in history.items()}, want)


def test_fit_visits_every_example_once_an_epoch_in_an_order_of_its_own():
    """Of the key and the epoch: the same key gives the same orders again."""
    seen = []

    def spy(params, batch):
        jax.debug.callback(
            lambda x, w: seen.append(x[w > 0]), batch.targets, batch.sample_weight
        )
        return loss_fn(params, batch)

    run = functools.partial(fit, new_state(), DATASET, loss_fn=spy, epochs=2)
    for seed in (0, 0, 1):
        run(key=jax.random.key(seed))
    jax.effects_barrier()
    orders = np.concatenate(seen).reshape(6, EXAMPLES)
    want = np.sort(DATASET.targets)[None].repeat(6, axis=0)
    np.testing.assert_array_equal(np.sort(orders, axis=1), want)
    np.testing.assert_array_equal(orders[:2], orders[2:4])
    assert len({tuple(order) for order in orders.tolist()}) == 4


def test_fit_takes_batches_from_the_host():
    def from_host(epoch):
        return data.batches(DATASET, BATCH_SIZE, rng=np.random.default_rng(epoch))

    state, history = fit(new_state(), from_host, key=jax.random.key(0), epochs=3)
    order = np.random.default_rng(0).permutation(EXAMPLES)
    _, want = python_epoch(new_state(), DATASET, order)
    np.testing.assert_allclose(history["loss"][0], want["loss"], rtol=2e-6)
    assert state.step == 9


# Bad input.


def call_fit(**changes):
    arguments = {
        "state": new_state(),
        "dataset": DATASET,
        "key": jax.random.key(0),
        "epochs": 1,
    } | changes
    return fit(**arguments)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        (
            {"dataset": data.Dataset(np.ones((0, 3)), np.ones(0))},
            ValueError,
            "at least one example",
        ),
        (
            {"validation": DATASET._replace(targets=np.ones(3))},
            ValueError,
            r"one row per example of inputs \(10\), got shape \(3,\)",
        ),
        ({"key": np.zeros(2, np.uint32)}, TypeError, r"jax.random.key\(seed\)"),
        (
            {"noise_key": jax.random.split(jax.random.key(0), 2)},
            ValueError,
            r"noise_key must have one key per model, shape \(\), got \(2,\)",
        ),
        ({"over": jax.vmap}, ValueError, "if and only if the state holds several"),
        (
            {"key": jax.random.split(jax.random.key(0), 2)},
            ValueError,
            r"one key per model, shape \(\), got \(2,\)",
        ),
        ({"dataset": lambda epoch: []}, ValueError, "at least one batch"),
        (
            {"rows": ROWS[0], "dataset": lambda epoch: []},
            ValueError,
            "rows are those of a Dataset in memory, got a function",
        ),
        (
            {"rows": ROWS},
            ValueError,
            r"models \(\) and at least one row, got \(2, 6\); np.broadcast_to gives",
        ),
        ({"rows": ROWS[0, :0]}, ValueError, r"at least one row, got \(0,\)"),
        ({"rows": np.array(3)}, ValueError, r"at least one row, got \(\)"),
        (
            {"rows": np.ones(EXAMPLES, bool)},
            TypeError,
            "rows must be integers, got an array of bool; np.flatnonzero makes them",
        ),
        (
            {"rows": np.array([3, EXAMPLES])},
            ValueError,
            "rows must lie in the dataset, from 0 to 9, got 3 to 10; count them",
        ),
        ({"rows": jnp.array([-1, 2])}, ValueError, "from 0 to 9, got -1 to 2"),
        (
            {"early_stopping": jaxrnn.EarlyStopping("val_loss")},
            ValueError,
            "one of .*'loss'.* got 'val_loss'; the val_ names need validation",
        ),
        (
            {"dataset": iter([])},
            TypeError,
            r"dataset must be .* got list_iterator; .* lambda epoch: data.batches\(",
        ),
        ({"dataset": lambda: []}, TypeError, r"function epoch -> .* got one of \(\);"),
        (
            {"dataset": lambda epoch: DATASET},
            TypeError,
            "batches must be an iterable of batches, got Dataset",
        ),
        ({"history": [0.5]}, TypeError, r"history must be {name: .* got \[0.5\]"),
        ({"history": {"loss": 0.5}}, TypeError, r"got {'loss': 0.5}"),
        (
            {"on_epoch": lambda epoch: None},
            TypeError,
            r"on_epoch must be .* got one of \(epoch\); write on_epoch=jaxrnn.logs",
        ),
    ],
)
def test_bad_input_is_explained(changes, error, words, untyped):
    with pytest.raises(error, match=words):
        untyped(call_fit)(**changes)
