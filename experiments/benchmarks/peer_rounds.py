"""How are the peers measured? Block by block, each in turn, once all agree."""

import pathlib
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from peer_list import OURS, Peer, variant
from peer_process import PROGRAMS, Worker, running
from peer_programs.layouts import layouts
from peer_programs.workloads import WORKLOADS, initial_weights, save
from timing import median_ratio, significant, summary

# Losses after three updates, predictions, and the norms of gradients. Predictions and
# gradients agree to 1e-5 in float32, losses to 5e-4: a first update by RMSprop or Adam
# is about as large for a gradient that has vanished over 500 steps as for any other,
# and so follows its rounding. Mistakes are larger: PyTorch with both of its biases,
# which then move twice as far, is off by 1.7e-3.
TOLERANCE = 1e-3

CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


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
        if kind in worker.about["kinds"] and workload in worker.peer.workloads
    }
    if not workers:
        return []
    prepared = prepare(workers, kind, workload, block_s)
    values = {name: answer["values"] for name, answer in prepared.items()}
    check_agreement(f"{kind} {workload}", values)

    ms: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(rounds):
        for name in rotated(workers, turn):
            seconds = workers[name].ask(do="block")["seconds"]
            ms[name].append(1e3 * seconds / prepared[name]["updates"])

    records = []
    for name, worker in workers.items():
        examples_per_s = 1e3 * sizes.batch / np.median(ms[name])
        record = {"kind": kind, "workload": workload, "peer": name}
        record |= summary(ms[name]) | {"rounds": rounds}
        if OURS in ms:
            record["times_ours"] = significant(median_ratio(ms[name], ms[OURS]))
        record["examples_per_s"] = significant(examples_per_s)
        record["steps_per_s"] = significant(examples_per_s * sizes.time)
        record |= prepared[name]
        record["first_s"] = significant(record["first_s"])
        record["ms"] = [significant(value) for value in ms[name]]
        records.append(record | worker.ask(do="drop"))
        text = f"{kind} {workload}, {name}: {record['median_ms']:.3g} ms"
        print(text, file=sys.stderr)
    return records


def prepare(
    workers: Mapping[str, Worker], kind: str, workload: str, block_s: float
) -> dict[str, dict]:
    """Every peer builds its program of the same weights; returns their answers."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "weights.npz"
        save(path, layouts(initial_weights(workload)))
        question = {"kind": kind, "workload": workload, "weights": str(path)}
        return {
            name: worker.ask(do="prepare", block_s=block_s, **question)
            for name, worker in workers.items()
        }


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


def start_up_times(peers: Mapping[str, Peer], rounds: int) -> list[dict]:
    """Seconds from launching `python` to the first finished training step of 002."""
    if not rounds:
        return []
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[tuple[str, str], Peer] = {}
        for name, peer in peers.items():
            if peer.first_step is None:
                continue
            runs[name, "cold"] = peer
            if peer.caches:
                cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/{name}"}
                runs[name, "cached"] = variant(peer, CACHE | cache)
                first_step(name, runs[name, "cached"])  # fills it
        found: dict[tuple[str, str], list] = {run: [] for run in runs}
        for turn in range(rounds):
            for name, compilation in rotated(runs, turn):
                result = first_step(name, runs[name, compilation])
                found[name, compilation].append(result)
    records = []
    for (name, compilation), results in found.items():
        seconds, peaks = zip(*results, strict=True)
        q1, median, q3 = np.round(np.percentile(seconds, [25, 50, 75]), 3)
        record = {"kind": "start-up", "compilation": compilation, "peer": name}
        record |= {"median_s": median, "q1_s": q1, "q3_s": q3, "rounds": rounds}
        records.append(record | {"peak_mib": max(peaks)})
    return records


def first_step(name: str, peer: Peer) -> tuple[float, float]:
    """Seconds to the first step in a fresh process, and its peak of memory in MiB."""
    script = PROGRAMS / str(peer.first_step)
    started = time.perf_counter()
    with running(name, peer, script, peer.module) as worker:
        answer = worker.answer()
        return time.perf_counter() - started, answer["peak_mib"]


def rotated(names: Iterable[Any], turn: int) -> list[Any]:
    """Begins with another one in every round: none is always first, or after another.

    Every second round goes the other way round.
    """
    names = list(names)
    first = turn % max(len(names), 1)
    names = names[first:] + names[:first]
    return names[::-1] if turn % 2 else names
