"""Which activations have a derivative that can be read off their output?"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Activation
from jaxrnn.cells.ops import is_divided


def linear(values: Array) -> Array:
    """The identity, as Keras names it: `activation=None` there.

    Example:
      >>> linear(jnp.array([-1.0, 2.0])).tolist()
      [-1.0, 2.0]
    """
    return values


def keras2_hard_sigmoid(values: Array) -> Array:
    """What Keras 1 and 2 call hard_sigmoid: clip(0.2 x + 0.5, 0, 1).

    It is the gate of LSTM and GRU layers by default up to Keras 2.2. Keras 3, JAX and
    PyTorch mean relu6(x + 3) / 6 by that name, `jax.nn.hard_sigmoid`, which differs by
    up to 0.083.

    Example:
      >>> keras2_hard_sigmoid(jnp.array([-3.0, 0.0, 1.0])).tolist()
      [0.0, 0.5, 0.699999988079071]
      >>> round(float(jax.nn.hard_sigmoid(1.0)), 4)
      0.6667

    Reference: `keras/backend/tensorflow_backend.py` of Keras 2.2.4.
    """
    return jnp.clip(0.2 * values + 0.5, 0, 1)


def check_activation(name: str, activation: object) -> None:
    """Raises a TypeError where an activation is no function, but a name as in Keras."""
    if not callable(activation):
        raise TypeError(
            f"{name} must be a function of an array, such as jnp.tanh, jax.nn.relu or "
            f"jaxrnn.linear (Keras' None), got {activation!r}."
        )


def _tanh_derivative(output: Array) -> Array:
    return 1 - output * output


def _sigmoid_derivative(output: Array) -> Array:
    return output * (1 - output)


def _relu_derivative(output: Array) -> Array:
    return (output > 0).astype(output.dtype)  # 0 at 0, as Keras and jax.nn.relu


def _linear_derivative(output: Array) -> Array:
    return jnp.ones_like(output)


def _keras2_hard_sigmoid_derivative(output: Array) -> Array:
    return jnp.where((output > 0) & (output < 1), 0.2, 0.0).astype(output.dtype)


def _hard_sigmoid_derivative(output: Array) -> Array:
    return jnp.where((output > 0) & (output < 1), 1 / 6, 0.0).astype(output.dtype)


_DERIVATIVES: dict[Activation, Activation] = {
    jnp.tanh: _tanh_derivative,
    jax.lax.tanh: _tanh_derivative,
    jax.nn.sigmoid: _sigmoid_derivative,
    jax.lax.logistic: _sigmoid_derivative,
    jax.nn.relu: _relu_derivative,
    linear: _linear_derivative,
    keras2_hard_sigmoid: _keras2_hard_sigmoid_derivative,
    jax.nn.hard_sigmoid: _hard_sigmoid_derivative,
}


def derivative_from_output(activation: Activation) -> Activation | None:
    """The function f' o f^-1: from an activation's output to its derivative there.

    A backward pass that has it needs neither the pre-activation nor a second
    evaluation of the activation.

    Returns:
      None where the derivative is not known from the output alone; such a cell has no
      hand-written adjoint and JAX differentiates its step.
    """
    return _DERIVATIVES.get(activation)


def activated_sum(activation: Activation, one: Array, other: Array) -> Array:
    """activation(one + other), with merged axes where it is known to be elementwise.

    A softmax, say, is not.
    """
    total = one + other
    if activation not in _DERIVATIVES or is_divided(total):
        return activation(total)
    return activation(total.reshape(-1)).reshape(total.shape)
