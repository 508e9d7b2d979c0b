"""Which tests fail on this device?

A part of `accelerator.py`, under the name tests. The workers share the card. A record
is written for every failure when it happens, and the counts at the end.
"""

import collections
import importlib.util
import pathlib
import re
import signal
import subprocess
import sys

from accelerator_part import Part, part_of_command_line

ROOT = pathlib.Path(__file__).parents[2]
FILES = ("tests/test_solvers.py", "tests/test_recurrence.py", "tests/test_layers.py")
OPTIONS = (  # what pyproject.toml asks for needs packages that may be missing
    "-o",
    "addopts=--import-mode=importlib",
    "-W",
    "ignore",
    "-p",
    "no:cacheprovider",
    "-m",
    "not slow",
    "--maxfail=40",
    "--tb=short",
    "-v",
)
# "[gw0] [ 12%] PASSED tests/test_solvers.py::test[a b] ", as workers report it.
REPORT = re.compile(r"^\[gw\d+\] \[ *\d+%\] ([A-Z]+) (.+?) *$")


def run(part: Part, *arguments: str) -> None:
    """Reads what pytest reports; stops it when there is no more time."""
    counts: collections.Counter[str] = collections.Counter()
    command = [sys.executable, "-m", "pytest", *OPTIONS, *arguments]
    with subprocess.Popen(
        ["timeout", "--signal=INT", str(max(part.seconds_left() - 5, 5)), *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            report = REPORT.match(line)
            if report is None:
                continue
            outcome, name = report.groups()
            counts[outcome.lower()] += 1
            if outcome in ("FAILED", "ERROR"):
                part.write(failing=name)
    timed_out = process.returncode in (124, 128 + signal.SIGINT)
    part.write(counts=dict(counts), timed_out=timed_out, rc=process.returncode)
    if not counts and not timed_out:
        sys.exit(f"pytest ran no test, and ended with {process.returncode}")


def main() -> None:
    part = part_of_command_line(__doc__)
    missing = [
        name for name in ("pytest", "xdist") if importlib.util.find_spec(name) is None
    ]
    if missing:
        part.write(
            left_out=[f"everything: {name} is not installed" for name in missing]
        )
    elif part.quick:
        run(part, "-n", "1", "tests/test_solvers.py", "-k", "neither and simple_rnn")
    else:
        run(part, "-n", "8", *FILES)


if __name__ == "__main__":
    main()
