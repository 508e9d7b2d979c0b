"""Do words, ids and padded rows equal Keras'?"""

import functools
import json
import os

import numpy as np
import pytest

from jaxrnn.data import Tokenizer, pad_sequences, padding_mask
from jaxrnn.data.words import (
    encode_words,
    lower_ascii,
    rank_words,
    split_rows,
    split_words,
)
from jaxrnn.files import BadFile

os.environ.setdefault("KERAS_BACKEND", "jax")

TUTORIAL = ["I love cats", "I hate dogs", "Cats are cute", "Dogs are loyal"]
KERAS_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
# Letters whose lower case is longer, or depends on the place; spaces that are not
# " "; a lone surrogate; and all that Keras filters.
CHARACTERS = list("aabbcABC'  \r\x0b\xa0\u2003ßéÉİΣσЖж漢\U0001f600\ud800") + list(
    KERAS_FILTERS
)


SAVED = {
    "format": "jaxrnn.data.Tokenizer",
    "version": 1,
    "words": ["a"],
    "num_words": None,
    "oov_token": None,
}


def as_lists(rows):
    return [row.tolist() for row in rows]


def keras_words(text):
    """Keras 2's `text_to_word_sequence`, word for word."""
    text = text.lower()
    text = text.translate(str.maketrans(dict.fromkeys(KERAS_FILTERS, " ")))
    return [word for word in text.split(" ") if word]


def keras_word_index(texts, oov_token):
    """Keras 2's `Tokenizer.fit_on_texts`."""
    counts = {}
    for text in texts:
        for word in keras_words(text):
            counts[word] = counts.get(word, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: item[1], reverse=True)
    words = ([] if oov_token is None else [oov_token]) + [word for word, _ in ranked]
    return dict(zip(words, range(1, len(words) + 1), strict=True))


def keras_encode(texts, word_index, num_words, oov_token):
    """Keras 2's `Tokenizer.texts_to_sequences`."""
    oov_id = word_index.get(oov_token)
    rows = []
    for text in texts:
        row = []
        for word in keras_words(text):
            i = word_index.get(word)
            if i is not None and not (num_words and i >= num_words):
                row.append(i)
            elif oov_id is not None:
                row.append(oov_id)
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def random_texts():
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(CHARACTERS, rng.integers(0, 60))) for _ in range(2300)]


def test_tutorial_ids():
    tokenizer = Tokenizer.fit(TUTORIAL)
    words = ["i", "cats", "dogs", "are", "love", "hate", "cute", "loyal"]
    assert tokenizer.word_index == {word: i for i, word in enumerate(words, start=1)}
    assert as_lists(tokenizer.encode(TUTORIAL)) == [
        [1, 5, 2],
        [1, 6, 3],
        [2, 4, 7],
        [3, 4, 8],
    ]
    assert tokenizer.vocab_size == 9


@pytest.mark.parametrize("num_words", [None, 2, 40])
@pytest.mark.parametrize("oov_token", [None, "<oov>"])
def test_tokenizer_matches_keras_rules(random_texts, num_words, oov_token):
    train, test = random_texts[:1200], random_texts[1200:]  # over 1000: two chunks
    tokenizer = Tokenizer.fit(train, num_words=num_words, oov_token=oov_token)
    index = keras_word_index(train, oov_token)
    assert list(tokenizer.word_index.items()) == list(index.items())
    for texts in (train, test):
        want = keras_encode(texts, index, num_words, oov_token)
        rows = tokenizer.encode(texts)
        assert as_lists(rows) == want
        assert all(row.dtype == np.int32 for row in rows)
        assert max(max(row, default=0) for row in want) < tokenizer.vocab_size


def test_ascii_lower_case_leaves_other_alphabets():
    of_ascii = functools.partial(split_words, lower=lower_ascii)
    assert rank_words(["É é A a"]) == ("é", "a")
    assert rank_words(["É é A a"], words_of=of_ascii) == ("a", "É", "é")


def test_encode_words_splits_back_into_rows():
    ids, lengths = encode_words(["a x", "", "b a"], {"a": 1, "b": 2}, unknown_id=9)
    assert as_lists(split_rows(ids, lengths)) == [[1, 9], [], [2, 1]]


def test_text_without_known_words_becomes_padding():
    rows = Tokenizer.fit(TUTORIAL).encode(["", "?!", "unheard of"])
    assert as_lists(rows) == [[], [], []]
    assert pad_sequences(rows, 3).tolist() == [[0, 0, 0]] * 3
    assert Tokenizer.fit(TUTORIAL).encode([]) == []


@pytest.mark.parametrize("options", [{}, {"num_words": 4, "oov_token": "<oov>"}])
def test_save_load_round_trip(tmp_path, random_texts, options):
    tokenizer = Tokenizer.fit(random_texts, **options)
    tokenizer.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path / "tokenizer.json") == tokenizer


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"\xff\xfe",
        b"[]",
        b'"text"',
        b"[" * 10**5,
        json.dumps({"format": "jaxrnn.data.Tokenizer", "version": 1}).encode(),
        json.dumps(SAVED | {"version": 99}).encode(),
        json.dumps(SAVED).encode()[:-1] + b', "version": 1}',
    ],
)
def test_load_names_a_file_that_is_no_tokenizer(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=r"other\.json must be a tokenizer, written by"):
        Tokenizer.load(path)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("words", "a", "a list of texts as words, found a"),
        ("words", ["a", 1], "a list of texts as words"),
        ("words", ["a", "b", "a"], r"every word once, found \['a'\]"),
        ("num_words", 2.5, "an integer or null as num_words, found 2.5"),
        ("num_words", True, "an integer or null as num_words, found True"),
        ("num_words", 0, "settings of a Tokenizer, found num_words must"),
        ("oov_token", 3, "a text or null as oov_token, found 3"),
    ],
)
def test_load_names_a_setting_that_is_none(tmp_path, field, value, rule):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(SAVED | {field: value}))
    with pytest.raises(BadFile, match=rf"tokenizer\.json must .*{rule}"):
        Tokenizer.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "tokenizer.json"
    tokenizer = Tokenizer.fit(TUTORIAL)
    tokenizer.save(path)

    def full_disk(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        Tokenizer.fit(["other"]).save(path)
    assert Tokenizer.load(path) == tokenizer
    assert os.listdir(path.parent) == [path.name]


def test_fit_and_encode_take_a_list_of_strings():
    tokenizer = Tokenizer.fit(TUTORIAL)
    for function in (Tokenizer.fit, tokenizer.encode):
        with pytest.raises(TypeError, match=r"got one string 'I love cats'; write \["):
            function("I love cats")
        with pytest.raises(TypeError):  # the type checker may be faster than us
            function([b"bytes"])


@pytest.mark.parametrize("texts", [[], [""], ["?!", " \n"]])
def test_fit_wants_words(texts):
    with pytest.raises(ValueError, match=f"at least one word, got {len(texts)} texts"):
        Tokenizer.fit(texts)


@pytest.mark.parametrize(("oov_token", "smallest"), [(None, 1), ("<oov>", 2)])
def test_num_words_leaves_room_for_ids_in_use(oov_token, smallest):
    tokenizer = Tokenizer.fit(TUTORIAL, num_words=smallest, oov_token=oov_token)
    assert tokenizer.vocab_size == smallest
    with pytest.raises(ValueError, match=f"num_words must be at least {smallest}"):
        Tokenizer.fit(TUTORIAL, num_words=smallest - 1, oov_token=oov_token)


def test_oov_token_is_no_word():
    with pytest.raises(ValueError, match=r"differ from every word.*'cats'"):
        Tokenizer.fit(TUTORIAL, oov_token="cats")


@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("truncating", ["pre", "post"])
@pytest.mark.parametrize("max_length", [None, 1, 5, 30])
@pytest.mark.parametrize("value", [0, -1])
def test_pad_sequences_matches_keras(padding, truncating, max_length, value):
    keras = pytest.importorskip("keras")
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 100, length).tolist() for length in rng.integers(0, 12, 50)]
    options = {"padding": padding, "truncating": truncating, "value": value}
    want = keras.utils.pad_sequences(rows, max_length, **options)
    for sequences in (rows, [np.array(row, np.int32) for row in rows]):
        padded = pad_sequences(sequences, max_length, **options)
        assert padded.dtype == np.int32
        np.testing.assert_array_equal(padded, want)
    np.testing.assert_array_equal(padding_mask(padded, value), want != value)


@pytest.mark.parametrize("option", ["padding", "truncating"])
def test_pad_sequences_lists_its_options(option):
    with pytest.raises(ValueError, match=f"{option} must be 'pre' or 'post', got 'l"):
        pad_sequences([[1]], **{option: "left"})


def test_pad_sequences_refuses_nothing_and_no_room():
    with pytest.raises(ValueError, match="at least one row, got none"):
        pad_sequences([], 3)
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        pad_sequences([[1]], 0)


@pytest.mark.parametrize("row", [np.array([1.5]), np.array([[1, 2]])], ids=str)
def test_pad_sequences_takes_flat_rows_of_integers(row):
    with pytest.raises(TypeError, match=r"flat rows of integers.*in row 1"):
        pad_sequences([[1], row], 3)
