"""What do checkpoints cost?

    python experiments/benchmarks/checkpoints.py

trains the model of tutorial 002 (reviews of 100 words, batches of 128; random ids
serve) for some epochs, in turns without checkpoints, with one after every epoch and
with the default, and writes the times of an epoch to `results/checkpoints.jsonl`. Orbax
writes in the background: what is measured is what training waits for, and what the
writing takes from it.
"""

import argparse
import statistics
import tempfile
import time

import jax
import numpy as np
from machine import facts
from records import RESULTS, write_json_lines
from timing import median_ratio, significant

import jaxrnn


def epochs_of(checkpoints, dataset, state, loss_fn, optimizer, epochs):
    """Seconds of every epoch but the first, which compiles."""
    ended = []
    jaxrnn.fit(
        state,
        dataset,
        loss_fn=loss_fn,
        optimizer=optimizer,
        key=jax.random.key(1),
        epochs=epochs,
        batch_size=128,
        checkpoints=checkpoints,
        on_epoch=lambda epoch, record, state: ended.append(time.perf_counter()),
    )
    return np.diff(ended).tolist()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--epochs", type=int, default=6)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--quick", action="store_true", help="tries the program")
    given = arguments.parse_args()
    examples, epochs, rounds = 20_000, given.epochs, given.rounds
    if given.quick:
        examples, epochs, rounds = 512, 3, 1

    rng = np.random.default_rng(0)
    ids = rng.integers(0, 10_000, (examples, 100)).astype(np.int32)
    dataset = jaxrnn.data.Dataset(ids, (ids[:, 0] % 2).astype(np.float32))
    model = jaxrnn.TextClassifier(10_000, 32, jaxrnn.SimpleRNN(32))
    optimizer = jaxrnn.keras_rmsprop()

    def loss_fn(params, batch):
        p = jax.nn.sigmoid(model.apply({"params": params}, batch.inputs))
        return jaxrnn.binary_classification_loss(p, batch.targets, batch.sample_weight)

    def init(key):
        return model.init(key, ids[:1])["params"]

    state = jaxrnn.create_train_state(init, optimizer, jax.random.key(0))
    rules = {"none": None, "every epoch": 0, "the default, every 10 s": 10}
    found = {name: [] for name in rules}
    for _ in range(rounds):
        for name, seconds in rules.items():
            with tempfile.TemporaryDirectory() as folder:
                kept = seconds is not None
                rule = jaxrnn.Checkpoints(folder, seconds=seconds) if kept else None
                found[name] += epochs_of(
                    rule, dataset, state, loss_fn, optimizer, epochs
                )
    shared = facts() | {
        "model": "tutorial 002",
        "examples": examples,
        "state_mb": significant(sum(x.nbytes for x in jax.tree.leaves(state)) / 1e6, 3),
    }
    records = [
        shared
        | {
            "checkpoints": name,
            "epochs": len(seconds),
            "epoch_s": significant(statistics.median(seconds)),
            "ratio": significant(median_ratio(seconds, found["none"]), 3),
        }
        for name, seconds in found.items()
    ]
    for record in records:
        print(record["checkpoints"], record["epoch_s"], "s,", record["ratio"])
    if not given.quick:
        write_json_lines(RESULTS / "checkpoints.jsonl", records)


if __name__ == "__main__":
    main()
