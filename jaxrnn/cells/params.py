"""Which parameters do the cells here share, and how do they start? As in Keras."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Initializer, Params, ParamSpec


def as_one_program(initializer: Initializer) -> Initializer:
    """The same values from one compilation, not from one for every operation in it."""
    return jax.jit(initializer, static_argnames=("shape", "dtype"))


def _orthogonal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """In float32 at least, as no decomposition is narrower."""
    wide = dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.float32
    return jax.nn.initializers.orthogonal()(key, shape, wide).astype(dtype)


glorot_uniform = as_one_program(jax.nn.initializers.glorot_uniform())
orthogonal = as_one_program(_orthogonal)
zeros = jax.nn.initializers.zeros
ones = jax.nn.initializers.ones


def fused_specs(
    gates: int, in_features: int, features: int, bias_names: tuple[str, ...]
) -> dict[str, ParamSpec]:
    """Keras' parameters: every matrix holds its `gates` side by side.

    `kernel` (in_features, gates * features), Glorot uniform over the whole matrix;
    `recurrent_kernel` (features, gates * features), orthogonal; biases of zeros.

    Example:
      >>> specs = fused_specs(3, 2, 4, ("bias",))
      >>> {name: spec.shape for name, spec in specs.items()}
      {'kernel': (2, 12), 'recurrent_kernel': (4, 12), 'bias': (12,)}
    """
    width = gates * features
    return {
        "kernel": ParamSpec((in_features, width), glorot_uniform),
        "recurrent_kernel": ParamSpec((features, width), orthogonal),
        **{name: ParamSpec((width,), zeros) for name in bias_names},
    }


def gated_specs(
    gates: int, in_features: int, features: int, *, use_bias: bool
) -> dict[str, ParamSpec]:
    """Those of a cell without a recurrent kernel: `kernel`, and `bias` where asked.

    Example:
      >>> {n: s.shape for n, s in gated_specs(2, 3, 4, use_bias=True).items()}
      {'kernel': (3, 8), 'bias': (8,)}
    """
    specs = fused_specs(gates, in_features, features, ("bias",) if use_bias else ())
    del specs["recurrent_kernel"]
    return specs


def zero_carry(gates: int) -> Callable[[Params, tuple[int, ...]], Array]:
    """`zero_hidden` where only `kernel`, its `gates` side by side, says the width.

    Raises:
      ValueError: the function returned, for parameters without a `kernel`.

    Example:
      >>> zero_carry(2)({"kernel": jnp.ones((3, 8))}, (5,)).shape
      (5, 4)
    """

    def initial_carry(params: Params, batch_shape: tuple[int, ...]) -> Array:
        kernel = _read("zero_carry", "kernel", params)
        return jnp.zeros((*batch_shape, kernel.shape[1] // gates), kernel.dtype)

    return initial_carry


def zero_hidden(params: Params, batch_shape: tuple[int, ...]) -> Array:
    """A hidden vector of zeros (*batch, features) in the parameters' dtype.

    The width and the dtype are read off `recurrent_kernel` (features, ...); for a cell
    without one see `zero_carry`.

    Raises:
      ValueError: parameters without a `recurrent_kernel`.

    Example:
      >>> zero_hidden({"recurrent_kernel": jnp.ones((4, 4))}, (5,)).shape
      (5, 4)
    """
    recurrent_kernel = _read("zero_hidden", "recurrent_kernel", params)
    return jnp.zeros((*batch_shape, recurrent_kernel.shape[0]), recurrent_kernel.dtype)


def _read(function: str, name: str, params: Params) -> Any:
    """The parameter that says how wide a carry is."""
    if name not in params:
        raise ValueError(
            f"{function} reads the width of the carry off {name}, got the parameters "
            f"{sorted(params)}; zero_hidden reads recurrent_kernel, zero_carry(gates) "
            "reads kernel, and a Cell.initial_carry of your own any other."
        )
    return params[name]
