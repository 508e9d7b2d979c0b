"""How is training followed while it runs? On the terminal, in files, in TensorBoard.

Each of these is, or makes, an `on_epoch` for `fit`, which takes several as a tuple:

    fit(..., on_epoch=(logs.print_epoch, logs.csv_lines("runs/sine.csv")))

What goes to a file is handed to the system after every epoch, so that a run that is
killed keeps its lines. CSV and JSON are also waited for until they are on the disk
(fsync), but not twice within a second, as an epoch may take a millisecond: a power
failure costs no more than what was written after the last wait.
"""

import contextlib
import csv
import dataclasses
import io
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxrnn.files import (
    Path,
    Record,
    append_json_line,
    append_line,
    optional,
    replacing,
)
from jaxrnn.files.lines import cut_torn_line

# (epoch, record, state): the state of training after the epoch, which no log here needs
OnEpoch = Callable[[int, Record, Any], None]

_SYNC_EVERY_S = 1.0


@runtime_checkable
class Checks(Protocol):
    """An `on_epoch` that can say before the first epoch what it would refuse."""

    def check(self, record: Record) -> None:
        """Raises where it does not take such records."""
        ...


def print_epoch(epoch: int, record: Record, state: Any = None) -> None:
    """Prints one line per epoch; made for `on_epoch` of `fit`.

    Example:
      >>> print_epoch(0, {"loss": 0.51234, "accuracy": 0.8})
      epoch 1: loss 0.5123, accuracy 0.8000
    """
    numbers = (f"{name} {np.mean(value):.4f}" for name, value in record.items())
    print(f"epoch {epoch + 1}: {', '.join(numbers)}")


@dataclasses.dataclass
class Progress:
    """A progress bar that keeps the time; made for `on_epoch` of `fit`.

    Attributes:
      bar: a tqdm bar of epochs.
      ended: when the run began and when each epoch ended, in seconds.
    """

    bar: Any
    ended: list[float]

    def __call__(self, epoch: int, record: Record, state: Any = None) -> None:
        """Moves the bar, with the latest numbers; of several models their mean."""
        self.ended.append(time.perf_counter())
        numbers = {name: f"{np.mean(value):.4f}" for name, value in record.items()}
        self.bar.set_postfix(numbers, refresh=False)
        self.bar.update(epoch + 1 - self.bar.n)

    @property
    def first_epoch_s(self) -> float:
        """Seconds of the first epoch, which includes compilation."""
        return self.ended[1] - self.ended[0]

    @property
    def epoch_s(self) -> float | None:
        """Median seconds of the later epochs, validation included; None without any."""
        later = np.diff(self.ended[1:])
        return float(np.median(later)) if len(later) else None


@contextlib.contextmanager
def progress_bar(epochs: int, description: str) -> Iterator[Progress]:
    """A bar on stderr, where that is a terminal.

    Raises:
      ImportError: without tqdm, which `pip install jaxrnn[experiments]` brings.

    Example:
      >>> with progress_bar(2, "training") as progress:
      ...     progress(0, {"loss": 0.7})
      ...     progress(1, {"loss": 0.6})
      >>> progress.epoch_s < progress.ended[-1] - progress.ended[0]
      True
    """
    tqdm = optional("tqdm", "experiments").tqdm
    with tqdm(total=epochs, desc=description, unit="epoch", disable=None) as bar:
        yield Progress(bar, [time.perf_counter()])


def csv_lines(path: Path, *, append: bool = False) -> OnEpoch:
    """Writes one row per epoch: Keras' CSVLogger.

    The columns are `epoch`, from 0, and the names in the history, in its order (Keras
    sorts them). Of several models each has its column: `loss/0`, `loss/1`.

    Args:
      path: the file; its folder is made where it is missing.
      append: adds to what the file holds, instead of beginning it anew: for a run with
        checkpoints, whose same call goes on. Rows of epochs that are then trained a
        second time are cut off, and so is a last row that lacks its end, as after a
        kill, with a warning.

    Returns:
      An `on_epoch` for `fit`. It raises ValueError if the file it appends to has other
      columns; `fit` asks it before the first epoch where it trains on a Dataset.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     log = csv_lines(f"{folder}/run.csv")
      ...     log(0, {"loss": 0.5, "val_loss": np.array([0.25, 0.75])})
      ...     print(pathlib.Path(f"{folder}/run.csv").read_text())
      epoch,loss,val_loss/0,val_loss/1
      0,0.5,0.25,0.75
    """
    return _CsvLines(_begin(path, append), _at_most_every(_SYNC_EVERY_S))


@dataclasses.dataclass
class _CsvLines:
    """A CSV file that gets a row per epoch."""

    path: pathlib.Path
    due: Callable[[], bool]
    is_first: bool = True

    def check(self, record: Record) -> None:
        """Raises where rows of such records do not fit what the file holds.

        Args:
          record: its names, and values of the right shape; their order is not known
            before the first epoch.
        """
        columns = self._columns()
        row = {"epoch": 0, **_numbers(record)}
        if columns is not None and set(columns) != set(row):
            raise self._other_columns(columns, row)

    def __call__(self, epoch: int, record: Record, state: Any = None) -> None:
        """Adds the row of an epoch."""
        row = {"epoch": epoch, **_numbers(record)}
        columns = self._columns()
        if columns not in (None, list(row)):
            raise self._other_columns(columns, row)
        if self.is_first:
            _cut_from(
                self.path, epoch, lambda line: int(line.partition(",")[0]), head=1
            )
            self.is_first = False
        text = io.StringIO()
        writer = csv.DictWriter(text, row, lineterminator="\n")
        if columns is None:
            writer.writeheader()
        writer.writerow(row)
        append_line(self.path, text.getvalue(), sync=self.due())

    def _columns(self) -> list[str] | None:
        cut_torn_line(self.path)
        with self.path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), None)

    def _other_columns(self, columns: Any, row: Any) -> ValueError:
        return ValueError(
            f"the rows of {self.path.name} must have its columns {columns}, got "
            f"{list(row)}; choose another file, or append=False."
        )


def json_lines(path: Path, *, append: bool = False) -> OnEpoch:
    """Writes one JSON object per epoch.

    Of several models a value is a list. What is not finite is written as NaN, Infinity
    or -Infinity, which Python reads and JSON proper does not know.

    Args:
      path: the file; its folder is made where it is missing.
      append: adds to what the file holds, instead of beginning it anew, as for
        `csv_lines`. A last line that is no whole object, as after a kill, is cut off
        with a warning.

    Returns:
      An `on_epoch` for `fit`.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     log = json_lines(f"{folder}/run.jsonl")
      ...     log(0, {"loss": 0.5, "val_loss": np.array([0.25, 0.75])})
      ...     print(pathlib.Path(f"{folder}/run.jsonl").read_text())
      {"epoch": 0, "loss": 0.5, "val_loss": [0.25, 0.75]}
    """
    path = _begin(path, append)
    due = _at_most_every(_SYNC_EVERY_S)
    is_first = True

    def on_epoch(epoch: int, record: Record, state: Any = None) -> None:
        nonlocal is_first
        if is_first:
            cut_torn_line(path)
            _cut_from(path, epoch, lambda line: json.loads(line)["epoch"], head=0)
            is_first = False
        append_json_line(path, {"epoch": epoch, **record}, sync=due())

    return on_epoch


@contextlib.contextmanager
def tensorboard(folder: Path) -> Iterator[OnEpoch]:
    """Writes one scalar per epoch and name, for TensorBoard.

    The names are those of the history, one chart each; of several models `loss/0`,
    `loss/1`, which TensorBoard shows side by side. (Keras' callback writes training and
    validation to two folders, under `epoch_loss`.) The steps are epochs, from 0.

    Args:
      folder: of this run; `tensorboard --logdir` takes it or the folder around several.

    Yields:
      An `on_epoch` for `fit`.

    Raises:
      ImportError: without tensorboardX, which `pip install jaxrnn[tensorboard]` brings.

    Example:
      >>> import os, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with tensorboard(folder) as log:
      ...         log(0, {"loss": 0.5})
      ...     len(os.listdir(folder))
      1
    """
    writers = optional("tensorboardX.event_file_writer", "tensorboard")
    proto = optional("tensorboardX.proto.event_pb2", "tensorboard")

    # Not its SummaryWriter, whose flush does not wait for the thread that writes.
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(writers.EventsWriter(str(folder / "events"))) as writer:

        def on_epoch(epoch: int, record: Record, state: Any = None) -> None:
            event = proto.Event(step=epoch, wall_time=time.time())
            for name, value in _numbers(record).items():
                event.summary.value.add(tag=name, simple_value=value)
            writer.write_event(event)
            writer.flush()

        yield on_epoch


def _begin(path: Path, append: bool) -> pathlib.Path:
    path = pathlib.Path(path)
    if not (append and path.exists()):
        with replacing(path) as unfinished:
            unfinished.touch()
    return path


def _cut_from(
    path: pathlib.Path, epoch: int, epoch_of: Callable[[str], int], *, head: int
) -> None:
    """Cuts off the last lines where they are of this epoch or later ones.

    A run that goes on from a checkpoint trains them again; one that begins with epoch 0
    is another one. The first `head` lines are none.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = len(lines)
    while epoch > 0 and kept > head and epoch_of(lines[kept - 1]) >= epoch:
        kept -= 1
    if kept < len(lines):
        with replacing(path) as unfinished:
            unfinished.write_text("".join(lines[:kept]), encoding="utf-8")


def _at_most_every(seconds: float) -> Callable[[], bool]:
    """Tells when a thing is due that is done at most so often; the first time it is."""
    next_time = -np.inf

    def due() -> bool:
        nonlocal next_time
        now = time.monotonic()
        if now < next_time:
            return False
        next_time = now + seconds
        return True

    return due


def _numbers(record: Record) -> dict[str, float]:
    """One number per name, and per model where there are several."""
    numbers = {}
    for name, value in record.items():
        if np.ndim(value) == 0:
            numbers[name] = float(value)
        else:
            numbers |= {f"{name}/{i}": float(v) for i, v in enumerate(value)}
    return numbers
