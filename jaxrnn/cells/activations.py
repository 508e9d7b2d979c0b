"""Which activations have a derivative that can be read off their output?"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Activation
from jaxrnn.flat import flat


def linear(values: Array) -> Array:
    """The identity, as Keras names it: `activation=None` there.

    Example:
      >>> linear(jnp.array([-1.0, 2.0])).tolist()
      [-1.0, 2.0]
    """
    return values


def check_activation(name: str, activation: object) -> None:
    """Raises a TypeError where an activation is no function, but a name as in Keras."""
    if not callable(activation):
        raise TypeError(
            f"{name} must be a function of an array, such as jnp.tanh, jax.nn.relu or "
            f"jaxrnn.linear (Keras' None), got {activation!r}."
        )


def _tanh_slope(output: Array) -> Array:
    return 1 - output * output


def _sigmoid_slope(output: Array) -> Array:
    return output * (1 - output)


def _relu_slope(output: Array) -> Array:
    return (output > 0).astype(output.dtype)  # 0 at 0, as Keras and jax.nn.relu


def _linear_slope(output: Array) -> Array:
    return jnp.ones_like(output)


_SLOPES: dict[Activation, Activation] = {
    jnp.tanh: _tanh_slope,
    jax.lax.tanh: _tanh_slope,
    jax.nn.sigmoid: _sigmoid_slope,
    jax.lax.logistic: _sigmoid_slope,
    jax.nn.relu: _relu_slope,
    linear: _linear_slope,
}


def slope_from_output(activation: Activation) -> Activation | None:
    """The function f' o f^-1: from an activation's output to its derivative there.

    A backward pass that has it needs neither the pre-activation nor a second
    evaluation of the activation.

    Returns:
      None where the derivative is not known from the output alone; such a cell has no
      hand-written adjoint and JAX differentiates its step.
    """
    return _SLOPES.get(activation)


def activated_sum(activation: Activation, one: Array, other: Array) -> Array:
    """activation(one + other), elementwise on flat arrays where that is known to be so.

    A softmax, say, is not.
    """
    if activation not in _SLOPES:
        return activation(one + other)
    return activation(flat(one) + flat(other)).reshape(one.shape)
