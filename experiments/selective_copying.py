"""Which cells copy some tokens of a sequence and leave out the rest?

Command    python experiments/selective_copying.py --seeds 1
Time       3 minutes of processor time for one seed; 6 on 2 cores that others use too
Expect     after 2,000 updates, of 3 seeds: 0.99 to 1 of the tokens right for a GRU,
           0.93 to 0.96 for an LSTM, 0.95 and 0.96 for one layer of a minGRU, of which
           one seed never leaves chance, 0.997 for three layers of it, in the fewest
           updates; 0.47 to 0.53 for an LRU, whose factors do not see the inputs

A sequence of `length` steps holds a few tokens, at random places; all other steps are
blank. Then the model is asked once for each token, and says them in the order in which
they came. What matters is to write a token where it comes, to hold it over blanks, and
to write the next one elsewhere: a cell whose gates see the input can, one whose factors
are the same at every step must do without. The problem is from Jing et al., Gated
orthogonal recurrent units, 2019, and in this form from Gu and Dao, Mamba, 2023.

Models: layers of 64 features and two Dense layers that read the last of them at every
step. minGRU (one and three layers) and LRU are linear in the carry; between the layers
stands nothing. Feng et al., Were RNNs all we needed?, 2024, arXiv 2410.01201, find that
one layer of a minGRU does not do at length 4,096 and three nearly do; at the length
here one does in two of three seeds. What is found holds for these cells at this size,
trained in this way.

Writes selective_copying.jsonl and .png.
"""

import functools
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
MODELS = {  # cell, layers
    "GRU": (jaxrnn.gru, 1),
    "LSTM": (jaxrnn.lstm, 1),
    "minGRU, 1 layer": (jaxrnn.min_gru, 1),
    "minGRU, 3 layers": (jaxrnn.min_gru, 3),
    "LRU": (jaxrnn.lru, 1),
}


def draw(key, level, batch_size: int, *, length: int, tokens: int, kinds: int):
    """Tokens 0 to `kinds` - 1 among blanks, then questions; answers count alone.

    Returns:
      As in `Task`, with `length` + `tokens` steps; inputs are one-hot, `kinds` is the
      blank and `kinds` + 1 the question. Episodes have no other beginning than that of
      the sequence.
    """
    del level  # there is one
    token_key, place_key = jax.random.split(key)
    said = jax.random.randint(token_key, (batch_size, tokens), 0, kinds)
    order = jax.random.uniform(place_key, (batch_size, length)).argsort(axis=-1)
    places = jnp.sort(order[:, :tokens], axis=-1)
    blanks = jnp.full((batch_size, length), kinds)
    shown = jax.vmap(lambda row, at, what: row.at[at].set(what))(blanks, places, said)
    asked = jnp.full((batch_size, tokens), kinds + 1)
    inputs = jax.nn.one_hot(jnp.concatenate([shown, asked], axis=1), kinds + 2)
    nothing = jnp.zeros((batch_size, length), said.dtype)
    labels = jnp.concatenate([nothing, said], axis=1)
    counts = jnp.arange(length + tokens) >= length
    return inputs, None, labels, jnp.broadcast_to(counts, labels.shape)


def main(
    *,
    seeds: int = 1,
    models: tuple[str, ...] = tuple(MODELS),
    length: int = 64,
    tokens: int = 4,
    kinds: int = 8,
    epochs: int = 40,
    updates: int = 50,
    batch_size: int = 64,
    features: int = 64,
    learning_rate: float = 0.003,
    out: pathlib.Path = OUT,
) -> list[dict]:
    """Trains every model; writes selective_copying.jsonl and .png.

    Args:
      seeds: models to train of each sort, one after the other.
      models: of `MODELS`.
      length: of the sequences, questions not counted.
      tokens: to copy in each.
      kinds: of tokens.
      epochs: of `updates` each, at most.
      updates: per epoch, each from sequences that were never seen before.
      batch_size: sequences per update.
      features: of each recurrent layer.
      learning_rate: of Adam.
      out: where results go.
    """
    sizes = {"length": length, "tokens": tokens, "kinds": kinds}
    task = Task(functools.partial(draw, **sizes), in_features=kinds + 2, labels=kinds)
    inputs, _, labels, _ = task.draw(jax.random.key(2312), 0, 1000)
    optimizer = make_optimizer(learning_rate)
    records = []
    for name in models:
        cell, count = MODELS[name]
        model = Labeler(layers(cell, features, count), kinds)
        epoch = make_epoch(
            model, task, optimizer, updates=updates, batch_size=batch_size
        )
        predict = jax.jit(functools.partial(predictions, model))
        for seed in range(seeds):
            with logs.progress_bar(epochs, name) as progress:
                params, history, solved = train(
                    model,
                    task,
                    seed,
                    epoch,
                    optimizer,
                    levels=(0,),
                    epochs=epochs,
                    on_epoch=progress,
                )
            right = np.asarray(predict(params, inputs) == labels)[:, length:]
            records.append(
                {
                    "experiment": "selective_copying",
                    "model": name,
                    "seed": seed,
                    **sizes,
                    "parameters": sum(p.size for p in jax.tree.leaves(params)),
                    "test_accuracy": right.mean().item(),
                    "test_sequences_right": right.all(axis=1).mean().item(),
                    "solved_after": updates * len(history) if solved else None,
                    "accuracy": [figures["accuracy"] for figures in history],
                    "first_epoch_s": progress.first_epoch_s,
                    "epoch_s": progress.epoch_s,
                }
            )
    files.write_json_lines(out / "selective_copying.jsonl", records)
    draw_picture(records, updates, out / "selective_copying.png")
    print(report.markdown_table(summary(records)))
    return records


def summary(records: list[dict]) -> list[dict]:
    """One row per model."""
    rows = []
    for name in dict.fromkeys(r["model"] for r in records):
        runs = [r for r in records if r["model"] == name]
        solved = [float(r["solved_after"]) for r in runs if r["solved_after"]]
        rows.append(
            {
                "model": name,
                "parameters": f"{runs[0]['parameters']:,}",
                "tokens right": report.mean_and_spread(
                    [r["test_accuracy"] for r in runs]
                ),
                "sequences right": report.mean_and_spread(
                    [r["test_sequences_right"] for r in runs]
                ),
                "solved": f"{len(solved)} of {len(runs)}",
                "updates to solve": report.mean_and_spread(solved, 0) if solved else "",
            }
        )
    return rows


def draw_picture(records: list[dict], updates: int, path: pathlib.Path) -> None:
    """Accuracy as training goes on, a line for each seed."""
    figure, (panel,) = report.new_figure(1, width=8.0, height=4.4)
    for name in dict.fromkeys(r["model"] for r in records):
        color, style = report.color_of(name), "--" if "3 layers" in name else "-"
        for record in records:
            if record["model"] != name:
                continue
            accuracy = record["accuracy"]
            x = updates * np.arange(1, len(accuracy) + 1)
            label = name if record["seed"] == 0 else None
            panel.plot(x, accuracy, style, color=color, label=label)
            panel.plot(x[-1], accuracy[-1], "o", color=color)
    panel.axhline(1 / records[0]["kinds"], color="0.4", linestyle=":", label="chance")
    panel.set(xlabel="updates", ylabel="share of tokens right", ylim=(0, 1.03))
    panel.grid(alpha=0.3)
    figure.legend(
        *panel.get_legend_handles_labels(), loc="outside right center", fontsize="small"
    )
    figure.suptitle(
        f"Copying {records[0]['tokens']} tokens out of {records[0]['length']} steps"
    )
    report.save_figure(figure, path)


if __name__ == "__main__":
    keep_programs()
    tyro.cli(main)
