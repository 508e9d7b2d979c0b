"""How far is a probability from yes or no? Keras' loss and accuracy."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrnn.dtypes import widened
from jaxrnn.losses.weights import check_same_shape, of_labels, weight_of_steps
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
    What is no probability, such as a logit, gives NaN, which `fit` reports, where Keras
    would clip it; so does a label outside of [0, 1], such as -1, or 255 of an image.

    Args:
      probabilities: after the sigmoid.
      labels: 0 or 1, or anything between; of the shape of `probabilities`.
      epsilon: Keras' `backend.epsilon()`.

    Raises:
      TypeError: what is no array.
      ValueError: labels of another shape.

    Example:
      >>> binary_cross_entropy(jnp.array([0.5, 1.0]), jnp.array([1.0, 0.0])).tolist()
      [0.6931471824645996, 15.942384719848633]
    """
    check_same_shape("probabilities", probabilities, "labels", labels)
    # In half precision 1 - epsilon is 1, and 0 log 0 is NaN.
    probabilities, labels = widened(probabilities), widened(labels)
    p = jnp.clip(probabilities, epsilon, 1 - epsilon)
    p = jnp.where(jnp.abs(probabilities - 0.5) > 0.501, jnp.nan, p)
    losses = -(labels * jnp.log(p) + (1 - labels) * jnp.log(1 - p))
    return of_labels(losses, labels)


def binary_accuracy(
    probabilities: Float[Array, "*batch"], labels: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """1 where (probability > 0.5) is the label, else 0: Keras' BinaryAccuracy.

    A label between 0 and 1 is never met, nor any by a probability that is NaN (which
    Keras takes for a 0).

    Raises:
      TypeError: what is no array.
      ValueError: labels that have not the shape of `probabilities`.

    Example:
      >>> binary_accuracy(jnp.array([0.7, 0.5]), jnp.array([1.0, 1.0])).tolist()
      [1.0, 0.0]
    """
    check_same_shape("probabilities", probabilities, "labels", labels)
    predicted = (probabilities > 0.5).astype(labels.dtype)
    met = (predicted == labels) & ~jnp.isnan(probabilities)
    return met.astype(probabilities.dtype)


def binary_classification_loss(
    probabilities: Float[Array, "*batch"],
    labels: Float[Array, "*batch"],
    sample_weight: Float[Array, "..."] | None = None,
    mask: Bool[Array, "batch time"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """Loss and accuracy of a classifier of two classes: what a `loss_fn` returns.

    Keras' `compile(loss="binary_crossentropy", metrics=["accuracy"])`, with the mean
    over the weights (Keras divides by the rows instead, see `class_weights`).

    Args:
      probabilities: after the sigmoid.
      labels: 0 or 1.
      sample_weight: that of the batch, so that filler rows do not count; None means 1.
      mask: True = a step that counts, of labels (batch, time); None = every one does.

    Returns:
      The mean cross-entropy, and `{"loss": Mean, "accuracy": Mean}`.

    Raises:
      TypeError: what is no array.
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
    weight = weight_of_steps(sample_weight, mask)
    loss = Mean.of(binary_cross_entropy(probabilities, labels), weight)
    accuracy = Mean.of(binary_accuracy(probabilities, labels), weight)
    return loss.value, {"loss": loss, "accuracy": accuracy}
