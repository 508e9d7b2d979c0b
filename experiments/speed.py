"""How fast are an update, an epoch and a gradient, solver by solver?

Command    python experiments/speed.py
Time       about 4 minutes on 2 cores
Expect     on 2 CPU cores: the 50 epochs of the sine tutorial (2,850 updates) in under
           0.5 s after compilation, an epoch of the 002 model (157 updates) in under
           1.5 s, one compilation of the epoch each; gradients 1.0 to 1.7 times as
           fast as with `flax.linen.RNN`: for SimpleRNN by `HoistedScan`, at "wide" in
           chunks, for GRU by `Scan`, for LSTM by `Scan` and at "wide" by `HoistedScan`

Random data: the time does not depend on it. Every figure is the median (and minimum)
of repeated runs that end in `block_until_ready`, the rivals interleaved in one
process, compile time apart. These machines are noisy: trust ratios, and no ratio under
1.1. Writes speed.jsonl.
"""

import functools
import importlib.metadata
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxrnn
from jaxrnn import data, report

RESULTS = pathlib.Path(__file__).parent / "results"
LAYERS = {
    "simple_rnn": (jaxrnn.SimpleRNN, nn.SimpleCell),
    "gru": (jaxrnn.GRU, nn.GRUCell),
    "lstm": (jaxrnn.LSTM, nn.OptimizedLSTMCell),
}
SHAPES = {  # (batch, time, in_features, features)
    "tiny": (2, 5, 3, 4),
    "imdb-001": (32, 500, 32, 32),
    "imdb-002": (128, 100, 32, 32),
    "imdb-004b": (128, 30, 16, 32),
    "wide": (64, 256, 256, 256),
}
SOLVERS = {
    "Scan": jaxrnn.Scan(),
    "Scan, project first": jaxrnn.Scan(project_first=True),
    "HoistedScan": jaxrnn.HoistedScan(),
    "HoistedScan, one chunk": jaxrnn.HoistedScan(chunk=None),
}


def main(
    *,
    repeats: int = 10,
    shapes: Sequence[str] = ("imdb-001", "imdb-002", "imdb-004b", "wide"),
    out: pathlib.Path = RESULTS,
) -> list[dict]:
    """Times epochs and gradients; writes speed.jsonl and prints two tables."""
    machine = {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "cores": os.cpu_count(),
        "dtype": "float32",
        "jax": jax.__version__,
        "flax": importlib.metadata.version("flax"),
    }
    epochs = [
        run(models, over, repeats)
        for run in (sine_epochs, imdb_epoch)
        for models, over in ((1, None), (3, jaxrnn.one_by_one), (3, jax.vmap))
    ]
    gradients = [
        row
        for shape in shapes
        for layer in LAYERS
        for row in gradient(layer, shape, repeats)
    ]
    records = [machine | record for record in epochs + gradients]
    report.write_records(out / "speed.jsonl", records)
    for part in (epochs, gradients):
        print(report.markdown_table(part), end="\n\n")
    return records


def sine_epochs(models: int, over: Callable | None, repeats: int) -> dict:
    """50 epochs of the sine tutorial: 900 windows, batches of 16, 57 updates each."""
    series = data.sine_series(rng=np.random.default_rng(0))
    train, _ = data.sine_datasets(series, layout=data.window_as_features)
    model = jaxrnn.Forecaster(
        jaxrnn.SimpleRNN(32, activation=jax.nn.relu), hidden_features=8
    )

    def loss_fn(params, batch):
        predictions = model.apply({"params": params}, batch.inputs)
        loss = jaxrnn.Mean.of((predictions - batch.targets) ** 2, batch.sample_weight)
        return loss.value, {"loss": loss}

    options = {"batch_size": 16, "epochs": 50, "models": models, "over": over}
    return epochs_of("sine, 50 epochs", model, train, loss_fn, repeats, **options)


def imdb_epoch(models: int, over: Callable | None, repeats: int) -> dict:
    """One epoch of the 002 model: 20,000 reviews, batches of 128, 157 updates."""
    rng = np.random.default_rng(0)
    train = data.Dataset(
        rng.integers(10_000, size=(20_000, 100), dtype=np.int32),
        rng.integers(2, size=20_000).astype(np.float32),
    )
    model = jaxrnn.TextClassifier(10_000, 32, jaxrnn.SimpleRNN(32))

    def loss_fn(params, batch):
        p = jax.nn.sigmoid(model.apply({"params": params}, batch.inputs))
        loss = jaxrnn.Mean.of(
            jaxrnn.binary_cross_entropy(p, batch.targets), batch.sample_weight
        )
        return loss.value, {"loss": loss}

    options = {"batch_size": 128, "epochs": 1, "models": models, "over": over}
    return epochs_of("imdb-002, 1 epoch", model, train, loss_fn, repeats, **options)


def epochs_of(
    name: str,
    model: nn.Module,
    train: data.Dataset,
    loss_fn: Callable,
    repeats: int,
    *,
    batch_size: int,
    epochs: int,
    models: int,
    over: Callable | None,
) -> dict:
    """Times `fit` over `epochs`, and counts how often the epoch was compiled."""
    optimizer = jaxrnn.adam()

    def new_state(key):
        params = model.init(key, train.inputs[:1])["params"]
        return jaxrnn.init_state(params, optimizer)

    key = jax.random.key(0)
    order = jnp.arange(len(train.inputs))
    if over is not None:
        key = jax.random.split(key, models)
        order = jnp.broadcast_to(order, (models, *order.shape))
    state = (jax.vmap(new_state) if over else new_state)(key)
    options = {
        "loss_fn": loss_fn,
        "optimizer": optimizer,
        "batch_size": batch_size,
        "over": over,
    }

    started = time.perf_counter()
    jaxrnn.train_epoch.lower(state, train, order, **options).compile()
    compile_s = time.perf_counter() - started

    cached = jaxrnn.train_epoch._cache_size  # JAX has no public counter
    compiled_before = cached()
    train = jax.device_put(train)
    run = functools.partial(jaxrnn.fit, state, train, key=key, epochs=epochs, **options)
    run()  # warm-up
    seconds = [elapsed(run) for _ in range(repeats)]
    updates = epochs * data.num_batches(len(train.inputs), batch_size)
    return {
        "run": name,
        "models": models,
        "over": over.__name__ if over else "",
        "updates": updates,
        "median_s": round(float(np.median(seconds)), 4),
        "min_s": round(min(seconds), 4),
        "us_per_update": round(float(np.median(seconds)) / updates / models * 1e6, 1),
        "compile_s": round(compile_s, 2),
        "compilations": cached() - compiled_before,
    }


def gradient(layer: str, shape: str, repeats: int) -> list[dict]:
    """Times the last output and its gradient, for every solver and for Flax' RNN."""
    batch, steps, in_features, features = SHAPES[shape]
    inputs = jax.random.normal(jax.random.key(0), (batch, steps, in_features))
    ours, flax_cell = LAYERS[layer]
    rivals = {name: ours(features, solver=solver) for name, solver in SOLVERS.items()}
    rivals["flax.linen.RNN"] = nn.RNN(flax_cell(features))
    runs, rows = {}, []
    for name, module in rivals.items():
        params = module.init(jax.random.key(1), inputs)["params"]

        def last_output(params, inputs, module=module):
            outputs = module.apply({"params": params}, inputs)
            return outputs[:, -1] if outputs.ndim == 3 else outputs

        def loss(params, inputs, last_output=last_output):
            return jnp.sum(last_output(params, inputs) ** 2)

        for kind, function in (
            ("forward", last_output),
            ("forward + backward", jax.value_and_grad(loss, argnums=(0, 1))),
        ):
            started = time.perf_counter()
            compiled = jax.jit(function).lower(params, inputs).compile()
            compile_s = time.perf_counter() - started
            memory = compiled.memory_analysis()
            row = {"shape": shape, "layer": layer, "run": kind, "solver": name}
            row["values"] = batch * steps * features
            row |= {
                "compile_s": round(compile_s, 2),
                "temp_mib": round(memory.temp_size_in_bytes / 2**20, 2),
            }
            rows.append(row)
            runs[name, kind] = functools.partial(compiled, params, inputs)

    for run in runs.values():
        jax.block_until_ready(run())  # warm-up
    milliseconds = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            milliseconds[name].append(elapsed(run) * 1e3)
    for row in rows:
        times = milliseconds[row["solver"], row["run"]]
        reference = milliseconds["Scan", row["run"]]
        row["median_ms"] = round(float(np.median(times)), 3)
        row["min_ms"] = round(min(times), 3)
        row["times_as_fast_as_scan"] = round(
            float(np.median(np.divide(reference, times))), 2
        )
    return rows


def elapsed(run: Callable[[], Any]) -> float:
    """Seconds of one run, to the end of its computation."""
    started = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - started


if __name__ == "__main__":
    tyro.cli(main)
