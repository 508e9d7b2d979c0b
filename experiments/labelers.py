"""What learns to label every step of a sequence? The model and its training.

`state_tracking.py` and `selective_copying.py` ask what comes of it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn
from jaxrnn.data import Batch

GRADUATED, SOLVED = 0.98, 0.999  # accuracy from which a harder level, or none, follows


class Labeler(nn.Module):
    """Recurrent layers -> Dense with ReLU -> Dense: logits at every step.

    Attributes:
      recurrent: layers that return sequences, the one read by the next.
      labels: how many there are.
      hidden_features: of the first Dense.
    """

    recurrent: Sequence[nn.Module]
    labels: int
    hidden_features: int = 64

    @nn.compact
    def __call__(self, inputs, resets=None):
        """Takes inputs (batch, time, in_features); returns (batch, time, labels)."""
        for layer in self.recurrent:
            inputs = layer(inputs, resets=resets)
        glorot = nn.initializers.glorot_uniform()
        hidden = nn.relu(nn.Dense(self.hidden_features, kernel_init=glorot)(inputs))
        return nn.Dense(self.labels, kernel_init=glorot)(hidden)


class Task(NamedTuple):
    """What is to be learned.

    Attributes:
      draw: `(key, level, batch_size) -> (inputs, resets, labels, counts)`: one-hot
        inputs (batch, time, in_features); where an episode begins, or None; what is
        right at every step, and whether that step counts (batch, time).
      in_features, labels: how many there are.
    """

    draw: Callable[[jax.Array, Any, int], tuple]
    in_features: int
    labels: int


def predictions(model: Labeler, params, inputs, resets=None):
    """The label that a model finds most likely at every step (batch, time)."""
    return jnp.argmax(model.apply({"params": params}, inputs, resets), axis=-1)


def make_epoch(
    model: Labeler, task: Task, optimizer, *, updates: int, batch_size: int
) -> Callable:
    """`(state, key, level) -> (state, {"loss", "accuracy"})`, compiled.

    No update sees a sequence twice, so these are test figures as well.
    """

    def loss_fn(params, batch):
        inputs, resets, counts = batch.inputs
        logits = model.apply({"params": params}, inputs, resets)
        return jaxrnn.classification_loss(logits, batch.targets, counts)

    @jax.jit
    def epoch(state, key, level):
        def one(state, key):
            inputs, resets, labels, counts = task.draw(key, level, batch_size)
            weights = counts.astype(jnp.float32)
            batch = Batch((inputs, resets, weights), labels, None, jnp.ones(batch_size))
            return jaxrnn.train_step(state, batch, loss_fn=loss_fn, optimizer=optimizer)

        state, means = jax.lax.scan(one, state, jax.random.split(key, updates))
        return state, {name: mean.value.mean() for name, mean in means.items()}

    return epoch


def train(
    model: Labeler,
    task: Task,
    seed: int,
    epoch: Callable,
    optimizer,
    *,
    levels: Sequence[int],
    epochs: int,
    on_epoch: Callable,
):
    """Trains one model, level by level, until it has solved the last one.

    A level ends at an accuracy of `GRADUATED` over an epoch, and when its share of the
    epochs is over: so every model comes to train on the last one.

    Args:
      model, task, optimizer: as `epoch` was made of.
      seed: of the parameters and the sequences.
      epoch: from `make_epoch`.
      levels: from the easy to the hard one, as `task.draw` takes them.
      epochs: at most, over all levels.
      on_epoch: `(epoch, record) -> None` after every epoch.

    Returns:
      The parameters where it stopped; one record an epoch, with its level; whether the
      last level was solved.
    """
    init_key, train_key = jax.random.split(jax.random.key(seed))

    def init_fn(key):
        return model.init(key, jnp.zeros((1, 1, task.in_features)))["params"]

    state = jaxrnn.create_train_state(init_fn, optimizer, init_key)
    remaining, history, begun = list(levels), [], 0
    for number in range(epochs):
        key = jax.random.fold_in(train_key, number)
        state, figures = epoch(state, key, np.int32(remaining[0]))
        figures = {name: value.item() for name, value in figures.items()}
        history.append({"level": remaining[0], **figures})
        on_epoch(number, figures)
        if len(remaining) == 1:
            if figures["accuracy"] >= SOLVED:
                return state.params, history, True
        elif figures["accuracy"] >= GRADUATED or number + 1 - begun >= epochs // len(
            levels
        ):
            remaining.pop(0)
            begun = number + 1
    return state.params, history, False


def make_optimizer(learning_rate: float, max_norm: float = 1.0):
    """Adam, after a cut of the gradient."""
    clip = optax.clip_by_global_norm(max_norm)
    return optax.chain(clip, jaxrnn.keras_adam(learning_rate))


def layers(cell: jaxrnn.Cell, features: int, count: int = 1) -> tuple:
    """So many layers of a cell, one behind the other."""
    layer = functools.partial(jaxrnn.Recurrent, features, cell=cell)
    return tuple(layer(return_sequences=True) for _ in range(count))
