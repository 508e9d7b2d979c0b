"""The gated recurrent unit, with the reset gate after or before the matmul."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.activations import check_activation, derivative_from_output
from jaxrnn.cells.base import Activation, Adjoint, Cell, Params, ParamSpec
from jaxrnn.cells.ops import (
    add_row,
    affine_gradients,
    affine_project,
    gated_matmul,
    kernel_gradient,
    matmul,
    recurrent_project,
    row_gradient,
)
from jaxrnn.cells.params import fused_specs, zero_hidden


def gru_cell(
    *,
    activation: Activation = jnp.tanh,
    recurrent_activation: Activation = jax.nn.sigmoid,
    use_bias: bool = True,
    reset_after: bool = True,
) -> Cell:
    """The GRU cell of Keras; with `reset_after` also that of PyTorch, cuDNN and Flax.

        z, r = sigmoid(x W_z,r + b_z,r + h U_z,r + c_z,r)
        n = tanh(x W_n + b_n + r * (h U_n + c_n))        reset_after=True
        n = tanh(x W_n + b_n + (r * h) U_n)              reset_after=False
        h' = z * h + (1 - z) * n

    The gates stand side by side in the order z, r, n (PyTorch: r, z, n). c is
    `recurrent_bias`, the second row of Keras' bias, and exists only with
    `reset_after`; Flax keeps c_n alone and adds the others to b.

    Args:
      activation: of the candidate n.
      recurrent_activation: of the gates z and r.
      use_bias: False leaves b and c out.
      reset_after: whether r acts after the recurrent matmul (Keras' default) or
        before it (the paper).

    Returns:
      A `Cell` whose carry is h (*batch, features); the same object for equal settings.

    Example:
      >>> gru_cell() is gru
      True
      >>> list(init_params(gru, jax.random.key(0), 2, 3))
      ['kernel', 'recurrent_kernel', 'bias', 'recurrent_bias']

    Reference: Cho et al., Learning phrase representations using RNN encoder-decoder,
    2014 (reset before; its z is our 1 - z).
    """
    check_activation("activation", activation)
    check_activation("recurrent_activation", recurrent_activation)
    return _build(activation, recurrent_activation, use_bias, reset_after)


@functools.lru_cache(maxsize=256)
def _build(
    activation: Activation,
    recurrent_activation: Activation,
    use_bias: bool,
    reset_after: bool,
) -> Cell:
    bias_names = ("bias", "recurrent_bias") if reset_after else ("bias",)
    forward = (_forward_reset_after if reset_after else _forward_reset_before)(
        activation, recurrent_activation
    )

    def param_specs(in_features: int, features: int) -> dict[str, ParamSpec]:
        return fused_specs(3, in_features, features, bias_names if use_bias else ())

    def step(params: Params, hidden: Array, projected: Array) -> Array:
        return forward(params, hidden, projected)[0]

    derivative = derivative_from_output(activation)
    recurrent_derivative = derivative_from_output(recurrent_activation)
    adjoint = None
    if derivative is not None and recurrent_derivative is not None:
        backward = _adjoint_reset_after if reset_after else _adjoint_reset_before
        adjoint = backward(forward, derivative, recurrent_derivative)
        usual = (activation, recurrent_activation) == (jnp.tanh, jax.nn.sigmoid)
        if usual and reset_after:
            adjoint = adjoint._replace(native="gru")

    return Cell(
        name="gru",
        param_specs=param_specs,
        initial_carry=zero_hidden,
        project=affine_project,
        step=step,
        output=_output,
        adjoint=adjoint,
    )


def _output(hidden: Array) -> Array:
    return hidden


def _forward_reset_after(activation: Activation, gate: Activation) -> Any:
    def forward(
        params: Params, hidden: Array, projected: Array
    ) -> tuple[Array, tuple[Array, ...]]:
        recurrent = recurrent_project(params, hidden)
        if "recurrent_bias" in params:
            recurrent = add_row(recurrent, params["recurrent_bias"])
        x_z, x_r, x_n = jnp.split(projected, 3, axis=-1)
        h_z, h_r, h_n = jnp.split(recurrent, 3, axis=-1)
        z, r = gate(x_z + h_z), gate(x_r + h_r)
        n = activation(x_n + r * h_n)
        return z * hidden + (1 - z) * n, (z, r, n, h_n)

    return forward


def _forward_reset_before(activation: Activation, gate: Activation) -> Any:
    def forward(
        params: Params, hidden: Array, projected: Array
    ) -> tuple[Array, tuple[Array, ...]]:
        gates = 2 * hidden.shape[-1]
        recurrent_kernel = params["recurrent_kernel"]
        masks = params.get("recurrent_dropout")
        of_gates, of_n = (None, None) if masks is None else (masks[:2], masks[2:])
        x_z, x_r, x_n = jnp.split(projected, 3, axis=-1)
        recurrent = gated_matmul(hidden, recurrent_kernel[:, :gates], of_gates)
        h_z, h_r = jnp.split(recurrent, 2, axis=-1)
        z, r = gate(x_z + h_z), gate(x_r + h_r)
        recurrent = gated_matmul(r * hidden, recurrent_kernel[:, gates:], of_n)
        n = activation(x_n + recurrent)
        return z * hidden + (1 - z) * n, (z, r, n)

    return forward


def _adjoint_reset_after(
    forward: Any, derivative: Any, recurrent_derivative: Any
) -> Adjoint:
    """delta_t is the cotangent of z, r, n before their activations."""

    def recurrent_delta(delta: Array, r: Array) -> Array:
        d_z, d_r, d_n = jnp.split(delta, 3, axis=-1)
        return jnp.concatenate([d_z, d_r, d_n * r], axis=-1)

    def backward_data(
        params: Params,
        before: Array,
        after: Array,
        residuals: tuple[Array, ...],
        cotangent: Array,
    ) -> tuple[Array, Array]:
        del after
        z, r, n, h_n = residuals
        d_n = cotangent * (1 - z) * derivative(n)
        d_z = cotangent * (before - n) * recurrent_derivative(z)
        d_r = d_n * h_n * recurrent_derivative(r)
        delta = jnp.concatenate([d_z, d_r, d_n], axis=-1)
        through_matmul = matmul(recurrent_delta(delta, r), params["recurrent_kernel"].T)
        return cotangent * z + through_matmul, delta

    def backward_weights(
        params: Params,
        inputs: Array,
        before: Array,
        residuals: tuple[Array, ...],
        delta: Array,
    ) -> tuple[dict[str, Array], Array]:
        gradients, of_inputs = affine_gradients(params, inputs, delta)
        recurrent = recurrent_delta(delta, residuals[1])
        gradient = kernel_gradient(params["recurrent_kernel"], before, recurrent)
        gradients["recurrent_kernel"] = gradient
        if "recurrent_bias" in params:
            bias = params["recurrent_bias"]
            gradients["recurrent_bias"] = row_gradient(bias, recurrent)
        return gradients, of_inputs

    return Adjoint(forward, backward_data, backward_weights)


def _adjoint_reset_before(
    forward: Any, derivative: Any, recurrent_derivative: Any
) -> Adjoint:
    """delta_t is the cotangent of z, r, n before their activations."""

    def backward_data(
        params: Params,
        before: Array,
        after: Array,
        residuals: tuple[Array, ...],
        cotangent: Array,
    ) -> tuple[Array, Array]:
        del after
        z, r, n = residuals
        features = z.shape[-1]
        recurrent_kernel = params["recurrent_kernel"]
        d_n = cotangent * (1 - z) * derivative(n)
        d_reset = matmul(d_n, recurrent_kernel[:, 2 * features :].T)  # of r * h
        d_z = cotangent * (before - n) * recurrent_derivative(z)
        d_r = d_reset * before * recurrent_derivative(r)
        d_gates = jnp.concatenate([d_z, d_r], axis=-1)
        through_matmul = matmul(d_gates, recurrent_kernel[:, : 2 * features].T)
        d_before = cotangent * z + d_reset * r + through_matmul
        return d_before, jnp.concatenate([d_gates, d_n], axis=-1)

    def backward_weights(
        params: Params,
        inputs: Array,
        before: Array,
        residuals: tuple[Array, ...],
        delta: Array,
    ) -> tuple[dict[str, Array], Array]:
        gradients, of_inputs = affine_gradients(params, inputs, delta)
        _, r, n = residuals
        gates = 2 * n.shape[-1]
        recurrent_kernel = params["recurrent_kernel"]
        gradient = jnp.concatenate(
            [
                kernel_gradient(
                    recurrent_kernel[:, :gates], before, delta[..., :gates]
                ),
                kernel_gradient(
                    recurrent_kernel[:, gates:], r * before, delta[..., gates:]
                ),
            ],
            axis=-1,
        )
        return gradients | {"recurrent_kernel": gradient}, of_inputs

    return Adjoint(forward, backward_data, backward_weights)


gru: Cell = gru_cell()
