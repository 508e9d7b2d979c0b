"""One peer in its own process: it does what it is told on stdin, and answers on stdout.

    python worker.py with_linen linen flax optax

The arguments are the peer's module here, the layout of its weights, and the packages
it must be able to import. Questions and answers are lines of JSON:

    {"do": "prepare", "kind": "train", "workload": "sine", "weights": …, "block_s": …}
    {"do": "block"}      one timed block
    {"do": "drop"}       forgets the program

An answer with "error" holds a traceback; then the process ends.
"""

import contextlib
import gc
import importlib
import importlib.metadata
import json
import os
import pathlib
import sys
import time
import traceback

import workloads

CHECKED_UPDATES = 4  # the fourth loss is that after three updates
STATUS = pathlib.Path("/proc/self/status")
CLEAR_REFS = pathlib.Path("/proc/self/clear_refs")


def main(module: str, layout: str, *packages: str) -> None:
    """Answers until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer

    def answer(message: dict) -> None:
        print(json.dumps(message), file=answers, flush=True)

    try:
        for package in packages:
            importlib.import_module(package)
    except ImportError as error:
        answer({"not_installed": f"{type(error).__name__}: {error}"})
        return
    try:
        peer = importlib.import_module(module)
        reason = peer.missing() if hasattr(peer, "missing") else None
        if reason is not None:
            answer({"not_installed": reason})
            return
        kinds = [k for k in ("train", "predict", "gradient") if getattr(peer, k, None)]
        answer(
            {
                "kinds": kinds,
                "device": peer.device(),
                "versions": {p: version(p) for p in packages},
            }
        )
        program, updates = None, 0
        for line in sys.stdin:
            question = json.loads(line)
            if question["do"] == "prepare":
                program, updates, said = prepare(peer, layout, question)
            elif question["do"] == "block":
                said = {"seconds": seconds(program, updates)}
            else:
                program = None
                gc.collect()
                said = {"peak_mib": peak_mib()}
            answer(said)
    except Exception:
        answer({"error": traceback.format_exc()})


def prepare(peer, layout: str, question: dict) -> tuple[workloads.Program, int, dict]:
    """Builds, compiles, checks and warms up; chooses how many updates make a block."""
    reset_peak()
    weights = workloads.load(question["weights"], layout)
    work = workloads.make_work(question["workload"], weights)
    started = time.perf_counter()
    program = getattr(peer, question["kind"])(work)
    values = program.check(0)
    first_s = time.perf_counter() - started
    if question["kind"] == "train":
        values += [v for i in range(1, CHECKED_UPDATES) for v in program.check(i)]
    program.run(program.unit)  # warm-up: a whole epoch may be a program of its own
    updates = program.unit
    while (took := seconds(program, updates)) < question["block_s"] / 2:
        wanted = min(updates * question["block_s"] / took, 100 * updates)
        updates = max(2, round(wanted / program.unit)) * program.unit
    return program, updates, {"first_s": first_s, "values": values, "updates": updates}


def version(package: str) -> str:
    """As the module says, for that of tensorflow-cpu has another name; else as pip."""
    module = importlib.import_module(package)
    return getattr(module, "__version__", None) or importlib.metadata.version(package)


def seconds(program: workloads.Program, updates: int) -> float:
    """Of one block, to the end of its computation."""
    started = time.perf_counter()
    program.run(updates)
    return time.perf_counter() - started


def reset_peak() -> None:
    """Lets the peak begin anew, where Linux allows it."""
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text("5")


def peak_mib() -> float | None:
    """The largest resident memory of this process; None where there is no /proc.

    `resource.getrusage` would count the parent's pages too: those before `exec`.
    """
    if not STATUS.exists():
        return None
    (line,) = (x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)


def say_started() -> None:
    """The line that ends the measurement of a start-up."""
    print(json.dumps({"peak_mib": peak_mib()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
