"""The long short-term memory cell."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.activations import check_activation, derivative_from_output
from jaxrnn.cells.base import Activation, Adjoint, Cell, Initializer, Params, ParamSpec
from jaxrnn.cells.checks import check_size
from jaxrnn.cells.ops import (
    affine_gradients,
    affine_project,
    kernel_gradient,
    matmul,
    recurrent_project,
)
from jaxrnn.cells.params import fused_specs, glorot_uniform, zeros


class LSTMCarry(NamedTuple):
    """The two parts of an LSTM's carry, each (*batch, features).

    Keras and PyTorch have the same order (h, c); Flax has (c, h).
    """

    hidden: Array
    memory: Array


def lstm_cell(
    *,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    use_bias: bool = True,
    unit_forget_bias: bool = True,
    projection_features: int | None = None,
) -> Cell:
    """The LSTM cell of Keras, PyTorch and Flax.

        i, f, o = sigmoid(x W_i,f,o + b_i,f,o + h U_i,f,o)
        g = tanh(x W_g + b_g + h U_g)
        c' = f * c + i * g
        h' = o * tanh(c')

    The gates stand side by side in the order i, f, g, o (Keras and PyTorch; Haiku has
    i, g, f, o). PyTorch adds two biases, whose sum is `bias`.

    With `projection_features` the hidden vector is projected to that width before it
    is output and handed on, PyTorch's `proj_size`:

        h' = (o * tanh(c')) P

    where P is `projection_kernel` (features, projection_features).

    Args:
      activation: of g and of the memory on its way out; Keras' `activation`.
      recurrent_activation: of the gates i, f and o.
      use_bias: False leaves b out.
      unit_forget_bias: the forget gate's bias starts at 1 (Keras' default; 0 in
        PyTorch and Flax).
      projection_features: width of the projected hidden vector; None = no projection.

    Returns:
      A `Cell` whose carry is an `LSTMCarry`; the same object for equal settings.

    Raises:
      TypeError: an activation that is no function.
      ValueError: `projection_features` below 1.

    Example:
      >>> lstm_cell() is lstm
      True
      >>> carry = lstm.initial_carry(init_params(lstm, jax.random.key(0), 2, 3), (5,))
      >>> carry.hidden.shape, carry.memory.shape
      ((5, 3), (5, 3))

    Reference: Hochreiter and Schmidhuber, Long short-term memory, 1997; with the
    forget gate of Gers, Schmidhuber and Cummins, Learning to forget, 2000; the
    projection is that of Sak, Senior and Beaufays, Long short-term memory based
    recurrent neural network architectures for large vocabulary speech recognition,
    2014.
    """
    check_activation("activation", activation)
    check_activation("recurrent_activation", recurrent_activation)
    if projection_features is not None:
        check_size("projection_features", projection_features)
    return _build(
        activation,
        recurrent_activation,
        use_bias,
        unit_forget_bias,
        projection_features,
    )


@functools.lru_cache(maxsize=256)
def _build(
    activation: Activation,
    recurrent_activation: Activation,
    use_bias: bool,
    unit_forget_bias: bool,
    projection_features: int | None,
) -> Cell:
    def param_specs(in_features: int, features: int) -> dict[str, ParamSpec]:
        specs = fused_specs(4, in_features, features, ("bias",) if use_bias else ())
        if use_bias and unit_forget_bias:
            specs["bias"] = specs["bias"]._replace(init=with_unit_forget(zeros))
        if projection_features is not None:
            recurrent = specs["recurrent_kernel"]
            specs["recurrent_kernel"] = recurrent._replace(
                shape=(projection_features, 4 * features)
            )
            specs["projection_kernel"] = ParamSpec(
                (features, projection_features), glorot_uniform
            )
        return specs

    def initial_carry(params: Params, batch_shape: tuple[int, ...]) -> LSTMCarry:
        recurrent_kernel = params["recurrent_kernel"]
        hidden_features, gates_features = recurrent_kernel.shape
        return LSTMCarry(
            jnp.zeros((*batch_shape, hidden_features), recurrent_kernel.dtype),
            jnp.zeros((*batch_shape, gates_features // 4), recurrent_kernel.dtype),
        )

    def forward(
        params: Params, carry: LSTMCarry, projected: Array
    ) -> tuple[LSTMCarry, tuple[Array, ...]]:
        preactivations = projected + recurrent_project(params, carry.hidden)
        i, f, g, o = jnp.split(preactivations, 4, axis=-1)
        i, f, o = map(recurrent_activation, (i, f, o))
        g = activation(g)
        memory = f * carry.memory + i * g
        return LSTMCarry(o * activation(memory), memory), (i, f, g, o)

    def step(params: Params, carry: LSTMCarry, projected: Array) -> LSTMCarry:
        carry, _ = forward(params, carry, projected)
        if projection_features is None:
            return carry
        return carry._replace(hidden=matmul(carry.hidden, params["projection_kernel"]))

    derivative = derivative_from_output(activation)
    recurrent_derivative = derivative_from_output(recurrent_activation)
    adjoint = None
    if derivative and recurrent_derivative and projection_features is None:
        usual = (activation, recurrent_activation) == (jnp.tanh, jax.nn.sigmoid)
        native = "lstm" if usual else None
        adjoint = _adjoint(
            forward, activation, derivative, recurrent_derivative, native
        )

    return Cell(
        name="lstm",
        param_specs=param_specs,
        initial_carry=initial_carry,
        project=affine_project,
        step=step,
        output=_output,
        adjoint=adjoint,
    )


def _output(carry: LSTMCarry) -> Array:
    return carry.hidden


def with_unit_forget(init: Initializer) -> Initializer:
    """The initial bias that `init` draws, with ones for the forget gate.

    Example:
      >>> with_unit_forget(jax.nn.initializers.zeros)(jax.random.key(0), (4,)).tolist()
      [0.0, 1.0, 0.0, 0.0]
    """

    def unit_forget(
        key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32
    ) -> Array:
        bias = init(key, shape, dtype)
        return bias.reshape(4, -1).at[1].set(1).reshape(shape)  # i, f, g, o

    return unit_forget


def _adjoint(
    forward: Any,
    activation: Activation,
    derivative: Activation,
    recurrent_derivative: Activation,
    native: str | None,
) -> Adjoint:
    """delta_t is the cotangent of the four gates before their activations."""

    def backward_data(
        params: Params,
        before: LSTMCarry,
        after: LSTMCarry,
        residuals: tuple[Array, ...],
        cotangent: LSTMCarry,
    ) -> tuple[LSTMCarry, Array]:
        i, f, g, o = residuals
        exposed = activation(after.memory)
        d_output_gate = cotangent.hidden * exposed * recurrent_derivative(o)
        d_memory = cotangent.memory + cotangent.hidden * o * derivative(exposed)
        delta = jnp.concatenate(
            [
                d_memory * g * recurrent_derivative(i),
                d_memory * before.memory * recurrent_derivative(f),
                d_memory * i * derivative(g),
                d_output_gate,
            ],
            axis=-1,
        )
        d_hidden = matmul(delta, params["recurrent_kernel"].T)
        return LSTMCarry(d_hidden, d_memory * f), delta

    def backward_weights(
        params: Params,
        inputs: Array,
        before: LSTMCarry,
        residuals: tuple[Array, ...],
        delta: Array,
    ) -> tuple[dict[str, Array], Array]:
        del residuals
        gradients, of_inputs = affine_gradients(params, inputs, delta)
        gradient = kernel_gradient(params["recurrent_kernel"], before.hidden, delta)
        return gradients | {"recurrent_kernel": gradient}, of_inputs

    return Adjoint(forward, backward_data, backward_weights, native=native)


lstm: Cell = lstm_cell()
