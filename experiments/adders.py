"""What learns to add two marked numbers? The problem, the models and their training.

`adding_problem.py` and `vanishing_gradient.py` ask what comes of it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn
from jaxrnn import data

BASELINE_MSE, SOLVED_MSE = 1 / 6, 0.01


def identity(key, shape, dtype):
    """The initial recurrent kernel of an IRNN."""
    del key
    return jnp.eye(*shape, dtype=dtype)


IRNN = functools.partial(
    jaxrnn.SimpleRNN, activation=jax.nn.relu, recurrent_kernel_init=identity
)
LAYERS = {
    "SimpleRNN, tanh": jaxrnn.SimpleRNN,
    "SimpleRNN, ReLU, identity": IRNN,
    "GRU": jaxrnn.GRU,
    "LSTM": jaxrnn.LSTM,
}


def min_gru(features: int) -> nn.Module:
    """One layer of a minGRU, whose gate sees the mark and the number."""
    return jaxrnn.Recurrent(features, cell=jaxrnn.min_gru)


def lru(features: int) -> nn.Module:
    """An LRU with a long memory, after a Dense layer with ReLU.

    Alone it is linear in its inputs too, and no sum of numbers and marks is the sum of
    the marked numbers. The ring of its factors is the one of the paper's long tasks.
    """
    cell = jaxrnn.lru_cell(min_radius=0.9, max_radius=0.999, max_phase=math.pi / 10)
    return nn.Sequential(
        [nn.Dense(features), nn.relu, jaxrnn.Recurrent(features, cell=cell)]
    )


LINEAR_LAYERS = {"minGRU, linear": min_gru, "Dense, LRU, linear": lru}
LEARNING_RATES = {"SimpleRNN, ReLU, identity": 0.001}  # it explodes with more


class Adder(nn.Module):
    """A recurrent layer -> Dense: one number per sequence.

    Attributes:
      recurrent: a layer that returns its last output.
    """

    recurrent: nn.Module

    @nn.compact
    def __call__(self, inputs):
        """Takes inputs (batch, time, 2); returns (batch,)."""
        head = nn.Dense(1, kernel_init=nn.initializers.glorot_uniform())
        return head(self.recurrent(inputs))[:, 0]


@functools.partial(jax.jit, static_argnames=("examples", "length"))
def adding_problem(key, examples: int, length: int) -> data.Dataset:
    """Sequences of (number, mark), and the sums of the two marked numbers.

    Args:
      key: a `jax.random.key`.
      examples: sequences to draw.
      length: of each, at least 2; one mark falls in each half.

    Returns:
      Inputs (examples, length, 2), numbers uniform in [0, 1), marks 0 or 1; targets
      (examples,).
    """
    number_key, first_key, second_key = jax.random.split(key, 3)
    numbers = jax.random.uniform(number_key, (examples, length))
    first = jax.random.randint(first_key, (examples,), 0, length // 2)
    second = jax.random.randint(second_key, (examples,), length // 2, length)
    marks = jax.nn.one_hot(first, length) + jax.nn.one_hot(second, length)
    return data.Dataset(
        jnp.stack([numbers, marks], axis=-1), (numbers * marks).sum(axis=1)
    )


class Training(NamedTuple):
    """What is trained, and how: the model, its loss, the optimizer."""

    model: nn.Module
    loss_fn: Callable
    optimizer: optax.GradientTransformation


def make_adder(
    recurrent: nn.Module, learning_rate: float, max_norm: float = 1.0
) -> Training:
    """An `Adder` that learns by Adam from the mean squared error, its gradient cut."""
    model = Adder(recurrent)

    def loss_fn(params, batch):
        sums = model.apply({"params": params}, batch.inputs)
        return jaxrnn.squared_error_loss(sums, batch.targets, batch.sample_weight)

    clip = optax.clip_by_global_norm(max_norm)
    return Training(model, loss_fn, optax.chain(clip, jaxrnn.keras_adam(learning_rate)))


def start(training: Training, seeds: int) -> tuple[jax.Array, Any]:
    """A key and a state for every seed, with a leading axis of seeds."""

    def init_fn(key):
        return training.model.init(key, jnp.zeros((1, 1, 2)))["params"]

    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    return keys, jaxrnn.create_train_state(init_fn, training.optimizer, keys)


def over_models() -> Callable:
    """One after the other on a CPU, where a model that has stopped costs nothing."""
    return jaxrnn.one_by_one if jax.default_backend() == "cpu" else jax.vmap


def train(
    state,
    keys,
    training: Training,
    *,
    length: int,
    epochs: int,
    updates: int,
    batch_size: int,
    over: Callable,
    on_epoch: Callable,
):
    """Trains each model until it has solved the problem, exploded, or had all epochs.

    The loss of an epoch is a test loss too: no update has seen its sequences before.

    Args:
      state: of all models, with a leading axis of models; it stays usable.
      keys: one per model, from which its sequences are drawn.
      training: the loss and the optimizer of all.
      length: of the sequences.
      epochs: at most.
      updates: per epoch.
      batch_size: sequences per update.
      over: `jaxrnn.one_by_one` or `jax.vmap`.
      on_epoch: `(epoch, record, state) -> None` after every epoch.

    Returns:
      The state of all models, each as it stopped; and the losses of each by epoch, in
      lists of different lengths.
    """
    examples = updates * batch_size

    @jax.jit
    def one_epoch(state, keys, running, epoch):
        def one(state, key, running):
            def go_on(state):
                unseen = adding_problem(
                    jax.random.fold_in(key, epoch), examples, length
                )
                state, means = jaxrnn.train_epoch(
                    state,
                    unseen,
                    jnp.arange(examples),
                    loss_fn=training.loss_fn,
                    optimizer=training.optimizer,
                    batch_size=batch_size,
                )
                return state, means["loss"].value

            def rest(state):
                return state, jnp.float32(jnp.nan)

            return jax.lax.cond(running, go_on, rest, state)

        return over(one)(state, keys, running)

    running = np.ones(len(keys), bool)
    losses = [[] for _ in keys]
    for epoch in range(epochs):
        state, loss = one_epoch(state, keys, running, epoch)
        loss = np.asarray(loss)
        on_epoch(epoch, {"loss": loss[running]}, state)
        for model in np.flatnonzero(running):
            losses[model].append(loss[model].item())
        running &= np.isfinite(loss) & (loss >= SOLVED_MSE)
        if not running.any():
            break
    return state, losses
