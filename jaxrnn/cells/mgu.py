"""The minimal gated unit: a GRU with one gate."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.activations import check_activation
from jaxrnn.cells.base import Activation, Cell, Params, ParamSpec
from jaxrnn.cells.ops import affine_project, gated_matmul
from jaxrnn.cells.params import fused_specs, zero_hidden


def mgu_cell(
    *,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    use_bias: bool = True,
) -> Cell:
    """The MGU cell, Flax' `MGUCell` with `reset_gate=True` in the paper's form.

        f = sigmoid(x W_f + b_f + h U_f)
        n = tanh(x W_n + b_n + (f * h) U_n)
        h' = (1 - f) * h + f * n

    The gates stand side by side in the order f, n. Flax computes f * (h U_n + c_n)
    and h' = (1 - f) * n + f * h instead.

    Args:
      activation: of the candidate n.
      recurrent_activation: of the gate f.
      use_bias: False leaves b out.

    Returns:
      A `Cell` whose carry is h (*batch, features); the same object for equal settings.

    Example:
      >>> mgu_cell() is mgu
      True
      >>> params = init_params(mgu, jax.random.key(0), in_features=2, features=3)
      >>> {name: value.shape for name, value in params.items()}
      {'kernel': (2, 6), 'recurrent_kernel': (3, 6), 'bias': (6,)}

    Reference: Zhou et al., Minimal gated unit for recurrent neural networks, 2016.
    """
    check_activation("activation", activation)
    check_activation("recurrent_activation", recurrent_activation)
    return _build(activation, recurrent_activation, use_bias)


@functools.lru_cache(maxsize=256)
def _build(activation: Activation, gate: Activation, use_bias: bool) -> Cell:
    def param_specs(in_features: int, features: int) -> dict[str, ParamSpec]:
        return fused_specs(2, in_features, features, ("bias",) if use_bias else ())

    def step(params: Params, hidden: Array, projected: Array) -> Array:
        features = hidden.shape[-1]
        recurrent_kernel = params["recurrent_kernel"]
        masks = params.get("recurrent_dropout")
        of_f, of_n = (None, None) if masks is None else (masks[:1], masks[1:])
        x_f, x_n = jnp.split(projected, 2, axis=-1)
        f = gate(x_f + gated_matmul(hidden, recurrent_kernel[:, :features], of_f))
        h_n = gated_matmul(f * hidden, recurrent_kernel[:, features:], of_n)
        return (1 - f) * hidden + f * activation(x_n + h_n)

    return Cell(
        name="mgu",
        param_specs=param_specs,
        initial_carry=zero_hidden,
        project=affine_project,
        step=step,
        output=_output,
    )


def _output(hidden: Array) -> Array:
    return hidden


mgu: Cell = mgu_cell()
