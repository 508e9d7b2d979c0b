"""How fast are an update, an epoch and a gradient, solver by solver?

Command    python experiments/speed.py            (--quick: 3 minutes)
Time       about 6 minutes on 2 cores
Expect     on 2 CPU cores: `Native` 1.5 to 5.5 times as fast as `flax.linen.RNN` in
           every gradient; the default in JAX 1.1 to 2.3 times; 50 epochs of the sine
           tutorial (2,850 updates) in under 0.1 s after compilation; times that grow as
           the sizes do, and no faster

Random data: the time does not depend on it. Every figure is the median (and quartiles)
of repeated runs that end in `block_until_ready`, the rivals interleaved in one
process, compile time apart. These machines are noisy: trust ratios, and no ratio under
1.1. What the device can do at best is measured too: a large matmul, and a copy.
`peers.py` compares with other libraries. Writes speed.jsonl, speed.png, scaling.png.
"""

import functools
import importlib.metadata
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxrnn
from jaxrnn import data, native, report
from jaxrnn.recurrence import default_scan

RESULTS = pathlib.Path(__file__).parent / "results"
LAYERS = {  # ours, Flax' cell, gates
    "simple_rnn": (jaxrnn.SimpleRNN, nn.SimpleCell, 1),
    "gru": (jaxrnn.GRU, nn.GRUCell, 3),
    "lstm": (jaxrnn.LSTM, nn.OptimizedLSTMCell, 4),
}
SHAPES = {  # (batch, time, in_features, features)
    "tiny": (2, 5, 3, 4),
    "imdb-001": (32, 500, 32, 32),
    "imdb-002": (128, 100, 32, 32),
    "imdb-004b": (128, 30, 16, 32),
    "wide": (64, 256, 256, 256),
    "very wide": (32, 100, 1024, 1024),
}
SOLVERS = {
    "Scan": jaxrnn.Scan(),
    "HoistedScan": jaxrnn.HoistedScan(),
    "HoistedScan, one chunk": jaxrnn.HoistedScan(chunk=None),
}
if native.compiler_found() and jax.default_backend() == "cpu":
    SOLVERS["Native"] = jaxrnn.Native()
if jax.default_backend() != "cpu":
    SOLVERS["Scan, project first"] = jaxrnn.Scan(project_first=True)
    SOLVERS["HoistedScan, project first"] = jaxrnn.HoistedScan(1, True, 64)
FLAX = "flax.linen.RNN"
SCALES = {  # one size at a time grows, from (batch, time, features) = (32, 100, 64)
    "time": (100, 300, 1_000, 3_000, 10_000),
    "batch": (1, 8, 32, 128, 512),
    "features": (16, 64, 128, 256, 512),
}


def main(
    *,
    repeats: int = 10,
    shapes: Sequence[str] = tuple(SHAPES)[1:],
    layers: Sequence[str] = tuple(LAYERS),
    scales: bool = True,
    updates: int = 20,
    quick: bool = False,
    out: pathlib.Path = RESULTS,
) -> list[dict]:
    """Times updates, gradients and how they grow; prints three tables.

    Args:
      repeats: of every timed run.
      shapes: of the gradients, names in `SHAPES`.
      layers: of the gradients, names in `LAYERS`.
      scales: measure how time grows with the sizes, too.
      updates: of the models of the reviews, per timed run.
      quick: 5 repeats of the tutorials' shapes and "wide", and nothing that grows.
      out: where results go.
    """
    if quick:
        repeats, shapes, scales = 5, tuple(SHAPES)[1:5], False
    about = machine() | ceilings()
    training = [
        row
        for name in ("sine", *(name for name in shapes if name.startswith("imdb")))
        for row in updates_of(name, updates, repeats)
    ]
    gradients = [
        row
        for shape in shapes
        for layer in layers
        if (shape, layer) not in (("very wide", "gru"), ("very wide", "lstm"))
        for row in gradient(layer, SHAPES[shape], repeats, shape=shape)
    ]
    for row in gradients:
        row["of_matmul_peak"] = round(row["gflops"] / about["matmul_gflops"], 3)
        row["of_bandwidth_peak"] = round(row["gb_per_s"] / about["bandwidth_gb_s"], 3)
    growth = growing(repeats) if scales else []
    records = [about | record for record in training + gradients + growth]
    report.write_records(out / "speed.jsonl", records)
    draw_gradients(gradients, out / "speed.png")
    if growth:
        draw_growth(growth, out / "scaling.png")
    for part in filter(None, (training, gradients, growth)):
        print(report.markdown_table(part), end="\n\n")
    return records


def machine() -> dict:
    """Where the numbers come from."""
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "cores": os.cpu_count(),
        "dtype": "float32",
        "jax": jax.__version__,
        "flax": importlib.metadata.version("flax"),
    }


def ceilings(size: int = 2048, repeats: int = 5) -> dict:
    """The best of some large matmuls, and of some copies of a large array."""
    square = jnp.ones((size, size))
    matmul = jax.jit(jnp.matmul).lower(square, square).compile()
    row = jnp.ones(16 * size * size)
    copy = jax.jit(lambda x: x + 1).lower(row).compile()
    seconds = {"matmul": [], "copy": []}
    for _ in range(repeats):
        seconds["matmul"].append(elapsed(lambda: matmul(square, square)))
        seconds["copy"].append(elapsed(lambda: copy(row)))
    return {
        "matmul_gflops": round(2 * size**3 / min(seconds["matmul"]) / 1e9, 1),
        "bandwidth_gb_s": round(2 * row.nbytes / min(seconds["copy"]) / 1e9, 1),
    }


# Whole updates, many in one program.


def updates_of(name: str, updates: int, repeats: int) -> list[dict]:
    """Times `fit` with every solver, and with three models at once."""
    runs, rows = {}, []
    variants = [(solver, 1, None) for solver in SOLVERS]
    variants += [("default", 3, over) for over in (jaxrnn.one_by_one, jax.vmap)]
    for solver, models, over in variants:
        model, train, loss_fn, batch_size, epochs = workload(
            name, SOLVERS.get(solver), updates
        )
        run, compiled = fit_of(model, train, loss_fn, batch_size, epochs, models, over)
        count = epochs * data.num_batches(len(train.inputs), batch_size)
        runs[len(rows)] = run
        rows.append(
            {
                "run": name,
                "solver": solver,
                "models": models,
                "over": over.__name__ if over else "",
                "updates": count,
                **compiled,
            }
        )
    for at, ms in interleaved(runs, repeats).items():
        per_update = np.divide(ms, rows[at]["updates"] * rows[at]["models"])
        rows[at] |= {"ms_per_update": round(float(np.median(per_update)), 4)}
        rows[at] |= {"min_ms_per_update": round(float(per_update.min()), 4)}
        batch = 16 if name == "sine" else SHAPES[name][0]
        rows[at] |= {"examples_per_s": round(1e3 * batch / np.median(per_update))}
    return rows


def workload(name: str, solver: Any, updates: int) -> tuple[Any, ...]:
    """A tutorial's model, random data, loss, batch size and number of epochs."""
    rng = np.random.default_rng(0)
    if name == "sine":
        series = data.sine_series(rng=rng)
        train, _ = data.sine_datasets(series, layout=data.window_as_features)
        layer = jaxrnn.SimpleRNN(32, activation=jax.nn.relu, solver=solver)
        model = jaxrnn.Forecaster(layer, hidden_features=8)

        def error(params, batch):
            predictions = model.apply({"params": params}, batch.inputs)
            return (predictions - batch.targets) ** 2

        batch_size, epochs = 16, 50
    else:
        batch_size, steps, embed_features, features = SHAPES[name]
        rows = updates * batch_size
        train = data.Dataset(
            rng.integers(10_000, size=(rows, steps), dtype=np.int32),
            rng.integers(2, size=rows).astype(np.float32),
        )
        layer = jaxrnn.SimpleRNN(features, solver=solver)
        model = jaxrnn.TextClassifier(10_000, embed_features, layer)

        def error(params, batch):
            p = jax.nn.sigmoid(model.apply({"params": params}, batch.inputs))
            return jaxrnn.binary_cross_entropy(p, batch.targets)

        epochs = 1

    def loss_fn(params, batch):
        loss = jaxrnn.Mean.of(error(params, batch), batch.sample_weight)
        return loss.value, {"loss": loss}

    return model, train, loss_fn, batch_size, epochs


def fit_of(
    model: nn.Module,
    train: data.Dataset,
    loss_fn: Callable,
    batch_size: int,
    epochs: int,
    models: int,
    over: Callable | None,
) -> tuple[Callable, dict]:
    """`fit`, warm, and how long and how often its epoch was compiled."""
    optimizer = jaxrnn.adam()

    def new_state(key):
        params = model.init(key, train.inputs[:1])["params"]
        return jaxrnn.init_state(params, optimizer)

    key = jax.random.key(0)
    order = jnp.arange(len(train.inputs))
    if over is not None:
        key = jax.random.split(key, models)
        order = jnp.broadcast_to(order, (models, *order.shape))
    state = jax.jit(jax.vmap(new_state) if over else new_state)(key)
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
    run()
    compilations = cached() - compiled_before
    return run, {"compile_s": round(compile_s, 2), "compilations": compilations}


# One layer: the last output and its gradient.


def gradient(
    layer: str,
    sizes: tuple[int, int, int, int],
    repeats: int,
    solvers: Mapping[str, Any] = SOLVERS,
    **names: Any,
) -> list[dict]:
    """Times the last output and its gradient, for every solver and for Flax' RNN."""
    batch, steps, in_features, features = sizes
    inputs = jax.random.normal(jax.random.key(0), (batch, steps, in_features))
    ours, flax_cell, gates = LAYERS[layer]
    rivals = {name: ours(features, solver=solver) for name, solver in solvers.items()}
    rivals[FLAX] = nn.RNN(flax_cell(features))
    runs, rows = {}, {}
    for name, module in rivals.items():
        params = jax.jit(module.init)(jax.random.key(1), inputs)["params"]

        def last_output(params, inputs, module=module):
            outputs = module.apply({"params": params}, inputs)
            return outputs[:, -1] if outputs.ndim == 3 else outputs

        def loss(params, inputs, last_output=last_output):
            return jnp.sum(last_output(params, inputs) ** 2)

        both = jax.value_and_grad(loss, argnums=(0, 1))
        for kind, function in (("forward", last_output), ("forward + backward", both)):
            started = time.perf_counter()
            compiled = jax.jit(function).lower(params, inputs).compile()
            compile_s = time.perf_counter() - started
            memory = compiled.memory_analysis()
            rows[name, kind] = names | {
                "layer": layer,
                "run": kind,
                "solver": name,
                "values": batch * steps * features,
                "compile_s": round(compile_s, 2),
                "temp_mib": round(memory.temp_size_in_bytes / 2**20, 2),
            }
            runs[name, kind] = functools.partial(compiled, params, inputs)

    timed = interleaved(runs, repeats)
    for (name, kind), row in rows.items():
        ms = timed[name, kind]
        backward = kind != "forward"
        # 2 a multiplication and addition; the two matmuls of a step, on the way back
        # each is two. At least inputs and outputs move, and their cotangents.
        flops = 2 * batch * steps * gates * features * (in_features + features)
        moved = 4 * batch * steps * (in_features + features)
        seconds = np.median(ms) / 1e3
        q1, median, q3 = np.percentile(ms, [25, 50, 75])
        row |= {"median_ms": round(median, 3), "q1_ms": round(q1, 3)}
        row |= {"q3_ms": round(q3, 3), "min_ms": round(min(ms), 3)}
        row["gflops"] = round((3 if backward else 1) * flops / seconds / 1e9, 1)
        row["gb_per_s"] = round((3 if backward else 1) * moved / seconds / 1e9, 2)
        row["steps_per_s"] = round(batch * steps / seconds)
        ratios = np.divide(timed[FLAX, kind], ms)  # round by round
        row["times_as_fast_as_flax"] = round(float(np.median(ratios)), 2)
    return list(rows.values())


def growing(repeats: int) -> list[dict]:
    """The gradient of a SimpleRNN while one size grows: its default and Native."""
    records = []
    for size, values in SCALES.items():
        for value in values:
            sizes = {"batch": 32, "time": 100, "features": 64} | {size: value}
            batch, steps, features = sizes["batch"], sizes["time"], sizes["features"]
            solver = default_scan(jaxrnn.simple_rnn, batch * steps * features)
            chosen = {"HoistedScan": solver}
            if "Native" in SOLVERS:
                chosen["Native"] = SOLVERS["Native"]
            rows = gradient(
                "simple_rnn",
                (batch, steps, features, features),
                max(repeats // 2, 3),
                chosen,
                grows=size,
                size=value,
            )
            records += [row for row in rows if row["run"] != "forward"]
    return records


# Clocks and pictures.


def interleaved(runs: Mapping[Any, Callable], repeats: int) -> dict[Any, list[float]]:
    """Milliseconds of every run, in turns after a warm-up."""
    milliseconds: dict[Any, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        jax.block_until_ready(run())
    for _ in range(repeats):
        for name, run in runs.items():
            milliseconds[name].append(elapsed(run) * 1e3)
    return milliseconds


def elapsed(run: Callable[[], Any]) -> float:
    """Seconds of one run, to the end of its computation."""
    started = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - started


COLORS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7")


def draw_gradients(rows: Sequence[dict], path: pathlib.Path) -> None:
    """Bars of forward + backward with quartiles: a panel a layer, a group a shape."""
    rows = [row for row in rows if row["run"] != "forward"]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    figure, panels = report.new_figure(len(layers), width=5.2, height=3.8)
    for panel, layer in zip(panels, layers, strict=True):
        of_layer = [row for row in rows if row["layer"] == layer]
        shapes = list(dict.fromkeys(row["shape"] for row in of_layer))
        for at, solver in enumerate(solvers):
            ours = [row for row in of_layer if row["solver"] == solver]
            middle = [row["median_ms"] for row in ours]
            panel.bar(
                [
                    shapes.index(row["shape"]) + (at + 0.5) / (len(solvers) + 1)
                    for row in ours
                ],
                middle,
                1 / (len(solvers) + 1),
                yerr=[
                    [row["median_ms"] - row["q1_ms"] for row in ours],
                    [row["q3_ms"] - row["median_ms"] for row in ours],
                ],
                color=COLORS[at % len(COLORS)],
                error_kw={"elinewidth": 0.8},
                label=solver,
            )
        panel.set(title=layer, yscale="log", ylabel="ms" if layer == layers[0] else "")
        panel.set_xticks([i + 0.45 for i in range(len(shapes))], shapes)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6
    )
    figure.suptitle("Gradient of one layer: median and quartiles")
    report.save_figure(figure, path)


def draw_growth(rows: Sequence[dict], path: pathlib.Path) -> None:
    """Milliseconds against one size at a time, on logarithmic axes."""
    figure, panels = report.new_figure(len(SCALES), width=4.4, height=3.6)
    for panel, size in zip(panels, SCALES, strict=True):
        of_size = [row for row in rows if row["grows"] == size]
        for at, solver in enumerate(dict.fromkeys(row["solver"] for row in of_size)):
            ours = [row for row in of_size if row["solver"] == solver]
            middle = [row["median_ms"] for row in ours]
            spread = [
                [row["median_ms"] - row["q1_ms"] for row in ours],
                [row["q3_ms"] - row["median_ms"] for row in ours],
            ]
            sizes = [row["size"] for row in ours]
            color = COLORS[(2, 3, 4)[at % 3]]
            panel.errorbar(sizes, middle, spread, marker="o", color=color, label=solver)
        panel.set(xscale="log", yscale="log", xlabel=size)
        panel.set_xticks(SCALES[size], SCALES[size])
        panel.set_xticks([], minor=True)
    panels[0].set_ylabel("ms, forward + backward")
    panels[0].legend()
    figure.suptitle(
        "One size grows from 32 rows, 100 steps, 64 features of a SimpleRNN"
    )
    report.save_figure(figure, path)


if __name__ == "__main__":
    tyro.cli(main)
