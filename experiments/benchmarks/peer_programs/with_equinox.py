"""Equinox: a cell under `lax.scan`, the model of one example under `vmap`."""

import operator

import equinox as eqx
import jax
import jax.numpy as jnp
import on_jax
from on_jax import device as device
from workloads import LEARNING_RATE, Program, Work, Workload


class SimpleCell(eqx.Module):
    """h' = activation(x W + b + h U), which Equinox leaves to its readers."""

    input: eqx.nn.Linear
    recurrent: eqx.nn.Linear
    activation: object = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)

    def __init__(self, in_features, features, activation=jnp.tanh, *, key):
        keys = jax.random.split(key)
        self.input = eqx.nn.Linear(in_features, features, key=keys[0])
        self.recurrent = eqx.nn.Linear(features, features, use_bias=False, key=keys[1])
        self.activation = activation
        self.hidden_size = features

    def __call__(self, x, hidden):
        return self.activation(self.input(x) + self.recurrent(hidden))


CELLS = {"simple_rnn": SimpleCell, "gru": eqx.nn.GRUCell, "lstm": eqx.nn.LSTMCell}


def last_hidden(cell, inputs):
    """Runs a cell over the time steps of one example."""
    zeros = jnp.zeros(cell.hidden_size)
    is_lstm = isinstance(cell, eqx.nn.LSTMCell)
    carry = (zeros, zeros) if is_lstm else zeros
    carry, _ = jax.lax.scan(lambda carry, x: (cell(x, carry), None), carry, inputs)
    return carry[0] if is_lstm else carry


class Model(eqx.Module):
    """Embed -> RNN -> Dense, or RNN -> Dense -> Dense, for one example."""

    embed: eqx.nn.Embedding | None
    cell: SimpleCell
    hidden: eqx.nn.Linear | None
    head: eqx.nn.Linear

    def __init__(self, sizes: Workload, *, key):
        keys = jax.random.split(key, 4)
        self.embed = self.hidden = None
        activation = jax.nn.relu
        if sizes.classifies:
            words, width = sizes.vocab_size, sizes.in_features
            self.embed = eqx.nn.Embedding(words, width, key=keys[0])
            activation = jnp.tanh
        features = sizes.features
        self.cell = SimpleCell(sizes.in_features, features, activation, key=keys[1])
        if sizes.hidden_features is not None:
            self.hidden = eqx.nn.Linear(features, sizes.hidden_features, key=keys[2])
            features = sizes.hidden_features
        self.head = eqx.nn.Linear(features, 1, key=keys[3])

    def __call__(self, inputs):
        if self.embed is not None:
            inputs = jax.vmap(self.embed)(inputs)
        x = last_hidden(self.cell, inputs)
        if self.hidden is not None:
            x = self.hidden(x)
            x = jax.nn.relu(x) if self.embed is None else jax.nn.sigmoid(x)
        return self.head(x)[0]


def loaded(module: eqx.Module, weights):
    """Puts arrays where their dotted names say."""
    if weights is None:
        return module
    values = [jnp.asarray(value) for value in weights.values()]
    places = [operator.attrgetter(name) for name in weights]
    return eqx.tree_at(lambda module: [at(module) for at in places], module, values)


def train(work: Work) -> Program:
    model = loaded(Model(work.sizes, key=jax.random.key(0)), work.weights)
    optimizer = on_jax.OPTIMIZERS[work.sizes.optimizer](LEARNING_RATE)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    def loss_fn(model, inputs, targets):
        return on_jax.mean_loss(work, jax.vmap(model)(inputs), targets)

    @eqx.filter_jit(donate="all-except-first")
    def train_step(batch, model, opt_state):
        loss, gradients = eqx.filter_value_and_grad(loss_fn)(model, *batch)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return eqx.apply_updates(model, updates), opt_state, loss

    batches = on_jax.batches_of(work)

    def update(i):
        nonlocal model, opt_state
        model, opt_state, loss = train_step(batches[i], model, opt_state)
        return loss

    def run(updates):
        for i in range(updates):
            update(i % len(batches))
        jax.block_until_ready((model, opt_state))

    return Program(lambda i: [float(update(i))], run)


def predict(work: Work) -> Program:
    model = loaded(Model(work.sizes, key=jax.random.key(0)), work.weights)

    def outputs(model, inputs):
        return jax.vmap(model)(inputs)

    return on_jax.predictions_of(outputs, model, work, jit=eqx.filter_jit)


def gradient(work: Work) -> Program:
    sizes = work.sizes
    cell = CELLS[sizes.cell](sizes.in_features, sizes.features, key=jax.random.key(0))
    arrays, static = eqx.partition(loaded(cell, work.weights), eqx.is_array)

    def last_output(arrays, inputs):
        cell = eqx.combine(arrays, static)
        return jax.vmap(lambda inputs: last_hidden(cell, inputs))(inputs)

    return on_jax.gradients_of(last_output, arrays, work)
