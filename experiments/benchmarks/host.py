"""What does it cost when the batches come from the host, not from the device?

Command    python experiments/benchmarks/host.py
Time       about 2 minutes on 2 cores
Expect     an epoch of 20,000 reviews from the host takes as long as one of reviews that
           live on the device, at the sizes of 001 (625 updates of 32 reviews of 500
           words) and 002 (157 of 128, 100 words): a ratio of 0.95 to 1.1, which is
           noise; with one update per call of the compiled program 1.0 to 1.4

Random ids: the time does not depend on them. The epochs take turns; `ratio` is the
median of the ratios to the epoch on the device just before. All visit the reviews in
the same order, and `loss` shows that they do the same. Writes host.jsonl.
"""

import functools
import pathlib

import jax
import machine
import numpy as np
import tyro
from records import RESULTS, markdown_table, write_json_lines
from timing import median_ratio, timed

import jaxrnn
from jaxrnn import data, metrics

SIZES = {  # (batch, time, optimizer)
    "imdb-001": (32, 500, jaxrnn.keras_rmsprop),
    "imdb-002": (128, 100, jaxrnn.keras_adam),
}


def main(
    *, repeats: int = 5, reviews: int = 20_000, out: pathlib.Path = RESULTS
) -> list[dict]:
    """Times the epochs; writes host.jsonl and prints a table.

    Args:
      repeats: of every epoch, after one that compiles.
      reviews: of an epoch.
      out: where results go.
    """
    rows = [row for name in SIZES for row in epochs(name, repeats, reviews)]
    records = [machine.facts() | row for row in rows]
    write_json_lines(out / "host.jsonl", records)
    print(markdown_table(rows))
    return records


def epochs(name: str, repeats: int, reviews: int) -> list[dict]:
    """One epoch on the device and from the host, compiled before, side by side."""
    batch_size, words, make_optimizer = SIZES[name]
    rng = np.random.default_rng(0)
    train = data.Dataset(
        rng.integers(10_000, size=(reviews, words), dtype=np.int32),
        rng.integers(2, size=reviews).astype(np.float32),
    )
    model = jaxrnn.TextClassifier(10_000, 32, jaxrnn.SimpleRNN(32))
    optimizer = make_optimizer()

    def loss_fn(params, batch):
        p = jax.nn.sigmoid(model.apply({"params": params}, batch.inputs))
        loss = jaxrnn.Mean.of(
            jaxrnn.binary_cross_entropy(p, batch.targets), batch.sample_weight
        )
        return loss.value, {"loss": loss}

    options = {"loss_fn": loss_fn, "optimizer": optimizer}
    on_device = jax.device_put(train)

    def from_device(state):
        order = np.random.default_rng(1).permutation(reviews)
        return jaxrnn.train_epoch(
            state, on_device, order.astype(np.int32), batch_size=batch_size, **options
        )

    def from_host(state, updates_per_call):
        batches = data.batches(train, batch_size, rng=np.random.default_rng(1))
        return jaxrnn.train_batches(
            state, batches, updates_per_call=updates_per_call, **options
        )

    runs = {
        "on the device": from_device,
        "from the host": functools.partial(from_host, updates_per_call=16),
        "from the host, one by one": functools.partial(from_host, updates_per_call=1),
    }
    params = model.init(jax.random.key(0), train.inputs[:1])["params"]
    seconds, losses = {run: [] for run in runs}, {}
    for _ in range(1 + repeats):  # the first one compiles
        for run, epoch in runs.items():
            state = jaxrnn.init_state(jax.tree.map(jax.numpy.copy, params), optimizer)
            jax.block_until_ready(state)
            took, (_, means) = timed(functools.partial(epoch, state))
            seconds[run].append(took)
            losses[run] = metrics.values(means)["loss"]

    updates = data.num_batches(reviews, batch_size)
    reference = seconds["on the device"][1:]
    rows = []
    for run, (compiling, *measured) in seconds.items():
        median_s = float(np.median(measured))
        rows.append(
            {
                "size": name,
                "reviews": run,
                "updates": updates,
                "median_s": round(median_s, 3),
                "min_s": round(min(measured), 3),
                "ms_per_update": round(1e3 * median_s / updates, 3),
                "ratio": round(median_ratio(measured, reference), 3),
                "ratio_of_min": round(min(measured) / min(reference), 3),
                "loss": losses[run],
                "compile_s": round(compiling - median_s, 2),
            }
        )
    return rows


if __name__ == "__main__":
    tyro.cli(main)
