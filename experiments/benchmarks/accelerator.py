"""How exact and how fast is jaxrnn on this accelerator, beside PyTorch, cuDNN and Flax?

Command    make accelerator
           (or PYTHONPATH=. python3 experiments/benchmarks/accelerator.py; --quick tries
           the program itself with tiny sizes, on a CPU too)
Time       8 minutes at most (--minutes); --parts chooses some
Expect     every solver within its tolerance of float64; `Fused` many times as fast as
           `Scan` at 32 and 64 features, where launches take most of the time

It needs JAX, Flax, Optax and jaxtyping; PyTorch, Matplotlib, pytest and NVIDIA's
compute-sanitizer where they are installed. Every part is a process of its own, one
after another, since timings must not overlap. What is left of the time is shared among
the parts that are left, by their weight; a part that fails or takes longer than its
share is ended with all of its processes, and stops no other. Each writes JSON lines to
a file of its own as it goes, and what it says to a log. `accelerator_report.py` makes a
table and a picture of them, also later.
"""

import argparse
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE.parent / "results" / "accelerators"
EVERYBODY = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the memory that is asked for
    "JAXRNN_NATIVE": "0",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",  # float32 as such, not TF32
    "PYTHONUNBUFFERED": "1",
}
GRACE_S = 3.0  # between the clock that a part reads and its end


class Program(NamedTuple):
    """One part: its file, its weight in seconds of 8 minutes, its variables."""

    file: pathlib.Path
    weight: float
    environment: Mapping[str, str] = {}


PARTS = {  # the most valuable first
    "machine": Program(HERE / "accelerator_machine.py", 20),
    "exact": Program(
        HERE / "accelerator_exact.py", 75, {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    ),
    "solvers": Program(HERE / "accelerator_solvers.py", 110),
    "torch": Program(HERE / "accelerator_torch.py", 35, {"JAX_PLATFORMS": "cpu"}),
    "training": Program(HERE / "accelerator_training.py", 50),
    "tests": Program(HERE / "accelerator_tests.py", 70),
    "threads": Program(HERE / "accelerator_solvers.py", 25),
    "race": Program(HERE / "accelerator_race.py", 30),
    "long": Program(HERE / "accelerator_solvers.py", 25),
    "graph": Program(
        HERE / "accelerator_solvers.py",
        20,
        {"XLA_FLAGS": "--xla_gpu_enable_command_buffer=+WHILE"},
    ),
    "tf32": Program(
        HERE / "accelerator_solvers.py", 20, {"JAX_DEFAULT_MATMUL_PRECISION": ""}
    ),
    "bf16": Program(HERE / "accelerator_solvers.py", 20),
    "exact-loops": Program(
        HERE / "accelerator_exact.py", 30, {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the parts, and prints the table last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    given = parser.parse_args(arguments)
    names = given.parts.split(",") if given.parts else list(PARTS)
    unknown = set(names) - set(PARTS)
    if unknown:
        parser.error(f"parts must be among {','.join(PARTS)}, got {sorted(unknown)}")
    default = ROOT / "runs" / "accelerator" if given.quick else RESULTS / card_name()
    out = given.out or default
    options = ["--seed", str(given.seed), *(["--quick"] if given.quick else [])]
    run_all({n: PARTS[n] for n in names}, out, 60 * given.minutes, options)
    subprocess.run(
        [sys.executable, HERE / "accelerator_report.py", out],
        env=environment({"JAX_PLATFORMS": "cpu"}),
        check=True,
    )


def card_name() -> str:
    """The first card as a name for a folder, such as nvidia-h100-80gb-hbm3; or cpu."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", said.splitlines()[0].lower()).strip("-")


def run_all(
    parts: Mapping[str, Program],
    out: pathlib.Path,
    seconds: float,
    options: Sequence[str] = (),
) -> None:
    """Runs the parts one after another, within so many seconds."""
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    for i, (name, program) in enumerate(parts.items()):
        left = list(parts.values())[i:]
        share = program.weight / sum(part.weight for part in left)
        run_part(name, program, out, share * (end - time.monotonic()), options)


def run_part(
    name: str,
    program: Program,
    out: pathlib.Path,
    limit_s: float,
    options: Sequence[str] = (),
) -> None:
    """Runs one part; how it ended is the last line of its file."""
    path = out / f"{name}.jsonl"
    path.unlink(missing_ok=True)
    started = time.monotonic()
    command = [sys.executable, str(program.file), name, str(path)]
    command += ["--seconds", f"{max(limit_s - GRACE_S, 0.8 * limit_s):.1f}", *options]
    with (out / f"{name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(program.environment),
            start_new_session=True,  # its own group of processes, to end all of it
        )
        try:
            code = process.wait(timeout=max(limit_s, 0.1))
            status = "ended" if code == 0 else f"failed, exit status {code}"
        except subprocess.TimeoutExpired:
            status = f"timed out after {limit_s:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # nobody is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = round(time.monotonic() - started, 1)
    with path.open("a+b") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        if file.read() not in (b"", b"\n"):  # the part was ended amid a line
            file.write(b"\n")
        file.write(status_line(name, status, seconds).encode())
    print(f"{name}: {status}, {seconds} s", flush=True)
    if status != "ended":
        said = (out / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        print("".join(f"  {line[:150]}\n" for line in said.splitlines()[-6:]), end="")


def status_line(name: str, status: str, seconds: float) -> str:
    """Without jaxrnn, so that nothing which is missing stops the parts."""
    return f'{{"part": "{name}", "status": "{status}", "seconds": {seconds}}}\n'


def environment(of_part: Mapping[str, str]) -> dict[str, str]:
    """The variables of a part: those of this process, and what is the same for all.

    One that is empty is left out.
    """
    root = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    found = {**os.environ, **EVERYBODY, "PYTHONPATH": root, **of_part}
    return {name: value for name, value in found.items() if value}


if __name__ == "__main__":
    main()
