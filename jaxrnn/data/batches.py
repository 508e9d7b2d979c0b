"""How are examples kept in memory, split, and cut into batches of one shape?"""

import math
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Shaped

from jaxrnn.data.trees import leaves_of, tree_map


class Dataset(NamedTuple):
    """Examples in memory; every array has one row per example.

    NumPy arrays, or JAX arrays once they are on a device. Inputs, targets, mask and
    weights may each be tuples, lists or dicts of arrays: static features beside a
    series, say, or the inputs of an encoder and those of a decoder.

    Nothing is checked here: `check_dataset` does it.

    Attributes:
      inputs: ids `(examples, time)` or features `(examples, time, features)`.
      targets: what should come out.
      mask: which steps of `inputs` are valid (True); None means all.
      sample_weight: how much each example counts, or each step `(examples, time)`; None
        means 1.

    Example:
      >>> inputs = {"series": np.ones((3, 8, 2)), "static": np.ones((3, 4))}
      >>> dataset = Dataset(inputs, np.zeros(3))
      >>> batch = next(batches(dataset, 2))
      >>> batch.inputs["series"].shape, batch.inputs["static"].shape
      ((2, 8, 2), (2, 4))
    """

    inputs: Any
    targets: Any
    mask: Any = None
    sample_weight: Any = None


class Batch(NamedTuple):
    """Examples of one step; every batch of a dataset has the same shapes.

    Attributes:
      inputs: rows of `Dataset.inputs`.
      targets: rows of `Dataset.targets`.
      mask: rows of `Dataset.mask`; None if the dataset has none.
      sample_weight: weight of each row, or of each of its steps; 0 for a filler row,
        which must not count in a loss or metric.
      valid: 1 for a row of the dataset, whatever its weight, and 0 for a filler row;
        None means 1. Keras divides by their number (see `jaxrnn.class_weights`).
    """

    inputs: Any
    targets: Any
    mask: Any
    sample_weight: Any
    valid: Float32[Any, " batch"] | None = None


def num_examples(dataset: Dataset) -> int:
    """The number of rows.

    Example:
      >>> num_examples(Dataset((np.ones((3, 2)), np.ones((3, 5))), np.ones(3)))
      3
    """
    return leaves_of(dataset.inputs)[0][1].shape[0]


def check_dataset(dataset: Dataset) -> None:
    """Raises if the arrays of `dataset` do not belong together.

    Args:
      dataset: NumPy arrays, or any arrays with `shape` and `dtype`.

    Raises:
      TypeError: what is no Dataset, a leaf that is no array, or none of numbers.
      ValueError: if the dataset is empty, or an array has another number of
        examples, or `mask` is not of bools, or not of the shape `inputs.shape[:2]`
        where `inputs` is one array, or `sample_weight` is not one number per example
        or per step of inputs or targets, or integers of NumPy do not fit into the
        32 bits that JAX keeps of them.

    Example:
      >>> check_dataset(Dataset(np.zeros((3, 2)), np.zeros(2)))
      Traceback (most recent call last):
      ValueError: targets must have one row per example of inputs (3), got shape (2,).
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"a dataset must be a data.Dataset, got {type(dataset).__name__}; write "
            "data.Dataset(inputs, targets)."
        )
    inputs, targets, mask, sample_weight = dataset
    of_inputs = leaves_of(inputs, "inputs")
    for name, leaf in of_inputs + leaves_of(dataset._replace(inputs=None)):
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(
                "a dataset holds arrays, in tuples, lists or dicts or alone, got "
                f"{type(leaf).__name__} at {name.removeprefix('.')}; np.asarray makes "
                "an array of numbers."
            )
    shapes = [leaf.shape for _, leaf in of_inputs]
    if not shapes or () in shapes or shapes[0][0] == 0:
        found = shapes[0] if len(shapes) == 1 else shapes
        raise ValueError(
            f"a dataset must hold at least one example, got inputs of shape {found}."
        )
    examples = shapes[0][0]

    def check_rows(name: str, leaf: Any) -> None:
        if leaf.shape[:1] != (examples,):
            raise ValueError(
                f"{name} must have one row per example of inputs ({examples}), got "
                f"shape {leaf.shape}."
            )

    of_targets = leaves_of(targets, "targets")
    for name, leaf in of_inputs + of_targets:
        check_rows(name, leaf)
        check_integers(name, leaf)
    if hasattr(inputs, "shape") and hasattr(mask, "shape"):
        _check_mask(inputs, mask)
    for name, leaf in leaves_of(mask, "mask"):
        check_rows(name, leaf)
        if leaf.dtype != bool:
            raise ValueError(
                f"{name} must be of bools, True = valid, got {leaf.dtype}."
            )
    steps = {leaf.shape[:2] for _, leaf in of_inputs + of_targets if leaf.ndim > 1}
    for name, weight in leaves_of(sample_weight, "sample_weight"):
        check_integers(name, weight)
        if weight.shape not in {(examples,), *steps}:
            raise ValueError(
                f"{name} must be one number per example ({examples},), or per step of "
                f"inputs or targets {sorted(steps)}, got shape {weight.shape}."
            )


def _check_mask(inputs: Any, mask: Any) -> None:
    if len(inputs.shape) < 2 or mask.shape != inputs.shape[:2] or mask.dtype != bool:
        raise ValueError(
            "mask must be a bool array of the (examples, time) shape of inputs "
            f"{inputs.shape[:2]}, got {mask.dtype} of shape {mask.shape}; "
            "padding_mask makes one."
        )


def check_integers(name: str, values: Any) -> None:
    """Raises where an array of NumPy holds no numbers, or integers would wrap around.

    JAX keeps 32 bits of an integer and drops the others without a word: 2**32 + 3
    becomes 3. (With `jax_enable_x64` it keeps all; put such arrays on the device
    yourself, `jnp.asarray(values)`: what is there already is not checked.)

    Args:
      name: for the message.
      values: any array; what is no 64-bit integer array of NumPy passes at once.

    Raises:
      TypeError: an array of NumPy that is not of numbers, but of text or dates, say.
      ValueError: integers outside of what 32 bits hold.

    Example:
      >>> check_integers("ids", np.array([1, 2**31 - 1]))
      >>> check_integers("ids", np.array([1, 2**31]))
      Traceback (most recent call last):
      ValueError: ids must be integers from -2147483648 to 2147483647, got 1 to \
2147483648, which would wrap around; convert larger numbers to float.
    """
    if not isinstance(values, np.ndarray):
        return
    if values.dtype.kind in "OSUmM":
        raise TypeError(
            f"{name} must be numbers, got an array of {values.dtype}; "
            "np.unique(values, return_inverse=True) numbers classes that have names."
        )
    if values.size == 0:
        return
    if values.dtype.kind not in "iu" or values.dtype.itemsize <= 4:
        return
    kept = np.iinfo(np.int32 if values.dtype.kind == "i" else np.uint32)
    low, high = int(values.min()), int(values.max())
    if low < kept.min or high > kept.max:
        raise ValueError(
            f"{name} must be integers from {kept.min} to {kept.max}, got {low} to "
            f"{high}, which would wrap around; convert larger numbers to float."
        )


def check_batch(batch: Batch) -> None:
    """Raises where the arrays of a batch differ in their number of rows.

    Args:
      batch: of arrays, or of tuples, lists and dicts of them.

    Raises:
      ValueError: arrays of different lengths, or of no rows.

    Example:
      >>> check_batch(Batch(np.zeros((2, 3)), np.zeros(5), None, np.ones(2)))
      Traceback (most recent call last):
      ValueError: the arrays of a batch must all have the same number of rows, 1 or \
more, got shapes {'inputs': (2, 3), 'targets': (5,), 'sample_weight': (2,)}.
    """
    arrays = leaves_of(batch)
    shapes = {n[1:]: tuple(x.shape) for n, x in arrays if hasattr(x, "shape")}
    rows = {shape[:1] for shape in shapes.values()}
    if len(rows) > 1 or rows & {(), (0,)}:
        raise ValueError(
            "the arrays of a batch must all have the same number of rows, 1 or more, "
            f"got shapes {shapes}."
        )


def split_last(dataset: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """Splits off the last examples for validation: Keras' `validation_split`.

    The split comes before any shuffling. The two parts are views, not copies.

    Args:
      dataset: the examples.
      fraction: share of the second part, between 0 and 1; the first part gets
        `floor(examples * (1 - fraction))` examples.

    Returns:
      The first part (train) and the last part (validation).

    Raises:
      TypeError: a `dataset` that is none.
      ValueError: if `fraction` is not between 0 and 1, or a part would be empty,
        or the arrays do not belong together.

    Example:
      >>> train, validation = split_last(Dataset(np.arange(5), np.arange(5)), 0.2)
      >>> train.inputs.tolist(), validation.inputs.tolist()
      ([0, 1, 2, 3], [4])
    """
    check_dataset(dataset)
    is_number = isinstance(fraction, float | int | np.number)
    if not is_number or not 0 < fraction < 1:
        raise ValueError(
            f"fraction must lie between 0 and 1, both excluded, got {fraction!r}; "
            "for no validation set, do not split."
        )
    examples = num_examples(dataset)
    split_at = math.floor(examples * (1.0 - fraction))
    if split_at in (0, examples):
        raise ValueError(
            "both parts of a split must hold an example, got "
            f"{split_at} and {examples - split_at} of {examples} with "
            f"fraction={fraction}; choose another fraction or more examples."
        )
    return _take(dataset, slice(split_at)), _take(dataset, slice(split_at, None))


def check_count(name: str, count: int) -> None:
    """Raises where a number of things is no whole number, or less than 1.

    Example:
      >>> check_count("batch_size", 0)
      Traceback (most recent call last):
      ValueError: batch_size must be at least 1, got 0.
    """
    try:
        operator.index(count)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {count!r}.") from None
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {count}.")


def check_number(name: str, number: Any, *, below: float = math.inf) -> None:
    """Raises where a setting is no number, or is not in [0, below); NaN is not.

    Example:
      >>> check_number("seconds", -1)
      Traceback (most recent call last):
      ValueError: seconds must be a number of at least 0, got -1.
    """
    upper = "" if below == math.inf else f" and below {below}"
    message = f"{name} must be a number of at least 0{upper}, got {number!r}."
    if not isinstance(number, int | float | np.integer | np.floating):
        raise TypeError(message)
    if not 0 <= number < below:
        raise ValueError(message)


def num_batches(examples: int, batch_size: int) -> int:
    """Counts the batches of `batches`, the filled last one included.

    Args:
      examples: number of examples.
      batch_size: rows per batch.

    Raises:
      TypeError: if one of them is no whole number.
      ValueError: if one of them is less than 1.

    Example:
      >>> num_batches(25_000, 128)
      196
    """
    for name, size in (("examples", examples), ("batch_size", batch_size)):
        check_count(name, size)
    return -(-int(examples) // int(batch_size))  # -np.uint8(1) is 255


def batches(
    dataset: Dataset, batch_size: int, *, rng: np.random.Generator | None = None
) -> Iterator[Batch]:
    """Iterates once over `dataset` in batches that all have one shape.

    The last, short batch is filled with copies of the first row that is visited, whose
    `sample_weight` is 0. (Keras makes that batch smaller.)

    Args:
      dataset: the examples.
      batch_size: rows per batch; may exceed the number of examples.
      rng: shuffles the examples; None keeps their order.

    Raises:
      TypeError: a `dataset` or an `rng` that is none.
      ValueError: if the arrays do not belong together, or `batch_size` is less
        than 1.

    Example:
      >>> dataset = Dataset(np.array([5, 6, 7]), np.zeros(3))
      >>> for batch in batches(dataset, 2):
      ...     print(batch.inputs.tolist(), batch.sample_weight.tolist())
      [5, 6] [1.0, 1.0]
      [7, 5] [1.0, 0.0]
    """
    check_dataset(dataset)
    examples = num_examples(dataset)
    order = drawn_order(rng, examples)
    by_batch = zip(*cut_order(order, batch_size), strict=True)
    return (as_batch(_take(dataset, rows), valid) for rows, valid in by_batch)


def check_rng(rng: Any) -> None:
    """Raises a TypeError where a source of random numbers is none, such as a seed."""
    if not hasattr(rng, "permutation"):
        raise TypeError(
            f"rng must be a numpy.random.Generator, got {rng!r}; "
            "np.random.default_rng(seed) makes one."
        )


def drawn_order(rng: np.random.Generator | None, examples: int) -> np.ndarray:
    """The numbers of all rows, shuffled where there is an `rng`.

    Raises:
      TypeError: an `rng` that is none, such as a seed.
    """
    if rng is None:
        return np.arange(examples)
    check_rng(rng)
    return rng.permutation(examples)


def cut_order(order: Any, batch_size: int) -> tuple[Any, Any]:
    """Cuts an order of visiting into batches that all have one size.

    What fills up the last batch is the first row again, so that filler is never a row
    that the order does not visit.

    Args:
      order: rows of a dataset, of NumPy or JAX; what is returned is of the same.
      batch_size: rows per batch; may exceed the length of the order.

    Returns:
      The rows (batches, batch_size), and as many numbers: 1 for these, 0 for filler.

    Raises:
      ValueError: if the order is empty, or `batch_size` is less than 1.

    Example:
      >>> rows, valid = cut_order(np.array([6, 5, 7]), 2)
      >>> rows.tolist(), valid.tolist()
      ([[6, 5], [7, 6]], [[1.0, 1.0], [1.0, 0.0]])
    """
    xp = order.__array_namespace__()
    examples = order.shape[0]
    batches, batch_size = num_batches(examples, batch_size), int(batch_size)
    filler = xp.broadcast_to(order[:1], (batches * batch_size - examples,))
    rows = xp.concat([order, filler]).reshape(batches, batch_size)
    valid = (xp.arange(batches * batch_size) < examples).astype("float32")
    return rows, valid.reshape(batches, batch_size)


def as_batch(rows: Dataset, valid: Float[Any, " batch"]) -> Batch:
    """The rows of one batch with their weights, 0 for filler.

    Args:
      rows: of a dataset, filler included; of NumPy or JAX.
      valid: 1 for a row of the dataset, 0 for filler.

    Example:
      >>> rows = Dataset(np.zeros((2, 3)), np.zeros(2), None, np.array([5.0, 5.0]))
      >>> as_batch(rows, np.array([1.0, 0.0])).sample_weight.tolist()
      [5.0, 0.0]
    """
    inputs, targets, mask, weight = rows
    xp = valid.__array_namespace__()

    def of_rows(weight: Any) -> Any:
        by_step = weight.ndim > valid.ndim
        counts = valid[..., None] > 0 if by_step else valid > 0
        return xp.where(counts, weight, 0).astype("float32")

    weight = valid if weight is None else tree_map(of_rows, weight)
    return Batch(inputs, targets, mask, weight, valid)


def streams(sequence: Shaped[np.ndarray, "length ..."], batch_size: int) -> Dataset:
    """Cuts one long sequence into streams to be read side by side, for `train_stream`.

    Row r + 1 begins where row r ends, and the target of each step is the next one, so
    every element but the first is a target exactly once. If the rows come out even,
    inputs and targets are views of `sequence`, not copies; if not, the last rows are
    filled with zeros at their end, whose `sample_weight` is 0.

    Args:
      sequence: such as the ids of many texts end to end, or a series of features.
      batch_size: number of streams.

    Returns:
      A `Dataset` of inputs and targets (batch_size, time, ...), where time is
      `ceil((length - 1) / batch_size)`, and of a `sample_weight` (batch_size, time) for
      each step, 1 or 0.

    Raises:
      ValueError: a sequence without a next element, integers that do not fit into
        32 bits, or `batch_size` less than 1.

    Example:
      >>> stream = streams(np.array([3, 1, 4, 1, 5, 9]), 2)
      >>> stream.inputs.tolist(), stream.targets.tolist()
      ([[3, 1, 4], [1, 5, 0]], [[1, 4, 1], [5, 9, 0]])
      >>> stream.sample_weight.tolist()
      [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
    """
    if not hasattr(sequence, "ndim"):
        sequence = np.asarray(sequence)
    if sequence.ndim == 0 or len(sequence) < 2:
        raise ValueError(
            "a sequence must hold at least two elements, an input and the target that "
            f"follows, got shape {sequence.shape}."
        )
    check_integers("sequence", sequence)
    length, *rest = sequence.shape
    time, batch_size = num_batches(length - 1, batch_size), int(batch_size)
    filler = batch_size * time - (length - 1)

    def fold(values: np.ndarray) -> np.ndarray:
        if filler:
            values = np.concatenate([values, np.zeros((filler, *rest), values.dtype)])
        return values.reshape(batch_size, time, *rest)

    weight = np.ones(batch_size * time, np.float32)
    weight[length - 1 :] = 0
    return Dataset(
        fold(sequence[:-1]),
        fold(sequence[1:]),
        sample_weight=weight.reshape(batch_size, time),
    )


def _take(dataset: Dataset, rows: slice | np.ndarray) -> Dataset:
    return tree_map(lambda x: x[rows], dataset)
