"""Do the files of Keras' tokenizers load, whole, and encode to Keras' ids?"""

import json
import pathlib

import numpy as np
import pytest

from jaxrnn.data import Tokenizer
from jaxrnn.files import BadFile

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "keras_tokenizers.json"
KERAS = json.loads(FIXTURES.read_text())  # of make_tokenizer_fixtures.py
TEXTS = KERAS["train"] + KERAS["test"]
RECORDS = {json.dumps(record["settings"]): record for record in KERAS["records"]}
DEFAULT = RECORDS["{}"]
WAY_OUT = r"write tokenizer.to_json\(\) to a file; Tokenizer.from_word_index reads"


def as_lists(rows):
    return [row.tolist() for row in rows]


def config_of(text):
    return json.loads(text)["config"]


@pytest.mark.parametrize("name", RECORDS)
def test_tokenizer_of_keras_loads_and_gives_its_ids(name, tmp_path):
    """From its own file; dumped once more, as a text of JSON; and saved again."""
    record = RECORDS[name]
    path = tmp_path / "tokenizer.json"
    path.write_text(record["to_json"])
    tokenizer = Tokenizer.load(path)
    assert as_lists(tokenizer.encode(TEXTS)) == record["ids"]
    assert max(map(max, filter(None, record["ids"]))) < tokenizer.vocab_size

    path.write_text(json.dumps(record["to_json"]))
    assert Tokenizer.load(path) == tokenizer

    tokenizer.save(path)
    assert Tokenizer.load(path) == tokenizer
    saved, want = config_of(path.read_text()), config_of(record["to_json"])
    assert saved.keys() == want.keys()
    for key in ("word_index", "index_word"):
        assert json.loads(saved[key]) == json.loads(want[key])


@pytest.mark.parametrize("name", RECORDS)
def test_fit_and_word_index_give_the_ids_of_keras(name):
    record = RECORDS[name]
    settings = dict(record["settings"])
    settings["num_words"] = settings.get("num_words") or None
    settings["filters"] = "".join(settings.get("filters", Tokenizer.filters))
    index = json.loads(config_of(record["to_json"])["word_index"])
    tokenizer = Tokenizer.from_word_index(index, **settings)
    assert as_lists(tokenizer.encode(TEXTS)) == record["ids"]
    if settings.get("oov_token") == "unk":
        with pytest.raises(ValueError, match="oov_token must differ from every word"):
            Tokenizer.fit(KERAS["train"], **settings)
        return
    assert Tokenizer.fit(KERAS["train"], **settings) == tokenizer


def test_a_word_index_of_a_file(tmp_path):
    """Every place that has an id keeps it; and the model has a row for each."""
    path = tmp_path / "word_index.json"
    path.write_text(json.dumps({"<start>": 1, "<oov>": 2, "good": 4, "film": 7}))
    options = {"oov_token": "<oov>", "num_words": 7}
    tokenizer = Tokenizer.from_word_index(path, **options)
    assert as_lists(tokenizer.encode(["Good film, nobody said"])) == [[4, 2, 2, 2]]
    assert tokenizer.vocab_size == 7
    assert Tokenizer.from_word_index(path).vocab_size == 8
    ids = {word: np.int64(i) for word, i in tokenizer.word_index.items()}
    assert Tokenizer.from_word_index(ids, **options) == tokenizer


@pytest.mark.parametrize(
    ("word_index", "options", "message"),
    [
        ({}, {}, "at least one word, got none; Tokenizer.fit makes one"),
        ({"<pad>": 0, "a": 1}, {}, "got '<pad>' with 0; leave out the name of the"),
        ({"a": 1, "b": 2**31}, {}, "from 1 to 2147483647, .*got 'b' with 2147483648"),
        ({"<start>": 1, "the": 1}, {}, "id of its own, got '<start>' and 'the' with 1"),
        ({"a": 1}, {"oov_token": "<oov>"}, "got none for '<oov>'; oov_token=None"),
        ({"a": 1, "?": 3}, {"oov_token": "?", "num_words": 3}, "at least 4 .* got 3"),
        ({"a": 1}, {"num_words": 0}, "num_words must be at least 1 .* got 0"),
        ({"a": 1}, {"split": ""}, "split must be at least one character, got none"),
    ],
)
def test_what_is_no_word_index(word_index, options, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_word_index(word_index, **options)


def test_ways_out_of_a_word_index_that_is_none():
    padded = {"<pad>": 0, "a": 1}
    words = {word: i for word, i in padded.items() if i != 0}
    assert as_lists(Tokenizer.from_word_index(words).encode(["a"])) == [[1]]
    shifted = {"<start>": 1} | {word: i + 1 for word, i in {"the": 1}.items()}
    assert Tokenizer.from_word_index(shifted).vocab_size == 3
    every = Tokenizer.from_word_index({"a": 1, " ": 2}, char_level=True)
    assert as_lists(every.encode(["a A"])) == [[1, 2, 1]]
    for index in ({"a": 1.0}, {1: "a"}, {1: 2}):
        with pytest.raises(TypeError, match=r"whole numbers, got .*index_word is the"):
            Tokenizer.from_word_index(index)


def changed(**config):
    content = json.loads(DEFAULT["to_json"])
    return json.dumps(content | {"config": content["config"] | config})


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (json.dumps({"the": 1}), f"be a tokenizer, .*{WAY_OUT}"),
        (json.dumps({"class_name": "Other", "config": {}}), "class_name 'Other'"),
        (changed(analyzer="f"), r"settings \['analyzer'\], which Keras 2 does not"),
        (changed(split=None), "have a text as split, found None"),
        (changed(lower="yes"), "have true or false as lower, found 'yes'"),
        (changed(num_words=5.5), "have an integer or null as num_words, found 5.5"),
        (changed(filters=3), "have a text as filters, found 3"),
        (changed(oov_token="<oov>"), "oov_token must have an id in the word index"),
        (changed(word_index='{"a": 1, "a": 2}'), "differ in name, found two of 'a'"),
        (changed(word_index='{"a": "1"}'), "word -> id, found 'a' -> '1'"),
        (changed(word_index="[1]"), r"word -> id, found list \[1\]"),
        (changed(word_index="{}"), "at least one word, got none"),
    ],
)
def test_load_names_what_keras_does_not_write(content, rule, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(BadFile, match=rf"tokenizer\.json must .*{rule}"):
        Tokenizer.load(path)


@pytest.mark.parametrize("content", ["no json", "[1]", '{"a": 1.5}', '{"1": "a"}'])
def test_a_file_that_is_no_word_index(content, tmp_path):
    """The way out, `Tokenizer.load` of a whole tokenizer, is above."""
    path = tmp_path / "index.json"
    path.write_text(content)
    with pytest.raises(BadFile, match=r"index\.json must (be JSON of|hold) one object"):
        Tokenizer.from_word_index(path)
