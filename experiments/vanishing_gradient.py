"""How far back does a gradient reach, before and after training?

Command    python experiments/vanishing_gradient.py --seeds 3
Time       about 1 minute on 2 cores
Expect     before training, 100 steps back: tanh at 1e-5 to 1e-4, a GRU at 1e-20, an
           LSTM at 1e-8, ReLU with the identity at 1; after it GRU and LSTM at 0.4 to 1,
           ReLU with the identity at 1 to 2, and tanh below 1e-10

The norm of dh_T / dcarry_t, of the last hidden vector by the carry of every step t, of
the models of `adding_problem.py` (`jaxrnn.diagnostics`). Two things are not what is
often told. Gates do not keep the gradient at the start: they begin half open, so that a
GRU's and an LSTM's shrink faster than that of tanh with an orthogonal kernel. But a
gate can learn to stay open, and after training both are near 1; tanh has shrunk to less
than it began with. And what an LSTM keeps is in its memory: by h_t alone, c_t held
fixed, the norm is near 0.01 most of the way.

Writes vanishing_gradient.jsonl and .png.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import report
import tyro
from adders import (
    LAYERS,
    LEARNING_RATES,
    adding_problem,
    make_adder,
    over_models,
    start,
    train,
)
from program_cache import keep_programs

import jaxrnn
from jaxrnn import diagnostics, files, logs

OUT = pathlib.Path("runs")


def main(
    *,
    seeds: int = 3,
    length: int = 100,
    sequences: int = 16,
    epochs: int = 40,
    updates: int = 100,
    batch_size: int = 32,
    features: int = 32,
    learning_rate: float = 0.005,
    out: pathlib.Path = OUT,
) -> list[dict]:
    """Measures every cell before and after; writes vanishing_gradient.jsonl and .png.

    Args:
      seeds: models to train per cell.
      length: of the sequences, T.
      sequences: over which the median of the norms is taken.
      epochs: of `updates` each, at most.
      updates: per epoch.
      batch_size: sequences per update.
      features: of the recurrent layer.
      learning_rate: of Adam; `LEARNING_RATES` has exceptions.
      out: where results go.
    """
    _, key = jax.random.split(jax.random.key(1997))  # no model's seed
    inputs = adding_problem(key, sequences, length).inputs
    records = []
    for name, layer in LAYERS.items():
        cell = layer(features).make_cell()
        adder = make_adder(layer(features), LEARNING_RATES.get(name, learning_rate))
        keys, before = start(adder, seeds)
        with logs.progress_bar(epochs, f"{name}, {length}") as progress:
            trained, _ = train(
                before,
                keys,
                adder,
                length=length,
                epochs=epochs,
                updates=updates,
                batch_size=batch_size,
                over=over_models(),
                on_epoch=progress,
            )
        stages = {"at the start": before.params, "trained": trained.params}
        for seed in range(seeds):
            for when, of_all in stages.items():
                params = jax.tree.map(lambda x, i=seed: x[i], of_all["recurrent"])
                by_carry, by_hidden = median_norms(params, inputs, cell)
                records.append(
                    {
                        "experiment": "vanishing_gradient",
                        "model": name,
                        "length": length,
                        "seed": seed,
                        "when": when,
                        "by_carry": by_carry,
                        "by_hidden": by_hidden,
                    }
                )
    files.write_json_lines(out / "vanishing_gradient.jsonl", records)
    draw(records, out / "vanishing_gradient.png")
    print(f"Norm of dh_T / dcarry_t, T = {length}:\n")
    print(report.markdown_table(summary(records)))
    return records


@functools.partial(jax.jit, static_argnames="cell")
def median_norms(params, sequences, cell: jaxrnn.Cell) -> tuple[jax.Array, jax.Array]:
    """Spectral norms of dh_T / dcarry_t and dh_T / dh_t, median over sequences.

    The spectral norm is the most that h_T can move per unit that the carry moves at t.

    Args:
      params: of the cell.
      sequences: (sequences, time, in_features).
      cell: whose carry has the hidden vector first.

    Returns:
      Two arrays (time + 1,).
    """

    def norms(inputs):
        by_carry = diagnostics.gradient_norms(cell, params, inputs)
        jacobians = diagnostics.output_jacobians(cell, params, inputs)
        by_hidden = jacobians[..., : jacobians.shape[1]]
        return by_carry, jnp.linalg.norm(by_hidden, 2, axis=(1, 2))

    return jax.tree.map(lambda x: jnp.median(x, axis=0), jax.lax.map(norms, sequences))


def summary(records: list[dict]) -> list[dict]:
    """One row per model and time of measuring: the norm some steps back."""
    rows = []
    for name, when in dict.fromkeys((r["model"], r["when"]) for r in records):
        runs = [r for r in records if (r["model"], r["when"]) == (name, when)]
        row = {"model": name, "": when}
        back = np.array([1, 10, 50, 100, 200])
        for steps in back[back < len(runs[0]["by_carry"])].tolist():
            norms = [float(r["by_carry"][-1 - steps]) for r in runs]
            row[f"{steps} back"] = f"{min(norms):.1e} to {max(norms):.1e}"
        rows.append(row)
    return rows


def draw(records: list[dict], path: pathlib.Path) -> None:
    """The norms by the number of steps back, before and after training."""
    figure, panels = report.new_figure(2, width=6.0, height=4.8)
    for panel, when in zip(panels, ("at the start", "trained"), strict=True):
        for name in dict.fromkeys(r["model"] for r in records):
            runs = [r for r in records if (r["model"], r["when"]) == (name, when)]
            lines = [("by_carry", "-", name)]
            if name == "LSTM":
                lines.append(("by_hidden", "--", "LSTM, by h_t alone"))
            for key, style, label in lines:
                norms = np.array([r[key] for r in runs])[:, ::-1]  # from T back to 0
                norms = np.where(norms > 0, norms, np.nan)
                steps = np.arange(norms.shape[1])
                low, high = norms.min(axis=0), norms.max(axis=0)
                middle = np.median(norms, axis=0)
                panel.plot(
                    steps, middle, style, color=report.color_of(name), label=label
                )
                panel.fill_between(
                    steps,
                    low,
                    high,
                    color=report.color_of(name),
                    alpha=0.15,
                    linewidth=0,
                )
        panel.set(xlabel="steps back from the last, T - t", title=when, yscale="log")
    low = min(panel.get_ylim()[0] for panel in panels)
    high = max(panel.get_ylim()[1] for panel in panels)
    for panel in panels:
        panel.set_ylim(max(low, 1e-20), high)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("spectral norm of dh_T / dcarry_t")
    panels[0].legend(fontsize="small")
    figure.suptitle(
        f"How far back a gradient reaches, T = {records[0]['length']}: "
        "median and range over the seeds"
    )
    report.save_figure(figure, path)


if __name__ == "__main__":
    keep_programs()
    tyro.cli(main)
