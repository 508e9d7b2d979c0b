"""How do words become ids, the ids that a Keras tokenizer gave them?"""

import dataclasses
import functools
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from jaxrnn import files
from jaxrnn.data.tokenizer_files import read_settings, read_word_index, to_keras_json
from jaxrnn.data.words import (
    FILTERS,
    WordsOf,
    check_texts,
    encode_words,
    first_clash,
    lower_unicode,
    rank_words,
    split_characters,
    split_rows,
    split_words,
    to_utf8,
)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Turns texts into rows of word ids by the rules of Keras 2's `Tokenizer`.

    Text is lower-cased; punctuation except the apostrophe, tabs and newlines
    become spaces; the text is split on spaces. The most frequent word gets the
    smallest id; id 0 is left for padding.

    Make one with `Tokenizer.fit`, of a Keras tokenizer or word index with
    `Tokenizer.load` or `Tokenizer.from_word_index`. `encode` gives the ids of Keras'
    `texts_to_sequences`. Keras' `analyzer`, a function, is in no file: split the texts
    with it before, and join the words by spaces.

    Attributes:
      word_index: id of every word, `oov_token` included, whatever `num_words` is; each
        id is another one, from 1 on. There may be ids without a word.
      num_words: `encode` keeps ids below it (so `num_words - 1` ids); None keeps
        all.
      oov_token: stands for every word that has no id; None drops those words.
      filters: characters that become separators.
      lower: whether texts are lower-cased.
      split: separates words.
      char_level: every character is a word; nothing is filtered.

    Raises:
      TypeError: a word index that is no {word: id}, an option of another kind.
      ValueError: if there is no word, two words have one id, or one that is below 1 or
        has more than 32 bits; if `num_words` leaves no room for an id that is in use,
        `oov_token` has no id, or `split` is empty.

    Example:
      >>> tokenizer = Tokenizer.fit(["I love cats", "Cats are cute"])
      >>> tokenizer.word_index
      {'cats': 1, 'i': 2, 'love': 3, 'are': 4, 'cute': 5}
      >>> [ids.tolist() for ids in tokenizer.encode(["I love cute dogs!"])]
      [[2, 3, 5]]
      >>> tokenizer.vocab_size
      6
    """

    word_index: Mapping[str, int]
    num_words: int | None = None
    oov_token: str | None = None
    filters: str = FILTERS
    lower: bool = True
    split: str = " "
    char_level: bool = False

    def __post_init__(self):
        _check_options(self.num_words, self.oov_token, self.filters, self.split)
        _check_ids(self.word_index)
        if self.oov_token is not None and self.oov_token not in self.word_index:
            raise ValueError(
                "oov_token must have an id in the word index, got none for "
                f"{self.oov_token!r}; oov_token=None drops unknown words."
            )
        smallest = 1 if self.oov_token is None else 1 + self.word_index[self.oov_token]
        if self.num_words is not None and self.num_words < smallest:
            raise ValueError(
                f"num_words must be at least {smallest} (id 0 is padding, id "
                f"{smallest - 1} the oov_token if there is one), got "
                f"{self.num_words}; None keeps all."
            )

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        *,
        num_words: int | None = None,
        oov_token: str | None = None,
        filters: str = FILTERS,
        lower: bool = True,
        split: str = " ",
        char_level: bool = False,
    ) -> "Tokenizer":
        """Ranks the words of `texts`; the most frequent has id 1, or 2 after an oov.

        Args:
          texts: the training texts.
          num_words, oov_token, filters, lower, split, char_level: see the class.

        Raises:
          TypeError: if `texts` is one string, or holds something else; an option that
            is no string or no number.
          ValueError: if there is no text, or no word in any text, or an option is out
            of range, or `oov_token` is also a word. (Keras then gives it the word's
            id.)
        """
        check_texts(texts)
        _check_options(num_words, oov_token, filters, split)
        words_of = _words_of(filters, lower, split, char_level)
        words = rank_words(texts, words_of=words_of) if len(texts) else ()
        if not words:
            raise ValueError(
                f"texts must hold at least one word, got {len(texts)} texts with "
                "none; fit on the training texts, before encoding."
            )
        if oov_token in words:
            raise ValueError(
                "oov_token must differ from every word of the texts, got "
                f"{oov_token!r}; punctuation sets it apart, as in '<oov>'."
            )
        ranked = words if oov_token is None else (oov_token, *words)
        word_index = {word: i for i, word in enumerate(ranked, start=1)}
        return cls(word_index, num_words, oov_token, filters, lower, split, char_level)

    @classmethod
    def from_word_index(
        cls,
        word_index: Mapping[Any, Any] | str | os.PathLike[str],
        *,
        num_words: int | None = None,
        oov_token: str | None = None,
        filters: str = FILTERS,
        lower: bool = True,
        split: str = " ",
        char_level: bool = False,
    ) -> "Tokenizer":
        """Takes the ids of a `{word: id}`, such as Keras' `tokenizer.word_index`.

        A word index does not say how texts are to be split, nor which of its words
        stands for the unknown: give what it was made with.

        Args:
          word_index: the ids, or a JSON file of them.
          num_words, oov_token, filters, lower, split, char_level: see the class.

        Raises:
          files.BadFile: if the file is no JSON of that kind.
          TypeError: if an id is no whole number.
          ValueError: see the class.

        Example:
          >>> word_index = {"<pad>": 0, "<start>": 1, "<oov>": 2, "good": 4}
          >>> words = {word: i for word, i in word_index.items() if i != 0}
          >>> tokenizer = Tokenizer.from_word_index(words, oov_token="<oov>")
          >>> tokenizer.encode(["Good film"])[0].tolist(), tokenizer.vocab_size
          ([4, 2], 5)
        """
        if not isinstance(word_index, Mapping):
            word_index = read_word_index(word_index)
        ids = {word: whole_id(word, i) for word, i in word_index.items()}
        return cls(ids, num_words, oov_token, filters, lower, split, char_level)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that `encode` can give; id 0 is padding."""
        size = 1 + max(self.word_index.values())
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
        oov = self.oov_token
        ids, lengths = encode_words(
            texts,
            {word: i for word, i in self.word_index.items() if i < size},
            unknown_id=None if oov is None else self.word_index[oov],
            words_of=_words_of(self.filters, self.lower, self.split, self.char_level),
        )
        return split_rows(ids, lengths)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the JSON of Keras' `tokenizer.to_json()`, whole or not at all.

        `Tokenizer.load` reads it, and so does Keras 2's `tokenizer_from_json`. Counts
        of words and documents, which decide no id, are left empty.

        Args:
          path: the file; an existing one is replaced. See `files.replacing`.
        """
        settings = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        with files.replacing(path) as unfinished:
            unfinished.write_text(to_keras_json(settings), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Reads a file written by `save`, or of Keras' `tokenizer.to_json()`.

        Args:
          path: the file.

        Raises:
          files.BadFile: if the file is something else, or of another version.

        Example:
          >>> import tempfile
          >>> tokenizer = Tokenizer.fit(["I love cats"], oov_token="<oov>")
          >>> with tempfile.TemporaryDirectory() as folder:
          ...     tokenizer.save(f"{folder}/tokenizer.json")
          ...     Tokenizer.load(f"{folder}/tokenizer.json") == tokenizer
          True
        """
        return read_settings(path, Path(path).read_bytes(), cls)


def _words_of(filters: str, lower: bool, split: str, char_level: bool) -> WordsOf:
    to_bytes = lower_unicode if lower else to_utf8
    if char_level:
        return functools.partial(split_characters, lower=to_bytes)
    options = {"filters": filters, "separator": split}
    return functools.partial(split_words, lower=to_bytes, **options)


def _check_options(num_words: Any, oov_token: Any, filters: Any, split: Any) -> None:
    texts = {"filters": filters, "split": split}
    if oov_token is not None:
        texts["oov_token"] = oov_token
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a string, got {text!r}.")
    if not split:
        raise ValueError(
            "split must be at least one character, got none; char_level=True makes "
            "every character a word."
        )
    if num_words is not None and not hasattr(num_words, "__index__"):
        raise TypeError(
            f"num_words must be a whole number, got {num_words!r}; None keeps all."
        )


def _check_ids(word_index: Mapping[str, int]) -> None:
    if not isinstance(word_index, Mapping):
        raise TypeError(
            "a word index is {word: id}, such as tokenizer.word_index, got "
            f"{type(word_index).__name__}; Tokenizer.fit makes one of texts, and "
            "Tokenizer.from_word_index reads a file."
        )
    for word, i in word_index.items():
        whole_id(word, i)
    if not word_index:
        raise ValueError(
            "a word index must hold at least one word, got none; Tokenizer.fit makes "
            "one of the training texts."
        )
    by_id = sorted((i, word) for word, i in word_index.items())
    for i, word in (by_id[0], by_id[-1]):
        if not 1 <= i <= np.iinfo(np.int32).max:
            raise ValueError(
                "the ids of words must be from 1 to 2147483647, as 0 is padding, got "
                f"{word!r} with {i}; leave out the name of the padding: "
                "{word: i for word, i in word_index.items() if i != 0}."
            )
    clash = first_clash(word_index)
    if clash:
        raise ValueError(
            f"every word must have an id of its own, got {clash}; ids that are to stay "
            "free for special words are added to those of all others."
        )


def whole_id(word: Any, i: Any) -> int:
    if not isinstance(word, str) or not hasattr(i, "__index__"):
        raise TypeError(
            f"a word index is {{word: id}}, ids whole numbers, got {word!r}: {i!r}; "
            "Keras' index_word is the other way round."
        )
    return operator.index(i)
