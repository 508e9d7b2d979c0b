"""Do the threads of `Fused` race, or touch memory that is not theirs?

A part of `accelerator.py`, under the name race: NVIDIA's compute-sanitizer, where it is
installed, watches this file run all cells at small sizes. Without arguments the file
is that program.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
from accelerator_exact import CELLS, Case, compared, problem_of
from accelerator_part import Part, part_of_command_line, reason
from accelerator_solvers import SOLVERS

PATHS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
TOOLS = ("racecheck", "memcheck", "synccheck")


def small_program() -> None:
    """Values and gradients of every cell; with marks, and more than one warp."""
    marks = ("mask", "resets", "carry")
    for name in CELLS:
        for case in (Case(name, 4, (3,), 3, 40), Case(name, 3, (2,), 3, 64, marks)):
            run = jax.jit(compared(case, SOLVERS["Fused"], np.float32))
            try:
                jax.block_until_ready(run(problem_of(case, seed=0)))
            except (NotImplementedError, ValueError) as error:
                print("refused:", name, reason(error), flush=True)
            else:
                print("ran:", name, case.features, flush=True)


def watched(part: Part, sanitizer: str, tool: str) -> None:
    """One tool; records what it sums up, and the first lines of what it found."""
    seconds = max(part.seconds_left() - 3, 1)
    command = [sanitizer, "--tool", tool, sys.executable, str(pathlib.Path(__file__))]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        print(text)
        part.write(tool=tool, timed_out=True, last_lines=text.splitlines()[-5:])
        return
    print(done.stdout)
    found = [line for line in done.stdout.splitlines() if line.startswith("====")]
    part.write(
        tool=tool,
        rc=done.returncode,
        ran=done.stdout.count("ran:"),
        refused=done.stdout.count("refused:"),
        summary=[line for line in found if "SUMMARY" in line],
        first=found[:12],
    )


def main() -> None:
    part = part_of_command_line(__doc__)
    sanitizer = shutil.which("compute-sanitizer", path=PATHS)
    if sanitizer is None:
        part.write(left_out=[f"{tool}: no compute-sanitizer" for tool in TOOLS])
        return
    for tool in part.while_time(TOOLS, needs_s=10):
        watched(part, sanitizer, tool)


if __name__ == "__main__":
    main() if len(sys.argv) > 1 else small_program()
