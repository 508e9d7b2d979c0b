"""How far are logits from the right class, or from the right labels?"""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Shaped

from jaxrnn.dtypes import widened
from jaxrnn.losses.weights import (
    check_arrays,
    check_same_shape,
    of_labels,
    weight_of_steps,
)
from jaxrnn.metrics import Mean


def classification_loss(
    logits: Float[Array, "*batch classes"],
    labels: Shaped[Array, "*batch"],
    sample_weight: Float[Array, "..."] | None = None,
    mask: Bool[Array, "batch time"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """Loss and accuracy where one class of several is right, for a `loss_fn`.

        loss = logsumexp(logits) - logits[label]

    Keras' `SparseCategoricalCrossentropy(from_logits=True)` and PyTorch's
    `CrossEntropyLoss`, with the mean over the weights (Keras divides by the rows
    instead, see `class_weights`). For a tagger the logits are (batch, time, classes)
    and a masked step counts neither in the loss nor in the accuracy, whatever its
    label.

    Args:
      logits: before the softmax.
      labels: the number of the right class, from 0.
      sample_weight: that of the batch, so that filler rows do not count; one number
        per row or per step; None means 1.
      mask: True = a step that counts; None = every one does.

    Returns:
      The mean cross-entropy, and `{"loss": Mean, "accuracy": Mean}`. The loss is NaN
      where a label that counts is of no class.

    Raises:
      TypeError: what is no array, labels that are no integers.
      ValueError: labels or weights of another shape.

    Example:
      >>> logits = jnp.zeros((2, 3, 4))
      >>> mask = jnp.array([[True, True, False], [True, False, False]])
      >>> loss, means = classification_loss(logits, jnp.zeros((2, 3), int), mask=mask)
      >>> round(loss.item(), 4), metrics.values(means)["accuracy"]
      (1.3863, 1.0)
    """
    check_arrays(logits=logits, labels=labels)
    classes = logits.shape[-1]
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels must be integers, the numbers of classes, got {labels.dtype}; "
            "write labels.astype(int), or labels.argmax(-1) of one-hot rows; several "
            "labels at once are for multi_label_loss."
        )
    if labels.shape != logits.shape[:-1]:
        way_out = "let the model return logits (*labels.shape, classes)"
        if labels.shape == (*logits.shape[:-1], 1):
            way_out = "labels[..., 0] drops the last axis of 1"
        elif labels.shape == logits.shape:
            way_out = "labels.argmax(-1) makes numbers of one-hot rows"
        raise ValueError(
            f"labels must have the shape of logits {logits.shape} without its last "
            f"axis, the classes, got {labels.shape}; {way_out}."
        )
    # JAX compares in the dtype of the labels, where 256 is 0 as an uint8.
    last = min(classes - 1, jnp.iinfo(labels.dtype).max)
    exists = (labels >= 0) & (labels <= last)  # Optax counts -1 from the end
    logits, labels = widened(logits), labels.astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    losses = jnp.where(exists, losses, jnp.nan)
    right = jnp.argmax(logits, axis=-1) == labels
    return _loss_and_accuracy(losses, right, weight_of_steps(sample_weight, mask))


def multi_label_loss(
    logits: Float[Array, "*batch labels"],
    labels: Float[Array, "*batch labels"],
    sample_weight: Float[Array, "..."] | None = None,
    mask: Bool[Array, "batch time"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """Loss and accuracy where each label is right or not, by itself, for a `loss_fn`.

        loss = mean over the labels of softplus(logits) - labels * logits

    Keras' `BinaryCrossentropy(from_logits=True)` and `BinaryAccuracy(threshold=0)`,
    PyTorch's `BCEWithLogitsLoss`; the mean is over the weights.

    Args:
      logits: before the sigmoid.
      labels: 1 or 0 for each label, or anything between.
      sample_weight: that of the batch, so that filler rows do not count; one number
        per row or per step; None means 1.
      mask: True = a step that counts, of labels (batch, time, labels).

    Returns:
      The mean cross-entropy, and `{"loss": Mean, "accuracy": Mean}`: the share of
      single labels that are right. The loss is NaN where a label is not in [0, 1].

    Raises:
      TypeError: what is no array.
      ValueError: labels or weights of another shape.

    Example:
      >>> logits = jnp.array([[2.0, -2.0, 2.0]])
      >>> loss, means = multi_label_loss(logits, jnp.array([[1.0, 0.0, 0.0]]))
      >>> round(loss.item(), 4), round(metrics.values(means)["accuracy"], 4)
      (0.7936, 0.6667)
    """
    check_same_shape("logits", logits, "labels", labels)
    logits, labels = widened(logits), widened(labels)
    losses = of_labels(optax.sigmoid_binary_cross_entropy(logits, labels), labels)
    right = (logits > 0).astype(labels.dtype) == labels
    return _loss_and_accuracy(losses, right, weight_of_steps(sample_weight, mask))


def _loss_and_accuracy(
    losses: Float[Array, "..."],
    right: Bool[Array, "..."],
    weight: Float[Array, "..."] | None,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    right = right & ~jnp.isnan(losses)
    loss = Mean.of(losses, weight)
    return loss.value, {"loss": loss, "accuracy": Mean.of(right, weight)}
