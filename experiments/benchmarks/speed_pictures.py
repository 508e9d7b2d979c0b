"""What do the records of `speed.py` look like? How the time of a gradient grows."""

import pathlib
from collections.abc import Sequence

from records import color_of, new_figure, save_figure
from speed_cases import SCALES

AXES = {"time": "time steps", "batch": "rows", "features": "features"}


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
                color=color_of(solver),
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
