"""Does an encoder with a decoder learn to say a number in words?

Command    python experiments/encoder_decoder.py   (`make encoder-decoder`)
Time       2 minutes of processor time for three seeds
Expect     0.99 of unseen numbers right, greedily and with beams; the exported decoder
           says the same

    417,032  ->  four hundred seventeen thousand thirty two

One LSTM reads the digits, one to six of them, and hands its carry to another, which
says the words until it says END. In training the decoder is given the right words
(teacher forcing), and filler counts nowhere; afterwards it hears what it said itself,
by `step`: greedily, or with beams (`decoding.py`). The numbers of the test were never
seen, and a number is right when all of its words are.

Numbers are drawn so that every count of digits is as likely. The trained decoder
leaves as one exported program, greedy and with beams, which a process runs that has
neither jaxrnn nor Flax, on any number of sources of any length; its words are compared.

Writes encoder_decoder.jsonl.
"""

import functools
import pathlib
import subprocess
import sys
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import report
import tyro
from decoding import END, FILLER, START, beam_search, greedy
from program_cache import keep_programs

import jaxrnn
from jaxrnn import data, files, logs

OUT = pathlib.Path("runs")
DIGITS, WORDS = 6, 11  # at most; 777,777 has nine words, START and END come to them
ONES = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
VOCABULARY = ["", "<start>", "<end>", *ONES, *TENS, "hundred", "thousand"]
IDS = {word: i for i, word in enumerate(VOCABULARY)}


def in_words(number: int) -> list[str]:
    """A number from 0 to 999,999 as it is said.

    Example:
      >>> in_words(417_032)
      ['four', 'hundred', 'seventeen', 'thousand', 'thirty', 'two']
    """
    if number < 20:
        return [ONES[number]]
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            many, rest = divmod(number, size)
            return [*in_words(many), name, *(in_words(rest) if rest else ())]
    tens, ones = divmod(number, 10)
    return [TENS[tens - 2], *([ONES[ones]] if ones else ())]


def encode(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Digits + 1 (examples, DIGITS) and START, words, END (examples, WORDS)."""
    sources = np.full((len(numbers), DIGITS), FILLER, np.int32)
    targets = np.full((len(numbers), WORDS), FILLER, np.int32)
    for i, number in enumerate(numbers.tolist()):
        digits = [int(digit) + 1 for digit in str(number)]
        words = [START, *(IDS[word] for word in in_words(number)), END]
        sources[i, : len(digits)] = digits
        targets[i, : len(words)] = words
    return sources, targets


def draw(rng: np.random.Generator, examples: int) -> np.ndarray:
    """Different numbers, each count of digits as likely while there are any."""
    powers = 10.0 ** rng.uniform(0, DIGITS, 4 * examples) - 1
    numbers = np.unique(powers.astype(int))
    return rng.permutation(numbers)[:examples]


class EncoderDecoder(nn.Module):
    """Embed -> LSTM, whose carry begins Embed -> LSTM -> Dense.

    Attributes:
      source_vocab, target_vocab: numbers of ids.
      features: of both LSTMs.
      embed_features: of both embeddings.
    """

    source_vocab: int
    target_vocab: int
    features: int
    embed_features: int

    def setup(self):
        self.embed_source = jaxrnn.Embed(self.source_vocab, self.embed_features)
        self.embed_target = jaxrnn.Embed(self.target_vocab, self.embed_features)
        self.encoder = jaxrnn.LSTM(self.features, return_carry=True)
        self.decoder = jaxrnn.LSTM(self.features, return_sequences=True)
        self.head = nn.Dense(self.target_vocab)

    def __call__(self, sources, said):
        """The logits of every next token after what was said (batch, time)."""
        carry = self.encode(sources)
        outputs = self.decoder(self.embed_target(said), initial_carry=carry)
        return self.head(outputs)

    def encode(self, sources):
        """What was read of (batch, time), filler left out: the carry."""
        carry, _ = self.encoder(self.embed_source(sources), mask=sources != FILLER)
        return carry

    def step(self, carry, tokens):
        """The carry after one more token, and the log-probabilities of the next."""
        carry, output = self.decoder.step(carry, self.embed_target(tokens))
        return carry, jax.nn.log_softmax(self.head(output))


def make_loss(model: EncoderDecoder):
    """Cross-entropy by token; the decoder is given the targets one step late."""

    def loss_fn(params, batch):
        said, wanted = batch.targets[:, :-1], batch.targets[:, 1:]
        logits = model.apply({"params": params}, batch.inputs, said)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
        right = (logits.argmax(-1) == wanted).astype(jnp.float32)
        counts = jnp.where(wanted == FILLER, 0.0, batch.sample_weight[:, None])
        loss = jaxrnn.Mean.of(losses, counts)
        return loss.value, {"loss": loss, "accuracy": jaxrnn.Mean.of(right, counts)}

    return loss_fn


def translate(model: EncoderDecoder, params, sources, *, width: int | None = None):
    """Tokens (batch, WORDS - 1): greedy, or the best of so many beams."""
    variables = {"params": params}
    step = functools.partial(model.apply, variables, method="step")
    carry = model.apply(variables, sources, method="encode")
    if width is None:
        return greedy(step, carry, sources.shape[0], WORDS - 1)[0]
    tokens, _ = beam_search(step, carry, sources.shape[0], WORDS - 1, width=width)
    return tokens[:, 0]


THERE = """
import pathlib, sys
sys.modules |= dict.fromkeys(("jaxrnn", "flax", "optax"))  # to import them would fail
import numpy as np
import jax.export
folder = pathlib.Path(sys.argv[1])
program = jax.export.deserialize(bytearray((folder / "decoder.jax").read_bytes()))
np.save(folder / "said.npy", program.call(np.load(folder / "sources.npy")))
"""


def said_elsewhere(run, sources: np.ndarray) -> np.ndarray:
    """Tokens that an exported `run` gives in a process without jaxrnn and Flax."""
    rows, time = jax.export.symbolic_shape("rows, time")
    shape = jax.ShapeDtypeStruct((rows, time), sources.dtype)
    exported = jax.export.export(jax.jit(run))(shape)
    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder)
        with files.replacing(here / "decoder.jax") as unfinished:
            unfinished.write_bytes(exported.serialize())
        np.save(here / "sources.npy", sources)
        subprocess.run([sys.executable, "-c", THERE, folder], check=True)
        return np.load(here / "said.npy")


def main(
    *,
    seeds: int = 3,
    train_examples: int = 20_000,
    test_examples: int = 2_000,
    epochs: int = 6,
    batch_size: int = 128,
    features: int = 128,
    embed_features: int = 32,
    learning_rate: float = 0.005,
    width: int = 4,
    out: pathlib.Path = OUT,
) -> list[dict]:
    """Trains one model a seed, lets it say the numbers of the test; writes the records.

    Args:
      seeds: of parameters, orders and numbers.
      train_examples: numbers to learn from.
      test_examples: other numbers.
      epochs: over the numbers to learn from.
      batch_size: numbers per update.
      features: of the LSTMs.
      embed_features: of digits and words.
      learning_rate: of Adam, at the start; it falls to 0 along a cosine.
      width: of the beams.
      out: where results go.
    """
    model = EncoderDecoder(DIGITS + 5, len(VOCABULARY), features, embed_features)
    updates = epochs * -(-train_examples // batch_size)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        jaxrnn.keras_adam(optax.cosine_decay_schedule(learning_rate, updates)),
    )
    loss_fn = make_loss(model)
    say = jax.jit(functools.partial(translate, model), static_argnames="width")
    records = []
    for seed in range(seeds):
        numbers = draw(np.random.default_rng(seed), train_examples + test_examples)
        sources, targets = encode(numbers)
        dataset = data.Dataset(sources[test_examples:], targets[test_examples:])
        sources, targets = sources[:test_examples], targets[:test_examples]
        init_key, order_key = jax.random.split(jax.random.key(seed))

        def init_fn(key, sources=sources, targets=targets):
            return model.init(key, sources[:1], targets[:1])["params"]

        state = jaxrnn.create_train_state(init_fn, optimizer, init_key)
        history = []
        with logs.progress_bar(epochs, f"seed {seed}") as progress:
            for epoch in range(epochs):
                key = jax.random.fold_in(order_key, epoch)
                state, means = jaxrnn.train_epoch(
                    state,
                    dataset,
                    jax.random.permutation(key, len(dataset.inputs)),
                    loss_fn=loss_fn,
                    optimizer=optimizer,
                    batch_size=batch_size,
                )
                history.append(jaxrnn.metrics.values(means))
                progress(epoch, history[-1])
        ways = {}
        for name, beams in (("greedy", None), (f"{width} beams", width)):
            said = np.asarray(say(state.params, sources, width=beams))
            right = (said == targets[:, 1:]).all(axis=1)
            run = functools.partial(translate, model, state.params, width=beams)
            there = said_elsewhere(run, sources[:100])
            ways[name] = {
                "numbers_right": right.mean().item(),
                "exported_says_the_same": bool((there == said[:100]).all()),
            }
        records.append(
            {
                "experiment": "encoder_decoder",
                "seed": seed,
                "train_examples": len(dataset.inputs),
                "test_examples": len(sources),
                "epochs": epochs,
                "features": features,
                "parameters": sum(p.size for p in jax.tree.leaves(state.params)),
                "loss": [float(h["loss"]) for h in history],
                "accuracy": [float(h["accuracy"]) for h in history],
                "test": ways,
                "first_epoch_s": progress.first_epoch_s,
                "epoch_s": progress.epoch_s,
            }
        )
    files.write_json_lines(out / "encoder_decoder.jsonl", records)
    print(report.markdown_table(summary(records)))
    return records


def summary(records: list[dict]) -> list[dict]:
    """One row per way to decode."""
    rows = []
    for way in records[0]["test"]:
        found = [record["test"][way] for record in records]
        rows.append(
            {
                "decoding": way,
                "parameters": f"{records[0]['parameters']:,}",
                "numbers right": report.mean_and_spread(
                    [f["numbers_right"] for f in found]
                ),
                "exported says the same": all(
                    f["exported_says_the_same"] for f in found
                ),
            }
        )
    return rows


if __name__ == "__main__":
    keep_programs()
    tyro.cli(main)
