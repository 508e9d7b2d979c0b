"""Does the language model count, carry and continue as it says?"""

import functools
import itertools

import helpers
import jax
import jax.numpy as jnp
import next_word
import numpy as np
import pytest
from PIL import Image  # Matplotlib brings it
from scipy import special

import jaxrnn
from jaxrnn import data, files

VOCAB_SIZE, EMBED_FEATURES = 8, 3
NUMPY_STEPS = {
    "SimpleRNN": helpers.simple_rnn_step(np.tanh),
    "LSTM": helpers.lstm_step(np.tanh, helpers.sigmoid),
}


@functools.cache
def language_model(layer, features=helpers.FEATURES):
    recurrent = layer(features, return_sequences=True, return_carry=True)
    model = next_word.NextWord(VOCAB_SIZE, EMBED_FEATURES, recurrent)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), int))["params"]
    return model, jax.tree.map(lambda p: 3 * p, params)  # far from uniform


def text(length, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(1, VOCAB_SIZE, length, dtype=np.int32)


def assert_picture(path):
    picture = np.asarray(Image.open(path).convert("L"))
    assert (picture < 128).mean() > 0.005


def test_stream_is_whole_reviews_and_the_ends_of_cut_ones():
    rows = np.array([[0, 0, 1, 5], [6, 7, 5, 4], [1, 4, 4, 6], [0, 0, 0, 1]], np.int32)
    reviews = data.Dataset(rows, np.zeros(4, np.float32), rows != 0)
    ids = next_word.stream(reviews)
    assert ids.tolist() == [1, 5, 1, 7, 5, 4, 1, 4, 4, 6, 1]
    assert rows[1, 0] == 6  # the reviews themselves stay as they are


@pytest.mark.parametrize("name", NUMPY_STEPS)
def test_perplexity_is_that_of_a_loop_over_words(name):
    """Float32 on both sides; 1e-5 is its precision over some 20 steps."""
    model, params = language_model(next_word.LAYERS[name])
    ids, rows, window = text(20), 2, 4  # 19 targets, 10 in the first row, 9 in the next
    _, found = jaxrnn.evaluate_stream(
        params,
        next_word.zero_carry(params, rows, model=model),
        data.streams(ids, rows),
        loss_fn=functools.partial(next_word.read_window, model=model),
        chunk=window,
    )

    embedding = np.asarray(params["Embed_0"]["embedding"])
    head = jax.tree.map(np.asarray, params["Dense_0"])
    cell_params = jax.tree.map(np.asarray, params["recurrent"])
    zeros, nats = np.zeros(helpers.FEATURES, np.float32), []
    for first, last in ((0, 10), (10, 19)):
        carry = jaxrnn.LSTMCarry(zeros, zeros) if name == "LSTM" else zeros
        for t in range(first, last):
            carry = NUMPY_STEPS[name](cell_params, carry, embedding[ids[t]])
            hidden = carry[0] if name == "LSTM" else carry
            logits = hidden @ head["kernel"] + head["bias"]
            nats.append(special.logsumexp(logits) - logits[ids[t + 1]])
    assert found["loss"].weight.item() == 19
    np.testing.assert_allclose(
        next_word.perplexity(found), np.exp(np.mean(nats)), rtol=1e-5
    )


def test_bigrams_are_those_of_a_loop():
    train, held_out, prior = text(60), text(30, seed=1), 5.0
    p = {w: 1 + (train[1:] == w).sum() for w in range(VOCAB_SIZE)}
    p = {w: count / sum(p.values()) for w, count in p.items()}

    def probability(before, word):
        starts = [t for t in range(len(train) - 1) if train[t] == before]
        pairs = sum(train[t + 1] == word for t in starts)
        return (pairs + prior * p[word]) / (len(starts) + prior)

    for ids in (train, held_out):
        words = list(itertools.pairwise(ids))
        want = -np.mean([np.log(probability(v, w)) for v, w in words])
        found = next_word.bigram_nats(train, ids, VOCAB_SIZE, prior)
        np.testing.assert_allclose(found, want, rtol=1e-12)
        want = -np.mean([np.log(p[w]) for w in ids[1:]])
        found = next_word.unigram_nats(train, ids, VOCAB_SIZE)
        np.testing.assert_allclose(found, want, rtol=1e-12)


def test_training_carries_memory_from_window_to_window():
    """4 5 4 6 4 5 ...: who forgets what came before the window of 5 cannot know what
    follows if it begins with a 4, and stays above 2 ** (1 / 10) = 1.07.
    """
    ids = np.tile(np.array([4, 5, 4, 6], np.int32), 60)
    model, params = language_model(next_word.LAYERS["SimpleRNN"], features=8)
    optimizer = jaxrnn.keras_adam(0.05)
    loss_fn = functools.partial(next_word.read_window, model=model)
    state = jaxrnn.init_state(jax.tree.map(lambda p: p / 3, params), optimizer)
    for _ in range(10):
        state, _, means = jaxrnn.train_stream(
            state,
            next_word.zero_carry(params, 2, model=model),
            data.streams(ids, 2),
            loss_fn=loss_fn,
            optimizer=optimizer,
            chunk=5,
        )
    assert state.step.item() == 10 * 24
    assert next_word.perplexity(means) < 1.03


def test_continuation_is_the_one_of_reading_all_again():
    model, params = language_model(next_word.LAYERS["SimpleRNN"])
    prompt, key = jnp.array([1, 5, 6]), jax.random.key(0)

    def continued(key, temperature):
        return next_word.continue_text(
            params, prompt, key, temperature, model=model, length=6
        ).tolist()

    ids = prompt.tolist()
    for _ in range(6):
        _, logits = model.apply({"params": params}, jnp.array([ids]))
        ids.append(4 + int(np.argmax(logits[0, -1, 4:])))
    assert continued(key, 0.0) == ids[3:]
    assert continued(key, 5.0) == continued(key, 5.0)
    samples = [continued(jax.random.key(seed), 5.0) for seed in range(20)]
    assert len(set(map(tuple, samples))) > 10
    assert set(itertools.chain(*samples)) == {4, 5, 6, 7}  # never 0 to 3


@pytest.mark.slow
def test_next_word_runs_from_reviews_to_table(tmp_path, monkeypatch, capsys):
    rows = np.stack([text(10, seed) for seed in range(30)])
    rows[::3, :4], rows[::3, 4] = 0, 1
    part = data.Dataset(rows, np.zeros(30, np.float32), rows != 0)
    words = {word: i for i, word in enumerate(["this", "movie", "is", "the"], start=4)}
    monkeypatch.setattr(
        data,
        "load_imdb",
        lambda **_: data.Imdb(part, part, data.Vocabulary(words, VOCAB_SIZE)),
    )
    monkeypatch.setattr(next_word, "LAYERS", {"GRU": jaxrnn.GRU})
    monkeypatch.setattr(next_word, "PROMPTS", ("this movie is",))
    with jax.numpy_dtype_promotion("standard"):  # for Optax' cosine_decay_schedule
        next_word.main(
            seeds=2, epochs=2, vocab_size=VOCAB_SIZE, features=4, window=4, out=tmp_path
        )
    records = files.read_json_lines(tmp_path / "next_word.jsonl")
    assert [r["model"] for r in records][::3] == ["unigrams", "GRU"]
    uniform = VOCAB_SIZE - 1  # ids 1 to 7, drawn alike: nobody can know better by much
    for record in records:
        assert 0.6 * uniform < record["held_out_perplexity"] < 1.2 * uniform
    assert "| GRU | " in capsys.readouterr().out
    assert_picture(tmp_path / "next_word.png")
