"""How do results reach a reader? A Markdown table, a spread, a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrnn import files

# One thing has one colour in every picture: cells by Okabe and Ito (2008), solvers and
# libraries by Tol's "muted", which the colour-blind tell apart too. Grey and black are
# what is neither: data, baselines, one set of rows beside another.
BLUE, SKY, GREEN, RED = "#0072B2", "#56B4E9", "#009E73", "#D55E00"
PINK, ORANGE, GREY, BLACK = "#CC79A7", "#E69F00", "0.6", "0.2"
INDIGO, WINE, TEAL, OLIVE = "#332288", "#882255", "#44AA99", "#999933"
COLORS = {  # the first name that is part of what is drawn decides
    "ReLU": SKY,
    "SimpleRNN": BLUE,
    "minGRU": PINK,
    "GRU": GREEN,
    "LSTM": RED,
    "LRU": ORANGE,
    "native": WINE,
    "HoistedScan": INDIGO,
    "jaxrnn": INDIGO,  # with its solvers in JAX
    "Fused": TEAL,
    **dict.fromkeys(("flax", "equinox", "keras", "PyTorch", "cuDNN"), OLIVE),
}
STYLE = {
    "font.size": 14,  # still read at half the size
    "axes.titlesize": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 2,
}


def color_of(name: str) -> str:
    """The colour of a cell, a solver or a library; grey for what is none of them.

    Example:
      >>> color_of("minGRU, 3 layers") == PINK, color_of("jaxrnn, native") == WINE
      (True, True)
      >>> color_of("keras-jax") == color_of("pytorch"), color_of("unigrams") == GREY
      (True, True)
    """
    found = (c for part, c in COLORS.items() if part.casefold() in name.casefold())
    return next(found, GREY)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
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


def mean_and_error(values: Sequence[float], digits: int = 3) -> str:
    """Writes mean ± standard error of the mean: how well the mean itself is known.

    Example:
      >>> mean_and_error([0.80, 0.82, 0.81, 0.81])
      '0.810 ± 0.004'
    """
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.{digits}f} ± {error:.{digits}f}"


def when(record: Mapping[str, Any]) -> str:
    """On which day a record was measured; by which, where only its commit says so.

    Example:
      >>> when({"measured": "2031-01-02"}), when({"committed": "2026-11-22"})
      ('on 2031-01-02', 'by 2026-11-22')
    """
    if "measured" in record:
        return f"on {record['measured']}"
    return f"by {record['committed']}"


def plot_history(
    history: Mapping[str, np.ndarray],
    path: files.Path,
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
        for label, key, color in (
            ("training", name, GREY),
            ("validation", f"val_{name}", BLACK),
        ):
            if key not in history:
                continue
            by_epoch = history[key].reshape(len(history[key]), -1)
            epochs = np.arange(1, len(by_epoch) + 1)
            panel.plot(epochs, by_epoch.mean(axis=1), color=color, label=label)
            panel.fill_between(
                epochs,
                by_epoch.min(axis=1),
                by_epoch.max(axis=1),
                color=color,
                alpha=0.2,
                linewidth=0,
            )
        panel.set(xlabel="epoch", ylabel=name)
    panels[0].legend()
    figure.suptitle(title)
    save_figure(figure, path)


def new_figure(
    panels: int, *, rows: int = 1, width: float = 5.0, height: float = 3.6
) -> Any:
    """A Matplotlib figure with panels side by side, and the array of its axes.

    Args:
      panels: how many.
      rows: to spread them over.
      width, height: of one panel, in inches.

    Raises:
      ImportError: without matplotlib, which `pip install jaxrnn[plots]` brings.
    """
    figure_module = files.optional("matplotlib.figure", "plots")
    files.optional("matplotlib", "plots").rcParams.update(STYLE)
    columns = -(-panels // rows)
    figure = figure_module.Figure(
        figsize=(width * columns, height * rows), layout="constrained"
    )
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()[:panels]


def save_figure(figure: Any, path: files.Path) -> None:
    """Writes a figure as a PNG, making the folder where it is missing."""
    with files.replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
