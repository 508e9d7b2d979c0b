"""jaxrnn from `python` to the first finished step of 002, as `experiments/imdb.py`."""

import jax
import numpy as np
from worker import say_started

import jaxrnn
from jaxrnn import data

rng = np.random.default_rng(0)
train = data.Dataset(
    rng.integers(10_000, size=(128, 100), dtype=np.int32),
    rng.integers(2, size=128).astype(np.float32),
)
model = jaxrnn.TextClassifier(10_000, 32, jaxrnn.SimpleRNN(32))
optimizer = jaxrnn.keras_adam()


def loss_fn(params, batch):
    p = jax.nn.sigmoid(model.apply({"params": params}, batch.inputs))
    loss = jaxrnn.Mean.of(
        jaxrnn.binary_cross_entropy(p, batch.targets), batch.sample_weight
    )
    return loss.value, {"loss": loss}


def init_fn(key):
    return model.init(key, train.inputs[:1])["params"]


key = jax.random.key(0)
state = jaxrnn.create_train_state(init_fn, optimizer, key)
jaxrnn.fit(
    state,
    train,
    loss_fn=loss_fn,
    optimizer=optimizer,
    key=key,
    epochs=1,
    batch_size=128,
)
say_started()
