"""How fast are a training step, a forward pass and a gradient beside every peer's?

Command    python experiments/peers.py --quick     (after `make .venv/peers`)
Time       5 minutes on 2 cores for --quick, 10 for everything in 3 rounds
Expect     on 2 CPU cores a training step with the native loops 2.2 to 5 times as fast
           as with flax.linen and Keras on JAX, 4 to 13 times as PyTorch, 6 to 40 times
           as Keras on TensorFlow; by JAX alone 2.5 times as flax.linen for 001, 1.7 to
           2.2 for 002, 1.6 for 004b; whole epochs of the sine 5 to 6 times, those of 16
           models side by side 10 to 13 times. PyTorch and jaxrnn finish their first
           step about a tenth of a second apart, all others later

`jaxrnn` are its solvers in JAX, `jaxrnn, native` its compiled loops, where
`python -m jaxrnn.native` has compiled them; both run whole epochs on the device, as the
tutorials do, and "step by step" is a Python loop over batches, as Flax, Equinox and
PyTorch have it. Keras runs `fit`. "16 models" trains as many of the small sine models
side by side (`jax.vmap`), as one does for a spread over seeds; its updates are those of
one model.

Every peer runs in its own process, so that no thread pool disturbs another. In every
round each of them in turn is told to run one timed block of updates, in an order that
is rotated from round to round, while the others wait. All begin with the same weights
and see the same batches; one whose losses are not those of the others is an error.
Peers that are not installed are left out, and named. Writes peers.jsonl, and a picture
for every kind of run.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import tyro
from peer_programs.layouts import layouts
from peer_programs.workloads import WORKLOADS, initial_weights, save

from jaxrnn import report

RESULTS = pathlib.Path(__file__).parent / "results"
PROGRAMS = pathlib.Path(__file__).parent / "peer_programs"
KINDS = {
    "train": "Training, ms per update",
    "predict": "Predictions for one batch, ms",
    "gradient": "One layer, forward and backward, ms",
}

# Losses after three updates, predictions, and the norms of gradients. Predictions and
# gradients agree to 1e-5 in float32, losses to 5e-4: a first update by RMSprop or Adam
# is about as large for a gradient that has vanished over 500 steps as for any other,
# and so follows its rounding. Mistakes are larger: PyTorch with both of its biases,
# which then move twice as far, is off by 1.7e-3.
TOLERANCE = 1e-3

# What would give one process other threads or another compiler than the rest.
FOREIGN = ("OMP_", "MKL_", "XLA_", "TF_", "KERAS_", "JAX_", "JAXRNN_")
EVERYBODY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "1"}
CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@dataclasses.dataclass(frozen=True)
class Peer:
    """One row of the tables.

    Attributes:
      module: its programs, in peer_programs/.
      layout: of its weights, as peer_programs/layouts.py names it.
      packages: that it must be able to import.
      env: environment variables of its process.
      first_step: the script that measures the start-up; None for not at all.
      caches: measure the start-up also with JAX's persistent compilation cache.
      by_default: measure it without being asked to.
      workloads: that it is measured on.
    """

    module: str
    layout: str
    packages: tuple[str, ...]
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    first_step: str | None = "first_step.py"
    caches: bool = False
    by_default: bool = True
    workloads: tuple[str, ...] = tuple(WORKLOADS)


def variant(peer: Peer, env: Mapping[str, str] = {}, **changes: Any) -> Peer:
    """A peer with more variables, or other attributes."""
    return dataclasses.replace(peer, env={**peer.env, **env}, **changes)


EPOCHS = Peer(
    "with_jaxrnn",
    "jaxrnn",
    ("jaxrnn", "jax", "flax", "optax"),
    {"JAXRNN_NATIVE": "0"},
    first_step="first_step_jaxrnn.py",
    caches=True,
)
STEPS = variant(EPOCHS, module="with_jaxrnn_steps", first_step=None)
NATIVE = {"JAXRNN_NATIVE": "1"}
SIXTEEN = variant(STEPS, module="with_jaxrnn_models", workloads=("sine",))
KERAS = Peer("with_keras", "keras", ("keras",))
ON_JAX = variant(KERAS, {"KERAS_BACKEND": "jax"}, packages=("keras", "jax"))
ON_TF = variant(
    KERAS, {"KERAS_BACKEND": "tensorflow"}, packages=("keras", "tensorflow")
)
ON_TORCH = variant(KERAS, {"KERAS_BACKEND": "torch"}, packages=("keras", "torch"))
TORCH = Peer("with_torch", "torch", ("torch",))

OURS = "jaxrnn"
PEERS = {
    OURS: EPOCHS,
    "jaxrnn, 16 models": SIXTEEN,
    "jaxrnn, step by step": STEPS,
    "jaxrnn, native": variant(EPOCHS, NATIVE),
    "jaxrnn, native, step by step": variant(STEPS, NATIVE, by_default=False),
    "flax.linen": Peer("with_linen", "linen", ("flax", "jax", "optax"), caches=True),
    "flax.nnx": Peer("with_nnx", "nnx", ("flax", "jax", "optax")),
    "equinox": Peer("with_equinox", "equinox", ("equinox", "jax", "optax")),
    "keras-jax": ON_JAX,
    "keras-tensorflow": ON_TF,
    "keras-tensorflow, XLA": variant(ON_TF, {"KERAS_JIT_COMPILE": "1"}),
    "keras-torch": variant(ON_TORCH, by_default=False),
    "pytorch": TORCH,
    "pytorch, 1 thread": variant(TORCH, {"OMP_NUM_THREADS": "1"}),
}


def main(
    *,
    rounds: int = 5,
    quick: bool = False,
    kinds: Sequence[str] = tuple(KINDS),
    workloads: Sequence[str] = tuple(WORKLOADS),
    peers: Sequence[str] = tuple(n for n, peer in PEERS.items() if peer.by_default),
    start_ups: int = 5,
    block_s: float = 0.3,
    out: pathlib.Path = RESULTS,
) -> list[dict]:
    """Measures the peers; writes peers.jsonl and pictures, and prints the tables.

    Args:
      rounds: timed blocks of every peer and workload.
      quick: the training steps alone, in 3 shorter rounds, and every start-up once.
      kinds: train, predict, gradient.
      workloads: names in `peer_programs/workloads.py`.
      peers: names in `PEERS`.
      start_ups: fresh processes per peer, for the time to the first step; 0 for none.
      block_s: about how long a block lasts; where a whole epoch lasts longer, longer.
      out: where results go.
    """
    if quick:
        rounds, kinds, start_ups, block_s = 3, ("train",), 1, 0.2
    for given, known in ((kinds, KINDS), (workloads, WORKLOADS), (peers, PEERS)):
        if not set(given) <= set(known):
            raise ValueError(
                f"names must be among {list(known)}, got {list(given)}; a name that "
                "holds spaces needs quotes."
            )

    records: list[dict] = []
    with contextlib.ExitStack() as stack:
        workers, missing = {}, {}
        for name in peers:
            worker = stack.enter_context(started(name))
            reason = worker.about.get("not_installed")
            if reason is None:
                workers[name] = worker
            else:
                missing[name] = reason
                print(f"{name} is not installed: {reason}", file=sys.stderr)
        for kind in kinds:
            for workload in workloads:
                records += measured(workers, kind, workload, rounds, block_s)
        about = {name: worker.about for name, worker in workers.items()}
    records += start_up_times(list(workers), start_ups)
    records = [machine(about) | {"not_installed": missing}, *records]

    report.write_records(out / "peers.jsonl", records)
    for kind in kinds:
        draw(records, kind, out / f"peers-{kind}.png")
    print(tables(records))
    return records


# One peer in its own process.


@dataclasses.dataclass
class Worker:
    """A peer's process, and what it said of itself: kinds, device, versions.

    Attributes: name, process, errors (the file of its stderr), about.
    """

    name: str
    process: subprocess.Popen
    errors: IO[str]
    about: dict = dataclasses.field(default_factory=dict)

    def ask(self, **question: Any) -> dict:
        """Sends one question and waits for its answer."""
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict:
        """The next answer.

        Raises:
          RuntimeError: the program failed; with its traceback.
        """
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            answer = {"error": f"it ended without an answer.\n{self.errors.read()}"}
        else:
            answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"the program of {self.name} failed: {answer['error']}")
        return answer


@contextlib.contextmanager
def started(name: str) -> Iterator[Worker]:
    """A worker that has said what it can do; it ends with the block."""
    peer = PEERS[name]
    command = [PROGRAMS / "worker.py", peer.module, peer.layout, *peer.packages]
    with tempfile.TemporaryFile("w+") as errors, run(peer, command, errors) as process:
        try:
            worker = Worker(name, process, errors)
            worker.about = worker.answer()
            yield worker
        finally:
            process.kill()


def run(peer: Peer, command: Sequence[Any], errors: IO[str] | int) -> subprocess.Popen:
    """Starts a script of a peer, in this Python, with all cores."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN) or name == "JAX_PLATFORMS"
    }
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=kept | EVERYBODY | dict(peer.env),
    )


# Measurements.


def measured(
    workers: Mapping[str, Worker],
    kind: str,
    workload: str,
    rounds: int,
    block_s: float,
) -> list[dict]:
    """One workload on every peer that has a program for it, in turns."""
    sizes = WORKLOADS[workload]
    if (kind == "gradient") != sizes.is_layer:
        return []
    workers = {
        name: worker
        for name, worker in workers.items()
        if kind in worker.about["kinds"] and workload in PEERS[name].workloads
    }
    if not workers:
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "weights.npz"
        save(path, layouts(initial_weights(workload)))
        question = {"kind": kind, "workload": workload, "weights": str(path)}
        prepared = {
            name: worker.ask(do="prepare", block_s=block_s, **question)
            for name, worker in workers.items()
        }
    values = {name: answer["values"] for name, answer in prepared.items()}
    check_agreement(f"{kind} {workload}", values)

    ms: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(rounds):
        for name in rotated(workers, turn):
            seconds = workers[name].ask(do="block")["seconds"]
            ms[name].append(1e3 * seconds / prepared[name]["updates"])

    records = []
    for name, worker in workers.items():
        q1, median, q3 = np.percentile(ms[name], [25, 50, 75])
        record = {"kind": kind, "workload": workload, "peer": name}
        record |= {"median_ms": median, "q1_ms": q1, "q3_ms": q3}
        record |= {"min_ms": min(ms[name]), "rounds": rounds}
        if OURS in ms:  # round by round, so that a slow moment counts for both
            record["times_ours"] = np.median(np.divide(ms[name], ms[OURS]))
        record["examples_per_s"] = 1e3 * sizes.batch / median
        record["steps_per_s"] = record["examples_per_s"] * sizes.time
        record |= prepared[name]
        record = {
            key: float(f"{value:.4g}") if isinstance(value, float) else value
            for key, value in record.items()
        }
        by_round = [float(f"{value:.4g}") for value in ms[name]]
        records.append(record | {"ms": by_round} | worker.ask(do="drop"))
        print(f"{kind} {workload}, {name}: {median:.3g} ms", file=sys.stderr)
    return records


def check_agreement(
    run: str, values: Mapping[str, Sequence[float]], tolerance: float = TOLERANCE
) -> None:
    """Raises where a peer computes something else than the others.

    Raises:
      ValueError: a peer that is further than `tolerance` from the median of all,
        relative to each number, or to a hundredth of the largest if that is more.
    """
    table = np.array(list(values.values()))
    middle = np.median(table, axis=0)
    size = np.abs(middle)
    error = (np.abs(table - middle) / np.maximum(size, 0.01 * size.max())).max(axis=1)
    if not (error <= tolerance).all():
        lines = (
            f"  {name}: {np.array(row)}, off by {off:.1e}"
            for (name, row), off in zip(values.items(), error, strict=True)
        )
        raise ValueError(
            f"all peers must compute the same in {run!r}, to {tolerance:.0e} of the "
            "median, found\n" + "\n".join(lines) + "\nTheir times cannot be compared."
        )


def start_up_times(names: Sequence[str], rounds: int) -> list[dict]:
    """Seconds from launching `python` to the first finished training step of 002."""
    done: dict[tuple[str, str], list] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[tuple[str, str], Mapping[str, str]] = {}
        for name in names if rounds else ():
            if PEERS[name].first_step is None:
                continue
            runs[name, "cold"] = {}
            if PEERS[name].caches:
                cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/{name}"}
                runs[name, "cached"] = CACHE | cache
                first_step(name, runs[name, "cached"])  # fills it
        for turn in range(rounds):
            for name, compilation in rotated(runs, turn):
                result = first_step(name, runs[name, compilation])
                done.setdefault((name, compilation), []).append(result)
    records = []
    for name, compilation in runs:
        seconds, peaks = zip(*done[name, compilation], strict=True)
        q1, median, q3 = np.round(np.percentile(seconds, [25, 50, 75]), 3)
        record = {"kind": "start-up", "compilation": compilation, "peer": name}
        record |= {"median_s": median, "q1_s": q1, "q3_s": q3, "rounds": rounds}
        records.append(record | {"peak_mib": max(peaks)})
    return records


def rotated(names: Iterable[Any], turn: int) -> list[Any]:
    """Begins with another one in every round: none is always first, or after another.

    Every second round goes the other way round.
    """
    names = list(names)
    first = turn % max(len(names), 1)
    names = names[first:] + names[:first]
    return names[::-1] if turn % 2 else names


def first_step(name: str, env: Mapping[str, str]) -> tuple[float, float]:
    """Seconds to the first step in a fresh process, and its peak of memory in MiB."""
    peer = variant(PEERS[name], env)
    with tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        command = [PROGRAMS / str(peer.first_step), peer.module]
        with run(peer, command, errors) as process:
            answer = Worker(name, process, errors).answer()
            return time.perf_counter() - started, answer["peak_mib"]


def machine(about: Mapping[str, dict]) -> dict:
    """Where the numbers come from."""
    versions: dict[str, str] = {}
    for one in about.values():
        versions |= one["versions"]
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "dtype": "float32",
        "devices": {name: one["device"] for name, one in about.items()},
        "python": platform.python_version(),
        "versions": versions,
    }


# Tables and pictures, from the records.


def tables(records: Sequence[dict]) -> str:
    """One table for every kind of run, one for the start-up, and what they are of."""
    about, *records = records
    parts = []
    for kind, title in KINDS.items():
        runs = [r for r in records if r["kind"] == kind]
        if runs:
            parts.append(f"{title}:\n\n{report.markdown_table(rows(runs))}")
    start_ups = [r for r in records if r["kind"] == "start-up"]
    if start_ups:
        table = report.markdown_table(start_up_rows(start_ups, records))
        title = "From `python` to the first finished step of 002, in a fresh process"
        parts.append(f"{title}:\n\n{table}")
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    missing = ", ".join(about["not_installed"])
    parts.append(
        f"Medians, and in brackets how many times as long as {OURS} (median over "
        f"rounds), on {about['cores']} cores of one {about['cpu']}, {about['dtype']}, "
        "each peer in a process of its own, in turns. Updates are whole epochs of "
        f"{OURS} (its solvers in JAX; native: its compiled loops) and of Keras' `fit`, "
        "single steps of the others; with 16 models side by side, per model. "
        f"Python {about['python']}, "
        f"{versions}." + (f" Not installed: {missing}." if missing else "")
    )
    return "\n\n".join(parts)


def rows(runs: Sequence[dict]) -> list[dict]:
    """A row for every peer, a column for every workload."""
    found = {(r["peer"], r["workload"]): r for r in runs}
    columns = list(dict.fromkeys(r["workload"] for r in runs))
    table = []
    for peer in in_order(runs):
        row = {"": peer}
        for column in columns:
            record = found.get((peer, column))
            row[column] = timing(record) if record else ""
        table.append(row)
    return table


def in_order(runs: Sequence[dict]) -> list[str]:
    """The peers of some runs, in the order of `PEERS`."""
    return [name for name in PEERS if any(r["peer"] == name for r in runs)]


def timing(record: dict) -> str:
    """A median, and its ratio where there is one: "11.1 (2.1)"."""
    text = digits(record["median_ms"], 3)
    if record["peer"] != OURS and "times_ours" in record:
        text += f" ({digits(record['times_ours'], 2)})"
    return text


def digits(value: float, count: int) -> str:
    """So many significant digits, and all those before the point."""
    return f"{value:.0f}" if value >= 10 ** (count - 1) else f"{value:#.{count}g}"


def start_up_rows(start_ups: Sequence[dict], records: Sequence[dict]) -> list[dict]:
    """A row for every peer: cold, with the compilation cache, and its memory."""
    found = {(r["peer"], r["compilation"]): r for r in start_ups}
    compiled = {
        r["peer"]: r["first_s"]
        for r in records
        if (r["kind"], r.get("workload")) == ("train", "imdb-002")
    }

    def cell(record: dict | None, key: str, spec: str) -> str:
        value = None if record is None else record[key]
        return "" if value is None else f"{value:{spec}}"

    return [
        {
            "": peer,
            "cold, s": cell(cold, "median_s", ".2f"),
            "compilation cached, s": cell(
                found.get((peer, "cached")), "median_s", ".2f"
            ),
            "model, compilation and step alone, s": cell(
                {"s": compiled.get(peer)}, "s", ".2f"
            ),
            "peak memory, MiB": cell(cold, "peak_mib", ".0f"),
        }
        for (peer, compilation), cold in found.items()
        if compilation == "cold"
    ]


def draw(records: Sequence[dict], kind: str, path: pathlib.Path) -> None:
    """Bars of milliseconds with quartiles, a panel for every workload."""
    runs = [r for r in records if r.get("kind") == kind]
    names = list(dict.fromkeys(r["workload"] for r in runs))
    if not names:
        return
    peers = in_order(runs)[::-1]  # the first on top
    height = 1.2 + 0.3 * len(peers)
    figure, panels = report.new_figure(len(names), width=3.6, height=height)
    for panel, name in zip(panels, names, strict=True):
        for record in (r for r in runs if r["workload"] == name):
            y = peers.index(record["peer"])
            ours = record["peer"].startswith("jaxrnn")
            median = record["median_ms"]
            spread = [[median - record["q1_ms"]], [record["q3_ms"] - median]]
            color = "#0072B2" if ours else "#E69F00"  # apart for the colour-blind too
            panel.barh(y, median, xerr=spread, color=color, height=0.7, capsize=2)
            panel.annotate(
                timing(record),
                (record["q3_ms"], y),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
        slowest = max(r["q3_ms"] for r in runs if r["workload"] == name)
        least = min(r["q1_ms"] for r in runs if r["workload"] == name) / 2
        panel.set_ylim(-0.6, len(peers) - 0.4)  # a peer may be missing from one panel
        panel.set_xscale("log")
        panel.set_xlim(least, slowest * (slowest / least) ** 0.5)  # room for numbers
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
        panel.set(title=name, xlabel="ms", yticks=range(len(peers)))
        panel.set_yticklabels(peers if panel is panels[0] else [])
    figure.suptitle(f"{KINDS[kind]} (times {OURS})")
    report.save_figure(figure, path)


if __name__ == "__main__":
    tyro.cli(main)
