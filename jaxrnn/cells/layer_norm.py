"""GRU and LSTM with layer normalisation inside the recurrence."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.activations import check_activation
from jaxrnn.cells.base import Activation, Cell, Params, ParamSpec
from jaxrnn.cells.lstm import LSTMCarry
from jaxrnn.cells.ops import add_row, as_row, gated_matmul, recurrent_project
from jaxrnn.cells.params import fused_specs, ones, zero_hidden, zeros


def layer_norm_lstm_cell(
    *,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    epsilon: float = 1e-5,
) -> Cell:
    """The LSTM cell with layer normalisation.

        i, f, g, o = N(x W) * s + N(h U) * r + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(N(c') * m + d)

    N(v) = (v - mean(v)) / sqrt(var(v) + epsilon) over the last axis, all four gates
    together for the first two, as in the paper's own code. s is `kernel_scale`, r
    `recurrent_scale`, b `bias` (4*features,), m `memory_scale` and d `memory_bias`
    (features,). The scales start at 1, the biases at 0.

    Args:
      activation: of g and of the memory on its way out.
      recurrent_activation: of the gates i, f and o.
      epsilon: inside the root.

    Returns:
      A `Cell` whose carry is an `LSTMCarry`; the same object for equal settings.

    Example:
      >>> layer_norm_lstm_cell() is layer_norm_lstm
      True
      >>> list(init_params(layer_norm_lstm, jax.random.key(0), 2, 3))[3:]
      ['kernel_scale', 'recurrent_scale', 'memory_scale', 'memory_bias']

    Reference: Ba, Kiros and Hinton, Layer normalization, 2016, equations 20 to 22.
    """
    check_activation("activation", activation)
    check_activation("recurrent_activation", recurrent_activation)
    return _build_lstm(activation, recurrent_activation, epsilon)


def layer_norm_gru_cell(
    *,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    epsilon: float = 1e-5,
) -> Cell:
    """The GRU cell with layer normalisation; the reset gate acts after the matmul.

        a = N(x W_zr) * s + b         e = N(h U_zr) * r
        z, r = sigmoid(a + e)
        n = tanh(N(x W_n) * s_n + b_n + r * (N(h U_n) * r_n + c))
        h' = z * h + (1 - z) * n

    N is as in `layer_norm_lstm_cell`, over both gates together and over the candidate
    by itself. The parameters lie side by side in the order z, r, n: s is
    `kernel_scale`, r (the row) `recurrent_scale`, b `bias` (3*features,), and c
    `recurrent_bias` (features,). The paper's z is our 1 - z.

    Args:
      activation: of the candidate n.
      recurrent_activation: of the gates z and r.
      epsilon: inside the root.

    Returns:
      A `Cell` whose carry is h (*batch, features); the same object for equal settings.

    Example:
      >>> layer_norm_gru_cell() is layer_norm_gru
      True
      >>> list(init_params(layer_norm_gru, jax.random.key(0), 2, 3))[3:]
      ['recurrent_bias', 'kernel_scale', 'recurrent_scale']

    Reference: Ba, Kiros and Hinton, Layer normalization, 2016, supplementary
    material, equations 13 to 16.
    """
    check_activation("activation", activation)
    check_activation("recurrent_activation", recurrent_activation)
    return _build_gru(activation, recurrent_activation, epsilon)


def _normalize(values: Array, scale: Array, epsilon: float) -> Array:
    standardized = jax.nn.standardize(values, axis=-1, epsilon=epsilon)
    return standardized * as_row(scale, values)


@functools.lru_cache(maxsize=256)
def _build_lstm(activation: Activation, gate: Activation, epsilon: float) -> Cell:
    def param_specs(in_features: int, features: int) -> dict[str, ParamSpec]:
        return fused_specs(4, in_features, features, ("bias",)) | {
            "kernel_scale": ParamSpec((4 * features,), ones),
            "recurrent_scale": ParamSpec((4 * features,), ones),
            "memory_scale": ParamSpec((features,), ones),
            "memory_bias": ParamSpec((features,), zeros),
        }

    def initial_carry(params: Params, batch_shape: tuple[int, ...]) -> LSTMCarry:
        zero = zero_hidden(params, batch_shape)
        return LSTMCarry(hidden=zero, memory=zero)

    def project(params: Params, inputs: Array) -> Array:
        projected = gated_matmul(inputs, params["kernel"], params.get("dropout"))
        normalized = _normalize(projected, params["kernel_scale"], epsilon)
        return add_row(normalized, params["bias"])

    def step(params: Params, carry: LSTMCarry, projected: Array) -> LSTMCarry:
        recurrent = recurrent_project(params, carry.hidden)
        recurrent = _normalize(recurrent, params["recurrent_scale"], epsilon)
        i, f, g, o = jnp.split(projected + recurrent, 4, axis=-1)
        memory = gate(f) * carry.memory + gate(i) * activation(g)
        exposed = _normalize(memory, params["memory_scale"], epsilon)
        exposed = activation(add_row(exposed, params["memory_bias"]))
        return LSTMCarry(gate(o) * exposed, memory)

    return Cell(
        name="layer_norm_lstm",
        param_specs=param_specs,
        initial_carry=initial_carry,
        project=project,
        step=step,
        output=lambda carry: carry.hidden,
    )


@functools.lru_cache(maxsize=256)
def _build_gru(activation: Activation, gate: Activation, epsilon: float) -> Cell:
    def param_specs(in_features: int, features: int) -> dict[str, ParamSpec]:
        return fused_specs(3, in_features, features, ("bias",)) | {
            "recurrent_bias": ParamSpec((features,), zeros),
            "kernel_scale": ParamSpec((3 * features,), ones),
            "recurrent_scale": ParamSpec((3 * features,), ones),
        }

    def normalize(values: Array, scale: Array) -> tuple[Array, Array]:
        """Of both gates together, and of the candidate."""
        gates = 2 * (scale.shape[0] // 3)
        return (
            _normalize(values[..., :gates], scale[:gates], epsilon),
            _normalize(values[..., gates:], scale[gates:], epsilon),
        )

    def project(params: Params, inputs: Array) -> Array:
        projected = gated_matmul(inputs, params["kernel"], params.get("dropout"))
        parts = normalize(projected, params["kernel_scale"])
        return add_row(jnp.concatenate(parts, axis=-1), params["bias"])

    def step(params: Params, hidden: Array, projected: Array) -> Array:
        recurrent = recurrent_project(params, hidden)
        h_gates, h_n = normalize(recurrent, params["recurrent_scale"])
        x_z, x_r, x_n = jnp.split(projected, 3, axis=-1)
        h_z, h_r = jnp.split(h_gates, 2, axis=-1)
        z, r = gate(x_z + h_z), gate(x_r + h_r)
        n = activation(x_n + r * add_row(h_n, params["recurrent_bias"]))
        return z * hidden + (1 - z) * n

    return Cell(
        name="layer_norm_gru",
        param_specs=param_specs,
        initial_carry=zero_hidden,
        project=project,
        step=step,
        output=lambda carry: carry,
    )


layer_norm_lstm: Cell = layer_norm_lstm_cell()
layer_norm_gru: Cell = layer_norm_gru_cell()
