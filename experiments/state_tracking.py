"""Which cells keep track of a state, and for how long beyond what they trained on?

Command    python experiments/state_tracking.py --seeds 1
Time       2.6 minutes for one seed on 2 quiet cores, 7 for three on cores that are not
Expect     of 3 seeds: GRU and LSTM solve parity and S3 at 40 steps, and hold parity
           over 10,000, S3 there at 0.35 to 1; a SimpleRNN holds parity in one of three.
           None of the linear cells here is far above chance from 256 steps on, though
           the signed one solves parity at 40 steps, and S3 nearly. Sums modulo 3 are
           the hardest: a GRU's hold to 40 steps, an LSTM's over 10,000 in one of three

Every step brings an element of a group; the label is the product of all elements since
the first step. Parity is the group of two (is the number of ones odd?), sums modulo 3
the group of three, S3 the six permutations of three things, where the order of the
factors matters. A single mistake is never forgotten. Whoever has a state and multiplies
it can go on for ever; who has learned something about 40 steps cannot.

Sequences have 40 steps in training, cut into episodes of 2, then 5, 10, 20 and at last
40 steps: the cell restarts at each (`resets`). The next level follows at an accuracy of
0.98 over an epoch of sequences never seen before, or after a fifth of all epochs;
training ends at 0.999 on the last one or after `epochs`. The test: 10,000 steps without
a restart.

Models: one layer of 32 features and two Dense layers that read it at every step.
SimpleRNN, GRU and LSTM are Keras'. minGRU and the LRU are linear in the carry; so is
the signed cell, a minGRU whose factor a = tanh(x W_a + b_a) may be negative, which is
what a linear cell with real factors needs for parity (Grazzi et al., Unlocking
state-tracking in linear RNNs through negative eigenvalues, 2024, arXiv 2411.12537).
What is found holds for these cells at this size, trained in this way.

Writes state_tracking.jsonl and .png.
"""

import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import report
import tyro
from labelers import (
    Labeler,
    Task,
    layers,
    make_epoch,
    make_optimizer,
    predictions,
    train,
)
from program_cache import keep_programs

import jaxrnn
from jaxrnn import files, logs

OUT = pathlib.Path("runs")
LEVELS = (2, 5, 10, 20, 40)


def signed_coefficients(params, projected):
    """The a and b of h' = a * h + b, with a in (-1, 1)."""
    del params
    x_a, b = jnp.split(projected, 2, axis=-1)
    return jnp.tanh(x_a), b


def signed_step(params, hidden, projected):
    """One step: h' = tanh(x W_a + b_a) * h + x W_b + b_b."""
    a, b = signed_coefficients(params, projected)
    return a * hidden + b


signed = jaxrnn.min_gru._replace(
    name="signed",
    step=signed_step,
    linear=jaxrnn.Linear(signed_coefficients),
)
CELLS = {
    "SimpleRNN": jaxrnn.simple_rnn,
    "GRU": jaxrnn.gru,
    "LSTM": jaxrnn.lstm,
    "minGRU, linear": jaxrnn.min_gru,
    "LRU, linear": jaxrnn.lru,
    "signed, linear": signed,
}


def permutations_of_three() -> np.ndarray:
    """The table of S3: entry [p, q] is "first q, then p", the identity is 0."""
    elements = list(itertools.permutations(range(3)))
    return np.array(
        [[elements.index(tuple(p[i] for i in q)) for q in elements] for p in elements]
    )


def additions(modulus: int) -> np.ndarray:
    """The table of sums modulo `modulus`."""
    return np.add.outer(np.arange(modulus), np.arange(modulus)) % modulus


TABLES = {
    "parity": additions(2),
    "sum modulo 3": additions(3),
    "S3": permutations_of_three(),
}


def running_products(table, elements, resets):
    """The product of all elements since the last reset, (batch, time) as they are."""

    def step(product, element_and_reset):
        element, reset = element_and_reset
        product = table[element, jnp.where(reset, 0, product)]
        return product, product

    first = jnp.zeros(len(elements), elements.dtype)
    _, products = jax.lax.scan(step, first, (elements.T, resets.T))
    return products.T


def draw(key, level, batch_size: int, *, table, time: int):
    """Random elements, a new episode every `level` steps, and what they multiply to."""
    table = jnp.asarray(table, jnp.int32)
    shape = (batch_size, time)
    elements = jax.random.randint(key, shape, 0, len(table), dtype=jnp.int32)
    resets = jnp.broadcast_to(jnp.arange(time) % level == 0, shape)
    products = running_products(table, elements, resets)
    inputs = jax.nn.one_hot(elements, len(table))
    return inputs, resets, products, jnp.ones(shape, bool)


def main(
    *,
    seeds: int = 1,
    cells: tuple[str, ...] = tuple(CELLS),
    tasks: tuple[str, ...] = tuple(TABLES),
    test_lengths: tuple[int, ...] = (40, 256, 1000, 10_000),
    test_sequences: int = 32,
    epochs: int = 50,
    updates: int = 50,
    batch_size: int = 64,
    features: int = 32,
    learning_rate: float = 0.003,
    out: pathlib.Path = OUT,
) -> list[dict]:
    """Trains every cell on every task; writes state_tracking.jsonl and .png.

    Args:
      seeds: models to train per cell and task, one after the other.
      cells: of `CELLS`.
      tasks: of `TABLES`.
      test_lengths: after how many steps accuracy is measured, over the last tenth.
      test_sequences: of the longest length.
      epochs: of `updates` each, at most.
      updates: per epoch, each from sequences that were never seen before.
      batch_size: sequences per update.
      features: of the recurrent layer.
      learning_rate: of Adam.
      out: where results go.
    """
    optimizer = make_optimizer(learning_rate)
    records = []
    for task_name in tasks:
        table = TABLES[task_name]
        task = Task(
            functools.partial(draw, table=table, time=max(LEVELS)),
            in_features=len(table),
            labels=len(table),
        )
        longest = max(test_lengths)
        inputs, _, labels, _ = draw(
            jax.random.key(2411), longest, test_sequences, table=table, time=longest
        )
        for name in cells:
            model = Labeler(layers(CELLS[name], features), task.labels)
            epoch = make_epoch(
                model, task, optimizer, updates=updates, batch_size=batch_size
            )
            predict = jax.jit(functools.partial(predictions, model))
            for seed in range(seeds):
                with logs.progress_bar(epochs, f"{task_name}, {name}") as progress:
                    params, history, solved = train(
                        model,
                        task,
                        seed,
                        epoch,
                        optimizer,
                        levels=LEVELS,
                        epochs=epochs,
                        on_epoch=progress,
                    )
                right = np.asarray(predict(params, inputs) == labels)
                sizes = [p.size for p in jax.tree.leaves(params)]
                records.append(
                    {
                        "experiment": "state_tracking",
                        "task": task_name,
                        "model": name,
                        "seed": seed,
                        "parameters": sum(sizes),
                        "level": history[-1]["level"],
                        "training_accuracy": history[-1]["accuracy"],
                        "solved_after": updates * len(history) if solved else None,
                        "accuracy": {
                            str(length): last_tenth(right, length)
                            for length in test_lengths
                        },
                        "loss": [figures["loss"] for figures in history],
                        "first_epoch_s": progress.first_epoch_s,
                        "epoch_s": progress.epoch_s,
                    }
                )
    files.write_json_lines(out / "state_tracking.jsonl", records)
    draw_picture(records, out / "state_tracking.png")
    print(report.markdown_table(summary(records)))
    return records


def last_tenth(right: np.ndarray, length: int) -> float:
    """The share of right labels among the last tenth of the first `length` steps.

    What a label should be depends on no later step, so one long sequence holds the
    answers for all shorter ones.
    """
    return right[:, length - max(length // 10, 1) : length].mean().item()


def accuracies(records: list[dict], task: str, model: str, length: int) -> list[float]:
    """Of all seeds, the lowest first."""
    return sorted(
        r["accuracy"][str(length)]
        for r in records
        if (r["task"], r["model"]) == (task, model)
    )


def summary(records: list[dict]) -> list[dict]:
    """One row per task and model; accuracy as the range over the seeds."""
    rows = []
    for task, name in dict.fromkeys((r["task"], r["model"]) for r in records):
        runs = [r for r in records if (r["task"], r["model"]) == (task, name)]
        solved = [float(r["solved_after"]) for r in runs if r["solved_after"]]
        row = {"task": task, "model": name, "parameters": f"{runs[0]['parameters']:,}"}
        row["solved"] = f"{len(solved)} of {len(runs)}"
        row["updates to solve"] = report.mean_and_spread(solved, 0) if solved else ""
        for length in map(int, runs[0]["accuracy"]):
            values = accuracies(records, task, name, length)
            row[f"at {length:,}"] = f"{values[0]:.2f} to {values[-1]:.2f}"
        rows.append(row)
    return rows


def draw_picture(records: list[dict], path: pathlib.Path) -> None:
    """A table of accuracies for each task, from chance (dark) to 1 (bright)."""
    tasks = list(dict.fromkeys(r["task"] for r in records))
    models = list(dict.fromkeys(r["model"] for r in records))
    lengths = list(map(int, records[0]["accuracy"]))
    figure, panels = report.new_figure(len(tasks), width=5.6, height=5.6)
    for panel, task in zip(panels, tasks, strict=True):
        found = [
            [accuracies(records, task, name, length) for length in lengths]
            for name in models
        ]
        chance = 1 / len(TABLES[task])
        medians = np.median(found, axis=-1)
        panel.imshow(medians, cmap="cividis", vmin=chance, vmax=1, aspect="auto")
        for i, j in np.ndindex(medians.shape):
            low, high = found[i][j][0], found[i][j][-1]
            text = f"{medians[i, j]:.2f}"
            if f"{low:.2f}" != f"{high:.2f}":
                text += f"\n({low:.2f} to {high:.2f})"
            share = (medians[i, j] - chance) / (1 - chance)
            color = "black" if share > 0.5 else "white"
            place = {"ha": "center", "va": "center", "fontsize": "small"}
            panel.text(j, i, text, color=color, **place)
        panel.set_xticks(range(len(lengths)), labels=[f"{x:,}" for x in lengths])
        panel.set_yticks(range(len(models)), labels=[])
        panel.set(title=f"{task} (chance: {chance:.2f})", xlabel="after so many steps")
    panels[0].set_yticks(range(len(models)), labels=models)
    figure.suptitle(
        f"Trained on up to {max(LEVELS)} steps, tested on more. Accuracy in the last "
        f"tenth, seeds: {len({r['seed'] for r in records})}, median (and range)"
    )
    report.save_figure(figure, path)


if __name__ == "__main__":
    keep_programs()
    tyro.cli(main)
