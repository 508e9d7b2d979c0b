"""How long does a training step take, of whole epochs on the device?

A part of `accelerator.py`, under the name training. The reviews' models (Embed,
SimpleRNN(32), Dense(1)) on random ids, alone and 16 of them side by side by `vmap`, and
64 of the noisy sine's. An epoch is one program, `jaxrnn.train_epoch`, as `fit` runs it;
`torch` times PyTorch's own loop over the same batches.
"""

import os
from collections.abc import Callable
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from accelerator_part import Part, part_of_command_line, reason
from accelerator_solvers import of_solvers
from speed_updates import reviews, sine
from timing import bursts, significant, summary, timed

import jaxrnn
from jaxrnn import data

SOLVERS = of_solvers("Fused", "Scan", "HoistedScan, one chunk")


class Run(NamedTuple):
    """A model, how many of it, and updates in an epoch (the sine has its own)."""

    model: str
    models: int
    updates: int

    def __str__(self) -> str:
        return f"{self.models} x {self.model}"


RUNS = [
    Run("imdb-001", 1, 20),  # batch 32, 500 steps
    Run("imdb-002", 1, 20),  # batch 128, 100 steps
    Run("imdb-002", 16, 10),
    Run("sine", 64, 57),
    Run("imdb-001", 16, 5),
]
QUICK = [Run("sine", 2, 57)]


def epoch_of(run: Run, solver: Any) -> tuple[Callable, dict]:
    """An epoch, compiled, that goes on from where the last one ended; and facts."""
    named = run.model == "sine"
    training = sine(solver) if named else reviews(run.model, solver, run.updates)
    optimizer = jaxrnn.keras_adam()
    dataset = jax.device_put(training.dataset)
    over = jax.vmap if run.models > 1 else None

    def new_state(key: jax.Array) -> jaxrnn.TrainState:
        params = training.model.init(key, training.dataset.inputs[:1])["params"]
        return jaxrnn.init_state(params, optimizer)

    key, order = jax.random.key(0), jnp.arange(len(training.dataset.inputs))
    if over:
        key = jax.random.split(key, run.models)
        order = jnp.tile(order, (run.models, 1))
    state = jax.jit(jax.vmap(new_state) if over else new_state)(key)
    lowered = jaxrnn.train_epoch.lower(
        state,
        dataset,
        order,
        loss_fn=training.loss_fn,
        optimizer=optimizer,
        batch_size=training.batch_size,
        over=over,
    )
    seconds, program = timed(lowered.compile)

    def epoch() -> Any:
        nonlocal state
        state, means = program(state, dataset, order)
        return means

    updates = data.num_batches(len(training.dataset.inputs), training.batch_size)
    loss = float(np.mean(jaxrnn.metrics.values(epoch())["loss"]))
    facts = {"batch_size": training.batch_size, "updates": updates, "loss": loss}
    return epoch, facts | {"compile_s": round(seconds, 2)}


def measure(part: Part, run: Run, repeats: int) -> None:
    pool = futures.ThreadPoolExecutor(min(len(SOLVERS), os.cpu_count() or 1))
    tasks = {n: pool.submit(epoch_of, run, solver) for n, solver in SOLVERS.items()}
    about = {"model": run.model, "models": run.models}
    epochs = {}
    for name, task in tasks.items():
        try:
            epochs[name] = task.result()
        except Exception as error:
            # One that cannot do it, or fails, is a result and stops no other.
            part.write(**about, competitor=name, **reason(error))
    pool.shutdown()
    measured = bursts({name: epoch for name, (epoch, _) in epochs.items()}, repeats)
    for name, ms in measured.items():
        _, facts = epochs[name]
        per_update = 1e3 * float(np.median(ms)) / facts["updates"] / run.models
        part.write(
            **about,
            competitor=name,
            us_per_update_of_one=significant(per_update),
            **summary(ms),
            **facts,
        )


def main() -> None:
    part = part_of_command_line(__doc__)
    for run in part.while_time(QUICK if part.quick else RUNS, needs_s=8):
        print(run, flush=True)
        measure(part, run, repeats=2 if part.quick else 5)


if __name__ == "__main__":
    main()
