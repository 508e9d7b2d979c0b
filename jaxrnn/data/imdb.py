"""How do IMDB reviews become the ids, arrays and labels of Keras' tutorials?

Keras ships the reviews as ids; tfds has their texts. The ids are rebuilt: words
are ranked by frequency on the training texts, id = rank + 3, 0 is padding, 1
starts each review, and 2 stands for words beyond `num_words`. Words that no
training review has are dropped.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from jaxrnn import files
from jaxrnn.data import imdb_cache, imdb_source
from jaxrnn.data.batches import Dataset
from jaxrnn.data.imdb_cache import EncodedReviews, EncodedSplit
from jaxrnn.data.text import pad_sequences, padding_mask
from jaxrnn.data.words import (
    check_texts,
    encode_words,
    first_clash,
    lower_ascii,
    lower_unicode,
    rank_words,
    split_rows,
    split_words,
)
from jaxrnn.files.refused import parse_json, refusing

PADDING_ID, START_ID, OOV_ID = 0, 1, 2
_RANK_TO_ID = 3
_LARGEST_RANK = 2**31 - 1 - _RANK_TO_ID  # ids are int32
_SPECIAL_WORDS = {START_ID: "<start>", OOV_ID: "<oov>"}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Encodes new reviews as `load_imdb` encoded its own, and decodes ids.

    Attributes:
      word_ids: id of each word, 4 for the most frequent, whatever `num_words` is.
      num_words: ids from it on become 2 (out of vocabulary); None keeps all.
      lower: text -> lower-cased UTF-8.

    Example:
      >>> vocabulary = Vocabulary({"good": 4, "bad": 5, "film": 6}, num_words=6)
      >>> [row.tolist() for row in vocabulary.encode_reviews(["A bad film!"])]
      [[1, 5, 2]]
      >>> vocabulary.decode(np.array([0, 1, 5, 2]))
      '<start> bad <oov>'
    """

    word_ids: Mapping[str, int]
    num_words: int | None = None
    lower: Callable[[str], bytes] = lower_unicode

    @property
    def vocab_size(self) -> int:
        """Number of ids, padding, start and out-of-vocabulary included."""
        size = 1 + max(self.word_ids.values())
        return size if self.num_words is None else min(size, self.num_words)

    def encode_reviews(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " _"]]:
        """Returns one row of ids per text, start id first, for `pad_sequences`.

        Args:
          texts: raw reviews.

        Raises:
          TypeError: if `texts` is one string, or holds something else.
        """
        check_texts(texts)
        ids, lengths = _encode(texts, self.word_ids, self.lower)
        return split_rows(_limit(ids, self.num_words), lengths)

    def decode(self, ids: Int[np.ndarray, " time"]) -> str:
        """Returns the words of one row of ids, without its padding.

        Args:
          ids: one row, padded or not.

        Raises:
          ValueError: if an id is none of this vocabulary.
        """
        words = {i: word for word, i in self.word_ids.items()} | _SPECIAL_WORDS
        unknown = [i for i in ids.tolist() if i != PADDING_ID and i not in words]
        if unknown:
            raise ValueError(
                f"ids must be ids of this vocabulary (0 to {max(words)}), got "
                f"{unknown[0]}; encode with encode_reviews."
            )
        return " ".join(words[i] for i in ids.tolist() if i != PADDING_ID)


class Imdb(NamedTuple):
    """Both halves of the data set and the vocabulary of their ids."""

    train: Dataset
    test: Dataset
    vocabulary: Vocabulary


def load_imdb(
    *,
    num_words: int | None = 10_000,
    max_length: int = 500,
    data_dir: str | os.PathLike[str] | None = None,
    word_index: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    masked: bool = False,
) -> Imdb:
    """Loads 25,000 training and 25,000 test reviews, padded and cut at the front.

    The vocabulary has 88,582 words, ranked on the training texts by the rules of
    `Tokenizer`. Keras' own list has 88,584, because it lower-cases ASCII only;
    the ranks differ from it in ties alone. `word_index` gives Keras' very ids.

    Args:
      num_words: ids from it on become 2; None keeps all.
      max_length: ids per review; the last ones are kept, as in Keras.
      data_dir: directory for tfds; None takes the variable TFDS_DATA_DIR, and
        without it `~/tensorflow_datasets`. Downloads there what is missing.
      word_index: Keras' `imdb_word_index.json` (word -> rank); None ranks the
        words of the training texts.
      cache_dir: folder for the encoded reviews; None takes `jaxrnn` in the
        user's cache directory.
      masked: marks padding in `Dataset.mask`; the tutorials do not.

    Returns:
      Datasets with inputs `(examples, max_length)` int32, targets `(examples,)`
      float32 (1 = positive) and mask None or bool, and the vocabulary.

    Raises:
      ImportError: if tfds or a package it needs is missing.
      ConnectionError: if nothing is prepared in `data_dir` and there is no network.
      FileNotFoundError: if there is no file `word_index`.
      ValueError: if an option is out of range, or the directory is not prepared in
        array_record format; a `files.BadFile` if `word_index` is no such file.

    Example:
      >>> train, test, vocabulary = load_imdb(max_length=100)  # doctest: +SKIP
      >>> train.inputs.shape, vocabulary.vocab_size  # doctest: +SKIP
      ((25000, 100), 10000)
    """
    if num_words is not None and num_words <= _RANK_TO_ID:
        raise ValueError(
            f"num_words must be at least 4 (ids 0 to 2 are padding, start and out of "
            f"vocabulary, words begin at 4), got {num_words}; None keeps all."
        )
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}.")
    if word_index is None:
        index_bytes, word_ids, lower = None, None, lower_unicode
    else:
        index_bytes = Path(word_index).expanduser().read_bytes()
        word_ids, lower = _read_word_index(index_bytes, word_index), lower_ascii

    builder = imdb_source.prepared_builder(data_dir)
    identity = (imdb_cache.CACHE_VERSION, imdb_source.fingerprint(builder), index_bytes)
    name = f"imdb-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.npz"
    folder = Path(cache_dir).expanduser() if cache_dir else files.cache_folder()
    path = folder / name
    encoded = imdb_cache.load_encoded(path)
    if encoded is None:
        encoded = _encode_reviews(builder, word_ids, lower)
        imdb_cache.save_encoded(path, encoded)

    def dataset(split: EncodedSplit) -> Dataset:
        rows = split_rows(_limit(split.ids, num_words), split.lengths)
        inputs = pad_sequences(rows, max_length)
        mask = padding_mask(inputs, PADDING_ID) if masked else None
        return Dataset(inputs, split.labels, mask)

    vocabulary = Vocabulary(encoded.word_ids, num_words, lower)
    return Imdb(dataset(encoded.train), dataset(encoded.test), vocabulary)


def _read_word_index(content: bytes, path: str | os.PathLike[str]) -> dict[str, int]:
    rule = "be JSON of one object word -> rank (1, 2, ...), as imdb_word_index.json"
    way_out = "word_index=None ranks the words of the training texts"
    with refusing(path, rule, way_out):
        ranks = parse_json(content)
    if not isinstance(ranks, dict) or not ranks:
        raise files.BadFile(path, rule, f"{type(ranks).__name__} {ranks!r}", way_out)
    for word, rank in ranks.items():
        if type(rank) is not int or not 0 < rank < _LARGEST_RANK:
            raise files.BadFile(path, rule, f"{word!r} -> {rank!r}", way_out)
    clash = first_clash(ranks)
    if clash:
        raise files.BadFile(path, rule + ", each rank once", clash, way_out)
    return {word: rank + _RANK_TO_ID for word, rank in ranks.items()}


def _encode_reviews(
    builder, word_ids: dict[str, int] | None, lower: Callable[[str], bytes]
) -> EncodedReviews:
    train = imdb_source.read_reviews(builder, "train")
    test = imdb_source.read_reviews(builder, "test")
    if word_ids is None:
        words_of = functools.partial(split_words, lower=lower)
        words = rank_words(train.texts, words_of=words_of)
        word_ids = {word: i for i, word in enumerate(words, start=1 + _RANK_TO_ID)}
    return EncodedReviews(
        EncodedSplit(*_encode(train.texts, word_ids, lower), train.labels),
        EncodedSplit(*_encode(test.texts, word_ids, lower), test.labels),
        word_ids,
    )


def _encode(
    texts: Sequence[str], word_ids: Mapping[str, int], lower: Callable[[str], bytes]
) -> tuple[Int32[np.ndarray, " total"], Int[np.ndarray, " texts"]]:
    """Ids end to end with the start id before each text, and lengths with it."""
    words_of = functools.partial(split_words, lower=lower)
    ids, lengths = encode_words(texts, word_ids, words_of=words_of)
    starts = np.cumsum(lengths) - lengths
    return np.insert(ids, starts, START_ID), lengths + 1


def _limit(
    ids: Int32[np.ndarray, " total"], num_words: int | None
) -> Int32[np.ndarray, " total"]:
    return ids if num_words is None else np.where(ids >= num_words, OOV_ID, ids)
