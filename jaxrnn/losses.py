"""Losses that Optax lacks: Keras' clipped cross-entropy."""

import jax.numpy as jnp
from jaxtyping import Array, Float


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
      labels: 0 or 1, or anything between.
      epsilon: Keras' `backend.epsilon()`.

    Example:
      >>> binary_cross_entropy(jnp.array([0.5, 1.0]), jnp.array([1.0, 0.0])).tolist()
      [0.6931471824645996, 15.942384719848633]
    """
    p = jnp.clip(probabilities, epsilon, 1 - epsilon)
    return -(labels * jnp.log(p) + (1 - labels) * jnp.log(1 - p))


def binary_accuracy(
    probabilities: Float[Array, "*batch"], labels: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """1 where (probability > 0.5) is the label, else 0: Keras' BinaryAccuracy.

    A label between 0 and 1 never is.

    Example:
      >>> binary_accuracy(jnp.array([0.7, 0.5]), jnp.array([1.0, 1.0])).tolist()
      [1.0, 0.0]
    """
    predicted = (probabilities > 0.5).astype(labels.dtype)
    return (predicted == labels).astype(probabilities.dtype)
