"""Are movie reviews good or bad? The four IMDB tutorials, by their arguments.

Command    python experiments/imdb.py 002 --seeds 3
           (001, 002, 004a or 004b; --data-dir or TFDS_DATA_DIR for prepared reviews)
Time       on 2 cores, per seed: 001 50 s, 002 8 s, 004a 2 s, 004b 3 s; and 10 s for
           the first encoding of the reviews, which is cached
Expect     test accuracy after 10 epochs (Keras gives the same): 001 0.72 to 0.86,
           002 0.78 to 0.83, 004a 0.76 to 0.80, 004b 0.69 to 0.76

All four overfit: the validation loss rises after the first epochs. They read the
padding in front of a review as a word; `--masked` does not. `--seeds` are trained in
one program, one after the other on a CPU (`jaxrnn.one_by_one`), at the same time on an
accelerator (`jax.vmap`).
"""

import functools
import pathlib
from typing import Literal

import jax
import numpy as np
import report
import tyro
from program_cache import keep_programs

import jaxrnn
from jaxrnn import data, files, logs, metrics

OUT = pathlib.Path("runs")
LAYERS = {"simple_rnn": jaxrnn.SimpleRNN, "gru": jaxrnn.GRU, "lstm": jaxrnn.LSTM}
OPTIMIZERS = {"adam": jaxrnn.keras_adam, "rmsprop": jaxrnn.keras_rmsprop}


def main(
    *,
    name: str = "imdb",
    max_length: int = 100,
    num_words: int = 10_000,
    embed_features: int = 32,
    layer: Literal["simple_rnn", "gru", "lstm", "flatten"] = "simple_rnn",
    features: int = 32,
    hidden_features: int | None = None,
    masked: bool = False,
    optimizer: Literal["adam", "rmsprop"] = "adam",
    learning_rate: float = 0.001,
    epochs: int = 10,
    batch_size: int = 128,
    validation: float | None = 0.2,
    seeds: int = 3,
    data_dir: pathlib.Path | None = None,
    out: pathlib.Path = OUT,
) -> list[dict]:
    """Trains `seeds` models; writes {name}.jsonl and {name}.png.

    Args:
      name: of the files, and of the run in its records.
      max_length: the last words of a review that are read.
      num_words: ids, padding included.
      embed_features: width of the embedding.
      layer: what reads the words; "flatten" puts them side by side instead.
      features: of the recurrent layer.
      hidden_features: of the Dense layer before the last; None for no such layer.
      masked: whether to skip the padding.
      optimizer: with Keras' numerics.
      learning_rate: of the optimizer.
      epochs: passes over the training reviews.
      batch_size: reviews per update.
      validation: share of the training reviews, taken from their end; None for none.
      seeds: models to train.
      data_dir: a tfds directory; None for TFDS_DATA_DIR or tfds' default.
      out: where results go.
    """
    reviews = data.load_imdb(
        num_words=num_words, max_length=max_length, data_dir=data_dir, masked=masked
    )
    train, held_out = reviews.train, None
    if validation is not None:
        train, held_out = data.split_last(reviews.train, validation)

    if layer == "flatten":
        if masked or hidden_features is None:
            raise ValueError("flatten takes hidden_features, and no mask.")
        model = jaxrnn.FlattenClassifier(num_words, embed_features, hidden_features)
    else:
        model = jaxrnn.TextClassifier(
            num_words, embed_features, LAYERS[layer](features), hidden_features
        )
    transformation = OPTIMIZERS[optimizer](learning_rate)

    def probabilities(params, batch):
        mask = {} if batch.mask is None else {"mask": batch.mask}
        return jax.nn.sigmoid(model.apply({"params": params}, batch.inputs, **mask))

    def loss_fn(params, batch):
        p = probabilities(params, batch)
        return jaxrnn.binary_classification_loss(p, batch.targets, batch.sample_weight)

    def init_fn(key):
        return model.init(key, train.inputs[:1])["params"]

    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    state = jaxrnn.create_train_state(init_fn, transformation, keys)
    over = jaxrnn.one_by_one if jax.default_backend() == "cpu" else jax.vmap
    with logs.progress_bar(epochs, f"{name}, {seeds} seeds") as progress:
        state, history = jaxrnn.fit(
            state,
            train,
            loss_fn=loss_fn,
            optimizer=transformation,
            key=keys,
            epochs=epochs,
            batch_size=batch_size,
            validation=held_out,
            over=over,
            on_epoch=progress,
        )
    test = metrics.values(
        jaxrnn.evaluate(state.params, reviews.test, loss_fn=loss_fn, over=over)
    )
    five = data.Dataset(*(x if x is None else x[:5] for x in reviews.test))
    predict = jax.jit(jax.vmap(lambda params: probabilities(params, five)))
    predicted = predict(state.params)

    records = [
        {
            "experiment": name,
            "seed": seed,
            "parameters": sum(leaf[0].size for leaf in jax.tree.leaves(state.params)),
            "test_loss": test["loss"][seed],
            "test_accuracy": test["accuracy"][seed],
            **{key: by_epoch[:, seed] for key, by_epoch in history.items()},
            "predictions": predicted[seed],
            "first_epoch_s": progress.first_epoch_s,
            "epoch_s": progress.epoch_s and progress.epoch_s / seeds,
        }
        for seed in range(seeds)
    ]
    files.write_json_lines(out / f"{name}.jsonl", records)
    report.plot_history(
        history, out / f"{name}.png", title=f"{name}: mean and range of {seeds} seeds"
    )
    print(report.markdown_table([summary(records)]))
    print("\nfive test reviews, probability of good by the first model:")
    for row, p, target in zip(five.inputs, predicted[0], five.targets, strict=True):
        words = reviews.vocabulary.decode(row).split()[-8:]
        print(f"  {p:.3f} (label {target:.0f})  ... {' '.join(words)}")
    return records


def summary(records: list[dict]) -> dict:
    """One row of a table from the records of all seeds."""

    def over_seeds(values):
        return report.mean_and_spread(list(values))

    row = {
        "experiment": records[0]["experiment"],
        "parameters": f"{records[0]['parameters']:,}",
        "test accuracy": over_seeds(r["test_accuracy"] for r in records),
        "test loss": over_seeds(r["test_loss"] for r in records),
        "best validation accuracy": "",
        "seconds per epoch": f"{records[0]['epoch_s'] or np.nan:.3f}",
    }
    if "val_accuracy" in records[0]:
        best = (max(r["val_accuracy"]) for r in records)
        row["best validation accuracy"] = over_seeds(best)
    return row


VARIANTS = {
    "001": functools.partial(
        main,
        name="imdb-001",
        max_length=500,
        optimizer="rmsprop",
        batch_size=32,
        validation=None,
    ),
    "002": functools.partial(main, name="imdb-002"),
    "004a": functools.partial(
        main,
        name="imdb-004a",
        max_length=30,
        embed_features=16,
        layer="flatten",
        hidden_features=32,
        optimizer="rmsprop",
    ),
    "004b": functools.partial(
        main,
        name="imdb-004b",
        max_length=30,
        embed_features=16,
        hidden_features=32,
        optimizer="rmsprop",
    ),
}

if __name__ == "__main__":
    keep_programs()
    tyro.extras.subcommand_cli_from_dict(VARIANTS)
