"""How fast are an update, an epoch and a gradient, solver by solver?

Command    python experiments/benchmarks/speed.py   (--quick: 3 minutes)
Time       about 6 minutes on 2 cores
Expect     on 2 CPU cores: `Native` 1.5 to 5 times as fast as `flax.linen.RNN` in every
           gradient; the default in JAX 1.1 to 2.3 times; 50 epochs of the sine tutorial
           (2,850 updates) in under 0.1 s after compilation; times that grow as the
           sizes do, and no faster

Random data: the time does not depend on it. Every figure is the median (and quartiles)
of repeated runs that take turns in one process, after a warm-up, to the end of their
computation, compile time apart (`timing.py`). Ratios under 1.1 are noise. What the
device can do at best is measured too: a large matmul, and a copy. Layers, shapes and
solvers stand in `speed_cases.py`; `peers.py` compares with other libraries. Writes
speed.jsonl, scaling.png.
"""

import pathlib
from collections.abc import Sequence

import machine
import tyro
from records import RESULTS, markdown_table, write_json_lines
from speed_cases import LAYERS, ONLY_SIMPLE, SHAPES
from speed_gradients import gradient, growing
from speed_pictures import draw_growth
from speed_updates import updates_of


def main(
    *,
    repeats: int = 10,
    shapes: Sequence[str] = tuple(SHAPES)[1:],
    layers: Sequence[str] = tuple(LAYERS),
    scales: bool = True,
    updates: int = 20,
    quick: bool = False,
    out: pathlib.Path = RESULTS,
) -> list[dict]:
    """Times updates, gradients and how they grow; prints three tables.

    Args:
      repeats: of every timed run.
      shapes: of the gradients, names in `SHAPES`; of the updates those of reviews.
      layers: of the gradients, names in `LAYERS`.
      scales: measure how time grows with the sizes, too.
      updates: of the models of the reviews, per timed run.
      quick: 5 repeats of the tutorials' shapes and "wide", and nothing that grows.
      out: where results go.
    """
    if quick:
        repeats, shapes, scales = 5, tuple(SHAPES)[1:5], False
    about = machine.facts() | {"dtype": "float32"} | machine.ceilings()
    training = [
        row
        for name in ("sine", *(name for name in shapes if name.startswith("imdb")))
        for row in updates_of(name, updates, repeats)
    ]
    gradients = [
        {"shape": shape} | row
        for shape in shapes
        for layer in layers
        if layer == "simple_rnn" or shape not in ONLY_SIMPLE
        for row in gradient(layer, SHAPES[shape], repeats)
    ]
    for row in gradients:
        row["of_matmul_peak"] = round(row["gflops"] / about["matmul_gflops"], 3)
        row["of_bandwidth_peak"] = round(row["gb_per_s"] / about["bandwidth_gb_s"], 3)
    growth = growing(repeats) if scales else []

    records = [about | record for record in training + gradients + growth]
    write_json_lines(out / "speed.jsonl", records)
    if growth:
        draw_growth(growth, out / "scaling.png")
    for part in filter(None, (training, gradients, growth)):
        print(markdown_table(part), end="\n\n")
    return records


if __name__ == "__main__":
    tyro.cli(main)
