"""How is a peer's program started, and how is it spoken to? In lines of JSON.

`peer_programs/worker.py`, in a process of its own, says what a question and an answer
hold.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from peer_list import Peer

PROGRAMS = pathlib.Path(__file__).parent / "peer_programs"

# What would give one process other threads or another compiler than the rest.
FOREIGN = ("OMP_", "MKL_", "XLA_", "TF_", "KERAS_", "JAX_", "JAXRNN_")
EVERYBODY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "1"}


@dataclasses.dataclass
class Worker:
    """A peer's process, and what it said of itself: kinds, device, versions.

    Attributes: name, peer, process, errors (the file of its stderr), about.
    """

    name: str
    peer: Peer
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
def started(name: str, peer: Peer) -> Iterator[Worker]:
    """A worker that has said what it can do; it ends with the block."""
    arguments = (peer.module, peer.layout, *peer.packages)
    with running(name, peer, PROGRAMS / "worker.py", *arguments) as worker:
        try:
            worker.about = worker.answer()
            yield worker
        finally:
            worker.process.kill()


@contextlib.contextmanager
def running(name: str, peer: Peer, *arguments: Any) -> Iterator[Worker]:
    """This Python with some arguments, for a peer; the block ends when it has ended."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(peer),
        ) as process,
    ):
        yield Worker(name, peer, process, errors)


def environment(peer: Peer) -> dict[str, str]:
    """The variables of a peer's process: its own, and none that change its speed."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN) or name == "JAX_PLATFORMS"
    }
    return kept | EVERYBODY | dict(peer.env)
