"""How do vectors of words that others trained get into an embedding?"""

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from jaxrnn.data.tokenizer import whole_id
from jaxrnn.data.words import to_utf8
from jaxrnn.files.refused import BadFile

_WAY_OUT = "give a table as wide as the vectors, and the file as text"


class Vectors(NamedTuple):
    """A table for `Embed`, and which of its rows come from the file.

    Attributes:
      embedding: what to put in the place of the layer's own.
      found: True for the rows of the file; `found.sum()` is how many there are.
    """

    embedding: Float32[np.ndarray, "vocab_size features"]
    found: Bool[np.ndarray, " vocab_size"]


def load_vectors(
    path: str | os.PathLike[str],
    word_index: Mapping[str, int],
    embedding: Float[Any, "vocab_size features"],
) -> Vectors:
    r"""Reads vectors of known words from a text file of GloVe, word2vec or fastText.

    A line is a word and its numbers, with spaces between. (In glove.840B some words
    have spaces themselves.) A first line of two whole numbers says how many lines there
    are and how wide. Lines are read one by one, and the numbers of known words alone
    are looked at. Of a word that stands there twice the first vector is taken, as by
    Gensim. Words must be written as they are in `word_index`: what was lower-cased is
    not found in a file that has capitals.

    Args:
      path: the file, unpacked.
      word_index: id of each word, such as `tokenizer.word_index`; ids from `vocab_size`
        on, which a tokenizer's `num_words` cuts off, are left out.
      embedding: the initial values of the layer, which a word that is not found keeps.

    Raises:
      files.BadFile: a line that is not a word and as many numbers as the embedding is
        wide, a number that is not finite in float32, other lines than the first one
        says, or none of the words.
      TypeError: a word index that is none.
      ValueError: an embedding that is no table, an id below 0.

    Example:
      >>> import optax, pathlib, tempfile
      >>> tokenizer = data.Tokenizer.fit(["good film", "bad film"])
      >>> model = TextClassifier(tokenizer.vocab_size, 2, GRU(4))
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 3), int))["params"]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "glove.txt")
      ...     _ = path.write_text("good 0.5 1.5\nbad -0.5 -1.5\n")
      ...     before = params["embed"]["embedding"]
      ...     vectors = load_vectors(path, tokenizer.word_index, before)
      >>> vectors.found.sum().item(), vectors.embedding[tokenizer.word_index["good"]]
      (2, array([0.5, 1.5], dtype=float32))
      >>> params["embed"]["embedding"] = vectors.embedding

    They train with the rest, or stay as they are, as Optax says it:
      >>> labels = {name: "frozen" if name == "embed" else "free" for name in params}
      >>> rules = {"frozen": optax.set_to_zero(), "free": keras_adam()}
      >>> state = init_state(params, optax.partition(rules, labels))
    """
    table = np.array(embedding, np.float32)
    if table.ndim != 2:
        raise ValueError(
            "embedding must be a table (vocab_size, features), got shape "
            f"{table.shape}; it is params['embed']['embedding'] of a text model."
        )
    size, width = table.shape
    if not isinstance(word_index, Mapping):
        raise TypeError(
            "word_index must be {word: id}, such as tokenizer.word_index, got "
            f"{type(word_index).__name__}."
        )
    rows = {word: whole_id(word, i) for word, i in word_index.items()}
    if min(rows.values(), default=0) < 0:
        raise ValueError(
            f"the ids of words must be at least 0, got {min(rows.values())}, which "
            "would be a row counted from the end."
        )
    ids = {to_utf8(word): i for word, i in rows.items() if i < size}
    found = np.zeros(size, bool)
    with open(path, "rb") as file:
        for number, word, numbers in _lines(path, file, width):
            row = ids.get(word)
            if row is not None and not found[row]:
                table[row] = _parsed(path, number, numbers, width)
                found[row] = True
    if not found.any():
        rule = f"hold one of the {len(ids)} words of word_index"
        way_out = "write them in upper or lower case as the file does"
        raise BadFile(path, rule, "none of them", way_out)
    return Vectors(table, found)


def _lines(
    path: str | os.PathLike[str], file: Any, width: int
) -> Iterator[tuple[int, bytes, bytes]]:
    """The number of every line, its word, and its numbers as they stand there."""
    rule, said, number = f"hold a word and {width} numbers a line", None, 0
    for number, line in enumerate(file, start=1):
        line = line.rstrip(b" \r\n")
        if number == 1 and _is_header(line):
            said, found_width = map(int, line.split())
            if found_width != width:
                found = f"{found_width} numbers, says its first line"
                raise BadFile(path, rule, found, _WAY_OUT)
            continue
        if line.count(b" ") == width:
            word, _, numbers = line.partition(b" ")
        else:
            word, numbers = _split_at(line, width)
            if not numbers or _is_number(word.rpartition(b" ")[2]):
                found = f"{len(line.split()) - 1} in line {number}, {_start(line)}"
                raise BadFile(path, rule, found, _WAY_OUT)
        yield number, word, numbers
    if said is not None and said != number - 1:
        rule = f"hold as many words as its first line says, {said}"
        raise BadFile(path, rule, number - 1, "download or write it again")


def _is_header(line: bytes) -> bool:
    parts = line.split()
    return len(parts) == 2 and all(part.isdigit() for part in parts)


def _split_at(line: bytes, width: int) -> tuple[bytes, bytes]:
    """A word that has spaces, and its numbers; no numbers where there are too few."""
    word, *numbers = line.rsplit(b" ", width)
    return word, b" ".join(numbers) if len(numbers) == width else b""


def _parsed(
    path: str | os.PathLike[str], number: int, numbers: bytes, width: int
) -> Float32[np.ndarray, " features"]:
    parts = numbers.split()
    values = np.array([float(p) if _is_number(p) else np.nan for p in parts])
    with np.errstate(over="ignore"):
        row = values.astype(np.float32)
    if len(row) != width or not np.isfinite(row).all():
        rule = f"hold a word and {width} finite numbers a line"
        raise BadFile(path, rule, f"line {number}, {_start(numbers)}", _WAY_OUT)
    return row


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _start(line: bytes) -> str:
    return repr(line[:60].decode("utf-8", "replace"))
