"""How long does it take from `python` to the first finished update, and what takes it?

Command    python experiments/benchmarks/startup.py
Time       about 1 minute on 2 cores
Expect     2 s on 2 CPU cores, a third of it imports; 1.2 to 1.4 s where the compiled
           programs were kept from a run before (`program_cache.py`); 3 s where
           `model.init` is called without `jax.jit`, which compiles every operation in
           it by itself

The model and the batch of tutorial 002. Every run is a fresh process
(`startup_stages.py`), and the kinds of runs take turns. Writes startup.jsonl.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import machine
import tyro
from records import RESULTS, markdown_table, write_json_lines

STAGES = pathlib.Path(__file__).parent / "startup_stages.py"
RUNS = {  # {name: (how init runs, whether compiled programs are kept)}
    "cold": ("jit", False),
    "programs kept": ("jit", True),
    "cold, init without jit": ("eager", False),
    "programs kept, init without jit": ("eager", True),
}


def main(*, repeats: int = 5, out: pathlib.Path = RESULTS) -> list[dict]:
    """Starts up `repeats` times in every way; writes startup.jsonl, prints a table."""
    found = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(1 + repeats):
            for name, (init, kept) in RUNS.items():
                stages = in_fresh_python(init, folder if kept else None)
                if repeat:  # the first round writes Python's byte code and the programs
                    found[name].append(stages)
    about = machine.facts() | {"repeats": repeats}
    records = [
        {"experiment": "startup", "run": name, **about}
        | {stage: statistics.median(r[stage] for r in runs) for stage in runs[0]}
        | {"all_by_repeat": [run["all"] for run in runs]}
        for name, runs in found.items()
    ]
    write_json_lines(out / "startup.jsonl", records)
    print(markdown_table(table(records)))
    return records


def in_fresh_python(init: str, programs: str | None) -> dict[str, float]:
    """The milliseconds of every stage, in a process of its own.

    Args:
      init: "jit" or "eager".
      programs: the folder where compiled programs are kept; None keeps none.
    """
    kept = {
        "JAX_ENABLE_COMPILATION_CACHE": str(programs is not None).lower(),
        "JAX_COMPILATION_CACHE_DIR": programs or "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment = os.environ | kept
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # users import byte code
    done = subprocess.run(
        [sys.executable, str(STAGES), str(time.time()), init],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def table(records: list[dict]) -> list[dict]:
    """One row per stage, in ms, and one for the number of compiled programs."""
    stages = list(records[0])
    stages = stages[stages.index("python") : stages.index("all_by_repeat")]
    return [
        {"stage, ms": stage} | {r["run"]: f"{r[stage]:.0f}" for r in records}
        for stage in stages
    ]


if __name__ == "__main__":
    tyro.cli(main)
