"""Which word comes next? A language model of the reviews, cell by cell.

Command    python experiments/next_word.py --seeds 3
           (--data-dir or TFDS_DATA_DIR for prepared reviews)
Time       about 5 minutes on 2 cores, 30 s per model; most of it is the softmax
Expect     perplexity on held-out reviews: GRU 109 to 111, SimpleRNN 110 to 112, LSTM
           115 to 118; bigrams 140, single words 291

A perplexity of 100 is to be as unsure as among 100 equally likely words: exp(mean
cross-entropy) over all words, `<oov>` and `<start>` included. All cells have the same
`features`, so that each softmax, which has most of the parameters, reads as much; a GRU
then has three times and an LSTM four times the recurrent parameters of a SimpleRNN.

All three know more than the word before; that gates remember longer hardly shows in
400,000 words. The LSTM does not overfit, it learns slowly: its training perplexity is
the highest too. The order is that of this learning rate: `--learning-rate 0.01` turns
it round, LSTM 109, GRU 113, SimpleRNN 115 (one seed). `adding_problem.py` shows where
gates do matter.

Training is truncated backpropagation through time (`jaxrnn.train_stream`), as of
Mikolov et al., Recurrent neural network based language model, 2010. The reviews end to
end are one long stream, `<start>` before each of them. It is cut into rows that are
read side by side, a window of words at a time; the next window begins with the carry
that this one ended with, and no gradient flows between them. `--seeds` are trained in
one program, one after the other on a CPU (`jaxrnn.one_by_one`), at the same time on an
accelerator (`jax.vmap`).
"""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import report
import tyro
from program_cache import keep_programs

import jaxrnn
from jaxrnn import data, files, logs, metrics

OUT = pathlib.Path("runs")
LAYERS = {"SimpleRNN": jaxrnn.SimpleRNN, "GRU": jaxrnn.GRU, "LSTM": jaxrnn.LSTM}
START_ID, FIRST_WORD_ID = 1, 4  # of `load_imdb`: 0 pads, 2 is <oov>, 3 is no id
PRIORS = (30, 100, 300, 1000, 3000)  # of the bigrams
PROMPTS = ("this movie is", "the acting was")


class NextWord(nn.Module):
    """Embed -> a recurrent layer -> Dense: after every word, logits of the next.

    Attributes:
      vocab_size: number of ids.
      embed_features: width of the embedding.
      recurrent: a layer with `return_sequences` and `return_carry`.
    """

    vocab_size: int
    embed_features: int
    recurrent: nn.Module

    @nn.compact
    def __call__(self, ids, initial_carry=None):
        """Takes ids (batch, time); returns the carry and (batch, time, vocab_size)."""
        embed = jaxrnn.Embed(
            self.vocab_size,
            self.embed_features,
            embedding_init=nn.initializers.normal(0.3),  # Keras' are 10 times smaller
        )
        features = embed(ids)
        carry, outputs = self.recurrent(features, initial_carry=initial_carry)
        head = nn.Dense(self.vocab_size, kernel_init=nn.initializers.glorot_uniform())
        return carry, head(outputs)


def main(
    *,
    seeds: int = 3,
    epochs: int = 4,
    train_words: int = 400_000,
    held_out_words: int = 100_000,
    vocab_size: int = 3_000,
    embed_features: int = 64,
    features: int = 64,
    rows: int = 16,
    window: int = 32,
    learning_rate: float = 0.005,
    max_norm: float = 0.25,
    temperature: float = 0.7,
    continuation: int = 15,
    data_dir: pathlib.Path | None = None,
    out: pathlib.Path = OUT,
) -> list[dict]:
    """Trains every cell `seeds` times; writes next_word.jsonl and next_word.png.

    Args:
      seeds: models to train per cell.
      epochs: passes over the training stream.
      train_words: of the training reviews, from their beginning.
      held_out_words: of the test reviews, from their beginning.
      vocab_size: ids, padding and out-of-vocabulary included.
      embed_features: width of the embedding.
      features: of the recurrent layer.
      rows: parts of a stream that are read side by side.
      window: words between two updates; the gradient reaches no further back.
      learning_rate: of Adam at the start; it falls to zero as a half cosine.
      max_norm: of the gradient of all parameters together; longer ones are cut.
      temperature: of the sampled continuations; the logits are divided by it.
      continuation: words that the models go on for after each of `PROMPTS`.
      data_dir: a tfds directory; None for TFDS_DATA_DIR or tfds' default.
      out: where results go.
    """
    reviews = data.load_imdb(
        num_words=vocab_size, max_length=250, data_dir=data_dir, masked=True
    )
    train_ids = stream(reviews.train)[:train_words]
    held_out_ids = stream(reviews.test)[:held_out_words]
    baselines = count_words(train_ids, held_out_ids, vocab_size)
    train, held_out = jax.device_put(
        [data.streams(ids, rows) for ids in (train_ids, held_out_ids)]
    )
    prompts = [reviews.vocabulary.encode_reviews([text])[0] for text in PROMPTS]
    updates = epochs * -(-train.inputs.shape[1] // window)
    schedule = optax.cosine_decay_schedule(learning_rate, updates)
    optimizer = optax.chain(
        optax.clip_by_global_norm(max_norm), jaxrnn.keras_adam(schedule)
    )
    over = jaxrnn.one_by_one if jax.default_backend() == "cpu" else jax.vmap

    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    records = []
    for name, layer in LAYERS.items():
        recurrent = layer(features, return_sequences=True, return_carry=True)
        model = NextWord(vocab_size, embed_features, recurrent)
        loss_fn = functools.partial(read_window, model=model)
        options = {"loss_fn": loss_fn, "chunk": window, "over": over}

        def init_fn(key, model=model):
            return model.init(key, train.inputs[:, :1])["params"]

        states = jaxrnn.create_train_state(init_fn, optimizer, keys)
        zeros = jax.vmap(lambda params, m=model: zero_carry(params, rows, model=m))(
            states.params
        )
        history = {"train_perplexity": [], "held_out_perplexity": []}
        with logs.progress_bar(epochs, f"{name}, {seeds} seeds") as progress:
            for epoch in range(epochs):
                states, _, means = jaxrnn.train_stream(
                    states, zeros, train, optimizer=optimizer, **options
                )
                _, held_out_means = jaxrnn.evaluate_stream(
                    states.params, zeros, held_out, **options
                )
                history["train_perplexity"].append(perplexity(means))
                history["held_out_perplexity"].append(perplexity(held_out_means))
                progress(epoch, {n: values[-1] for n, values in history.items()})
        _, at_rest = jaxrnn.evaluate_stream(states.params, zeros, train, **options)
        for seed in range(seeds):
            params = jax.tree.map(lambda leaf, seed=seed: leaf[seed], states.params)
            continuations = [
                continue_text(
                    params,
                    prompt,
                    jax.random.fold_in(keys[seed], i),
                    heat,
                    model=model,
                    length=continuation,
                )
                for i, prompt in enumerate(prompts)
                for heat in (0.0, temperature)
            ]
            by_epoch = {n: [v[seed] for v in values] for n, values in history.items()}
            records.append(
                {
                    "experiment": "next_word",
                    "model": name,
                    "seed": seed,
                    "parameters": size(params),
                    "recurrent_parameters": size(params["recurrent"]),
                    "train_perplexity": perplexity(at_rest)[seed],
                    "held_out_perplexity": by_epoch["held_out_perplexity"][-1],
                    "by_epoch": by_epoch,
                    "continuations": [
                        reviews.vocabulary.decode(np.asarray(ids))
                        for ids in continuations
                    ],
                    "first_epoch_s": progress.first_epoch_s,
                    "epoch_s": progress.epoch_s and progress.epoch_s / seeds,
                }
            )

    files.write_json_lines(out / "next_word.jsonl", [*baselines, *records])
    draw(records, baselines, out / "next_word.png")
    oov = np.mean(held_out_ids == 2)
    print(report.markdown_table(summary([*baselines, *records])))
    print(f"\n{len(train_ids):,} training words; {oov:.1%} of the held-out are <oov>.")
    print(
        f"\nHow the models of seed 0 go on, greedily and at temperature {temperature}:"
    )
    for record in records:
        if record["seed"] == 0:
            greedy_and_sampled = zip(*2 * [iter(record["continuations"])], strict=True)
            for prompt, lines in zip(PROMPTS, greedy_and_sampled, strict=True):
                for text in lines:
                    print(f"  {record['model']:9}  {prompt} ... {text}")
    return records


# The stream.


def stream(reviews: data.Dataset) -> np.ndarray:
    """The reviews end to end, `<start>` before each.

    A review longer than the rows of the dataset was cut at its front: `<start>` then
    takes the place of the first word that was kept.
    """
    rows = reviews.inputs.copy()
    rows[reviews.mask[:, 0], 0] = START_ID
    return rows[reviews.mask]


# Training and evaluation.


def read_window(params, carry, window: data.Dataset, model: NextWord):
    """The loss of one window; and the carry for the next window, and its Mean."""
    carry, logits = model.apply({"params": params}, window.inputs, carry)
    loss, means = jaxrnn.classification_loss(
        logits, window.targets, window.sample_weight
    )
    return loss, (carry, {"loss": means["loss"]})


def zero_carry(params, rows: int, *, model: NextWord):
    """The carry before the first word."""
    word = jnp.zeros((rows, 1), int)
    carry, _ = jax.eval_shape(lambda p: model.apply({"params": p}, word), params)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry)


def perplexity(means):
    """exp(mean cross-entropy); a number, or one per model."""
    return np.exp(np.float64(metrics.values(means)["loss"]))


@functools.partial(jax.jit, static_argnames=("model", "length"))
def continue_text(params, prompt, key, temperature, *, model, length: int):
    """Goes on for `length` words after the ids of a prompt, one step per word.

    Nothing is read twice: the carry stands for all words so far. Temperature 0 takes
    the likeliest word. `<start>` and `<oov>` are never drawn.
    """

    def step(loop, key):
        carry, logits = loop
        logits = jnp.where(jnp.arange(logits.size) < FIRST_WORD_ID, -jnp.inf, logits)
        drawn = jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6))
        word = jnp.where(temperature > 0, drawn, jnp.argmax(logits))
        carry, logits = model.apply({"params": params}, word[None, None], carry)
        return (carry, logits[0, -1]), word

    carry, logits = model.apply({"params": params}, prompt[None])
    keys = jax.random.split(key, length)
    return jax.lax.scan(step, (carry, logits[0, -1]), keys)[1]


# What needs no training.


def count_words(train: np.ndarray, held_out: np.ndarray, vocab_size: int) -> list[dict]:
    """Records of the unigrams and the bigrams, the latter with their best prior.

    The prior is the one of `PRIORS` with the smallest perplexity on the held-out words,
    which flatters the bigrams.
    """
    prior = min(
        PRIORS, key=lambda prior: bigram_nats(train, held_out, vocab_size, prior)
    )
    nats = {
        "unigrams": [unigram_nats(train, x, vocab_size) for x in (train, held_out)],
        f"bigrams, prior {prior}": [
            bigram_nats(train, x, vocab_size, prior) for x in (train, held_out)
        ],
    }
    return [
        {
            "experiment": "next_word",
            "model": name,
            "train_perplexity": np.exp(of_train),
            "held_out_perplexity": np.exp(of_held_out),
        }
        for name, (of_train, of_held_out) in nats.items()
    ]


def unigrams(train: np.ndarray, vocab_size: int) -> np.ndarray:
    """Probability of each id: its share of the training targets, plus one each."""
    counts = np.bincount(train[1:], minlength=vocab_size) + 1
    return counts / counts.sum()


def unigram_nats(train: np.ndarray, ids: np.ndarray, vocab_size: int) -> float:
    """Mean -log p(word) of all ids but the first."""
    return -np.log(unigrams(train, vocab_size)[ids[1:]]).mean()


def bigram_nats(
    train: np.ndarray, ids: np.ndarray, vocab_size: int, prior: float
) -> float:
    """Mean -log p(word | word before) of all ids but the first.

        p(w | v) = (count(v, w) + prior p(w)) / (count(v) + prior)

    Reference: MacKay and Peto, A hierarchical Dirichlet language model, 1995.
    """

    def pairs(ids: np.ndarray) -> np.ndarray:
        return ids[:-1].astype(np.int64) * vocab_size + ids[1:]

    seen, counts = np.unique(pairs(train), return_counts=True)
    wanted = pairs(ids)
    at = np.minimum(np.searchsorted(seen, wanted), len(seen) - 1)
    pair_counts = np.where(seen[at] == wanted, counts[at], 0)
    before_counts = np.bincount(train[:-1], minlength=vocab_size)[ids[:-1]]
    p = unigrams(train, vocab_size)[ids[1:]]
    return -np.log((pair_counts + prior * p) / (before_counts + prior)).mean()


# What is reported.


def size(params) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def summary(records: list[dict]) -> list[dict]:
    """One row per model."""
    rows = []
    for name in dict.fromkeys(r["model"] for r in records):
        runs = [r for r in records if r["model"] == name]
        row = {"model": name}
        for key in ("parameters", "recurrent_parameters"):
            row[key.replace("_", " ")] = f"{runs[0][key]:,}" if key in runs[0] else ""
        for part in ("train", "held_out"):
            values = [r[f"{part}_perplexity"] for r in runs]
            column = f"{part.replace('_', '-')} perplexity"
            row[column] = report.mean_and_spread(values, digits=1)
        known = [r["epoch_s"] for r in runs if r.get("epoch_s")]
        row["seconds per epoch"] = f"{np.median(known):.1f}" if known else ""
        rows.append(row)
    return rows


def draw(records: list[dict], baselines: list[dict], path: pathlib.Path) -> None:
    """Perplexity by epoch: training on the left, held-out reviews on the right."""
    figure, panels = report.new_figure(2, width=5.5, height=4.2)
    for panel, part, title in (
        (panels[0], "train", "training, while the parameters move"),
        (panels[1], "held_out", "held-out reviews"),
    ):
        key = f"{part}_perplexity"
        for name in LAYERS:
            runs = [r["by_epoch"][key] for r in records if r["model"] == name]
            epochs = np.arange(1, len(runs[0]) + 1)
            color = report.color_of(name)
            low, high = np.min(runs, axis=0), np.max(runs, axis=0)
            panel.plot(epochs, np.mean(runs, axis=0), "o-", color=color, label=name)
            panel.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)
        for record, style in zip(baselines, (":", "--"), strict=True):
            panel.axhline(
                record[key], color=report.BLACK, ls=style, label=record["model"]
            )
        panel.set(xlabel="epoch", ylabel="perplexity", title=title)
        panel.set_xticks(epochs)
        panel.grid(alpha=0.3)
    panels[1].sharey(panels[0])
    panels[1].legend(fontsize="small")
    figure.suptitle("The next word of a review: mean and range over the seeds")
    report.save_figure(figure, path)


if __name__ == "__main__":
    keep_programs()
    tyro.cli(main)
