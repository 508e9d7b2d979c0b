"""What is every part of `accelerator.py` given, and how does it leave its records?

A part is a program of its own. It appends one JSON object a line to its file, at once:
what it has found stays, whatever becomes of it. It looks at the clock between two
measurements, and names those for which there was no time.
"""

import argparse
import dataclasses
import pathlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from jaxrnn.files import append_json_line

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a run.

    Attributes:
      name: in `accelerator.py`.
      path: where its records go.
      deadline: on `time.monotonic`; nothing is begun after it.
      quick: tiny sizes and few repeats, to try the program and not the machine.
      seed: of all that is random.
      lock: for parts that work in several threads.
    """

    name: str
    path: pathlib.Path
    deadline: float
    quick: bool
    seed: int
    lock: Any = dataclasses.field(default_factory=threading.Lock)

    def write(self, **record: Any) -> None:
        """Appends one record, which is on the disk when this returns."""
        with self.lock:
            append_json_line(self.path, {"part": self.name} | record)

    def seconds_left(self) -> float:
        """Until the deadline; negative after it."""
        return self.deadline - time.monotonic()

    def while_time(self, items: Iterable[Item], needs_s: float = 0) -> Iterator[Item]:
        """The items as long as there is time for one more; records what was left out.

        Args:
          items: in the order of their worth.
          needs_s: what is to be left of the time for another one to begin.
        """
        left_out = []
        for item in items:
            if left_out or self.seconds_left() < needs_s:
                left_out.append(str(item))
            else:
                yield item
        if left_out:
            self.write(left_out=left_out)


def part_of_command_line(description: str | None) -> Part:
    """The arguments that `accelerator.py` gives to every part."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the part, as in accelerator.py")
    parser.add_argument("path", type=pathlib.Path, help="the JSON lines to append to")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + given.seconds
    return Part(given.name, given.path, deadline, given.quick, given.seed)


def reason(error: Exception) -> dict[str, str]:
    """An error as a part of a record: `refused` where a solver says it cannot."""
    text = f"{type(error).__name__}: {error}"[:600]
    refuses = isinstance(error, (NotImplementedError, ValueError))
    return {"refused" if refuses else "failed": text}
