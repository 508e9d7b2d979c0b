"""Which losses does Optax lack? Keras' binary cross-entropy, and weights of classes."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped

from jaxrnn.metrics import Mean


def binary_cross_entropy(
    probabilities: Float[Array, "*batch"],
    labels: Float[Array, "*batch"],
    *,
    epsilon: float = 1e-7,
) -> Float[Array, "*batch"]:
    """Keras' BinaryCrossentropy on probabilities, one value per example.

        p = clip(probabilities, epsilon, 1 - epsilon)
        loss = -(y log p + (1 - y) log(1 - p))

    The gradient is zero where p is clipped, as in Keras. For training on logits
    without that plateau take `optax.sigmoid_binary_cross_entropy`.

    Args:
      probabilities: after the sigmoid.
      labels: 0 or 1, or anything between; of the shape of `probabilities`.
      epsilon: Keras' `backend.epsilon()`.

    Raises:
      ValueError: labels of another shape.

    Example:
      >>> binary_cross_entropy(jnp.array([0.5, 1.0]), jnp.array([1.0, 0.0])).tolist()
      [0.6931471824645996, 15.942384719848633]
    """
    _check_same_shape(probabilities, labels)
    p = jnp.clip(probabilities, epsilon, 1 - epsilon)
    return -(labels * jnp.log(p) + (1 - labels) * jnp.log(1 - p))


def binary_accuracy(
    probabilities: Float[Array, "*batch"], labels: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """1 where (probability > 0.5) is the label, else 0: Keras' BinaryAccuracy.

    A label between 0 and 1 is never met, nor any by a probability that is NaN (which
    Keras takes for a 0).

    Raises:
      ValueError: labels that have not the shape of `probabilities`.

    Example:
      >>> binary_accuracy(jnp.array([0.7, 0.5]), jnp.array([1.0, 1.0])).tolist()
      [1.0, 0.0]
    """
    _check_same_shape(probabilities, labels)
    predicted = (probabilities > 0.5).astype(labels.dtype)
    met = (predicted == labels) & ~jnp.isnan(probabilities)
    return met.astype(probabilities.dtype)


def binary_classification_loss(
    probabilities: Float[Array, " batch"],
    labels: Float[Array, " batch"],
    sample_weight: Float[Array, " batch"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """Loss and accuracy of a classifier of two classes: what a `loss_fn` returns.

    Keras' `compile(loss="binary_crossentropy", metrics=["accuracy"])`, with the mean
    over the weights (Keras divides by the rows instead, see `class_weights`).

    Args:
      probabilities: after the sigmoid.
      labels: 0 or 1.
      sample_weight: that of the batch, so that filler rows do not count; None means 1.

    Returns:
      The mean cross-entropy, and `{"loss": Mean, "accuracy": Mean}`.

    Raises:
      ValueError: labels or weights of another shape.

    Example:
      >>> def loss_fn(params, batch):
      ...     p = jax.nn.sigmoid(batch.inputs @ params["w"])
      ...     return binary_classification_loss(p, batch.targets, batch.sample_weight)
      >>> batch = data.Batch(jnp.eye(2), jnp.ones(2), None, jnp.ones(2))
      >>> loss, means = loss_fn({"w": jnp.zeros(2)}, batch)
      >>> loss.item(), metrics.values(means)["accuracy"]
      (0.6931471824645996, 0.0)
    """
    loss = Mean.of(binary_cross_entropy(probabilities, labels), sample_weight)
    accuracy = Mean.of(binary_accuracy(probabilities, labels), sample_weight)
    return loss.value, {"loss": loss, "accuracy": accuracy}


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
      ValueError: labels that are not one whole number per example.

    Example:
      >>> labels = np.array([0.0, 1.0, 1.0])
      >>> dataset = data.Dataset(np.ones((3, 2)), labels)
      >>> dataset = dataset._replace(sample_weight=class_weights(labels, {1: 3.0}))
      >>> dataset.sample_weight.tolist()
      [1.0, 3.0, 3.0]
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or (labels != np.round(labels)).any():
        raise ValueError(
            f"labels must be one whole number per example, got {labels.dtype} of shape "
            f"{labels.shape}; take labels.argmax(-1) of one-hot rows, and weights of "
            "your own for targets that are no classes."
        )
    sample_weight = np.ones(labels.shape, np.float32)
    for label, weight in weights.items():
        sample_weight[labels == label] = weight
    return sample_weight


def _check_same_shape(probabilities: Any, labels: Any) -> None:
    if np.shape(probabilities) != np.shape(labels):
        raise ValueError(
            "probabilities and labels must have the same shape, got "
            f"{np.shape(probabilities)} and {np.shape(labels)}, which would be "
            "compared each with each; labels[:, 0] drops a last axis of 1."
        )
