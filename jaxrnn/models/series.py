"""How does a series go on? A recurrent layer -> Dense -> Dense."""

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float

from jaxrnn.cells.activations import check_activation
from jaxrnn.cells.base import Activation, AnyArray
from jaxrnn.layers.linen_wrappers import adopted
from jaxrnn.models.parts import as_features, check_rank, check_sizes, dense, given


class Forecaster(nn.Module):
    """A recurrent layer -> Dense -> Dense: the next value of a series.

    Attributes:
      recurrent: a layer that returns its last output.
      hidden_features: width of the hidden Dense layer.
      hidden_activation: of that layer.

    Example:
      >>> model = Forecaster(SimpleRNN(32, activation=jax.nn.relu), hidden_features=8)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((2, 1, 4)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
      1457
    """

    recurrent: nn.Module
    hidden_features: int
    hidden_activation: Activation = jax.nn.relu

    def __post_init__(self) -> None:
        check_activation("hidden_activation", self.hidden_activation)
        check_sizes(self, "hidden_features")
        self.recurrent = adopted(self.recurrent)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs: Float[AnyArray, "batch time in_features"],
        *,
        mask: Bool[AnyArray, "batch time"] | None = None,
        deterministic: bool | None = None,
    ) -> Float[Array, " batch"]:
        """Returns one prediction per row, in the unit of the targets.

        Args:
          inputs: the windows of the series.
          mask: True = valid; None = every step is.
          deterministic: as the call of `recurrent` takes it: False draws its dropout
            from the key `dropout`.

        Raises:
          TypeError, ValueError: wrong dtype, rank or mask shape.
        """
        check_rank(inputs, ("batch", "time", "in_features"))
        features = self.recurrent(inputs, mask=mask, **given(deterministic))
        features = as_features(features)
        hidden = dense(self.hidden_features, name="hidden")(features)
        return dense(1, name="head")(self.hidden_activation(hidden))[:, 0]
