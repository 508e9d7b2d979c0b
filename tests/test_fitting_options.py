"""Do weights, learning rates and plateaus mean in `fit` what they mean in Keras'?"""

import functools
import types

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from keras_oracle import get_weights, keras_rules

import jaxrnn
from jaxrnn import data, regularizers

RNG = np.random.default_rng(0)


# Weights and penalties, against `fit` of Keras.

EXAMPLES, BATCH_SIZE, EPOCHS = 20, 8, 2  # two batches of 8, one of 4
INPUTS = RNG.standard_normal((EXAMPLES, 3)).astype(np.float32)
LABELS = RNG.integers(0, 2, EXAMPLES).astype(np.float32)
# Zeros too: Keras counts these rows, and they are not what fills up a batch.
WEIGHT = RNG.choice([0.0, 0.5, 4.0], EXAMPLES).astype(np.float32)
RULES = {"kernel": regularizers.l2(0.1), "bias": regularizers.l1(0.05)}
OPTIMIZER = jaxrnn.adam(0.01)
PARAMS = {"kernel": jnp.array([[0.5], [-1.0], [2.0]]), "bias": jnp.array([0.25])}


def keras_loss_fn(params, batch):
    """The recipe of `class_weights` and `penalty`: every number as Keras has it."""
    logits = batch.inputs @ params["kernel"][:, 0] + params["bias"][0]
    p = jax.nn.sigmoid(logits)
    losses = jaxrnn.binary_cross_entropy(p, batch.targets) * batch.sample_weight
    hits = jaxrnn.binary_accuracy(p, batch.targets)
    loss = jaxrnn.Mean.of(losses + regularizers.penalty(params, RULES), batch.valid)
    return loss.value, {
        "accuracy": jaxrnn.Mean.of(hits, batch.valid),
        "weighted": jaxrnn.Mean.of(hits, batch.sample_weight),
        "loss": loss,
    }


@pytest.fixture(scope="module")
def keras_fit():
    """Keras' `fit` on the data above, from PARAMS, as a function of its weights."""
    with keras_rules():
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(
                    1,
                    activation="sigmoid",
                    kernel_regularizer=keras.regularizers.L2(0.1),
                    bias_regularizer=keras.regularizers.L1(0.05),
                ),
            ]
        )
        model.compile(
            keras.optimizers.Adam(0.01),
            "binary_crossentropy",
            metrics=["accuracy"],
            weighted_metrics=[keras.metrics.BinaryAccuracy(name="weighted")],
        )

    def fit(**weights):
        with keras_rules():
            model.set_weights(
                [np.asarray(PARAMS["kernel"]), np.asarray(PARAMS["bias"])]
            )
            for variable in model.optimizer.variables:
                if "learning_rate" not in variable.path:
                    variable.assign(np.zeros_like(variable.value))
            options = {"batch_size": BATCH_SIZE, "epochs": EPOCHS, "shuffle": False}
            history = model.fit(INPUTS, LABELS, verbose=0, **options, **weights).history
            return history, get_weights(model)

    return fit


@pytest.mark.parametrize("kind", ["sample_weight", "class_weight"])
@pytest.mark.parametrize("from_host", [False, True])
def test_weights_and_penalties_of_keras(keras_fit, kind, from_host):
    by_class = {1: 3.0}  # a class without a weight weighs 1
    classes = jaxrnn.class_weights(LABELS, by_class)
    weight = WEIGHT if kind == "sample_weight" else classes
    dataset = data.Dataset(INPUTS, LABELS, sample_weight=weight)
    state, history = jaxrnn.fit(
        jaxrnn.init_state(PARAMS, OPTIMIZER),
        (lambda epoch: data.batches(dataset, BATCH_SIZE)) if from_host else dataset,
        loss_fn=keras_loss_fn,
        optimizer=OPTIMIZER,
        key=jax.random.key(0),
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        shuffle=False,
        validation=dataset,
    )
    want, (kernel, bias) = keras_fit(
        **{kind: weight if kind == "sample_weight" else by_class}
    )
    for name, values in want.items():  # sums of 20 float32 terms, in another order
        np.testing.assert_allclose(history[name], values, rtol=2e-6, err_msg=name)
    np.testing.assert_allclose(state.params["kernel"], kernel, rtol=0, atol=1e-6)
    np.testing.assert_allclose(state.params["bias"], bias, rtol=0, atol=1e-6)
    assert set(history) == set(want) | {f"val_{name}" for name in want}
    assert abs(history["accuracy"][0] - history["weighted"][0]) > 0.01

    p = 1 / (1 + np.exp(-(INPUTS @ kernel[:, 0] + bias)))  # all of it, by NumPy
    losses = -np.log(np.where(LABELS == 1, p, 1 - p))
    penalty = 0.1 * (kernel**2).sum() + 0.05 * abs(bias).sum()
    want_loss = (weight * losses).mean() + penalty
    np.testing.assert_allclose(history["val_loss"][-1], want_loss, rtol=1e-5)


def test_class_weights_of_labels(untyped):
    found = jaxrnn.class_weights(np.array([2, 0, 1, 2]), {2: 5.0, 0: 0.0})
    assert found.tolist() == [5, 0, 1, 5]
    for labels in (np.array([0.0, 0.5]), np.eye(2)):
        with pytest.raises(ValueError, match="one whole number per example"):
            untyped(jaxrnn.class_weights)(labels, {1: 2.0})


# Plateaus. Losses on a grid, so that ties are ties in any precision.

LOSSES = (RNG.integers(0, 8, (40, 12)) + np.arange(12, 0, -1)) / 8  # (models, epochs)


class StoredRate:
    """An optimizer of which a callback needs the learning rate, kept in float32."""

    def __setattr__(self, name, value):
        super().__setattr__(name, np.float32(value))


def keras_epochs(callback, losses, learning_rate=0.1):
    """Runs a callback without a model: rates by epoch, epochs run, best epoch."""
    model = types.SimpleNamespace(
        optimizer=StoredRate(),
        stop_training=False,
        epoch=0,
        restored=None,
    )
    model.optimizer.learning_rate = learning_rate
    model.get_weights = lambda: model.epoch
    model.set_weights = lambda epoch: setattr(model, "restored", epoch)
    callback.set_model(model)
    callback.on_train_begin()
    rates = []
    for epoch, loss in enumerate(losses):
        model.epoch = epoch + 1
        rates.append(model.optimizer.learning_rate)
        callback.on_epoch_end(epoch, {"val_loss": loss})
        if model.stop_training:
            break
    callback.on_train_end()
    return rates, model.epoch, model.restored


@pytest.mark.parametrize(
    "settings",
    [
        {"patience": 1, "factor": 0.5},
        {"patience": 2, "min_delta": 0.25, "cooldown": 2},
        {"patience": 1, "min_delta": 0.125, "cooldown": 1, "min_rate": 0.004},
        {"patience": 3, "higher_is_better": True, "factor": 0.3},
    ],
)
def test_reduce_on_plateau(settings):
    """The rates of every epoch, each model its own, to the last digit of float32."""
    rule = jaxrnn.ReduceOnPlateau(**settings)
    rate, rates = np.full(len(LOSSES), 0.1, np.float32), []
    for epoch in range(LOSSES.shape[1]):
        history = {"val_loss": list(LOSSES.T[:epoch])} if epoch else {}
        rate = rule(epoch, rate.astype(float), history).astype(np.float32)
        rates.append(rate)
    names = {"min_rate": "min_lr", "higher_is_better": "mode"}
    keras_settings = {names.get(n, n): v for n, v in settings.items()}
    keras_settings["mode"] = "max" if rule.higher_is_better else "min"
    keras_settings.setdefault("min_delta", 1e-4)
    want = [
        keras_epochs(keras.callbacks.ReduceLROnPlateau(**keras_settings), losses)[0]
        for losses in LOSSES
    ]
    np.testing.assert_array_equal(np.stack(rates, axis=1), want)
    assert len(np.unique(want)) > 2  # reduced more than once


DATASET = data.Dataset(np.zeros((2, 1), np.float32), np.zeros(2, np.float32))
COUNT = optax.GradientTransformation(
    lambda params: (),
    lambda updates, state, params=None: (
        {"epoch": jnp.ones(()), "losses": jnp.zeros(LOSSES.shape[1])},
        state,
    ),
)


def scripted_loss_fn(params, batch):
    """A model that counts epochs, and whose loss is read from its parameters."""
    value = params["losses"][params["epoch"].astype(int) - 1]
    mean = jaxrnn.Mean.of(jnp.broadcast_to(value, batch.targets.shape))
    return params["epoch"] * 1.0, {"loss": mean}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"patience": 3},
        {"patience": 2, "min_delta": 0.25},
        {"patience": 2, "start_from_epoch": 3},
        {"patience": 4, "higher_is_better": True},
        {"start_from_epoch": 50},
    ],
)
def test_early_stopping(settings):
    """The best epoch of every model, and how long the last one ran."""
    rule = jaxrnn.EarlyStopping(**settings)
    models = len(LOSSES)
    params = {"epoch": jnp.zeros(models), "losses": jnp.asarray(LOSSES, jnp.float32)}
    state, history = jaxrnn.fit(
        jax.vmap(lambda params: jaxrnn.init_state(params, COUNT))(params),
        DATASET,
        loss_fn=scripted_loss_fn,
        optimizer=COUNT,
        key=jax.random.split(jax.random.key(0), models),
        epochs=LOSSES.shape[1],
        validation=DATASET,
        early_stopping=rule,
        over=jax.vmap,
    )
    names = {"higher_is_better": "mode"}
    keras_settings = {"patience": 1} | {names.get(n, n): v for n, v in settings.items()}
    keras_settings["mode"] = "max" if rule.higher_is_better else "min"
    want = [
        keras_epochs(
            keras.callbacks.EarlyStopping(restore_best_weights=True, **keras_settings),
            losses,
        )
        for losses in LOSSES
    ]
    _, ran, best = zip(*want, strict=True)
    if rule.start_from_epoch >= LOSSES.shape[1]:  # Keras saw nothing, and kept the last
        best = ran
    np.testing.assert_array_equal(state.params["epoch"], best)
    assert len(history["val_loss"]) == max(ran)


# Learning rates by epoch.

TARGETS = INPUTS @ np.array([1.0, -2.0, 0.5], np.float32)
REGRESSION = data.Dataset(INPUTS, TARGETS)
ADJUSTABLE = jaxrnn.adjustable(optax.sgd, 0.1)


def regression_loss_fn(params, batch):
    error = batch.inputs @ params["w"] - batch.targets
    loss = jaxrnn.Mean.of(error**2, batch.sample_weight)
    return loss.value, {"loss": loss}


fit_regression = functools.partial(
    jaxrnn.fit,
    loss_fn=regression_loss_fn,
    optimizer=ADJUSTABLE,
    epochs=4,
    batch_size=EXAMPLES,
    shuffle=False,
)


def halve(epoch, rate, history):
    """A rule that reads all that it is given."""
    assert len(history.get("loss", [])) == epoch
    return rate if epoch < 2 else rate * 0.5


def new_regression(w=0.0):
    return jaxrnn.init_state({"w": jnp.full(3, w, jnp.float32)}, ADJUSTABLE)


def test_learning_rate_by_epoch_is_a_numpy_loop():
    state, history = fit_regression(
        new_regression(), REGRESSION, key=jax.random.key(0), learning_rate=halve
    )
    w = np.zeros(3)
    for rate in (0.1, 0.1, 0.05, 0.025):
        w -= rate * 2 * INPUTS.T @ (INPUTS @ w - TARGETS) / EXAMPLES
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
    want = np.float32([0.1, 0.1, 0.05, 0.025])
    np.testing.assert_array_equal(history["learning_rate"], want)
    np.testing.assert_allclose(state.opt_state.hyperparams["learning_rate"], 0.025)


@pytest.mark.parametrize("over", [jax.vmap, jaxrnn.one_by_one])
def test_each_model_has_a_rate_of_its_own(over):
    """The first one starts at the solution and has nothing to gain, the second has."""
    starts = jnp.array([[1.0, -2.0, 0.5], [9.0, 9.0, 9.0]])
    fit = functools.partial(
        fit_regression,
        jax.vmap(lambda w: jaxrnn.init_state({"w": w}, ADJUSTABLE))(starts),
        REGRESSION,
        key=jax.random.split(jax.random.key(0), 2),
        over=over,
    )
    rule = jaxrnn.ReduceOnPlateau("val_loss", factor=0.5, patience=1)
    _, history = fit(learning_rate=rule, validation=REGRESSION)
    np.testing.assert_allclose(
        history["learning_rate"],
        [[0.1, 0.1], [0.1, 0.1], [0.05, 0.1], [0.025, 0.1]],
        rtol=1e-6,
    )
    assert (history["loss"][:, 1] > 0.1).all()
    _, history = fit(learning_rate=lambda epoch, rate, history: 0.0)  # one for all
    np.testing.assert_array_equal(history["learning_rate"], np.zeros((4, 2)))
    np.testing.assert_array_equal(history["loss"], history["loss"][:1].repeat(4, 0))


@pytest.mark.parametrize("over", [jax.vmap, jaxrnn.one_by_one])
def test_a_grid_of_learning_rates_is_one_program(over):
    """Each model is the one of an optimizer with that rate; float32 rounding, 1e-6."""
    rates = jnp.array([0.3, 0.1, 0.01])

    def new_state(rate):
        state = new_regression()
        opt_state = optax.tree.set(state.opt_state, learning_rate=rate)
        return state._replace(opt_state=opt_state)

    before = jaxrnn.train_epoch._cache_size()
    states, history = fit_regression(
        jax.vmap(new_state)(rates),
        REGRESSION,
        key=jnp.broadcast_to(jax.random.key(0), rates.shape),
        over=over,
    )
    assert jaxrnn.train_epoch._cache_size() == before + 1
    np.testing.assert_array_equal(optax.tree.get(states, "learning_rate"), rates)
    assert history["loss"].shape == (4, 3)
    for i, rate in enumerate(rates.tolist()):
        optimizer = optax.sgd(rate)
        state, want = fit_regression(
            jaxrnn.init_state({"w": jnp.zeros(3)}, optimizer),
            REGRESSION,
            optimizer=optimizer,
            key=jax.random.key(0),
        )
        np.testing.assert_allclose(history["loss"][:, i], want["loss"], rtol=2e-6)
        np.testing.assert_allclose(
            states.params["w"][i], state.params["w"], rtol=2e-6, atol=1e-6
        )
    assert len(set(history["loss"][-1])) == 3


def test_another_rate_compiles_nothing():
    compiled, by_epoch = [], []

    def listener(event, duration, **_):
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        fit_regression(
            new_regression(),
            REGRESSION,
            key=jax.random.key(0),
            learning_rate=halve,
            on_epoch=lambda epoch, record: by_epoch.append(len(compiled)),
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert by_epoch == [by_epoch[0]] * 4


def test_several_functions_after_every_epoch():
    calls = []

    def note(name):
        return lambda epoch, record: calls.append((name, epoch, list(record)))

    fit_regression(
        new_regression(),
        REGRESSION,
        key=jax.random.key(0),
        epochs=2,
        learning_rate=halve,
        on_epoch=(note("a"), note("b")),
    )
    names = ["loss", "learning_rate"]
    want = [("a", 0, names), ("b", 0, names), ("a", 1, names), ("b", 1, names)]
    assert calls == want


def test_bad_input_is_explained():
    plain = optax.sgd(0.1)
    state = jaxrnn.init_state({"w": jnp.zeros(3)}, plain)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"found none; make it by jaxrnn.adjustable"):
        fit_regression(state, REGRESSION, optimizer=plain, key=key, learning_rate=halve)
    with pytest.raises(
        ValueError, match=r"one of \['learning_rate', 'loss'\], got 'val"
    ):
        fit_regression(
            new_regression(),
            REGRESSION,
            key=key,
            learning_rate=jaxrnn.ReduceOnPlateau(),
        )
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        jaxrnn.ReduceOnPlateau(factor=1.0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        jaxrnn.ReduceOnPlateau(patience=0)
