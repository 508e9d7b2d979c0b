"""How does a series go on? A recurrent layer -> Dense -> Dense."""

import math

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float

from jaxrnn.cells.activations import check_activation
from jaxrnn.cells.base import Activation, AnyArray
from jaxrnn.layers.linen_wrappers import adopted
from jaxrnn.models.parts import as_features, check_sizes, dense, given, ranked


class Forecaster(nn.Module):
    """A recurrent layer -> Dense -> Dense: how a series goes on.

    Forecasts are made at once, from the last output of the layer. By default they are
    the next value, (batch,); `jaxrnn.data.windows` makes targets of all these shapes.

    Attributes:
      recurrent: a layer that returns its last output.
      hidden_features: width of the hidden Dense layer.
      hidden_activation: of that layer.
      horizon: steps ahead to forecast, (batch, horizon); None is the next one alone,
        without an axis.
      targets: columns of the series to forecast, (batch, horizon, targets) or (batch,
        targets); None is one of them, without an axis.

    Raises:
      ValueError: `hidden_features`, `horizon` or `targets` below 1.

    Example:
      >>> model = Forecaster(SimpleRNN(32, activation=jax.nn.relu), hidden_features=8)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((2, 1, 4)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
      1457
      >>> model = Forecaster(GRU(8), hidden_features=8, horizon=24, targets=2)
      >>> inputs = jnp.zeros((3, 10, 4))
      >>> model.apply(model.init(jax.random.key(0), inputs), inputs).shape
      (3, 24, 2)
    """

    recurrent: nn.Module
    hidden_features: int
    hidden_activation: Activation = jax.nn.relu
    horizon: int | None = None
    targets: int | None = None

    def __post_init__(self) -> None:
        check_activation("hidden_activation", self.hidden_activation)
        check_sizes(self, "hidden_features", "horizon", "targets")
        self.recurrent = adopted(self.recurrent, by=self)
        super().__post_init__()

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the forecasts of one row, () of the next value alone."""
        return tuple(size for size in (self.horizon, self.targets) if size is not None)

    @nn.compact
    def __call__(
        self,
        inputs: Float[AnyArray, "batch time in_features"],
        *,
        mask: Bool[AnyArray, "batch time"] | None = None,
        deterministic: bool | None = None,
    ) -> Float[Array, "batch ..."]:
        """Returns the forecasts of every row, in the unit of the targets.

        Args:
          inputs: the windows of the series.
          mask: True = valid; None = every step is.
          deterministic: as the call of `recurrent` takes it: False draws its dropout
            from the key `dropout`.

        Returns:
          (batch,), with the axes horizon and targets where they are asked for.

        Raises:
          TypeError, ValueError: wrong dtype, rank or mask shape.
        """
        inputs = ranked("inputs", inputs, ("batch", "time", "in_features"))
        features = self.recurrent(inputs, mask=mask, **given(deterministic))
        features = as_features(features)
        hidden = dense(self.hidden_features, name="hidden")(features)
        head = dense(math.prod(self.output_shape), name="head")
        forecasts = head(self.hidden_activation(hidden))
        return forecasts.reshape(forecasts.shape[0], *self.output_shape)
