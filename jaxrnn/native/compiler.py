"""How is a compiler called that may be missing, fail, keep silent, or never end?"""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

LIMIT_S = 300.0  # of a compilation; it takes some ten seconds

# In a process of its own: half a library would end this one.
TRY = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
for name in sys.argv[2:]:
    getattr(library, name)
"""


def compiled(
    compiler: str,
    arguments: Sequence[str],
    made: pathlib.Path,
    names: Sequence[str],
    *,
    limit_s: float = LIMIT_S,
) -> None:
    """Has a compiler write the library `made`, and tries whether it can be loaded.

    Args:
      compiler: a command, perhaps with arguments (`ccache g++`).
      arguments: all but the output.
      made: the library.
      names: of the functions that must be in it.
      limit_s: seconds after which the compiler and its children are ended.

    Raises:
      RuntimeError: it could not be started, failed, took too long, or left no library;
        with what it said.
    """
    command = [*shlex.split(compiler), *arguments, "-o", str(made)]
    code, said = _ran(command, limit_s)
    if code is None:
        raise RuntimeError(f"{compiler} did not end within {limit_s:.0f} s.")
    if code:
        raise RuntimeError(f"{compiler} could not compile {arguments[-1]}:\n{said}")
    if not made.is_file() or not made.stat().st_size:
        raise RuntimeError(f"{compiler} said that all went well, and wrote no library.")
    code, said = _ran([sys.executable, "-c", TRY, str(made), *names], limit_s)
    if code != 0:
        raise RuntimeError(
            f"what {compiler} has made of {arguments[-1]} cannot be loaded:\n{said}"
        )


def _ran(command: Sequence[str], limit_s: float) -> tuple[int | None, str]:
    """The exit code, None = it took too long; and what it said, shortened."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # so that its children can be ended with it
        )
    except OSError as error:
        raise RuntimeError(f"{command[0]} cannot be started ({error}).") from error
    with process:
        try:
            said = process.communicate(timeout=limit_s)[1]
        except BaseException as error:
            _end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return None, ""
    lines = [line[:200] for line in said.splitlines()]
    return process.returncode, "\n".join(lines[:20])


def _end(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
