"""How is training followed while it runs? Every epoch to CSV, JSON lines, TensorBoard.

Each function here makes an `on_epoch` for `fit`, which takes several as a tuple:

    fit(..., on_epoch=(report.print_epoch, logs.csv_lines("runs/sine.csv")))

Every epoch is written and the file closed or flushed, so that a run that is killed
keeps its lines.
"""

import contextlib
import csv
import importlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

OnEpoch = Callable[[int, Mapping[str, Any]], None]
Path = str | os.PathLike[str]


def csv_lines(path: Path, *, append: bool = False) -> OnEpoch:
    """Writes one row per epoch: Keras' CSVLogger.

    The columns are `epoch`, from 0, and the names in the history, in its order (Keras
    sorts them). Of several models each has its column: `loss/0`, `loss/1`.

    Args:
      path: the file; its folder is made where it is missing.
      append: adds to what the file holds, instead of beginning it anew.

    Returns:
      An `on_epoch` for `fit`. When called, it raises ValueError if the file it appends
      to has other columns.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     log = csv_lines(f"{folder}/run.csv")
      ...     log(0, {"loss": 0.5, "val_loss": np.array([0.25, 0.75])})
      ...     print(pathlib.Path(f"{folder}/run.csv").read_text())
      epoch,loss,val_loss/0,val_loss/1
      0,0.5,0.25,0.75
    """
    path = _begin(path, append)

    def on_epoch(epoch: int, record: Mapping[str, Any]) -> None:
        row = {"epoch": epoch, **_numbers(record)}
        with path.open("a+", newline="", encoding="utf-8") as file:
            file.seek(0)
            columns = next(csv.reader(file), None)
            if columns not in (None, list(row)):
                raise ValueError(
                    f"the rows of {path.name} must have its columns {columns}, got "
                    f"{list(row)}; choose another file, or append=False."
                )
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if columns is None:
                writer.writeheader()
            writer.writerow(row)

    return on_epoch


def json_lines(path: Path, *, append: bool = False) -> OnEpoch:
    """Writes one JSON object per epoch, for `jaxrnn.report.read_records`.

    Of several models a value is a list. What is not finite is written as NaN, Infinity
    or -Infinity, which Python reads, and JSON proper does not know.

    Args:
      path: the file; its folder is made where it is missing.
      append: adds to what the file holds, instead of beginning it anew.

    Returns:
      An `on_epoch` for `fit`.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     log = json_lines(f"{folder}/run.jsonl")
      ...     log(0, {"loss": 0.5, "val_loss": np.array([0.25, 0.75])})
      ...     report.read_records(f"{folder}/run.jsonl")
      [{'epoch': 0, 'loss': 0.5, 'val_loss': [0.25, 0.75]}]
    """
    path = _begin(path, append)

    def on_epoch(epoch: int, record: Mapping[str, Any]) -> None:
        values = {name: np.asarray(value).tolist() for name, value in record.items()}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **values}) + "\n")

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
    try:
        files = importlib.import_module("tensorboardX.event_file_writer")
        proto = importlib.import_module("tensorboardX.proto.event_pb2")
    except ModuleNotFoundError as error:
        raise ImportError(
            "this needs tensorboardX, which is not installed; "
            "pip install jaxrnn[tensorboard] brings it."
        ) from error

    # Not its SummaryWriter, whose flush does not wait for the thread that writes.
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(files.EventsWriter(str(folder / "events"))) as writer:

        def on_epoch(epoch: int, record: Mapping[str, Any]) -> None:
            event = proto.Event(step=epoch, wall_time=time.time())
            for name, value in _numbers(record).items():
                event.summary.value.add(tag=name, simple_value=value)
            writer.write_event(event)
            writer.flush()

        yield on_epoch


def _begin(path: Path, append: bool) -> pathlib.Path:
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("a" if append else "w").close()
    return path


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """One number per name, and per model where there are several."""
    numbers = {}
    for name, value in record.items():
        if np.ndim(value) == 0:
            numbers[name] = float(value)
        else:
            numbers |= {f"{name}/{i}": float(v) for i, v in enumerate(value)}
    return numbers
