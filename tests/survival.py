"""Training that is killed at any moment, and goes on: the program, and what kills it.

    python tests/survival.py 18 --record experiments/results/survival.jsonl

runs every kind of training once to its end, then kills others by SIGKILL or SIGTERM at
random moments and calls them again until they end; the state and the history must be
the same to the bit. `test_survival.py` does it for a few moments.
"""

import argparse
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

KINDS = ("memory", "host", "stream")


def train(kind, folder):
    """A small model with dropout, early stopping and plateaus; its digest."""
    import jax
    import numpy as np

    import jaxrnn

    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((96, 6, 3)).astype(np.float32)
    dataset = jaxrnn.data.Dataset(inputs, inputs.sum(axis=(1, 2)))
    layer = jaxrnn.GRU(8, dropout=0.3, return_carry=kind == "stream")
    optimizer = jaxrnn.adjustable(jaxrnn.keras_adam, 0.01)
    checkpoints = jaxrnn.Checkpoints(folder, updates=4, seconds=0)

    def loss_fn(params, batch, key=None):
        hidden = layer.apply(
            {"params": params},
            batch.inputs,
            deterministic=key is None,
            rngs={} if key is None else {"dropout": key},
        )
        error = (hidden.sum(axis=-1) - batch.targets) ** 2
        loss = jaxrnn.Mean.of(error, batch.sample_weight)
        return loss.value, {"loss": loss}

    params = layer.init(jax.random.key(0), inputs)["params"]
    state = jaxrnn.init_state(params, optimizer)
    if kind == "stream":
        return digest(*train_stream(jaxrnn, layer, optimizer, state, checkpoints))

    class Rows:
        """What Grain reads from, slowly."""

        def __len__(self):
            return len(inputs)

        def __getitem__(self, row):
            time.sleep(0.0005)
            targets = dataset.targets[row]
            return jaxrnn.data.Batch(inputs[row], targets, None, np.float32(1))

    def from_host(epoch):
        import grain

        rows = grain.MapDataset.source(Rows()).shuffle(seed=epoch).batch(8)
        return iter(rows.to_iter_dataset(grain.ReadOptions(num_threads=2)))

    return digest(
        *jaxrnn.fit(
            state,
            dataset if kind == "memory" else from_host,
            loss_fn=loss_fn,
            optimizer=optimizer,
            key=jax.random.key(1),
            noise_key=jax.random.key(2),
            epochs=12,
            batch_size=8,
            validation=jaxrnn.data.Dataset(-inputs, -inputs.sum(axis=(1, 2))),
            learning_rate=jaxrnn.ReduceOnPlateau(patience=2, factor=0.5),
            early_stopping=jaxrnn.EarlyStopping(patience=8),
            checkpoints=checkpoints,
            on_epoch=lambda epoch, record, state: time.sleep(0.05),
        )
    )


def train_stream(jaxrnn, layer, optimizer, state, checkpoints):
    """A loop of one's own over segments of a stream, kept after each of them."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    series = np.sin(np.arange(2001, dtype=np.float32))[:, None]
    stream = jaxrnn.data.streams(np.repeat(series, 3, axis=1), batch_size=4)

    def loss_fn(params, carry, batch, key):
        carry, hidden = layer.clone(return_sequences=True).apply(
            {"params": params},
            batch.inputs,
            initial_carry=carry,
            deterministic=False,
            rngs={"dropout": key},
        )
        error = (hidden.sum(axis=-1) - batch.targets[..., 0]) ** 2
        loss = jaxrnn.Mean.of(error, batch.sample_weight)
        return loss.value, (carry, {"loss": loss})

    carry, losses = jnp.zeros((4, 8)), []
    with checkpoints.opened() as kept:
        found = kept.newest(lambda facts: {"state": state, "carry": carry})
        if found is not None:
            arrays, facts = found
            state, carry, losses = arrays["state"], arrays["carry"], facts["losses"]
        for segment in range(len(losses), 12):
            steps = slice(40 * segment, 40 * (segment + 1))
            state, carry, means = jaxrnn.train_stream(
                state,
                carry,
                jax.tree.map(lambda x, steps=steps: x[:, steps], stream),
                loss_fn=loss_fn,
                optimizer=optimizer,
                chunk=10,
                noise_key=jax.random.key(2),
            )
            losses = [*losses, means["loss"].value.item()]
            kept.save({"state": state, "carry": carry}, {"losses": losses})
            time.sleep(0.05)
    return state, {"loss": np.asarray(losses), "carry": np.asarray(carry)}


def digest(state, history):
    """Of every bit of the state and the history."""
    import jax
    import numpy as np

    found = hashlib.sha256()
    for leaf in jax.tree.leaves((state, dict(sorted(history.items())))):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def start(kind, folder):
    return subprocess.Popen(
        [sys.executable, __file__, "0", "--train", kind, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAXRNN_NATIVE": "0"},
    )


def finished(process):
    """The digest that it prints; None where it was killed before."""
    out, err = process.communicate(timeout=300)
    killed = (-signal.SIGKILL, -signal.SIGTERM)  # the latter before `fit` began
    if process.returncode not in (0, *killed) and "Interrupted" not in err:
        raise RuntimeError(err)
    lines = out.split()
    return lines[-1] if process.returncode == 0 and lines else None


def seconds_of_training(folder):
    """Waits until the first checkpoint begins: what comes before is compilation."""
    until = time.monotonic() + 120
    while not any(pathlib.Path(folder).glob("*")) and time.monotonic() < until:
        time.sleep(0.01)


def survive(kind, seed):
    """Kills a run at random moments until it ends; what happened, and its digest."""
    rng = random.Random(seed)
    kills = []
    with tempfile.TemporaryDirectory() as folder:
        while len(kills) < 3:
            process = start(kind, folder)
            if not kills:
                seconds_of_training(folder)
            how = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            try:
                process.wait(timeout=rng.uniform(0, 0.5 if not kills else 4.0))
            except subprocess.TimeoutExpired:
                process.send_signal(how)
                kills.append(how.name)
            found = finished(process)
            if found is not None:
                return {"kind": kind, "seed": seed, "kills": kills, "sha256": found}
        found = finished(start(kind, folder))
        return {"kind": kind, "seed": seed, "kills": kills, "sha256": found}


def undisturbed(kind):
    with tempfile.TemporaryDirectory() as folder:
        return finished(start(kind, folder))


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("moments", type=int)
    arguments.add_argument("--train", nargs=2)
    arguments.add_argument("--record")
    given = arguments.parse_args()
    if given.train:
        print(train(*given.train))
        return
    from jaxrnn.files import write_json_lines

    wanted = {kind: undisturbed(kind) for kind in KINDS}
    records = [survive(KINDS[seed % 3], seed) for seed in range(given.moments)]
    for record in records:
        record["same"] = record["sha256"] == wanted[record["kind"]]
        print(record, flush=True)
    print(
        sum(r["same"] for r in records), "of", len(records), "ended with the same bits"
    )
    if given.record:
        write_json_lines(given.record, records)
    sys.exit(not all(record["same"] for record in records))


if __name__ == "__main__":
    main()
