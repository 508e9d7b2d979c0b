"""How far back can each cell remember? The problem of adding two marked numbers.

Command    python experiments/adding_problem.py --seeds 3
Time       5 minutes of processor time for three seeds; 9 on 2 cores that others use too
Expect     SimpleRNN with tanh solves length 25 alone; with ReLU and the identity up to
           100, and explodes on 200 in one or two of three runs; GRU all lengths in 400
           to 900 updates, LSTM all in 600 to 3,800; the linear cells all, minGRU in
           1,200 to 2,500 and the LRU in 300 to 900. Deer takes 2 to 8 iterations before
           training and up to 12 after it

A sequence of numbers between 0 and 1, two of them marked, one in each half; the target
is the sum of the two. Always answering 1 gives an MSE of 1/6, the variance of the sum.
A model trains until it has solved the problem, with a mean squared error below 0.01
over one epoch of sequences that nobody has seen before, or for `epochs` of `updates`.
The test MSE is that of the parameters where it stopped. Both SimpleRNNs amplify
rounding: another machine or version of JAX gives them other curves. All seeds of a cell
and length train in one program.

Models: SimpleRNN with tanh; with ReLU and the identity as its initial recurrent kernel
(the IRNN of Le, Jaitly and Hinton, A simple way to initialize recurrent networks of
rectified linear units, 2015, whose version of the problem this is); GRU; LSTM. Every
other initial value is Keras', so the recurrent kernels are orthogonal. Two are linear
in the carry: a minGRU, and an LRU after a Dense layer with ReLU (`adders.py`). The
problem is from Hochreiter and Schmidhuber, Long short-term memory, 1997.

How many iterations the solver `Deer` takes for one sequence of length `deer_length` is
counted for the first seed before training and after 1, 2, 4, ... epochs: where training
makes a recurrence hard to solve all at once, the 16 that `Deer` has do not suffice, and
the rest of the steps is taken one by one.

Writes adding_problem.jsonl and .png. `vanishing_gradient.py` shows why.
"""

import pathlib

import jax
import numpy as np
import report
import tyro
from adders import (
    BASELINE_MSE,
    LAYERS,
    LEARNING_RATES,
    LINEAR_LAYERS,
    SOLVED_MSE,
    adding_problem,
    make_adder,
    over_models,
    start,
    train,
)
from program_cache import keep_programs

import jaxrnn
from jaxrnn import files, logs, metrics

OUT = pathlib.Path("runs")
COUNTED = (1, 2, 4, 8, 16, 32)  # epochs


def main(
    *,
    seeds: int = 3,
    lengths: tuple[int, ...] = (25, 50, 100, 200),
    epochs: int = 40,
    updates: int = 100,
    batch_size: int = 32,
    features: int = 32,
    learning_rate: float = 0.005,
    max_norm: float = 1.0,
    deer_length: int | None = 100,
    out: pathlib.Path = OUT,
) -> list[dict]:
    """Trains every cell on every length; writes adding_problem.jsonl and .png.

    Args:
      seeds: models to train per cell and length.
      lengths: of the sequences.
      epochs: of `updates` each, at most.
      updates: per epoch, each from sequences that were never seen before.
      batch_size: sequences per update.
      features: of the recurrent layer.
      learning_rate: of Adam; `LEARNING_RATES` has exceptions.
      max_norm: of the gradient of all parameters together; longer ones are cut.
      deer_length: of `lengths`, at which the iterations of `Deer` are counted; None
        counts none.
      out: where results go.
    """
    test_key, _ = jax.random.split(jax.random.key(1997))  # no model's seed
    records = []
    for name, layer in (LAYERS | LINEAR_LAYERS).items():
        adder = make_adder(
            layer(features), LEARNING_RATES.get(name, learning_rate), max_norm
        )
        for length in lengths:
            keys, before = start(adder, seeds)
            snapshots = {0: before.params}
            with logs.progress_bar(epochs, f"{name}, {length}") as progress:

                def on_epoch(epoch, record, state, kept=snapshots, show=progress):
                    show(epoch, record)
                    if epoch + 1 in COUNTED:
                        kept[epoch + 1] = state.params

                trained, losses = train(
                    before,
                    keys,
                    adder,
                    length=length,
                    epochs=epochs,
                    updates=updates,
                    batch_size=batch_size,
                    over=over_models(),
                    on_epoch=on_epoch,
                )
            test = adding_problem(test_key, examples=1000, length=length)
            means = jaxrnn.evaluate(
                trained.params, test, loss_fn=adder.loss_fn, over=over_models()
            )
            test_mse = metrics.values(means)["loss"].tolist()
            epochs_run = max(map(len, losses))
            ran = [sum(len(x) > epoch for x in losses) for epoch in range(epochs_run)]
            seconds = np.diff(progress.ended) / ran  # per model that had not stopped
            sizes = [p[0].size for p in jax.tree.leaves(before.params)]
            deer = []
            if name in LAYERS and length == deer_length:
                cell = layer(features).make_cell()
                deer = count_deer(cell, snapshots, test.inputs[0], updates)
            for seed, (mse, loss) in enumerate(zip(test_mse, losses, strict=True)):
                solved = loss[-1] < SOLVED_MSE
                records.append(
                    {
                        "experiment": "adding_problem",
                        "model": name,
                        "length": length,
                        "seed": seed,
                        "parameters": sum(sizes),
                        "test_mse": mse if mse < 1 else None,  # None: it exploded
                        "solved_after": updates * len(loss) if solved else None,
                        "loss": [x if np.isfinite(x) else None for x in loss],
                        "deer": deer if seed == 0 else [],
                        "first_epoch_s": seconds[0],
                        "epoch_s": np.median(seconds[1:]) if len(seconds) > 1 else None,
                    }
                )
    files.write_json_lines(out / "adding_problem.jsonl", records)
    draw(records, epochs * updates, out / "adding_problem.png")
    print(report.markdown_table(summary(records)))
    return records


def count_deer(cell, snapshots: dict, inputs, updates: int) -> list[dict]:
    """What `Deer` takes for one sequence, with the first model's parameters.

    Args:
      cell: the recurrent cell.
      snapshots: parameters of all models, by the number of epochs.
      inputs: (length, 2).
      updates: per epoch.

    Returns:
      By snapshot: after how many updates, the number of iterations, and the share of
      steps that were taken one by one because those did not suffice.
    """
    reported = []
    solver = jaxrnn.Deer(report=lambda *counts: reported.append(list(map(int, counts))))
    for params in snapshots.values():
        params = jax.tree.map(lambda x: x[0], params["recurrent"])
        jax.block_until_ready(jaxrnn.rnn(cell, params, inputs, solver=solver))
        jax.effects_barrier()
    return [
        {
            "updates": updates * epoch,
            "iterations": iterations,
            "one_by_one": 1 - since / len(inputs),
        }
        for epoch, (iterations, since) in zip(snapshots, reported, strict=True)
    ]


def summary(records: list[dict]) -> list[dict]:
    """One row per model and length."""
    rows = []
    for name, length in dict.fromkeys((r["model"], r["length"]) for r in records):
        runs = [r for r in records if (r["model"], r["length"]) == (name, length)]
        errors = [r["test_mse"] for r in runs if r["test_mse"] is not None]
        solved = [float(r["solved_after"]) for r in runs if r["solved_after"]]
        seconds = [r["epoch_s"] for r in runs if r["epoch_s"]]
        rows.append(
            {
                "model": name,
                "length": length,
                "parameters": f"{runs[0]['parameters']:,}",
                "test MSE": report.mean_and_spread(errors, 4) if errors else "",
                "exploded": f"{len(runs) - len(errors)} of {len(runs)}",
                "solved": f"{len(solved)} of {len(runs)}",
                "updates to solve": report.mean_and_spread(solved, 0) if solved else "",
                "seconds per epoch": f"{np.median(seconds):.2f}" if seconds else "",
                "Deer's iterations": ", ".join(
                    str(count["iterations"]) for count in runs[0]["deer"]
                ),
            }
        )
    baseline = {"model": "always 1", "test MSE": f"{BASELINE_MSE:.4f}"}
    return [*rows, dict.fromkeys(rows[0], "") | baseline]


def draw(records: list[dict], most_updates: int, path: pathlib.Path) -> None:
    """Test MSE and updates to solve, by the length of the sequences."""
    figure, panels = report.new_figure(3, width=5.0, height=5.0)
    lengths = sorted({r["length"] for r in records})
    for i, name in enumerate(dict.fromkeys(r["model"] for r in records)):
        x = np.array(lengths) * (0.97 + 0.02 * i)  # side by side, not in one place
        for panel, key, missing in (
            (panels[0], "test_mse", 1.0),
            (panels[1], "solved_after", np.inf),
        ):
            by_length = [
                [
                    missing if r[key] is None else r[key]
                    for r in records
                    if (r["model"], r["length"]) == (name, length)
                ]
                for length in lengths
            ]
            values = np.column_stack([np.median(by_length, axis=1), by_length])
            values[np.isinf(values)] = np.nan
            color = report.color_of(name)
            panel.plot(x, values[:, 0], "-", color=color, label=name)
            panel.plot(x, values[:, 1:], "o", color=color, markersize=4, alpha=0.6)
    panels[0].axhline(BASELINE_MSE, color="0.4", linestyle="--", label="always 1")
    panels[0].axhline(SOLVED_MSE, color="0.4", linestyle=":", label="solved")
    panels[0].set(ylabel="test MSE", title="after training; 1: exploded", yscale="log")
    panels[1].set(
        ylabel="updates until solved",
        title=f"no point: not within {most_updates:,} updates",
        ylim=(0, 1.05 * most_updates),
    )
    for panel in panels[:2]:
        panel.set(xlabel="length of the sequences, time steps", xscale="log")
        panel.set_xlim(0.9 * lengths[0], 1.1 * lengths[-1])
        panel.set_xticks(lengths, labels=[str(length) for length in lengths])
        panel.xaxis.minorticks_off()
    draw_deer(records, panels[2])
    for panel in panels:
        panel.grid(alpha=0.3)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4
    )
    figure.suptitle("The adding problem: median (line) and every seed (dots)")
    report.save_figure(figure, path)


def draw_deer(records: list[dict], panel) -> None:
    """Iterations as training goes on; hollow where steps were left to take."""
    for record in records:
        if not record["deer"]:
            continue
        color = report.color_of(record["model"])
        x = [count["updates"] for count in record["deer"]]
        y = [count["iterations"] for count in record["deer"]]
        filled = [color if c["one_by_one"] == 0 else "white" for c in record["deer"]]
        panel.plot(x, y, "-", color=color)
        panel.scatter(x, y, c=filled, edgecolors=color, zorder=3)
        panel.set(title=f"first seed, length {record['length']}; hollow: not enough")
    panel.set(xlabel="updates", ylabel="iterations of Deer, at most 16", ylim=(0, 17))
    panel.set_xscale("symlog", linthresh=100)
    panel.set_xlim(left=-10)


if __name__ == "__main__":
    keep_programs()
    tyro.cli(main)
