"""How do rows of ids become one array, and where is it padding?

`pad_sequences` makes rows of different lengths one array, and `padding_mask` says which
of its steps are padding. `Tokenizer` makes the ids.
"""

import operator
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Int32

from jaxrnn.data.batches import check_count


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
    found = type(sequences).__name__
    if hasattr(sequences, "__len__"):
        found = {type(row).__name__ for row in sequences if not hasattr(row, "__len__")}
    if found:
        raise TypeError(
            f"sequences must be a list of rows of ids, got {found}; write [ids] for a "
            "single row, list(rows) for an iterator of some."
        )
    if len(sequences) == 0:
        raise ValueError("sequences must hold at least one row, got none.")
    if max_length is None:
        max_length = max(len(row) for row in sequences)
    else:
        check_count("max_length", max_length)
    max_length = operator.index(max_length)  # -np.uint8(2) is 254
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
