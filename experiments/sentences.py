"""What does the smallest text classifier learn from four sentences?

Command    python experiments/sentences.py --seeds 5
Time       about 10 seconds on 2 cores, most of it start-up and compilation
Expect     30,341 parameters; the four sentences told apart after 10 epochs

The labels tell cats (1) from dogs (0), not good from bad: "I hate dogs" and "Dogs are
loyal" are both 0. The tutorial never looks at a prediction; this prints them, for the
four sentences and for new ones. All seeds train at once, by `jax.vmap`.
"""

import pathlib

import jax
import numpy as np
import report
import tyro
from program_cache import keep_programs

import jaxrnn
from jaxrnn import data, files, logs

OUT = pathlib.Path("runs")
SENTENCES = ["I love cats", "I hate dogs", "Cats are cute", "Dogs are loyal"]
LABELS = [1, 0, 1, 0]
NEW_SENTENCES = ["I love dogs", "I hate cats", "Dogs are cute", "Cats are loyal"]


def main(
    *,
    seeds: int = 5,
    epochs: int = 10,
    embed_features: int = 100,
    features: int = 128,
    learning_rate: float = 0.001,
    out: pathlib.Path = OUT,
) -> list[dict]:
    """Trains `seeds` models at once; writes sentences.jsonl and sentences.png."""
    tokenizer = data.Tokenizer.fit(SENTENCES)
    ids = data.pad_sequences(tokenizer.encode(SENTENCES))
    dataset = data.Dataset(ids, np.array(LABELS, np.float32))

    model = jaxrnn.TextClassifier(
        tokenizer.vocab_size, embed_features, jaxrnn.SimpleRNN(features)
    )
    optimizer = jaxrnn.keras_adam(learning_rate)

    def probabilities(params, ids):
        return jax.nn.sigmoid(model.apply({"params": params}, ids))

    def loss_fn(params, batch):
        p = probabilities(params, batch.inputs)
        return jaxrnn.binary_classification_loss(p, batch.targets, batch.sample_weight)

    def init_fn(key):
        return model.init(key, ids[:1])["params"]

    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    state = jaxrnn.create_train_state(init_fn, optimizer, keys)
    with logs.progress_bar(epochs, "sentences") as progress:
        state, history = jaxrnn.fit(
            state,
            dataset,
            loss_fn=loss_fn,
            optimizer=optimizer,
            key=keys,
            epochs=epochs,
            over=jax.vmap,
            on_epoch=progress,
        )

    texts = SENTENCES + NEW_SENTENCES
    new_ids = data.pad_sequences(tokenizer.encode(texts), ids.shape[1])
    predict = jax.jit(jax.vmap(lambda params: probabilities(params, new_ids)))
    predicted = np.asarray(predict(state.params))
    records = [
        {
            "experiment": "sentences",
            "seed": seed,
            "parameters": sum(leaf[0].size for leaf in jax.tree.leaves(state.params)),
            "loss": history["loss"][-1, seed],
            "accuracy": history["accuracy"][-1, seed],
            "probability_of_cats": dict(zip(texts, predicted[seed], strict=True)),
            "first_epoch_s": progress.first_epoch_s,
            "epoch_s": progress.epoch_s and progress.epoch_s / seeds,
        }
        for seed in range(seeds)
    ]
    files.write_json_lines(out / "sentences.jsonl", records)
    report.plot_history(
        history,
        out / "sentences.png",
        title=f"four sentences: mean and range of {seeds} seeds",
    )
    rows = [
        {
            "sentence": text,
            "label": LABELS[i] if i < len(LABELS) else "new",
            "probability of cats": report.mean_and_spread(predicted[:, i]),
        }
        for i, text in enumerate(texts)
    ]
    print(report.markdown_table(rows))
    return records


if __name__ == "__main__":
    keep_programs()
    tyro.cli(main)
