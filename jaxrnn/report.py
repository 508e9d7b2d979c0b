"""How do results reach a reader? JSON lines, a Markdown table, a picture."""

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Record = Mapping[str, Any]


def print_epoch(epoch: int, record: Record) -> None:
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

    def __call__(self, epoch: int, record: Record) -> None:
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
    tqdm = _optional("tqdm", "experiments").tqdm
    with tqdm(total=epochs, desc=description, unit="epoch", disable=None) as bar:
        yield Progress(bar, [time.perf_counter()])


def write_records(path: str | os.PathLike[str], records: Sequence[Record]) -> None:
    """Writes one JSON object per line, in place of what the file held."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, default=_plain) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_records(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads what `write_records` wrote."""
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def markdown_table(rows: Sequence[Record]) -> str:
    """A Markdown table; the keys of the first row are its head.

    Example:
      >>> print(markdown_table([{"model": "SimpleRNN", "mse": 0.11}]))
      | model | mse |
      | --- | --- |
      | SimpleRNN | 0.11 |
    """
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[n] for n in names] for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def mean_and_spread(values: Sequence[float], digits: int = 3) -> str:
    """Writes mean ± standard deviation of a sample, such as seeds; or the one value.

    Example:
      >>> mean_and_spread([0.80, 0.82, 0.81])
      '0.810 ± 0.010'
    """
    text = f"{np.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.{digits}f}"
    return text


def plot_history(
    history: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    *,
    title: str,
) -> None:
    """Draws every metric by epoch, training and validation in one panel.

    Args:
      history: as `fit` returns it; of several models the mean is drawn as a line and
        the range as a band.
      path: the PNG to write.
      title: above the panels.

    Raises:
      ImportError: without matplotlib, which `pip install jaxrnn[plots]` brings.
    """
    names = [name for name in history if not name.startswith("val_")]
    figure, panels = new_figure(len(names))
    for panel, name in zip(panels, names, strict=True):
        for label, key in (("training", name), ("validation", f"val_{name}")):
            if key not in history:
                continue
            by_epoch = history[key].reshape(len(history[key]), -1)
            epochs = np.arange(1, len(by_epoch) + 1)
            (line,) = panel.plot(epochs, by_epoch.mean(axis=1), label=label)
            panel.fill_between(
                epochs,
                by_epoch.min(axis=1),
                by_epoch.max(axis=1),
                color=line.get_color(),
                alpha=0.2,
                linewidth=0,
            )
        panel.set(xlabel="epoch", ylabel=name)
        panel.legend()
    figure.suptitle(title)
    save_figure(figure, path)


def new_figure(panels: int, *, width: float = 5.0, height: float = 3.6) -> Any:
    """A Matplotlib figure with panels side by side, and the array of its axes.

    Raises:
      ImportError: without matplotlib, which `pip install jaxrnn[plots]` brings.
    """
    figure_module = _optional("matplotlib.figure", "plots")
    figure = figure_module.Figure(
        figsize=(width * panels, height), layout="constrained"
    )
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Writes a figure as a PNG, making the folder where it is missing."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        raise ImportError(
            f"this needs {package}, which is not installed; "
            f"pip install jaxrnn[{extra}] brings it."
        ) from error


def _plain(value: Any) -> Any:
    """What json cannot write: NumPy and JAX numbers and arrays."""
    return np.asarray(value).tolist()
