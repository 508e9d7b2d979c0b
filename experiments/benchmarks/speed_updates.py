"""How long does an update of a tutorial's model take, many in one program?"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from speed_cases import SHAPES, SOLVERS
from timing import interleaved, timed

import jaxrnn
from jaxrnn import data
from jaxrnn.train.epoch import keeping_epoch


class Training(NamedTuple):
    """All that `fit` is given but the state."""

    model: nn.Module
    dataset: data.Dataset
    loss_fn: Callable
    batch_size: int
    epochs: int


def updates_of(name: str, updates: int, repeats: int) -> list[dict]:
    """Times `fit` with every solver, and with three models at once."""
    variants = [(solver, 1, None) for solver in SOLVERS]
    variants += [("default", 3, over) for over in (jaxrnn.one_by_one, jax.vmap)]
    runs, rows = {}, []
    for solver, models, over in variants:
        training = training_of(name, SOLVERS.get(solver), updates)
        batches = data.num_batches(len(training.dataset.inputs), training.batch_size)
        runs[len(rows)], compiled = fit_of(training, models, over)
        rows.append(
            {
                "run": name,
                "solver": solver,
                "models": models,
                "over": over.__name__ if over else "",
                "updates": training.epochs * batches,
                **compiled,
            }
        )
    for at, ms in interleaved(runs, repeats).items():
        per_update = np.divide(ms, rows[at]["updates"] * rows[at]["models"])
        median = float(np.median(per_update))
        rows[at]["ms_per_update"] = round(median, 4)
        rows[at]["min_ms_per_update"] = round(float(per_update.min()), 4)
        rows[at]["examples_per_s"] = round(1e3 * training.batch_size / median)
    return rows


def training_of(name: str, solver: Any, updates: int) -> Training:
    """A tutorial's model and random data."""
    return sine(solver) if name == "sine" else reviews(name, solver, updates)


def sine(solver: Any) -> Training:
    """The noisy sine: 50 epochs of 57 updates."""
    series = data.sine_series(rng=np.random.default_rng(0))
    train, _ = data.sine_datasets(series, layout=data.window_as_features)
    layer = jaxrnn.SimpleRNN(32, activation=jax.nn.relu, solver=solver)
    model = jaxrnn.Forecaster(layer, hidden_features=8)

    def loss_fn(params, batch):
        values = model.apply({"params": params}, batch.inputs)
        return jaxrnn.squared_error_loss(values, batch.targets, batch.sample_weight)

    return Training(model, train, loss_fn, batch_size=16, epochs=50)


def reviews(name: str, solver: Any, updates: int) -> Training:
    """Reviews of one of `SHAPES`: one epoch of so many updates."""
    batch_size, steps, embed_features, features = SHAPES[name]
    rng = np.random.default_rng(0)
    rows = updates * batch_size
    train = data.Dataset(
        rng.integers(10_000, size=(rows, steps), dtype=np.int32),
        rng.integers(2, size=rows).astype(np.float32),
    )
    layer = jaxrnn.SimpleRNN(features, solver=solver)
    model = jaxrnn.TextClassifier(10_000, embed_features, layer)

    def loss_fn(params, batch):
        p = jax.nn.sigmoid(model.apply({"params": params}, batch.inputs))
        losses = jaxrnn.binary_cross_entropy(p, batch.targets)
        loss = jaxrnn.Mean.of(losses, batch.sample_weight)
        return loss.value, {"loss": loss}

    return Training(model, train, loss_fn, batch_size, epochs=1)


def fit_of(
    training: Training, models: int, over: Callable | None
) -> tuple[Callable, dict]:
    """`fit`, warm, and how long and how often its epoch was compiled.

    Args:
      training: what is trained.
      models: to train at once.
      over: how they become one program, `jax.vmap` or `jaxrnn.one_by_one`; None for one
        model without a leading axis.
    """
    optimizer = jaxrnn.keras_adam()
    dataset = training.dataset

    def new_state(key):
        params = training.model.init(key, dataset.inputs[:1])["params"]
        return jaxrnn.init_state(params, optimizer)

    key = jax.random.key(0)
    order = jnp.arange(len(dataset.inputs))
    if over is not None:
        key = jax.random.split(key, models)
        order = jnp.broadcast_to(order, (models, *order.shape))
    state = jax.jit(jax.vmap(new_state) if over else new_state)(key)
    options = {
        "loss_fn": training.loss_fn,
        "optimizer": optimizer,
        "batch_size": training.batch_size,
        "over": over,
    }
    compile_s, _ = timed(
        lambda: keeping_epoch.lower(
            state, dataset, order, noise_key=None, **options
        ).compile()
    )
    cached = keeping_epoch._cache_size  # JAX has no public counter
    compiled_before = cached()
    dataset = jax.device_put(dataset)
    run = functools.partial(
        jaxrnn.fit, state, dataset, key=key, epochs=training.epochs, **options
    )
    run()
    run()  # the second call compiles nothing
    compilations = cached() - compiled_before
    return run, {"compile_s": round(compile_s, 2), "compilations": compilations}
