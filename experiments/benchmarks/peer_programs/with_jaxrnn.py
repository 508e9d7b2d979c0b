"""jaxrnn: the plain way of `experiments/imdb.py` and `sine.py`, whole epochs.

JAXRNN_NATIVE=1 asks for the compiled loops, JAXRNN_NATIVE=0 for the solvers in JAX.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import on_jax
from on_jax import device as device
from workloads import EPSILON, LEARNING_RATE, RMSPROP_DECAY, Program, Work, Workload

import jaxrnn
from jaxrnn import data, native

LAYERS = {"simple_rnn": jaxrnn.SimpleRNN, "gru": jaxrnn.GRU, "lstm": jaxrnn.LSTM}
OPTIMIZERS = {
    "adam": functools.partial(jaxrnn.keras_adam, epsilon=EPSILON),
    "rmsprop": functools.partial(
        jaxrnn.keras_rmsprop, rho=RMSPROP_DECAY, epsilon=EPSILON
    ),
}


def missing() -> str | None:
    """Why the peer cannot be had, where its packages can."""
    if os.environ.get("JAXRNN_NATIVE") == "1" and not native.enabled():
        return "the native loops are not compiled; python -m jaxrnn.native does it"
    return None


def make_model(sizes: Workload):
    if sizes.classifies:
        layer = jaxrnn.SimpleRNN(sizes.features)
        return jaxrnn.TextClassifier(
            sizes.vocab_size, sizes.in_features, layer, sizes.hidden_features
        )
    layer = jaxrnn.SimpleRNN(sizes.features, activation=jax.nn.relu)
    return jaxrnn.Forecaster(layer, sizes.hidden_features)


def make_training(work: Work):
    """The state before the first update, and the options of `train_epoch`."""
    model = make_model(work.sizes)
    optimizer = OPTIMIZERS[work.sizes.optimizer](LEARNING_RATE)

    def loss_fn(params, batch):
        outputs = model.apply({"params": params}, batch.inputs)
        if work.sizes.classifies:
            p = jax.nn.sigmoid(outputs)
            losses = jaxrnn.binary_cross_entropy(p, batch.targets)
        else:
            losses = (outputs - batch.targets) ** 2
        loss = jaxrnn.Mean.of(losses, batch.sample_weight)
        return loss.value, {"loss": loss}

    state = jaxrnn.init_state(jax.device_put(work.weights), optimizer)
    return state, {"loss_fn": loss_fn, "optimizer": optimizer}


def train(work: Work, models: int = 1) -> Program:
    """Whole epochs of one model; or of several, where an update is that of one."""
    state, options = make_training(work)
    sizes = work.sizes
    inputs = work.inputs.reshape(-1, *work.inputs.shape[2:])
    dataset = jax.device_put(data.Dataset(inputs, work.targets.reshape(-1)))
    order = np.arange(len(inputs), dtype=np.int32)
    if models > 1:
        order = np.tile(order, (models, 1))
        state = jax.tree.map(lambda x: jnp.stack([x] * models), state)
        options |= {"over": jax.vmap}
    on_device = jax.device_put(order)
    unit = models * sizes.updates

    def epoch(order):
        nonlocal state
        state, means = jaxrnn.train_epoch(
            state, dataset, order, batch_size=sizes.batch, **options
        )
        return means["loss"]

    def check(i):
        means = epoch(order[..., i * sizes.batch : (i + 1) * sizes.batch])
        return [float(means.value.mean())]

    def run(updates):
        for _ in range(updates // unit):
            epoch(on_device)
        jax.block_until_ready(state)

    return Program(check, run, unit)


def predict(work: Work) -> Program:
    params = jax.device_put({"params": work.weights})
    return on_jax.predictions_of(make_model(work.sizes).apply, params, work)


def gradient(work: Work) -> Program:
    layer = LAYERS[work.sizes.cell](work.sizes.features)

    def last_output(params, inputs):
        return layer.apply({"params": params}, inputs)

    return on_jax.gradients_of(last_output, jax.device_put(work.weights), work)
