"""Why does training stop before its end? A signal came, or the numbers broke."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxrnn.train.state import TrainState

History = dict[str, np.ndarray]


class TrainingStopped(Exception):
    """Training that ended early; what it had reached is here.

    Attributes:
      state: the last good one.
      history: of the epochs that were finished.
    """

    def __init__(self, message: str, state: TrainState, history: History) -> None:
        super().__init__(message)
        self.state, self.history = state, history


class Interrupted(TrainingStopped):
    """By SIGTERM or SIGINT, after the updates in flight and with a checkpoint written.

    The same call of `fit` again goes on from there. A second signal does not wait.
    """


class NonFinite(TrainingStopped):
    """A loss or a metric of training became NaN or infinite.

    `state` is that before the part of the epoch in which it happened.
    """


class Signals:
    """Which signal came, if one did."""

    came: str | None = None


@contextlib.contextmanager
def signals() -> Iterator[Signals]:
    """Notes the first SIGTERM or SIGINT; the second does what it always did.

    Only the main thread of a process can do that; in others nothing changes.
    """
    noted = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        del frame
        noted.came = signal.Signals(number).name
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()
