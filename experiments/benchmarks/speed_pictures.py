"""What do the records of `speed.py` look like? Bars of gradients, and how they grow."""

import pathlib
from collections.abc import Sequence

from records import BLACK, BLUE, GREY, ORANGE, PINK, SKY, new_figure, save_figure
from speed_cases import FLAX, SCALES

COLORS = {  # ours in blues, Flax in the orange of all peers
    "Scan": GREY,
    "Scan, project first": PINK,
    "HoistedScan": SKY,
    "HoistedScan, one chunk": BLUE,
    "Native": BLACK,
    FLAX: ORANGE,
}


AXES = {"time": "time steps", "batch": "rows", "features": "features"}


def draw_gradients(rows: Sequence[dict], path: pathlib.Path) -> None:
    """Bars of forward + backward with quartiles: a panel a layer, a group a shape."""
    rows = [row for row in rows if row["run"] != "forward"]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    width = 1 / (len(solvers) + 1)
    figure, panels = new_figure(len(layers), width=5.6, height=4.6)
    for panel, layer in zip(panels, layers, strict=True):
        of_layer = [row for row in rows if row["layer"] == layer]
        shapes = list(dict.fromkeys(row["shape"] for row in of_layer))
        for at, solver in enumerate(solvers):
            bars = [row for row in of_layer if row["solver"] == solver]
            panel.bar(
                [shapes.index(row["shape"]) + (at + 0.5) * width for row in bars],
                [row["median_ms"] for row in bars],
                width,
                yerr=to_quartiles(bars),
                color=COLORS[solver],
                error_kw={"elinewidth": 0.8},
                label=solver,
            )
        panel.set(title=layer, yscale="log", ylabel="ms" if layer == layers[0] else "")
        panel.set_xticks([i + 0.45 for i in range(len(shapes))], shapes)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5
    )
    figure.suptitle("Gradient of one layer: median and quartiles")
    save_figure(figure, path)


def draw_growth(rows: Sequence[dict], path: pathlib.Path) -> None:
    """Milliseconds against one size at a time, on logarithmic axes."""
    figure, panels = new_figure(len(SCALES), width=5.0, height=4.2)
    for panel, size in zip(panels, SCALES, strict=True):
        of_size = [row for row in rows if row["grows"] == size]
        for solver in dict.fromkeys(row["solver"] for row in of_size):
            points = [row for row in of_size if row["solver"] == solver]
            panel.errorbar(
                [row["size"] for row in points],
                [row["median_ms"] for row in points],
                to_quartiles(points),
                marker="o",
                color=COLORS[solver],
                label=solver,
            )
        panel.set(xscale="log", yscale="log", xlabel=AXES[size])
        panel.set_xticks(SCALES[size], SCALES[size])
        panel.set_xticks([], minor=True)
    panels[0].set_ylabel("ms, forward + backward")
    panels[0].legend()
    figure.suptitle(
        "One size grows from 32 rows, 100 steps, 64 features of a SimpleRNN"
    )
    save_figure(figure, path)


def to_quartiles(rows: Sequence[dict]) -> list[list[float]]:
    """How far the quartiles are below and above the medians."""
    below = [row["median_ms"] - row["q1_ms"] for row in rows]
    return [below, [row["q3_ms"] - row["median_ms"] for row in rows]]
