"""How do rows of many lengths become batches of few shapes? By length, in buckets.

Padded to the longest, most of a batch may be padding; batches that are as wide as their
longest row have a shape each, and each shape is compiled.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrnn.data.batches import (
    Batch,
    Dataset,
    as_batch,
    check_count,
    check_dataset,
    check_integers,
    cut_order,
    drawn_order,
    num_batches,
    num_examples,
)
from jaxrnn.data.trees import tree_map

Rows = Sequence[Any]


def buckets(
    rows: Rows,
    targets: Any,
    boundaries: Sequence[int],
    *,
    padding: str = "pre",
    sample_weight: Float[np.ndarray, " examples"] | Sequence[float] | None = None,
) -> list[Dataset]:
    """One padded dataset for the rows up to each length; `mask` says what is a step.

    Each is a `Dataset` as any other: `bucket_batches` makes batches of all of them, and
    their means add up (`Mean.add`) where each is evaluated by itself.

    Args:
      rows: ids (time,) or features (time, features), each of its own length.
      targets: an array with one row per row; or a list of rows as long as `rows`, of
        which each step is a target, and which are padded with 0.
      boundaries: the width of each bucket, in rising order, such as (32, 64, 128); a
        row goes into the first one that holds it. A bucket without rows is left out.
      padding: "pre" fills short rows at the front, "post" at the end.
      sample_weight: how much each row counts.

    Raises:
      TypeError: rows, targets or boundaries that are no list, boundaries that are no
        whole numbers.
      ValueError: no rows; boundaries that do not rise, or are below 1; a row that is
        longer than the last boundary; rows that differ in their features; targets or
        weights that are not one per row, or targets of other lengths; integers that do
        not fit into 32 bits.

    Example:
      >>> rows = [np.array([7]), np.array([5, 6, 7]), np.array([8, 9])]
      >>> short, long = buckets(rows, np.array([1.0, 0.0, 1.0]), (2, 4))
      >>> short.inputs.tolist(), short.targets.tolist()
      ([[0, 7], [8, 9]], [1.0, 1.0])
      >>> long.inputs.tolist(), long.mask.tolist()
      ([[0, 5, 6, 7]], [[False, True, True, True]])
    """
    if padding not in ("pre", "post"):
        raise ValueError(f"padding must be 'pre' or 'post', got {padding!r}.")
    for name, several in (("rows", rows), ("boundaries", boundaries)):
        if not hasattr(several, "__len__"):
            raise TypeError(
                f"{name} must be a list of some, got {type(several).__name__}; write "
                "[one] of a single one, list(some) for an iterator."
            )
    for width in boundaries:
        check_count("a boundary", width)
    boundaries = [int(width) for width in boundaries]  # bytes less bytes wrap around
    if len(boundaries) == 0 or any(np.diff(boundaries) <= 0):
        raise ValueError(
            f"boundaries must rise, one or more of them, got {boundaries}; "
            "sorted(set(boundaries)) puts them in order."
        )
    rows = [np.asarray(row) for row in rows]
    _check_rows("rows", rows)
    lengths = np.array([len(row) for row in rows])
    longest = int(lengths.argmax())
    if lengths[longest] > boundaries[-1]:
        raise ValueError(
            f"rows must not be longer than the last boundary, {boundaries[-1]}, got "
            f"{lengths[longest]} steps in row {longest}; add a boundary, or cut rows."
        )
    by_step = isinstance(targets, list)
    if not hasattr(targets, "__len__"):
        raise TypeError(
            f"targets must be an array with one row per row, or a list of rows, got "
            f"{type(targets).__name__}; np.zeros(len(rows)) stands for none."
        )
    targets = [np.asarray(row) for row in targets] if by_step else np.asarray(targets)
    if len(targets) != len(rows):
        raise ValueError(
            f"targets must be one per row, {len(rows)}, got {len(targets)}; leave out "
            "the rows without a target."
        )
    if by_step:
        _check_rows("targets", targets)
        _check_lengths(lengths, targets)
    if sample_weight is not None:
        sample_weight = np.asarray(sample_weight)
        if sample_weight.shape != (len(rows),):
            raise ValueError(
                f"sample_weight must be one number per row, {len(rows)}, got shape "
                f"{sample_weight.shape}; a row that is not to count weighs 0."
            )

    def padded(rows: Rows, chosen: np.ndarray, width: int) -> np.ndarray:
        return pad_rows([rows[row] for row in chosen], width, padding=padding)

    which = np.searchsorted(boundaries, lengths)
    made = []
    for bucket in np.unique(which):
        chosen, width = np.flatnonzero(which == bucket), boundaries[bucket]
        steps = [np.ones(length, bool) for length in lengths[chosen]]
        dataset = Dataset(
            padded(rows, chosen, width),
            padded(targets, chosen, width) if by_step else targets[chosen],
            pad_rows(steps, width, padding=padding),
            None if sample_weight is None else sample_weight[chosen],
        )
        check_dataset(dataset)
        made.append(dataset)
    return made


def pad_rows(rows: Rows, width: int, *, padding: str) -> np.ndarray:
    """Rows (time, *features) of up to `width` steps as one array, filled up with 0.

    Example:
      >>> pad_rows([np.ones(1), np.ones(3)], 3, padding="post").tolist()
      [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    # An empty list is an array of floats, and would make floats of ids.
    dtype = np.result_type(*([row for row in rows if len(row)] or rows))
    padded = np.zeros((len(rows), width, *rows[0].shape[1:]), dtype)
    for to, row in zip(padded, rows, strict=True):
        to[width - len(row) :] = row if padding == "pre" else 0
        if padding == "post":
            to[: len(row)] = row
    return padded


def bucket_batches(
    parts: Sequence[Dataset],
    batch_size: int,
    *,
    rng: np.random.Generator | None = None,
) -> Iterator[Batch]:
    """Iterates once over several datasets in batches; one shape for each of them.

    `fit` and `train_batches` take them and compile one program for each shape. So that
    no batch is mostly filler, the batches of a dataset are of one size, of at most
    `batch_size` rows: 17 rows by 16 become 9 and 8 with 1 row of filler. There are
    fewer rows of filler than batches. (Over several devices, which must share a batch
    equally, take `batches` of one dataset after the other.)

    Args:
      parts: from `buckets`, or any other datasets.
      batch_size: rows per batch, at most.
      rng: shuffles the rows of each dataset, and the batches of all; None keeps the
        order, one dataset after the other.

    Raises:
      TypeError: parts that are no list of datasets, an `rng` that is none.
      ValueError: no datasets, one whose arrays do not belong together, or `batch_size`
        below 1.

    Example:
      >>> rows = [np.arange(1, 1 + length) for length in (1, 2, 2, 4)]
      >>> parts = buckets(rows, np.zeros(4), (2, 4))
      >>> for batch in bucket_batches(parts, 2):
      ...     print(batch.inputs.tolist(), batch.sample_weight.tolist())
      [[0, 1], [1, 2]] [1.0, 1.0]
      [[1, 2], [0, 1]] [1.0, 0.0]
      [[1, 2, 3, 4]] [1.0]

    In training every epoch has an order of its own:
      >>> def epoch_batches(epoch):
      ...     return bucket_batches(parts, 2, rng=np.random.default_rng(epoch))
      >>> [len(batch.inputs) for batch in epoch_batches(0)]
      [1, 2, 2]
    """
    if isinstance(parts, Dataset) or not isinstance(parts, Sequence):
        raise TypeError(
            f"parts must be a list of datasets, as of buckets, got "
            f"{type(parts).__name__}; batches(dataset, {batch_size}) cuts a single one."
        )
    if len(parts) == 0:
        raise ValueError("parts must hold at least one dataset, got none.")
    cuts = []
    for dataset in parts:
        check_dataset(dataset)
        examples = num_examples(dataset)
        order = drawn_order(rng, examples)
        size = -(-examples // num_batches(examples, batch_size))
        cuts += [(dataset, *cut) for cut in zip(*cut_order(order, size), strict=True)]
    visits = drawn_order(rng, len(cuts))

    def made(cut: Any) -> Batch:
        dataset, rows, valid = cut
        return as_batch(tree_map(lambda x: x[rows], dataset), valid)

    return (made(cuts[visit]) for visit in visits)


def _check_rows(name: str, rows: Rows) -> None:
    if len(rows) == 0 or any(row.ndim == 0 for row in rows):
        raise ValueError(
            f"{name} must be one or more rows, each with the axis of its steps, got "
            f"{len(rows)} of shapes {[np.shape(row) for row in rows[:3]]}; one target "
            "for a whole row goes into an array, np.array(targets)."
        )
    features = {row.shape[1:] for row in rows}
    if len(features) > 1:
        raise ValueError(
            f"{name} must have the same features at every step, got steps of shapes "
            f"{sorted(features)}."
        )
    for row in rows:
        check_integers(name, row)


def _check_lengths(lengths: np.ndarray, targets: Rows) -> None:
    for row, (length, target) in enumerate(zip(lengths, targets, strict=True)):
        if length != len(target):
            raise ValueError(
                "targets that are a list must be as long as their rows, got "
                f"{len(target)} targets for {length} steps in row {row}; one target "
                "for a whole row goes into an array, np.array(targets)."
            )
