"""How are texts split into words, and words looked up, at full speed?

By the rules of Keras 2's `Tokenizer`: lower case; punctuation except the
apostrophe, tabs and newlines become spaces; split on spaces.

A thousand texts are joined and split at once: one `bytes.translate` and one
`bytes.split` over megabytes, not one Python call per word.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat

import numpy as np
from jaxtyping import Int, Int32

FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'  # Keras' default
_TEXTS_AT_ONCE = 1000
_END = b"\xff"  # follows each text; a byte that UTF-8 never uses
_END_ID, _DROPPED_ID = -1, -2  # never leave `encode_words`


# texts -> the words of up to a thousand of them at a time, as UTF-8, with the byte 0xff
# after each text; there may be empty words.
WordsOf = Callable[[Sequence[str]], Iterator[list[bytes]]]


def lower_unicode(text: str) -> bytes:
    """Lower-cases every alphabet, as Keras 2's `Tokenizer` does, into UTF-8."""
    return to_utf8(text.lower())


def lower_ascii(text: str) -> bytes:
    """Lower-cases A to Z only, as Keras' IMDB word index does, into UTF-8."""
    return to_utf8(text).lower()


def to_utf8(text: str) -> bytes:
    """The bytes of a text, as it is; lone surrogates too."""
    return text.encode("utf-8", "surrogatepass")


def split_words(
    texts: Sequence[str],
    *,
    lower: Callable[[str], bytes] = lower_unicode,
    filters: str = FILTERS,
    separator: str = " ",
) -> Iterator[list[bytes]]:
    r"""Yields the words of up to a thousand texts at a time, as UTF-8.

    The byte 0xff stands after each text; neighboring separators give empty words.

    Args:
      texts: raw texts.
      lower: text -> lower-cased UTF-8.
      filters: characters that become separators.
      separator: stands between words; one or more characters.

    Example:
      >>> list(split_words(["Cats,dogs", "Go!"]))
      [[b'cats', b'dogs', b'\xff', b'go', b'', b'\xff']]
      >>> list(split_words(["«Cats»; dogs"], filters="«»", separator="; "))
      [[b'', b'cats', b'', b'dogs', b'\xff']]
    """
    between = to_utf8(separator)
    if len(between) == 1 and filters.isascii():
        to_separator = bytes.maketrans(filters.encode(), between * len(filters))
        for chunk in _chunks(texts, lower):
            ended = between + _END
            joined = (ended + between).join(chunk) + ended
            yield joined.translate(to_separator).split(between)
        return
    filtered = re.compile(b"|".join(re.escape(to_utf8(c)) for c in filters) or b"(?!)")
    for chunk in _chunks(texts, lower):
        parts = [filtered.sub(lambda _: between, text).split(between) for text in chunk]
        yield [word for words in parts for word in (*words, _END)]


def split_characters(
    texts: Sequence[str], *, lower: Callable[[str], bytes] = lower_unicode
) -> Iterator[list[bytes]]:
    r"""Yields characters in place of words; no character is left out.

    Example:
      >>> list(split_characters(["Go!"]))
      [[b'g', b'o', b'!', b'\xff']]
    """
    for chunk in _chunks(texts, lower):
        chars = [map(to_utf8, text.decode("utf-8", "surrogatepass")) for text in chunk]
        yield [char for of_text in chars for char in (*of_text, _END)]


def _chunks(
    texts: Sequence[str], lower: Callable[[str], bytes]
) -> Iterator[list[bytes]]:
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        yield [lower(text) for text in texts[first : first + _TEXTS_AT_ONCE]]


def rank_words(
    texts: Sequence[str], *, words_of: WordsOf = split_words
) -> tuple[str, ...]:
    """Lists the words of `texts`, most frequent first, ties by first appearance.

    Args:
      texts: raw texts.
      words_of: how they are split.

    Example:
      >>> rank_words(["dogs and cats", "Cats!"])
      ('cats', 'dogs', 'and')
    """
    counts: Counter[bytes] = Counter()
    for words in words_of(texts):
        counts.update(words)
    del counts[b""], counts[_END]
    return tuple(
        word.decode("utf-8", "surrogatepass") for word, _ in counts.most_common()
    )


def encode_words(
    texts: Sequence[str],
    word_ids: Mapping[str, int],
    *,
    unknown_id: int | None = None,
    words_of: WordsOf = split_words,
) -> tuple[Int32[np.ndarray, " total"], Int[np.ndarray, " texts"]]:
    """Returns the ids of all texts end to end, and how many each text has.

    Args:
      texts: raw texts.
      word_ids: id (>= 0) of each known word.
      unknown_id: stands for every other word; None drops them.
      words_of: how texts are split.

    Example:
      >>> ids, lengths = encode_words(["a b", "", "b c b"], {"a": 1, "b": 2})
      >>> ids.tolist(), lengths.tolist()
      ([1, 2, 2, 2], [2, 0, 2])
    """
    table = {to_utf8(word): i for word, i in word_ids.items()}
    table |= {b"": _DROPPED_ID, _END: _END_ID}
    missing = _DROPPED_ID if unknown_id is None else unknown_id
    all_ids = [np.empty(0, np.int32)]
    all_lengths = [np.empty(0, np.int64)]
    for words in words_of(texts):
        looked_up = map(table.get, words, repeat(missing))
        ids = np.fromiter(looked_up, np.int32, len(words))
        ids = ids[ids != _DROPPED_ID]
        ends = np.flatnonzero(ids == _END_ID)
        all_lengths.append(np.diff(ends, prepend=-1) - 1)
        all_ids.append(ids[ids != _END_ID])
    return np.concatenate(all_ids), np.concatenate(all_lengths)


def split_rows(
    ids: Int32[np.ndarray, " total"], lengths: Int[np.ndarray, " rows"]
) -> list[Int32[np.ndarray, " _"]]:
    """Cuts ids that lie end to end into one row (a view) per length.

    Example:
      >>> split_rows(np.arange(3, dtype=np.int32), np.array([1, 0, 2]))
      [array([0], dtype=int32), array([], dtype=int32), array([1, 2], dtype=int32)]
    """
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends][: len(ends)]
    return [ids[start:end] for start, end in zip(starts, ends, strict=True)]


def check_texts(texts: Sequence[str]) -> None:
    """Raises if `texts` is not a list of strings.

    Args:
      texts: what a caller passed as texts.

    Raises:
      TypeError: if it is one string, or holds something else.

    Example:
      >>> check_texts("text")
      Traceback (most recent call last):
      TypeError: texts must be a list of strings, got one string 'text'; write [text].
    """
    if isinstance(texts, str):
        raise TypeError(
            f"texts must be a list of strings, got one string {texts[:40]!r}; "
            "write [text]."
        )
    if isinstance(texts, Mapping) or not hasattr(texts, "__len__"):
        raise TypeError(
            f"texts must be a list of strings, got {type(texts).__name__}; write "
            "list(texts)."
        )
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(
                f"texts must be a list of strings, got {type(text).__name__} in it; "
                "decode bytes first."
            )


def first_clash(word_ids: Mapping[str, int]) -> str:
    """Names two words that have one id; empty where each has its own.

    Example:
      >>> first_clash({"<start>": 1, "good": 2, "the": 1})
      "'<start>' and 'the' with 1"
    """
    words = {i: word for word, i in word_ids.items()}
    for word, i in word_ids.items():
        if words[i] != word:
            return f"{word!r} and {words[i]!r} with {i}"
    return ""
