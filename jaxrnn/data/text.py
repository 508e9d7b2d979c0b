"""How does raw text become padded rows of integers?

Words become ids (`Tokenizer`), rows of ids become one array (`pad_sequences`),
and the array says which of its steps are padding (`padding_mask`).
"""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32

from jaxrnn import files
from jaxrnn.data.words import check_texts, encode_words, rank_words, split_rows
from jaxrnn.files.refused import parse_json, refusing

_FILE_FORMAT = "jaxrnn.data.Tokenizer"
_FILE_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Turns texts into rows of word ids by the rules of Keras 2's `Tokenizer`.

    Text is lower-cased; punctuation except the apostrophe, tabs and newlines
    become spaces; the text is split on spaces. The most frequent word gets the
    smallest id; id 0 is left for padding.

    Make one with `Tokenizer.fit`.

    Attributes:
      words: every word seen, most frequent first, ties by first appearance.
      num_words: `encode` keeps ids below it (so `num_words - 1` ids); None keeps
        all.
      oov_token: takes id 1 and stands for every word that has no id; None drops
        those words.

    Raises:
      ValueError: if `num_words` leaves no room for an id that is in use, or
        `oov_token` is also a word.

    Example:
      >>> tokenizer = Tokenizer.fit(["I love cats", "Cats are cute"])
      >>> tokenizer.word_index
      {'cats': 1, 'i': 2, 'love': 3, 'are': 4, 'cute': 5}
      >>> [ids.tolist() for ids in tokenizer.encode(["I love cute dogs!"])]
      [[2, 3, 5]]
      >>> tokenizer.vocab_size
      6
    """

    words: tuple[str, ...]
    num_words: int | None = None
    oov_token: str | None = None

    def __post_init__(self):
        smallest = 1 if self.oov_token is None else 2
        if self.num_words is not None and self.num_words < smallest:
            raise ValueError(
                f"num_words must be at least {smallest} (id 0 is padding, id 1 the "
                f"oov_token if there is one), got {self.num_words}; None keeps all."
            )
        if self.oov_token is not None and self.oov_token in self.words:
            raise ValueError(
                "oov_token must differ from every word of the texts, got "
                f"{self.oov_token!r}; punctuation sets it apart, as in '<oov>'."
            )

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        *,
        num_words: int | None = None,
        oov_token: str | None = None,
    ) -> "Tokenizer":
        """Ranks the words of `texts`.

        Args:
          texts: the training texts.
          num_words: see the class.
          oov_token: see the class.

        Raises:
          TypeError: if `texts` is one string, or holds something else.
          ValueError: if there is no text, or no word in any text, or an option
            is out of range.
        """
        check_texts(texts)
        words = rank_words(texts) if len(texts) else ()
        if not words:
            raise ValueError(
                f"texts must hold at least one word, got {len(texts)} texts with "
                "none; fit on the training texts, before encoding."
            )
        return cls(words, num_words, oov_token)

    @property
    def word_index(self) -> dict[str, int]:
        """Id of every word seen, `oov_token` included, whatever `num_words` is."""
        first = () if self.oov_token is None else (self.oov_token,)
        return {word: i for i, word in enumerate(first + self.words, start=1)}

    @property
    def vocab_size(self) -> int:
        """Number of ids `encode` can give, plus one for padding."""
        size = 1 + len(self.words) + (self.oov_token is not None)
        return size if self.num_words is None else min(size, self.num_words)

    def encode(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " _"]]:
        """Returns one row of ids per text, for `pad_sequences`.

        A text without a known word gives an empty row, which `pad_sequences`
        turns into padding only.

        Args:
          texts: raw texts.

        Raises:
          TypeError: if `texts` is one string, or holds something else.
        """
        check_texts(texts)
        size = self.vocab_size
        ids, lengths = encode_words(
            texts,
            {word: i for word, i in self.word_index.items() if i < size},
            unknown_id=None if self.oov_token is None else 1,
        )
        return split_rows(ids, lengths)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a JSON file for `Tokenizer.load`, whole or not at all.

        Args:
          path: the file; an existing one is replaced. See `files.replacing`.
        """
        header = {"format": _FILE_FORMAT, "version": _FILE_VERSION}
        text = json.dumps(header | dataclasses.asdict(self))
        with files.replacing(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Reads a file written by `save`.

        Args:
          path: the file.

        Raises:
          files.BadFile: if the file is something else, or of another version.
        """
        way_out = "fit again and save"
        rule = (
            f"be written by Tokenizer.save (format {_FILE_FORMAT}, version "
            f"{_FILE_VERSION})"
        )
        text = Path(path).read_bytes()
        with refusing(path, rule, way_out):
            content = parse_json(text)
            found = (content["format"], content["version"])
            settings = [content[key] for key in ("words", "num_words", "oov_token")]
        if found != (_FILE_FORMAT, _FILE_VERSION):
            raise files.BadFile(path, rule, found, way_out)
        _check_settings(path, *settings)
        words, num_words, oov_token = settings
        with refusing(path, "hold settings of a Tokenizer", way_out):
            return cls(tuple(words), num_words, oov_token)


def _check_settings(
    path: str | os.PathLike[str], words: Any, num_words: Any, oov_token: Any
) -> None:
    """Raises unless a file holds fields of a Tokenizer."""
    way_out = "fit again and save"
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise files.BadFile(path, "have a list of texts as words", words, way_out)
    twice = [word for word, count in Counter(words).items() if count > 1]
    if twice:
        raise files.BadFile(path, "have every word once", twice, way_out)
    if num_words is not None and type(num_words) is not int:
        rule = "have an integer or null as num_words"
        raise files.BadFile(path, rule, repr(num_words), way_out)
    if oov_token is not None and not isinstance(oov_token, str):
        rule = "have a text or null as oov_token"
        raise files.BadFile(path, rule, repr(oov_token), way_out)


def pad_sequences(
    sequences: Sequence[Sequence[int] | np.ndarray],
    max_length: int | None = None,
    *,
    padding: str = "pre",
    truncating: str = "pre",
    value: int = 0,
) -> Int32[np.ndarray, "examples max_length"]:
    """Makes rows of different lengths one array, as `keras.utils.pad_sequences`.

    Args:
      sequences: rows of ids; a row may be empty.
      max_length: length of the result's rows; None takes the longest row's.
      padding: "pre" fills short rows at the front, "post" at the end.
      truncating: "pre" cuts long rows at the front, "post" at the end.
      value: what short rows are filled with.

    Raises:
      TypeError: if a row is not a flat row of integers, or `value` is no integer.
      ValueError: if there are no rows, or an option is not one of the above, or an
        integer does not fit into the 32 bits of the result.

    Example:
      >>> pad_sequences([[1, 2, 3], [4]], 2).tolist()
      [[2, 3], [0, 4]]
      >>> pad_sequences([[1, 2, 3], [4]], 2, padding="post").tolist()
      [[2, 3], [4, 0]]
    """
    for name, option in (("padding", padding), ("truncating", truncating)):
        if option not in ("pre", "post"):
            raise ValueError(f"{name} must be 'pre' or 'post', got {option!r}.")
    if len(sequences) == 0:
        raise ValueError("sequences must hold at least one row, got none.")
    if max_length is None:
        max_length = max(len(row) for row in sequences)
    elif max_length < 1:
        raise ValueError(
            f"max_length must be at least 1, got {max_length}; "
            "None takes the length of the longest row."
        )
    if np.asarray(value).shape != () or np.asarray(value).dtype.kind not in "iu":
        raise TypeError(f"value must be one integer, got {value!r}.")
    _check_int32("value", np.asarray(value))
    padded = np.full((len(sequences), max_length), value, np.int32)
    for example, row in enumerate(sequences):
        if len(row) == 0:
            continue
        kept = np.asarray(row)
        if kept.ndim != 1 or kept.dtype.kind not in "iu":
            raise TypeError(
                f"sequences must be flat rows of integers, got {kept.dtype} of shape "
                f"{kept.shape} in row {example}; Tokenizer.encode makes such rows."
            )
        _check_int32(f"the ids of row {example}", kept)
        kept = kept[-max_length:] if truncating == "pre" else kept[:max_length]
        if padding == "pre":
            padded[example, max_length - len(kept) :] = kept
        else:
            padded[example, : len(kept)] = kept
    return padded


def _check_int32(name: str, ids: np.ndarray) -> None:
    if ids.dtype == np.int32:
        return
    fits = np.iinfo(np.int32)
    low, high = int(ids.min()), int(ids.max())
    if low < fits.min or high > fits.max:
        raise ValueError(
            f"{name} must fit into int32, from {fits.min} to {fits.max}, got {low} to "
            f"{high}, which would wrap around; Tokenizer.encode makes small ids."
        )


def padding_mask(
    ids: Int[np.ndarray, "examples time"], value: int = 0
) -> Bool[np.ndarray, "examples time"]:
    """Marks the steps that are not padding: True = valid.

    Right only where no real id equals `value`. Ids of `Tokenizer` and `load_imdb`
    never are 0.

    Args:
      ids: padded rows.
      value: what they were padded with.

    Example:
      >>> padding_mask(np.array([[0, 7], [5, 6]])).tolist()
      [[False, True], [True, True]]
    """
    # A list by itself is unequal as a whole.
    return (ids if hasattr(ids, "shape") else np.asarray(ids)) != value
