"""Does training do what a plain Python loop does - and compile once?"""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import data, fitting, metrics
from jaxrnn.train import _train_group

OPTIMIZER = jaxrnn.adam(0.05)
RNG = np.random.default_rng(0)
EXAMPLES, BATCH_SIZE = 10, 4  # the last batch is short
DATASET = data.Dataset(
    RNG.standard_normal((EXAMPLES, 3)).astype(np.float32),
    RNG.standard_normal(EXAMPLES).astype(np.float32),
)
ORDER = jnp.asarray(RNG.permutation(EXAMPLES))


def loss_fn(params, batch):
    error = batch.inputs @ params["w"] + params["b"] - batch.targets
    loss = jaxrnn.Mean.of(error**2, batch.sample_weight)
    size = jaxrnn.Mean.of(abs(error), batch.sample_weight)
    return loss.value, {"loss": loss, "absolute_error": size}


def new_state(key=None):
    key = jax.random.key(0) if key is None else key
    params = {"w": jax.random.normal(key, (3,)), "b": jnp.zeros(())}
    return jaxrnn.init_state(params, OPTIMIZER)


def python_epoch(state, dataset, order):
    """The oracle: a Python loop over true short batches, no filler, Optax by hand."""
    params, opt_state = state.params, state.opt_state
    totals = {"loss": 0.0, "absolute_error": 0.0}
    for first in range(0, len(order), BATCH_SIZE):
        rows = np.asarray(order[first : first + BATCH_SIZE])

        def loss(params, rows=rows):
            error = dataset.inputs[rows] @ params["w"] + params["b"]
            return jnp.mean((error - dataset.targets[rows]) ** 2)

        error = dataset.inputs[rows] @ params["w"] + params["b"] - dataset.targets[rows]
        totals["loss"] += float((error**2).sum())
        totals["absolute_error"] += float(abs(error).sum())
        updates, opt_state = OPTIMIZER.update(jax.grad(loss)(params), opt_state)
        params = optax.apply_updates(params, updates)
    return params, {name: total / len(order) for name, total in totals.items()}


def assert_close(found, want):
    """Float32 sums in another order: a few units in the seventh digit."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-6), found, want
    )


train_epoch = functools.partial(
    jaxrnn.train_epoch, loss_fn=loss_fn, optimizer=OPTIMIZER, batch_size=BATCH_SIZE
)
fit = functools.partial(
    jaxrnn.fit, loss_fn=loss_fn, optimizer=OPTIMIZER, batch_size=BATCH_SIZE
)


def test_epoch_is_a_python_loop():
    want_params, want = python_epoch(new_state(), DATASET, ORDER)
    state, means = train_epoch(new_state(), DATASET, ORDER)
    assert_close(state.params, want_params)
    assert_close(metrics.values(means), want)
    assert state.step == 3


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
    before, compiled = _train_group._cache_size(), []
    for batches in (on_host, on_host, jax.device_put(on_host)):
        state, means = train_batches(new_state(), batches)
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


def noisy_loss_fn(params, batch, key=None):
    """Dropout of the inputs by hand, where a key is given."""
    if key is not None:
        mask = jax.random.bernoulli(key, 0.5, batch.inputs.shape)
        batch = batch._replace(inputs=jnp.where(mask, batch.inputs, 0))
    return loss_fn(params, batch)


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


def test_every_epoch_has_an_order_of_its_own(monkeypatch):
    """All rows, once each; the same again for the same key."""
    seen = []

    def epoch(state, dataset, order, **options):
        seen.append(np.asarray(order))
        return jaxrnn.train_epoch(state, dataset, order, **options)

    monkeypatch.setattr(fitting, "train_epoch", epoch)
    for seed in (0, 0, 1):
        fit(new_state(), DATASET, key=jax.random.key(seed), epochs=2)
    assert all(sorted(order) == list(range(EXAMPLES)) for order in seen)
    np.testing.assert_array_equal(seen[:2], seen[2:4])
    assert len({tuple(order) for order in seen}) == 4


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
            on_epoch=lambda epoch, record: by_epoch.append(len(compiled)),
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert by_epoch[0] > 0
    assert by_epoch == [by_epoch[0]] * 4  # the epochs after the first compile nothing
    assert set(traced) == {(BATCH_SIZE, 3), (256, 3)}  # training, validation
    before = jaxrnn.train_epoch._cache_size()
    train_epoch(new_state(), DATASET, ORDER)
    train_epoch(new_state(), DATASET, ORDER)
    assert jaxrnn.train_epoch._cache_size() <= before + 1


def test_no_transfer_inside_an_epoch():
    state, dataset, order = jax.device_put((new_state(), DATASET, ORDER))
    train_epoch(jax.tree.map(jnp.copy, state), dataset, order)  # compiled outside
    with jax.transfer_guard("disallow"):
        train_epoch(state, dataset, order)


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


def test_fit_visits_every_example_once_an_epoch_in_a_new_order():
    """With a learning rate of zero the loss of an epoch cannot depend on the order."""
    seen = []

    def spy(params, batch):
        jax.debug.callback(
            lambda x, w: seen.append(x[w > 0]), batch.targets, batch.sample_weight
        )
        return loss_fn(params, batch)

    jaxrnn.fit(
        new_state(),
        DATASET,
        loss_fn=spy,
        optimizer=optax.set_to_zero(),
        batch_size=BATCH_SIZE,
        key=jax.random.key(0),
        epochs=2,
    )
    jax.effects_barrier()
    targets = np.concatenate(seen)
    one, two = targets[:EXAMPLES], targets[EXAMPLES:]
    np.testing.assert_array_equal(np.sort(one), np.sort(DATASET.targets))
    np.testing.assert_array_equal(np.sort(two), np.sort(DATASET.targets))
    assert not np.array_equal(one, two)


def test_fit_takes_batches_from_the_host():
    def from_host(epoch):
        return data.batches(DATASET, BATCH_SIZE, rng=np.random.default_rng(epoch))

    state, history = fit(new_state(), from_host, key=jax.random.key(0), epochs=3)
    order = np.random.default_rng(0).permutation(EXAMPLES)
    _, want = python_epoch(new_state(), DATASET, order)
    np.testing.assert_allclose(history["loss"][0], want["loss"], rtol=2e-6)
    assert state.step == 9


# Mixed precision: a recurrence in bfloat16, everything else in float32.

IDS = RNG.integers(1, 12, (24, 6), dtype=np.int32)
FIRST_IS_ODD = data.Dataset(IDS, (IDS[:, 0] % 2).astype(np.float32))


def classifier(dtype):
    layer = jaxrnn.SimpleRNN(8, dtype=dtype, solver=jaxrnn.HoistedScan())
    return jaxrnn.TextClassifier(12, 8, layer)


def classifier_loss_fn(params, batch, dtype):
    p = jax.nn.sigmoid(classifier(dtype).apply({"params": params}, batch.inputs))
    loss = jaxrnn.Mean.of(
        jaxrnn.binary_cross_entropy(p, batch.targets), batch.sample_weight
    )
    return loss.value, {"loss": loss}


@pytest.fixture(scope="module")
def classifier_params():
    return classifier(None).init(jax.random.key(0), IDS)["params"]


def test_training_in_mixed_precision(classifier_params):
    """Near the losses of float32: 1 %, as bfloat16 has 8 bits."""
    optimizer = jaxrnn.adam(0.01)
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
    assert len(in_loop) >= 2  # one forth, one back
    assert all(names == ["bfloat16", "bfloat16", "float32"] for names in in_loop)
    assert all(names[-1] == "float32" for names, _ in matmuls)


# Early stopping.


def stub_training(losses):
    """A "model" whose validation loss follows a given list, one row per model."""
    losses = jnp.asarray(losses, jnp.float32)

    def loss_fn(params, batch):
        epoch = params["epoch"].astype(int) - 1
        value = losses[params["model"].astype(int), epoch]
        mean = jaxrnn.Mean.of(jnp.broadcast_to(value, batch.targets.shape))
        return params["epoch"] * 1.0, {"loss": mean}

    count = optax.GradientTransformation(
        lambda params: (),
        lambda updates, state, params=None: (
            {"epoch": jnp.ones(()), "model": jnp.zeros(())},
            state,
        ),
    )
    states = [
        jaxrnn.init_state({"epoch": jnp.zeros(()), "model": jnp.float32(i)}, count)
        for i in range(len(losses))
    ]
    return loss_fn, count, states


def fit_stub(losses, rule, many=False):
    loss_fn, optimizer, states = stub_training(losses)
    key = jax.random.key(0)
    return jaxrnn.fit(
        jax.tree.map(lambda *x: jnp.stack(x), *states) if many else states[0],
        DATASET,
        loss_fn=loss_fn,
        optimizer=optimizer,
        batch_size=EXAMPLES,
        key=jax.random.split(key, len(losses)) if many else key,
        epochs=6,
        validation=DATASET,
        early_stopping=rule,
        over=jax.vmap if many else None,
    )


@pytest.mark.parametrize(
    ("losses", "rule", "best", "ran"),
    [
        ([5, 4, 3, 2, 1, 0], jaxrnn.EarlyStopping(), 6, 6),
        ([5, 3, 4, 2, 1, 0], jaxrnn.EarlyStopping(), 2, 3),
        ([5, 3, 4, 2, 3, 3], jaxrnn.EarlyStopping(patience=2), 4, 6),
        ([5, 4.9, 4.8, 2, 1, 0], jaxrnn.EarlyStopping(min_delta=0.5), 1, 2),
        ([5, 6, 7, 6, 1, 0], jaxrnn.EarlyStopping(higher_is_better=True), 3, 4),
        ([5, np.nan, 4, 6, 1, 0], jaxrnn.EarlyStopping(), 1, 2),
    ],
)
def test_early_stopping_returns_the_best_state(losses, rule, best, ran):
    state, history = fit_stub([losses], rule)
    assert state.params["epoch"] == best
    assert len(history["val_loss"]) == ran


def test_early_stopping_of_each_model_for_itself():
    losses = [[5, 3, 4, 2, 1, 0], [5, 4, 3, 2, 3, 0]]
    state, history = fit_stub(losses, jaxrnn.EarlyStopping(), many=True)
    np.testing.assert_array_equal(state.params["epoch"], [2, 4])
    assert len(history["val_loss"]) == 5


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
    ],
)
def test_bad_input_is_explained(changes, error, words, untyped):
    with pytest.raises(error, match=words):
        untyped(call_fit)(**changes)


def test_updates_per_call_below_one():
    with pytest.raises(ValueError, match="updates_per_call must be at least 1, got 0"):
        train_batches(new_state(), [], updates_per_call=0)


def test_patience_below_one():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        jaxrnn.EarlyStopping(patience=0)
