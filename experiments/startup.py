"""How long does it take from `python` to the first finished update, and what takes it?

Command    python experiments/startup.py
Time       about 1 minute on 2 cores
Expect     2 s on 2 CPU cores, a third of it imports; 1.2 to 1.4 s where the compiled
           programs were kept from a run before (`program_cache.py`); 3 s where
           `model.init` is called without `jax.jit`, which compiles every operation in
           it by itself

The model and the batch of tutorial 002, in a fresh process for every run, the kinds of
runs in turn, with a look at the clock after every stage. Writes startup.jsonl.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

RESULTS = pathlib.Path(__file__).parent / "results"
RUNS = {  # {name: (whether init is one program, whether programs are kept)}
    "cold": (True, False),
    "programs kept": (True, True),
    "cold, init without jit": (False, False),
    "programs kept, init without jit": (False, True),
}


def first_update(launched: float, one_program: bool) -> dict[str, float]:
    """Imports, builds, updates once; returns the milliseconds of every stage.

    Args:
      launched: `time.time()` when this process was asked for.
      one_program: whether parameters and state come from one compiled program.
    """
    stages, last = {}, launched

    def done(stage):
        nonlocal last
        now = time.time()
        stages[stage], last = 1000 * (now - last), now

    done("python")
    import jax
    import numpy as np

    done("import jax")
    import flax.linen  # noqa: F401

    done("import flax")
    import optax  # noqa: F401

    done("import optax")
    import jaxrnn

    done("import jaxrnn")
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **about: compiled.append(event)
    )
    jax.devices()
    done("find the device")

    rng = np.random.default_rng(0)
    ids = rng.integers(10_000, size=(128, 100), dtype=np.int32)
    labels = rng.integers(2, size=128).astype(np.float32)
    ones = np.ones(128, np.float32)
    batch = jaxrnn.data.Batch(ids, labels, None, ones, ones)
    model = jaxrnn.TextClassifier(10_000, 32, jaxrnn.SimpleRNN(32))
    optimizer = jaxrnn.adam()

    def loss_fn(params, batch):
        p = jax.nn.sigmoid(model.apply({"params": params}, batch.inputs))
        losses = jaxrnn.binary_cross_entropy(p, batch.targets)
        loss = jaxrnn.Mean.of(losses, batch.sample_weight)
        return loss.value, {"loss": loss}

    def start(seed):
        key = jax.random.key(seed)
        params = model.init(key, ids[:1])["params"]
        return jaxrnn.init_state(params, optimizer)

    done("data, model")
    state = jax.block_until_ready((jax.jit(start) if one_program else start)(0))
    done("init")
    traced = jaxrnn.train_step.trace(state, batch, loss_fn=loss_fn, optimizer=optimizer)
    done("update: trace")
    lowered = traced.lower()
    done("update: lower")
    update = lowered.compile()
    done("update: compile")
    _, means = jax.block_until_ready(update(state, batch))
    done("update: run")
    assert np.isfinite(means["loss"].total)
    stages["all"] = 1000 * (last - launched)
    name = "/jax/core/compile/backend_compile_duration"
    return stages | {"programs": compiled.count(name)}


def in_fresh_python(one_program: bool, programs: str | None) -> dict[str, float]:
    """`first_update` in a process of its own; `programs` is the folder to keep them."""
    kept = {
        "JAX_ENABLE_COMPILATION_CACHE": str(programs is not None).lower(),
        "JAX_COMPILATION_CACHE_DIR": programs or "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment = {**os.environ, **kept}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # users import byte code
    arguments = [str(time.time()), *(["one"] if one_program else [])]
    done = subprocess.run(
        [sys.executable, __file__, "first_update", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main(*, repeats: int = 5, out: pathlib.Path = RESULTS) -> list[dict]:
    """Starts up `repeats` times in every way; writes startup.jsonl, prints a table."""
    import jax

    from jaxrnn import report

    found = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(1 + repeats):
            for name, (one_program, kept) in RUNS.items():
                stages = in_fresh_python(one_program, folder if kept else None)
                if repeat:  # the first round compiles Python's and XLA's programs
                    found[name].append(stages)
    machine = {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "repeats": repeats,
    }
    records = [
        {"experiment": "startup", "run": name, **machine}
        | {stage: statistics.median(r[stage] for r in runs) for stage in runs[0]}
        | {"all_by_repeat": [run["all"] for run in runs]}
        for name, runs in found.items()
    ]
    report.write_records(out / "startup.jsonl", records)
    print(report.markdown_table(table(records)))
    return records


def table(records: list[dict]) -> list[dict]:
    """One row per stage, in ms, and one for the number of compiled programs."""
    stages = list(records[0])
    stages = stages[stages.index("python") : stages.index("all_by_repeat")]
    return [
        {"stage, ms": stage} | {r["run"]: f"{r[stage]:.0f}" for r in records}
        for stage in stages
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["first_update"]:
        launched, *one = sys.argv[2:]
        print(json.dumps(first_update(float(launched), bool(one))))
    else:
        import tyro

        tyro.cli(main)
