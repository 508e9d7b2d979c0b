"""How far is a forecast from what came?"""

from jaxtyping import Array, Bool, Float

from jaxrnn.dtypes import widened
from jaxrnn.losses.weights import check_same_shape, weight_of_steps
from jaxrnn.metrics import Mean


def squared_error_loss(
    predictions: Float[Array, "batch ..."],
    targets: Float[Array, "batch ..."],
    sample_weight: Float[Array, "..."] | None = None,
    mask: Bool[Array, "batch time"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """The mean squared error of a forecast, for a `loss_fn`.

    Keras' `MeanSquaredError` and PyTorch's `MSELoss`, with the mean over the weights
    (Keras divides by the rows instead, see `class_weights`).

    Args:
      predictions: in the unit of the targets.
      targets: of the shape of `predictions`.
      sample_weight: that of the batch, so that filler rows do not count; one number
        per row or per step; None means 1.
      mask: True = a step that counts, of targets (batch, time, ...).

    Returns:
      The mean, and `{"loss": Mean}`.

    Raises:
      TypeError: what is no array.
      ValueError: targets or weights of another shape.

    Example:
      >>> loss, _ = squared_error_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]))
      >>> loss.item()
      2.0
    """
    check_same_shape("predictions", predictions, "targets", targets)
    # Squares of half precision overflow from 256 on, differences of bytes wrap around.
    error = (widened(predictions) - widened(targets)) ** 2
    loss = Mean.of(error, weight_of_steps(sample_weight, mask))
    return loss.value, {"loss": loss}
