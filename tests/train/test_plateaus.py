"""Do runs stop, and learning rates fall, in the epochs in which they do in Keras?"""

import types

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import data

RNG = np.random.default_rng(0)

# On a grid, so that ties are ties in any precision.
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


@pytest.mark.parametrize(
    ("losses", "best", "ran"),
    [
        ([5, 3, 4, 2], 2, 3),
        ([5, np.nan, 4, 6], 1, 2),
        ([np.nan, np.nan, 4, 6], 1, 1),  # the last one, not the one it began with
    ],
)
def test_early_stopping_of_one_model_and_without_a_number(losses, best, ran):
    params = {"epoch": jnp.zeros(()), "losses": jnp.asarray(losses, jnp.float32)}
    count = optax.GradientTransformation(
        lambda params: (),
        lambda updates, state, params=None: (
            {"epoch": jnp.ones(()), "losses": jnp.zeros(len(losses))},
            state,
        ),
    )
    state, history = jaxrnn.fit(
        jaxrnn.init_state(params, count),
        DATASET,
        loss_fn=scripted_loss_fn,
        optimizer=count,
        key=jax.random.key(0),
        epochs=len(losses),
        validation=DATASET,
        early_stopping=jaxrnn.EarlyStopping(),
    )
    assert state.params["epoch"] == best
    assert len(history["val_loss"]) == ran


def test_bad_settings_are_explained(untyped):
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        jaxrnn.ReduceOnPlateau(factor=1.0)
    for rule in (jaxrnn.ReduceOnPlateau, jaxrnn.EarlyStopping):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            rule(patience=0)
        with pytest.raises(TypeError, match="patience must be a whole number, got '5'"):
            untyped(rule)(patience="5")
        with pytest.raises(TypeError, match=r"min_delta must be a number .* got None"):
            untyped(rule)(min_delta=None)
        with pytest.raises(
            ValueError, match=r"min_delta must be .* at least 0, got -1"
        ):
            rule(min_delta=-1.0)
        words = rf"write {rule.__name__}\('val_accuracy', higher_is_better=True\)"
        with pytest.raises(ValueError, match=words):
            rule("val_accuracy")  # it would wait for the lowest one
        assert rule("val_accuracy", higher_is_better=True).higher_is_better
    for name in ("factor", "cooldown", "min_rate"):
        with pytest.raises(TypeError, match=f"{name} must be a number .* got '1'"):
            untyped(jaxrnn.ReduceOnPlateau)(**{name: "1"})
    with pytest.raises(TypeError, match="start_from_epoch must be a number"):
        untyped(jaxrnn.EarlyStopping)(start_from_epoch=None)
