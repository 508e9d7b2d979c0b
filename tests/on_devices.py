"""Every entry of training on eight devices, beside one: run by `train/test_devices.py`.

A process of its own, as the number of devices is fixed when JAX starts.
"""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxrnn
from jaxrnn import data
from jaxrnn.train.epoch import train_epoch

DEVICES, ROWS, TIME, FEATURES = 8, 16, 5, 6
KEY = jax.random.key(0)
MODEL = jaxrnn.models.TextClassifier(
    20, embed_features=4, recurrent=jaxrnn.SimpleRNN(FEATURES, dropout=0.2)
)
OPTIMIZER = jaxrnn.keras_adam(0.01)


def reviews(examples):
    rng = np.random.default_rng(examples)
    ids = rng.integers(0, 20, (examples, TIME)).astype(np.int32)
    labels = (ids.sum(axis=1) % 2).astype(np.float32)
    return data.Dataset(ids, labels, ids > 3, rng.random(examples, np.float32))


def loss_fn(params, batch, key=None):
    noise = {} if key is None else {"dropout": key}
    logits = MODEL.apply(
        {"params": params},
        batch.inputs,
        mask=batch.mask,
        deterministic=key is None,
        rngs=noise,
    )
    return jaxrnn.binary_classification_loss(
        jax.nn.sigmoid(logits), batch.targets, batch.sample_weight
    )


def new_state(key=KEY):
    return jaxrnn.create_train_state(init_fn, OPTIMIZER, key)


def init_fn(key):
    return MODEL.init(key, jnp.zeros((1, TIME), jnp.int32))["params"]


LAYER = jaxrnn.GRU(3, return_sequences=True, return_carry=True)


def stream_loss_fn(params, carry, batch):
    carry, outputs = LAYER.apply({"params": params}, batch.inputs, initial_carry=carry)
    error = (outputs.sum(axis=-1) - batch.targets[..., 0]) ** 2
    loss = jaxrnn.Mean.of(error, batch.sample_weight)
    return loss.value, (carry, {"loss": loss})


TRAIN, TEST = reviews(3 * ROWS + 5), reviews(37)
TRAINED = {"loss_fn": loss_fn, "optimizer": OPTIMIZER}


def fit(sharding):
    """In memory, with all that `fit` does between epochs."""
    state, history = jaxrnn.fit(
        new_state(),
        TRAIN,
        key=KEY,
        noise_key=jax.random.key(1),
        epochs=2,
        batch_size=ROWS,
        validation=TEST,
        early_stopping=jaxrnn.EarlyStopping(patience=2),
        sharding=sharding,
        **TRAINED,
    )
    return state, history


def fit_from_the_host(sharding):
    return jaxrnn.fit(
        new_state(),
        lambda epoch: data.batches(TRAIN, ROWS, rng=np.random.default_rng(epoch)),
        key=KEY,
        epochs=2,
        sharding=sharding,
        **TRAINED,
    )


def epoch(sharding):
    order = np.arange(len(TRAIN.inputs))[::-1]
    return jaxrnn.train_epoch(
        new_state(), TRAIN, order, batch_size=ROWS, sharding=sharding, **TRAINED
    )


def models(sharding):
    """Three of them side by side; each batch is divided."""
    keys = jax.random.split(KEY, 3)
    return jaxrnn.fit(
        new_state(keys),
        TRAIN,
        key=keys,
        epochs=1,
        batch_size=ROWS,
        over=jax.vmap,
        sharding=sharding,
        **TRAINED,
    )


def stream(sharding):
    series = np.sin(np.arange(641, dtype=np.float32))[:, None]
    stream = data.streams(series, batch_size=ROWS)
    params = LAYER.init(KEY, stream.inputs)["params"]
    state, carry, means = jaxrnn.train_stream(
        jaxrnn.init_state(params, OPTIMIZER),
        jnp.zeros((ROWS, 3)),
        stream,
        loss_fn=stream_loss_fn,
        optimizer=OPTIMIZER,
        chunk=16,
        sharding=sharding,
    )
    read = jaxrnn.evaluate_stream(
        state.params,
        carry,
        stream,
        loss_fn=stream_loss_fn,
        chunk=32,
        sharding=sharding,
    )
    return state, carry, means, read


def at_rest(sharding):
    params = new_state().params

    def apply_fn(params, ids):
        return MODEL.apply({"params": params}, ids)

    return (
        jaxrnn.evaluate(
            params, TEST, loss_fn=loss_fn, batch_size=12, sharding=sharding
        ),
        jaxrnn.predict(params, TEST.inputs, apply_fn=apply_fn, sharding=sharding),
    )


ENTRIES = (fit, fit_from_the_host, epoch, stream, at_rest, models)


def shapes_in(sharding):
    """Of all arrays in the compiled epoch."""
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    given = jax.device_put((new_state(), TRAIN, np.arange(48)), whole)
    options = {"batch_size": ROWS, "sharding": sharding} | TRAINED
    compiled = train_epoch.lower(*given, **options).compile().as_text()
    return set(re.findall(r"f32\[[\d,]*\]", compiled))


def check_shapes(sharding):
    """Each device has the carries of its own rows, and of no others."""
    found = shapes_in(sharding)
    assert f"f32[{ROWS // DEVICES},{FEATURES}]" in found, found
    assert f"f32[{ROWS},{FEATURES}]" not in found, found


def main():
    assert len(jax.devices()) == DEVICES
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(kind,))
        sharding = NamedSharding(mesh, PartitionSpec("batch"))
        for entry in ENTRIES:
            found, wanted = map(jax.device_get, (entry(sharding), one(entry)))
            for x, y in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
            print(kind, entry.__name__, "as on one device")
        check_shapes(sharding)


@functools.cache
def one(entry):
    return entry(None)


if __name__ == "__main__":
    sys.exit(main())
