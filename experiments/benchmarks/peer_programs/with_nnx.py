"""flax.nnx: `nnx.RNN` of its cells, `nnx.jit`, `nnx.Optimizer`."""

import jax
import jax.numpy as jnp
import numpy as np
import on_jax
import workloads
from flax import nnx
from on_jax import device as device
from workloads import LEARNING_RATE, Program, Work, Workload

CELLS = {
    "simple_rnn": nnx.SimpleCell,
    "gru": nnx.GRUCell,
    "lstm": nnx.OptimizedLSTMCell,
}


class Model(nnx.Module):
    """Embed -> RNN -> Dense, or RNN -> Dense -> Dense."""

    def __init__(self, sizes: Workload, *, rngs: nnx.Rngs):
        self.classifies = sizes.classifies
        if sizes.classifies:
            self.embed = nnx.Embed(sizes.vocab_size, sizes.in_features, rngs=rngs)
        cell = nnx.SimpleCell(
            sizes.in_features,
            sizes.features,
            activation_fn=nnx.tanh if sizes.classifies else nnx.relu,
            rngs=rngs,
        )
        self.recurrent = nnx.RNN(cell)
        features = sizes.features
        if sizes.hidden_features is None:
            self.hidden = None
        else:
            self.hidden = nnx.Linear(features, sizes.hidden_features, rngs=rngs)
            features = sizes.hidden_features
        self.head = nnx.Linear(features, 1, rngs=rngs)

    def __call__(self, inputs):
        if self.classifies:
            inputs = self.embed(inputs)
        x = self.recurrent(inputs)[:, -1]
        if self.hidden is not None:
            x = self.hidden(x)
            x = nnx.sigmoid(x) if self.classifies else nnx.relu(x)
        return self.head(x)[:, 0]


def loaded(module: nnx.Module, weights) -> nnx.Module:
    if weights is not None:
        nnx.update(module, jax.device_put(weights))
    return module


def train(work: Work) -> Program:
    model = loaded(Model(work.sizes, rngs=nnx.Rngs(0)), work.weights)
    transformation = on_jax.OPTIMIZERS[work.sizes.optimizer](LEARNING_RATE)
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)

    def loss_fn(model, inputs, targets):
        return on_jax.mean_loss(work, model(inputs), targets)

    @nnx.jit
    def train_step(model, optimizer, inputs, targets):
        loss, gradients = nnx.value_and_grad(loss_fn)(model, inputs, targets)
        optimizer.update(model, gradients)
        return loss

    step = nnx.cached_partial(train_step, model, optimizer)  # less Python per call
    batches = on_jax.batches_of(work)

    def run(updates):
        for i in range(updates):
            step(*batches[i % len(batches)])
        jax.block_until_ready(nnx.state(model))

    return Program(lambda i: [float(step(*batches[i]))], run)


def predict(work: Work) -> Program:
    model = loaded(Model(work.sizes, rngs=nnx.Rngs(0)), work.weights)

    @nnx.jit
    def predictions(model, inputs):
        outputs = model(inputs)
        return nnx.sigmoid(outputs) if work.sizes.classifies else outputs

    inputs = jax.device_put(list(work.inputs))
    run = nnx.cached_partial(predictions, model)
    return workloads.passes(run, inputs, workloads.first_four, np.asarray)


def gradient(work: Work) -> Program:
    sizes = work.sizes
    cell = CELLS[sizes.cell](sizes.in_features, sizes.features, rngs=nnx.Rngs(0))
    layer = nnx.RNN(loaded(cell, work.weights))

    @nnx.jit
    def gradients(layer, inputs):
        def loss(layer, inputs):
            return jnp.sum(layer(inputs)[:, -1] ** 2)

        return nnx.value_and_grad(loss, argnums=(0, 1))(layer, inputs)

    inputs = jax.device_put(list(work.inputs))
    run = nnx.cached_partial(gradients, layer)
    return workloads.passes(run, inputs, on_jax.norms_of, jax.block_until_ready)
