"""The independently recurrent cell: every unit sees its own past alone."""

import functools
from typing import Any

import jax
from jax import Array

from jaxrnn.cells.activations import check_activation, derivative_from_output
from jaxrnn.cells.base import Activation, Cell, ElementwiseAdjoint, Params, ParamSpec
from jaxrnn.cells.ops import affine_gradients, affine_project, as_row, row_gradient
from jaxrnn.cells.params import fused_specs, zero_hidden


def ind_rnn_cell(
    *, activation: Activation = jax.nn.relu, use_bias: bool = True
) -> Cell:
    """The IndRNN cell: the recurrent matrix is a diagonal.

        h_t = activation(x_t W + b + u * h_{t-1})

    W is `kernel` (in_features, features), u `recurrent_kernel` (features,), b `bias`
    (features,). Units mix only through the next layer, so stack at least two. u starts
    uniform in [0, 1); keep |u| at or below 2^(1/time) for long sequences.

    Args:
      activation: f; the paper's is relu.
      use_bias: False leaves b out.

    Returns:
      A `Cell` whose carry is h (*batch, features); the same object for equal settings.

    Example:
      >>> ind_rnn_cell() is ind_rnn
      True
      >>> params = {"recurrent_kernel": jnp.array([0.5, -1.0])}
      >>> ind_rnn.step(params, jnp.array([2.0, 2.0]), jnp.array([1.0, 1.0])).tolist()
      [2.0, 0.0]

    Reference: Li et al., Independently recurrent neural network (IndRNN): building a
    longer and deeper RNN, 2018.
    """
    check_activation("activation", activation)
    return _build(activation, use_bias)


@functools.lru_cache(maxsize=256)
def _build(activation: Activation, use_bias: bool) -> Cell:
    def param_specs(in_features: int, features: int) -> dict[str, ParamSpec]:
        specs = fused_specs(1, in_features, features, ("bias",) if use_bias else ())
        return specs | {"recurrent_kernel": ParamSpec((features,), _uniform)}

    def step(params: Params, hidden: Array, projected: Array) -> Array:
        recurrent = as_row(params["recurrent_kernel"], hidden)
        if "recurrent_dropout" in params:
            hidden = hidden * params["recurrent_dropout"][0].astype(hidden.dtype)
        return activation(projected + recurrent * hidden)

    return Cell(
        name="ind_rnn",
        param_specs=param_specs,
        initial_carry=zero_hidden,
        project=affine_project,
        step=step,
        output=_output,
        adjoint=_adjoint(derivative_from_output(activation)),
        diagonal=derivative_from_output(activation) is not None,  # not a softmax, say
    )


def _output(hidden: Array) -> Array:
    return hidden


def _uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.uniform(key, shape, dtype)


def _adjoint(derivative: Activation | None) -> ElementwiseAdjoint | None:
    """delta_t = dL/dh_t * f'(h_t), as for `simple_rnn`; no matmul in the loop."""
    if derivative is None:
        return None

    def pullback(params: Params, delta: Array) -> Array:
        return delta * as_row(params["recurrent_kernel"], delta)

    def backward_weights(
        params: Params, inputs: Array, before: Array, residuals: None, delta: Array
    ) -> tuple[dict[str, Array], Array]:
        del residuals
        gradients, of_inputs = affine_gradients(params, inputs, delta)
        gradient = row_gradient(params["recurrent_kernel"], before * delta)
        return gradients | {"recurrent_kernel": gradient}, of_inputs

    return ElementwiseAdjoint(derivative, pullback, backward_weights)


ind_rnn: Cell = ind_rnn_cell()
