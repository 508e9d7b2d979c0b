"""What does the JSON of a tokenizer say: that of Keras, and a plain word index?

Keras' `to_json` gives an object of `class_name` and `config`, in which dicts are
strings of JSON themselves. Many have written that string by `json.dump` once more.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxrnn.files.refused import BadFile, parse_json, refusing

Path_ = str | os.PathLike[str]
T = TypeVar("T")

_FIRST_VERSION = ("jaxrnn.data.Tokenizer", 1)
_RULE = "be a tokenizer, written by Tokenizer.save or of Keras' tokenizer.to_json()"
_WAY_OUT = (
    "write tokenizer.to_json() to a file; Tokenizer.from_word_index reads {word: id}"
)
_DICTS = ("word_counts", "word_docs", "index_docs", "index_word", "word_index")
_TYPES: dict[str, tuple[type, ...]] = {
    "num_words": (int, type(None)),
    "oov_token": (str, type(None)),
    "filters": (str,),
    "lower": (bool,),
    "split": (str,),
    "char_level": (bool,),
}
_NAMES = {int: "an integer", str: "a text", bool: "true or false", type(None): "null"}


def to_keras_json(settings: Mapping[str, Any]) -> str:
    """What Keras' `tokenizer_from_json` reads.

    Example:
      >>> text = to_keras_json({"word_index": {"cats": 1}, "num_words": None})
      >>> json.loads(text)["config"]["index_word"]
      '{"1": "cats"}'
    """
    word_index = dict(settings["word_index"])
    dicts = {name: {} for name in _DICTS} | {
        "index_word": {i: word for word, i in word_index.items()},
        "word_index": word_index,
    }
    config = {**settings, "document_count": 0}
    config |= {name: json.dumps(value) for name, value in dicts.items()}
    return json.dumps({"class_name": "Tokenizer", "config": config})


def read_settings(path: Path_, text: bytes, make: Callable[..., T]) -> T:
    """Makes a tokenizer of what a file holds: `make(**settings)`.

    Raises:
      BadFile: something else, another version, or settings that do not fit together.
    """
    with refusing(path, _RULE, _WAY_OUT):
        content = parse_json(text)
        if isinstance(content, str):
            content = parse_json(content)
        if "format" in content and "class_name" not in content:
            found = content["format"], content["version"]
            settings = {n: content[n] for n in ("words", "num_words", "oov_token")}
        else:
            found = _FIRST_VERSION
            settings = _of_keras(content)
    if found != _FIRST_VERSION:
        raise BadFile(
            path, f"{_RULE} (format, version {_FIRST_VERSION})", found, _WAY_OUT
        )
    _check_types(path, settings)
    if "words" in settings:
        settings["word_index"] = _ranked(path, settings.pop("words"), settings)
    _check_word_index(path, settings["word_index"])
    with refusing(path, "hold settings of a Tokenizer", _WAY_OUT):
        return make(**settings)


def _of_keras(content: Any) -> dict[str, Any]:
    if content["class_name"] != "Tokenizer":
        raise ValueError(f"class_name {content['class_name']!r}")
    config = dict(content["config"])
    unknown = set(config) - {*_TYPES, *_DICTS, "document_count"}
    if unknown:
        raise ValueError(f"settings {sorted(unknown)}, which Keras 2 does not write")
    filters = config["filters"]
    if isinstance(filters, list) and all(type(c) is str for c in filters):
        config["filters"] = "".join(filters)  # of single characters, says Keras
    settings = {name: config[name] for name in _TYPES}
    settings["num_words"] = settings["num_words"] or None  # 0 keeps all
    return settings | {"word_index": parse_json(config["word_index"])}


def _ranked(path: Path_, words: Any, settings: Mapping[str, Any]) -> dict[str, int]:
    """The word index of our first version, whose ids were the places in a list."""
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise BadFile(path, "have a list of texts as words", words, _WAY_OUT)
    oov_token = settings["oov_token"]
    ranked = words if oov_token is None else [oov_token, *words]
    twice = [word for word, count in Counter(ranked).items() if count > 1]
    if twice:
        raise BadFile(path, "have every word once", twice, _WAY_OUT)
    return {word: i for i, word in enumerate(ranked, start=1)}


def _check_types(path: Path_, settings: Mapping[str, Any]) -> None:
    for name, types in _TYPES.items():
        if name in settings and type(settings[name]) not in types:
            rule = f"have {' or '.join(_NAMES[t] for t in types)} as {name}"
            raise BadFile(path, rule, repr(settings[name]), _WAY_OUT)


def read_word_index(path: Path_) -> dict[str, int]:
    """Reads a JSON file of one object word -> id.

    Raises:
      BadFile: something else.
    """
    content = Path(path).expanduser().read_bytes()
    with refusing(path, "be JSON of one object word -> id", _WAY_OUT):
        word_index = parse_json(content)
        if isinstance(word_index, str):
            word_index = parse_json(word_index)
    _check_word_index(path, word_index)
    return word_index


def _check_word_index(path: Path_, word_index: Any) -> None:
    rule, way_out = (
        "hold one object word -> id",
        "Tokenizer.load reads a whole tokenizer",
    )
    if not isinstance(word_index, dict):
        raise BadFile(
            path, rule, f"{type(word_index).__name__} {word_index!r}", way_out
        )
    for word, i in word_index.items():
        if type(i) is not int:
            raise BadFile(path, rule, f"{word!r} -> {i!r}", way_out)
