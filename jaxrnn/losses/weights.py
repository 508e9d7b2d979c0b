"""How much does an example count, and each of its steps?"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Shaped


def class_weights(
    labels: Shaped[Any, " examples"], weights: Mapping[int, float]
) -> Float32[np.ndarray, " examples"]:
    """How much each example counts by its class: Keras' `class_weight`, for a Dataset.

    A batch then holds these weights as `sample_weight`, and `valid`, which is 1 for a
    row of the dataset and 0 for a filler. They make two different losses:

        Mean.of(losses * batch.sample_weight, batch.valid)   # Keras: sum(w l) / rows
        Mean.of(losses, batch.sample_weight)                 # sum(w l) / sum(w)

    Keras' metrics count every row once, `Mean.of(hits, batch.valid)`, unless they are
    `weighted_metrics`, `Mean.of(hits, batch.sample_weight)`.

    Args:
      labels: whole numbers, as any dtype; one-hot rows as `labels.argmax(-1)`.
      weights: `{label: weight}`; a label that is not in it weighs 1.

    Returns:
      One weight per example; multiply it with weights of your own, if any.

    Raises:
      ValueError: labels that are not one whole number per example, weights that are
        no {label: number}.

    Example:
      >>> labels = np.array([0.0, 1.0, 1.0])
      >>> dataset = data.Dataset(np.ones((3, 2)), labels)
      >>> dataset = dataset._replace(sample_weight=class_weights(labels, {1: 3.0}))
      >>> dataset.sample_weight.tolist()
      [1.0, 3.0, 3.0]
    """
    labels = np.asarray(labels)
    is_real = labels.dtype.kind in "biuf"
    if labels.ndim != 1 or not is_real or (labels != np.round(labels)).any():
        raise ValueError(
            f"labels must be one whole number per example, got {labels.dtype} of shape "
            f"{labels.shape}; take labels.argmax(-1) of one-hot rows, and weights of "
            "your own for targets that are no classes."
        )
    pairs = weights.items() if isinstance(weights, Mapping) else [(None, weights)]
    for label, weight in pairs:
        are_real = all(isinstance(x, int | float | np.number) for x in (label, weight))
        if not are_real or not 0 <= weight < math.inf:
            raise ValueError(
                "weights must be {label: weight}, labels as numbers and weights of at "
                f"least 0, got {weights!r}; len(labels) / (2 * (labels == 1).sum()), "
                "say, is the balanced weight of one of two."
            )
    sample_weight = np.ones(labels.shape, np.float32)
    for label, weight in weights.items():
        sample_weight[labels == label] = weight
    return sample_weight


def weight_of_steps(
    sample_weight: Float[Array, "..."] | None, mask: Bool[Array, "batch time"] | None
) -> Float[Array, "..."] | None:
    """What each step counts: the weight of its row, or its own; 0 where it is masked.

    Args:
      sample_weight: one number per row, or per step; None means 1.
      mask: True = a step that counts; None = every one does, and `sample_weight`
        comes back.

    Raises:
      TypeError: a mask that is not of bools.
      ValueError: a weight that is of other rows or steps than the mask.

    Example:
      >>> mask = jnp.array([[True, False], [True, True]])
      >>> weight_of_steps(jnp.array([3.0, 0.0]), mask).tolist()
      [[3.0, 0.0], [0.0, 0.0]]
    """
    if mask is None:
        return sample_weight
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(
            f"mask must be of bools, True where a step counts, got {mask.dtype}; write "
            "mask != 0."
        )
    if sample_weight is None:
        return mask.astype(jnp.float32)
    sample_weight = jnp.asarray(sample_weight)
    if sample_weight.shape != mask.shape[: sample_weight.ndim]:
        raise ValueError(
            f"sample_weight must be one number per row or step of mask {mask.shape}, "
            f"got shape {sample_weight.shape}; reshape drops axes of 1."
        )
    rest = (1,) * (mask.ndim - sample_weight.ndim)
    return jnp.where(mask, sample_weight.reshape(*sample_weight.shape, *rest), 0)


def of_labels(
    losses: Float[Array, "..."], labels: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The losses; NaN where a label is not in [0, 1]: of -1 it is no cross-entropy.

    A row that does not count may have such a label: its gradient is zero.

    Example:
      >>> of_labels(jnp.array([0.5, 0.5, 0.5]), jnp.array([0.0, 0.9, -1.0])).tolist()
      [0.5, 0.5, nan]
    """
    return jnp.where(jnp.abs(labels - 0.5) > 0.501, jnp.nan, losses)


def check_arrays(**arrays: Any) -> None:
    """Raises a TypeError where what is compared are no arrays: params and a batch, say.

    Example:
      >>> check_arrays(logits=[0.5])
      Traceback (most recent call last):
      TypeError: logits must be an array, got list; in a loss_fn(params, batch) they \
are what the model returns, and the targets of the batch; jnp.asarray makes one.
    """
    for name, array in arrays.items():
        if not hasattr(array, "dtype") or isinstance(array, str):
            raise TypeError(
                f"{name} must be an array, got {type(array).__name__}; in a "
                "loss_fn(params, batch) they are what the model returns, and the "
                "targets of the batch; jnp.asarray makes one."
            )


def check_same_shape(name: str, found: Any, of: str, want: Any) -> None:
    """Raises unless two arrays that are compared number by number have one shape."""
    check_arrays(**{name: found, of: want})
    one, other = np.shape(found), np.shape(want)
    if one == other:
        return
    way_out = f"let the model return one number for each of {of}"
    for side, shape, short in ((name, one, other), (of, other, one)):
        if shape == (*short, 1):
            way_out = f"{side}[..., 0] drops the last axis of 1"
    raise ValueError(
        f"{name} and {of} must have the same shape, got {one} and {other}, which would "
        f"be compared each with each; {way_out}."
    )
