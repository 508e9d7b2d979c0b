"""How are texts split into words, and words looked up, at full speed?

By the rules of Keras 2's `Tokenizer`: lower case; punctuation except the
apostrophe, tabs and newlines become spaces; split on spaces.

A thousand texts are joined and split at once: one `bytes.translate` and one
`bytes.split` over megabytes, not one Python call per word.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat

import numpy as np
from jaxtyping import Int, Int32

_FILTERED = b'!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
_FILTERED_TO_SPACE = bytes.maketrans(_FILTERED, b" " * len(_FILTERED))
_TEXTS_AT_ONCE = 1000
_END = b"\xff"  # follows each text; a byte that UTF-8 never uses
_END_ID, _DROPPED_ID = -1, -2  # never leave `encode_words`


def lower_unicode(text: str) -> bytes:
    """Lower-cases every alphabet, as Keras 2's `Tokenizer` does, into UTF-8."""
    return text.lower().encode("utf-8", "surrogatepass")


def lower_ascii(text: str) -> bytes:
    """Lower-cases A to Z only, as Keras' IMDB word index does, into UTF-8."""
    return text.encode("utf-8", "surrogatepass").lower()


def split_words(
    texts: Sequence[str], *, lower: Callable[[str], bytes] = lower_unicode
) -> Iterator[list[bytes]]:
    r"""Yields the words of up to a thousand texts at a time, as UTF-8.

    The byte 0xff stands after each text; neighboring spaces give empty words.

    Args:
      texts: raw texts.
      lower: text -> lower-cased UTF-8.

    Example:
      >>> list(split_words(["Cats,dogs", "Go!"]))
      [[b'cats', b'dogs', b'\xff', b'go', b'', b'\xff']]
    """
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        chunk = [lower(text) for text in texts[first : first + _TEXTS_AT_ONCE]]
        joined = b" \xff ".join(chunk) + b" \xff"
        yield joined.translate(_FILTERED_TO_SPACE).split(b" ")


def rank_words(
    texts: Sequence[str], *, lower: Callable[[str], bytes] = lower_unicode
) -> tuple[str, ...]:
    """Lists the words of `texts`, most frequent first, ties by first appearance.

    Args:
      texts: raw texts.
      lower: text -> lower-cased UTF-8.

    Example:
      >>> rank_words(["dogs and cats", "Cats!"])
      ('cats', 'dogs', 'and')
    """
    counts: Counter[bytes] = Counter()
    for words in split_words(texts, lower=lower):
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
    lower: Callable[[str], bytes] = lower_unicode,
) -> tuple[Int32[np.ndarray, " total"], Int[np.ndarray, " texts"]]:
    """Returns the ids of all texts end to end, and how many each text has.

    Args:
      texts: raw texts.
      word_ids: id (>= 0) of each known word.
      unknown_id: stands for every other word; None drops them.
      lower: text -> lower-cased UTF-8.

    Example:
      >>> ids, lengths = encode_words(["a b", "", "b c b"], {"a": 1, "b": 2})
      >>> ids.tolist(), lengths.tolist()
      ([1, 2, 2, 2], [2, 0, 2])
    """
    table = {word.encode("utf-8", "surrogatepass"): i for word, i in word_ids.items()}
    table |= {b"": _DROPPED_ID, _END: _END_ID}
    missing = _DROPPED_ID if unknown_id is None else unknown_id
    all_ids = [np.empty(0, np.int32)]
    all_lengths = [np.empty(0, np.int64)]
    for words in split_words(texts, lower=lower):
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
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(
                f"texts must be a list of strings, got {type(text).__name__} in it; "
                "decode bytes first."
            )
