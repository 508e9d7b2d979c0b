"""Does a Forecaster forecast several steps and columns, as Keras opens it?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from keras_oracle import keras_rules

import jaxrnn
from jaxrnn import data
from jaxrnn.interchange import load_keras, save_keras_model

INPUTS = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 4, 3)
SHAPES = {
    "next": ({}, ()),
    "steps": ({"horizon": 5}, (5,)),
    "one step": ({"horizon": 1}, (1,)),
    "columns": ({"targets": 2}, (2,)),
    "steps of columns": ({"horizon": 5, "targets": 2}, (5, 2)),
}


def forecaster(**options):
    return jaxrnn.Forecaster(jaxrnn.GRU(4), hidden_features=3, **options)


@pytest.mark.parametrize("name", SHAPES)
def test_forecasts_are_those_of_keras(name, tmp_path):
    """(batch, *shape) here and there, in one order; Keras keeps an axis of 1."""
    keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    options, shape = SHAPES[name]
    model = forecaster(**options)
    params = model.init(jax.random.key(0), INPUTS)["params"]
    found = jax.jit(model.apply)({"params": params}, INPUTS)
    assert found.shape == (2, *shape)
    save_keras_model(tmp_path / "model.keras", model, params)
    with keras_rules():
        opened = keras.saving.load_model(tmp_path / "model.keras")
        want = np.asarray(jax.jit(opened)(jnp.asarray(INPUTS)))
    assert want.shape == (2, *(shape or (1,)))
    np.testing.assert_allclose(found, want.reshape(found.shape), atol=1e-6)
    assert np.ptp(want) > 1e-3
    again = load_keras(tmp_path / "model.keras", like=params)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, params))


def test_parameters_of_another_horizon_are_refused(tmp_path):
    params = forecaster(horizon=2).init(jax.random.key(0), INPUTS)["params"]
    with pytest.raises(
        ValueError, match=r"head/bias must have shape \(3,\), found \(2,\)"
    ):
        save_keras_model(tmp_path / "model.keras", forecaster(horizon=3), params)


@pytest.mark.parametrize("name", ["horizon", "targets"])
def test_sizes_below_one(name):
    with pytest.raises(
        ValueError, match=f"{name} must be a whole number of at least 1, got"
    ):
        forecaster(**{name: 0})


def test_windows_train_a_forecaster_of_the_same_horizon_and_targets():
    """Two sines and a static number that scales one of them; the split is in time."""
    steps = np.arange(120)
    rows = np.array([[1.0], [2.0]])
    several = [np.stack([np.sin(s * steps / 3), np.cos(steps / 3)], 1) for (s,) in rows]
    parts = [data.split_in_time(series, [90], width=8) for series in several]
    train, test = zip(*parts, strict=True)
    scale = data.Scale.of(list(train))
    options = {"horizon": 3, "targets": (0, 1), "static": rows}
    training, testing = (
        data.windows([scale.apply(series) for series in part], 8, **options)
        for part in (train, test)
    )
    model = forecaster(horizon=3, targets=2)

    def loss_fn(params, batch):
        forecasts = model.apply({"params": params}, batch.inputs)
        mean = jaxrnn.Mean.of((forecasts - batch.targets) ** 2, batch.sample_weight)
        return mean.value, {"loss": mean}

    params = model.init(jax.random.key(0), training.inputs[:1])["params"]
    optimizer = jaxrnn.keras_adam(0.01)
    state, history = jaxrnn.fit(
        jaxrnn.init_state(params, optimizer),
        training,
        loss_fn=loss_fn,
        optimizer=optimizer,
        key=jax.random.key(1),
        epochs=60,
        validation=testing,
    )
    assert history["val_loss"][-1] < 0.1  # of a variance of 1
    forecasts = model.apply({"params": state.params}, jnp.asarray(testing.inputs))
    real = data.windows(list(test), 8, **options).targets
    error = scale.invert(np.asarray(forecasts), targets=(0, 1)) - real
    assert np.abs(error).mean() < 0.3
