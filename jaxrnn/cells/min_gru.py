"""The minGRU: a GRU whose gate and candidate see the inputs alone."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.activations import check_activation, linear
from jaxrnn.cells.base import Activation, Cell, Params, ParamSpec
from jaxrnn.cells.linear_cell import linear_cell
from jaxrnn.cells.params import gated_specs


def min_gru_cell(*, activation: Activation = linear, use_bias: bool = True) -> Cell:
    """The minGRU cell.

        z = sigmoid(x W_z + b_z)
        n = activation(x W_n + b_n)
        h' = (1 - z) * h + z * n

    The step is linear in h with coefficients that the inputs alone decide, so
    `ParallelScan` runs all steps at once. The gates stand side by side in the order
    z, n. The paper names no initial values; they are Keras' here. Where it computes in
    the space of logarithms it takes an activation that is positive, x + 1/2 above 0 and
    sigmoid(x) below.

    Args:
      activation: of the candidate n; the paper's equation has none, the identity.
      use_bias: False leaves b out.

    Returns:
      A `Cell` whose carry is h (*batch, features); the same object for equal settings.

    Example:
      >>> min_gru_cell() is min_gru
      True
      >>> params = init_params(min_gru, jax.random.key(0), in_features=2, features=3)
      >>> {name: value.shape for name, value in params.items()}
      {'kernel': (2, 6), 'bias': (6,)}

    Reference: Feng et al., Were RNNs all we needed?, 2024, arXiv 2410.01201, section
    3.1.
    """
    check_activation("activation", activation)
    return _build(activation, use_bias)


@functools.lru_cache(maxsize=256)
def _build(activation: Activation, use_bias: bool) -> Cell:
    def param_specs(in_features: int, features: int) -> dict[str, ParamSpec]:
        return gated_specs(2, in_features, features, use_bias=use_bias)

    def coefficients(params: Params, projected: Array) -> tuple[Array, Array]:
        del params
        x_z, x_n = jnp.split(projected, 2, axis=-1)
        # 1 - z is the sigmoid of -x_z, without the digits that a difference would lose.
        return jax.nn.sigmoid(-x_z), jax.nn.sigmoid(x_z) * activation(x_n)

    return linear_cell("min_gru", 2, param_specs, coefficients)


min_gru: Cell = min_gru_cell()
