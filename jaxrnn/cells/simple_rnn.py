"""The simple (Elman) recurrent cell."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.activations import (
    activated_sum,
    check_activation,
    derivative_from_output,
)
from jaxrnn.cells.base import Activation, Cell, ElementwiseAdjoint, Params, ParamSpec
from jaxrnn.cells.ops import (
    affine_gradients,
    affine_project,
    kernel_gradient,
    matmul,
    recurrent_project,
)
from jaxrnn.cells.params import fused_specs, zero_hidden


def simple_rnn_cell(
    *, activation: Activation = jnp.tanh, use_bias: bool = True
) -> Cell:
    """The cell of Keras' SimpleRNN, PyTorch's RNN and Flax' SimpleCell.

        h_t = activation(x_t W + b + h_{t-1} U)

    W is `kernel` (in_features, features), U `recurrent_kernel` (features, features),
    b `bias` (features,). PyTorch adds two biases, whose sum is `bias`.

    Args:
      activation: f; `jaxrnn.simple_rnn` is the cell with tanh.
      use_bias: False leaves b out.

    Returns:
      A `Cell` whose carry is h (*batch, features); the same object for equal settings.

    Example:
      >>> simple_rnn_cell() is simple_rnn
      True
      >>> params = init_params(simple_rnn, jax.random.key(0), 1, 2)
      >>> params = {name: jnp.ones_like(value) for name, value in params.items()}
      >>> simple_rnn_cell(activation=jax.nn.relu).step(
      ...     params, jnp.array([1.0, 2.0]), jnp.array([-4.0, 1.0])
      ... ).tolist()
      [0.0, 4.0]

    Reference: Elman, Finding structure in time, Cognitive Science 14, 1990.
    """
    check_activation("activation", activation)
    return _build(activation, use_bias)


@functools.lru_cache(maxsize=256)
def _build(activation: Activation, use_bias: bool) -> Cell:
    def param_specs(in_features: int, features: int) -> dict[str, ParamSpec]:
        return fused_specs(1, in_features, features, ("bias",) if use_bias else ())

    def step(params: Params, hidden: Array, projected: Array) -> Array:
        return activated_sum(activation, projected, recurrent_project(params, hidden))

    return Cell(
        name="simple_rnn",
        param_specs=param_specs,
        initial_carry=zero_hidden,
        project=affine_project,
        step=step,
        output=_output,
        adjoint=_adjoint(derivative_from_output(activation), _NATIVE.get(activation)),
    )


def _output(hidden: Array) -> Array:
    return hidden


_NATIVE: dict[Activation, str] = {
    jnp.tanh: "simple_rnn_tanh",
    jax.nn.relu: "simple_rnn_relu",
}


def _adjoint(
    derivative: Activation | None, native: str | None
) -> ElementwiseAdjoint | None:
    """delta_t = dL/dh_t * f'(h_t): all that the gradients need is h itself."""
    if derivative is None:
        return None

    def pullback(params: Params, delta: Array) -> Array:
        return matmul(delta, params["recurrent_kernel"].T)

    def backward_weights(
        params: Params, inputs: Array, before: Array, residuals: None, delta: Array
    ) -> tuple[dict[str, Array], Array]:
        del residuals
        gradients, of_inputs = affine_gradients(params, inputs, delta)
        gradient = kernel_gradient(params["recurrent_kernel"], before, delta)
        return gradients | {"recurrent_kernel": gradient}, of_inputs

    return ElementwiseAdjoint(derivative, pullback, backward_weights, native)


simple_rnn: Cell = simple_rnn_cell()
