"""The minLSTM: an LSTM whose gates and candidate see the inputs alone."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.activations import check_activation, linear
from jaxrnn.cells.base import Activation, Cell, Params, ParamSpec
from jaxrnn.cells.linear_cell import linear_cell
from jaxrnn.cells.params import gated_specs


def min_lstm_cell(*, activation: Activation = linear, use_bias: bool = True) -> Cell:
    """The minLSTM cell, whose two gates add up to 1.

        f, i = sigmoid(x W_f + b_f), sigmoid(x W_i + b_i)
        n = activation(x W_n + b_n)
        h' = f / (f + i) * h + i / (f + i) * n

    The step is linear in h with coefficients that the inputs alone decide, so
    `ParallelScan` runs all steps at once. The gates stand side by side in the order
    f, i, n. The paper names no initial values; they are Keras' here, without the 1 in
    the bias of the forget gate.

    Args:
      activation: of the candidate n; the paper's equation has none, the identity.
      use_bias: False leaves b out.

    Returns:
      A `Cell` whose carry is h (*batch, features), without a memory beside it; the same
      object for equal settings.

    Example:
      >>> min_lstm_cell() is min_lstm
      True
      >>> params = init_params(min_lstm, jax.random.key(0), in_features=2, features=3)
      >>> {name: value.shape for name, value in params.items()}
      {'kernel': (2, 9), 'bias': (9,)}

    Reference: Feng et al., Were RNNs all we needed?, 2024, arXiv 2410.01201, section
    3.2.
    """
    check_activation("activation", activation)
    return _build(activation, use_bias)


@functools.lru_cache(maxsize=256)
def _build(activation: Activation, use_bias: bool) -> Cell:
    def param_specs(in_features: int, features: int) -> dict[str, ParamSpec]:
        return gated_specs(3, in_features, features, use_bias=use_bias)

    def coefficients(params: Params, projected: Array) -> tuple[Array, Array]:
        del params
        x_f, x_i, x_n = jnp.split(projected, 3, axis=-1)
        # f / (f + i) is the sigmoid of log f - log i, which is never 0 / 0.
        logit = jax.nn.log_sigmoid(x_f) - jax.nn.log_sigmoid(x_i)
        return jax.nn.sigmoid(logit), jax.nn.sigmoid(-logit) * activation(x_n)

    return linear_cell("min_lstm", 3, param_specs, coefficients)


min_lstm: Cell = min_lstm_cell()
