"""Are numbers said as one says them, and are greedy words and beams what they claim?"""

import functools
import itertools

import encoder_decoder
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding import END, FILLER, START, beam_search, greedy

import jaxrnn
from jaxrnn import files

SAID = {
    0: "zero",
    13: "thirteen",
    20: "twenty",
    99: "ninety nine",
    100: "one hundred",
    417_032: "four hundred seventeen thousand thirty two",
    777_777: "seven hundred seventy seven thousand seven hundred seventy seven",
    900_000: "nine hundred thousand",
}


@pytest.mark.parametrize("number", SAID)
def test_a_number_in_words(number):
    words = SAID[number].split()
    assert encoder_decoder.in_words(number) == words
    (source,), (target,) = encoder_decoder.encode(np.array([number]))
    assert "".join(str(i - 1) for i in source if i) == str(number)
    want = [START, *map(encoder_decoder.VOCABULARY.index, words), END]
    assert target[target != FILLER].tolist() == want


def test_numbers_are_different_and_of_every_length():
    numbers = encoder_decoder.draw(np.random.default_rng(0), 600)
    assert len(set(numbers.tolist())) == 600
    assert set(map(len, map(str, numbers))) == set(range(1, encoder_decoder.DIGITS + 1))


# Decoding, of a GRU with random parameters and few words.

VOCAB, FEATURES, ROWS, LENGTH = 5, 6, 3, 4  # FILLER, START, END and two words


@functools.cache
def decoder():
    """The step of a decoder that never says FILLER nor START, and its first carry."""
    keys = jax.random.split(jax.random.key(3), 4)
    params = jaxrnn.init_params(jaxrnn.gru, keys[0], VOCAB, FEATURES)
    head = 2 * jax.random.normal(keys[1], (FEATURES, VOCAB))
    silent = jnp.where(jnp.arange(VOCAB) < END, -1e9, 0.0)

    def step(carry, tokens):
        inputs = jax.nn.one_hot(tokens, VOCAB)
        carry, output = jaxrnn.rnn_step(jaxrnn.gru, params, carry, inputs)
        logits = output @ head
        return carry, jax.nn.log_softmax(
            logits + silent.reshape([1] * tokens.ndim + [-1])
        )

    return step, jax.random.normal(keys[2], (ROWS, FEATURES))


def every_sequence():
    """All that may be said: words, then END or so many words that there is no room."""
    words = range(END + 1, VOCAB)
    for count in range(LENGTH):
        for said in itertools.product(words, repeat=count):
            yield (*said, END)
    yield from itertools.product(words, repeat=LENGTH)


def log_probability(sequence):
    """Of one sequence, for every row, a step at a time."""
    step, carry = decoder()
    total = np.zeros(ROWS)
    for before, token in itertools.pairwise((START, *sequence)):
        carry, log_probs = step(carry, jnp.full((ROWS,), before))
        total += np.asarray(log_probs[:, token], np.float64)
    return total


@pytest.mark.parametrize("length_power", [0.0, 1.0])
def test_wide_beams_find_the_best_of_all_sequences(length_power):
    """Brute force; the scores are those of the sequences, best first."""
    step, carry = decoder()
    sequences = [*every_sequence()]
    lengths = np.array([len(s) for s in sequences])
    scores = np.stack([log_probability(s) for s in sequences], axis=1)
    scores = scores / lengths**length_power
    width = len(sequences)
    search = jax.jit(
        functools.partial(
            beam_search,
            step,
            rows=ROWS,
            length=LENGTH,
            width=width,
            length_power=length_power,
        )
    )
    tokens, found = search(carry)
    for row in range(ROWS):
        order = np.argsort(-scores[row])
        np.testing.assert_allclose(found[row], scores[row][order], rtol=0, atol=1e-5)
        best = (*sequences[order[0]], *[FILLER] * LENGTH)[:LENGTH]
        assert tuple(tokens[row, 0].tolist()) == best
    assert len({tuple(t) for t in tokens[0].tolist()}) == width


def test_one_beam_is_greedy():
    step, carry = decoder()
    tokens, total = greedy(step, carry, ROWS, LENGTH)
    beam, score = beam_search(step, carry, ROWS, LENGTH, width=1)
    np.testing.assert_array_equal(beam[:, 0], tokens)
    said = (np.asarray(tokens) != FILLER).sum(axis=1)
    np.testing.assert_allclose(score[:, 0], np.asarray(total) / said, rtol=0, atol=1e-6)
    for row, sequence in enumerate(tokens.tolist()):
        end = sequence.index(END) + 1 if END in sequence else LENGTH
        assert not any(sequence[end:])
        want = log_probability(sequence[:end])[row]
        np.testing.assert_allclose(total[row], want, rtol=0, atol=1e-5)


def test_filler_in_a_source_changes_nothing():
    """Behind it or within it; and teacher forcing is what step by step gives."""
    model = encoder_decoder.EncoderDecoder(15, 34, 8, 4)
    sources, targets = encoder_decoder.encode(np.array([417_032, 5, 90]))
    variables = model.init(jax.random.key(0), sources, targets)
    padded = np.zeros((3, 11), np.int32)
    padded[:, [0, 2, 3, 5, 8, 9]] = sources
    want, found = (
        model.apply(variables, x, method="encode") for x in (sources, padded)
    )
    jax.tree.map(np.testing.assert_array_equal, found, want)
    logits = model.apply(variables, sources, targets)
    for time in range(3):
        want, log_probs = model.apply(variables, want, targets[:, time], method="step")
        np.testing.assert_allclose(
            log_probs, jax.nn.log_softmax(logits[:, time]), rtol=0, atol=1e-6
        )


@pytest.mark.slow
def test_learns_and_says_the_same_elsewhere(tmp_path, capsys, untyped):
    with jax.numpy_dtype_promotion("standard"):  # as Optax' schedule needs it
        untyped(encoder_decoder.main)(  # open sizes are no ints
            seeds=1,
            train_examples=2000,
            test_examples=200,
            epochs=4,
            batch_size=32,
            features=48,
            learning_rate=0.01,
            width=2,
            out=tmp_path,
        )
    (record,) = files.read_json_lines(tmp_path / "encoder_decoder.jsonl")
    assert record["accuracy"][-1] > 0.6  # of words; START alone decides none
    assert set(record["test"]) == {"greedy", "2 beams"}
    assert all(way["exported_says_the_same"] for way in record["test"].values())
    assert "| 2 beams | " in capsys.readouterr().out
