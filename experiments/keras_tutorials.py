"""What does Keras itself give on the five tutorials?

Command    python experiments/keras_tutorials.py --seeds 10 --first-epochs 200
           (needs keras, which the extra "dev" brings; runs on its JAX backend)
Time       30 to 40 minutes on 2 cores; 5 with --seeds 3 --first-epochs 0
Expect     test accuracy 001 0.78 to 0.86, 002 0.79 to 0.82, 004a 0.78 to 0.79, 004b
           0.71 to 0.75; sine test MSE 0.10 to 0.115

The models are the tutorials', the data are those of the other experiments. The result,
keras.jsonl, is the column "Keras" of the table that `reproduce.py` writes. A few seeds
say little about a distribution; one epoch of 002 is short enough to run hundreds.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before keras is imported

import pathlib
import time

import keras
import numpy as np
import report
import tqdm
import tyro
from keras import layers
from program_cache import keep_programs

from jaxrnn import data, files

RESULTS = pathlib.Path(__file__).parent / "results"


def main(
    *,
    seeds: int = 3,
    epochs: int = 10,
    first_epochs: int = 0,
    data_dir: pathlib.Path | None = None,
    out: pathlib.Path = RESULTS,
) -> list[dict]:
    """Trains every tutorial's model `seeds` times; writes keras.jsonl.

    Args:
      seeds: models of each tutorial.
      epochs: of 000 and of the reviews.
      first_epochs: models of 002 that are trained for one epoch.
      data_dir: a tfds directory; None for TFDS_DATA_DIR or tfds' default.
      out: where the records go.
    """
    records = []
    for seed in tqdm.trange(seeds, desc="keras", unit="seed", disable=None):
        records.append(sentences(seed, epochs))
        records.append(sine("sine", data.window_as_features, seed))
        records.append(sine("sine-time", data.window_as_time, seed))
        for name, build, options in IMDB:
            records.append(imdb(name, build, seed, epochs, data_dir, **options))
    for seed in tqdm.trange(first_epochs, desc="first epochs", disable=None):
        name = "imdb-002-first-epoch"
        records.append(imdb(name, embed_rnn_dense, seed, 1, data_dir, **SHORT))
    files.write_json_lines(out / "keras.jsonl", records)
    print(report.markdown_table(summary(records)))
    return records


def sentences(seed: int, epochs: int) -> dict:
    """Four sentences, 000."""
    texts = ["I love cats", "I hate dogs", "Cats are cute", "Dogs are loyal"]
    tokenizer = data.Tokenizer.fit(texts)
    model = compiled(
        [
            layers.Embedding(tokenizer.vocab_size, 100),
            layers.SimpleRNN(128),
            layers.Dense(1, activation="sigmoid"),
        ],
        seed,
        optimizer="adam",
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    ids = np.array(tokenizer.encode(texts))
    history, epoch_s = fit(model, ids, np.array([1, 0, 1, 0]), epochs=epochs)
    return {
        "experiment": "sentences",
        "seed": seed,
        "loss": history["loss"][-1],
        "accuracy": history["accuracy"][-1],
        "epoch_s": epoch_s,
    }


def sine(name: str, layout, seed: int) -> dict:
    """A noisy sine, 003: the window as features, the tutorial's layout, or as time."""
    series = data.sine_series(rng=np.random.default_rng(seed))
    train, test = data.sine_datasets(series, layout=layout)
    model = compiled(
        [
            layers.SimpleRNN(32, activation="relu"),
            layers.Dense(8, activation="relu"),
            layers.Dense(1),
        ],
        seed,
        optimizer="rmsprop",
        loss="mse",
    )
    _, epoch_s = fit(model, train.inputs, train.targets, epochs=50, batch_size=16)
    return {
        "experiment": name,
        "seed": seed,
        "train_mse": model.evaluate(train.inputs, train.targets, verbose=0),
        "test_mse": model.evaluate(test.inputs, test.targets, verbose=0),
        "next_value": float(model.predict(test.inputs[-1:], verbose=0)[0, 0]),
        "epoch_s": epoch_s,
    }


def imdb(
    name: str,
    build,
    seed: int,
    epochs: int,
    data_dir: pathlib.Path | None,
    *,
    max_length: int,
    optimizer: str,
    batch_size: int,
    validation_split: float,
) -> dict:
    """The reviews: 001, 002 (also with its padding masked), 004a, 004b."""
    reviews = data.load_imdb(max_length=max_length, data_dir=data_dir)
    model = compiled(
        build(),
        seed,
        optimizer=optimizer,
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    history, epoch_s = fit(
        model,
        reviews.train.inputs,
        reviews.train.targets,
        epochs=epochs,
        batch_size=batch_size,
        validation_split=validation_split,
    )
    loss, accuracy = model.evaluate(
        reviews.test.inputs, reviews.test.targets, batch_size=256, verbose=0
    )
    return {
        "experiment": name,
        "seed": seed,
        "test_loss": loss,
        "test_accuracy": accuracy,
        "epoch_s": epoch_s,
        **history,
    }


def compiled(model_layers: list, seed: int, **options) -> keras.Model:
    """A Sequential model, with Keras' and NumPy's global states seeded."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(model_layers)
    model.compile(**options)
    return model


def fit(model: keras.Model, inputs, targets, **options) -> tuple[dict, float | None]:
    """Trains; returns the history and the median seconds of the later epochs."""
    ended = [time.perf_counter()]
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ended.append(time.perf_counter())
    )
    history = model.fit(inputs, targets, verbose=0, callbacks=[clock], **options)
    epoch_s = float(np.median(np.diff(ended)[1:])) if len(ended) > 2 else None
    return history.history, epoch_s


def embed_rnn_dense(masked: bool = False) -> list:
    """001 and 002; `masked`: the padding, id 0, is skipped."""
    return [
        layers.Embedding(10_000, 32, mask_zero=masked),
        layers.SimpleRNN(32),
        layers.Dense(1, activation="sigmoid"),
    ]


def embed_masked_rnn_dense() -> list:
    """002 with its padding masked."""
    return embed_rnn_dense(masked=True)


def embed_flatten_dense() -> list:
    """004a."""
    return [
        layers.Embedding(10_000, 16),
        layers.Flatten(),
        layers.Dense(32, activation="sigmoid"),
        layers.Dense(1, activation="sigmoid"),
    ]


def embed_rnn_dense_dense() -> list:
    """004b."""
    return [
        layers.Embedding(10_000, 16),
        layers.SimpleRNN(32),
        layers.Dense(32, activation="sigmoid"),
        layers.Dense(1, activation="sigmoid"),
    ]


LONG = {
    "max_length": 500,
    "optimizer": "rmsprop",
    "batch_size": 32,
    "validation_split": 0.0,
}
SHORT = {
    "max_length": 100,
    "optimizer": "adam",
    "batch_size": 128,
    "validation_split": 0.2,
}
SHORTEST = {
    "max_length": 30,
    "optimizer": "rmsprop",
    "batch_size": 128,
    "validation_split": 0.2,
}
IMDB = [
    ("imdb-001", embed_rnn_dense, LONG),
    ("imdb-002", embed_rnn_dense, SHORT),
    ("imdb-002-masked", embed_masked_rnn_dense, SHORT),
    ("imdb-004a", embed_flatten_dense, SHORTEST),
    ("imdb-004b", embed_rnn_dense_dense, SHORTEST),
]


def summary(records: list[dict]) -> list[dict]:
    """One row per experiment."""
    rows = []
    for name in dict.fromkeys(r["experiment"] for r in records):
        runs = [r for r in records if r["experiment"] == name]
        result = next(
            k for k in ("test_accuracy", "test_mse", "accuracy") if k in runs[0]
        )
        rows.append(
            {
                "experiment": name,
                "result": result.replace("_", " "),
                "Keras": report.mean_and_spread([r[result] for r in runs]),
                "seconds per epoch": report.mean_and_spread(
                    [r["epoch_s"] or np.nan for r in runs]
                ),
            }
        )
    return rows


if __name__ == "__main__":
    keep_programs()
    tyro.cli(main)
