"""The linear recurrent unit: every feature turns and shrinks in the complex plane."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Cell, Linear, Params, ParamSpec
from jaxrnn.cells.ops import as_row, gated_matmul
from jaxrnn.cells.params import as_one_program, zero_carry, zeros
from jaxrnn.dtypes import widened


def lru_cell(
    *, min_radius: float = 0.0, max_radius: float = 1.0, max_phase: float = 2 * math.pi
) -> Cell:
    """The LRU cell: a complex diagonal, without gates.

        h' = lambda * h + gamma * (x B)
        lambda = exp(-exp(nu_log) + i exp(theta_log))
        gamma = exp(gamma_log) sqrt(1 - |lambda|^2)

    The carry is one real array, the real parts of h and then the imaginary ones, so
    that a Dense layer after it is the paper's Re(C h), with a skip connection its D x.
    An even number of features is needed, half of them is the paper's N. `kernel`
    (in_features, features) holds the real and the imaginary part of B side by side.
    Arithmetic is float32 at least.

    lambda starts uniform on the ring between two radii, with phases uniform from 0 on,
    B normal with variance 1 / (2 in_features). gamma starts at sqrt(1 - |lambda|^2), so
    that white noise makes for carries of size one; the paper then trains gamma by
    itself, here it goes on to follow lambda, times a factor that starts at 1.

    Args:
      min_radius, max_radius: of the ring. The paper's own code has 0 and 1; it takes
        0.9 to 0.999 and the like where memory must be long.
      max_phase: the largest initial phase; smaller than pi where sequences are long.

    Returns:
      A `Cell` whose carry is (*batch, features); the same object for equal settings.

    Raises:
      ValueError: radii that are not 0 <= min_radius < max_radius <= 1, a `max_phase`
        not above 0; an odd number of features.

    Example:
      >>> lru_cell() is lru
      True
      >>> params = init_params(lru, jax.random.key(0), in_features=2, features=4)
      >>> {name: value.shape for name, value in params.items()}  # 4 features: N is 2
      {'kernel': (2, 4), 'nu_log': (2,), 'theta_log': (2,), 'gamma_log': (2,)}

    Reference: Orvieto et al., Resurrecting recurrent neural networks for long
    sequences, 2023, arXiv 2303.06349, section 3 and appendix A.
    """
    if not 0 <= min_radius < max_radius <= 1:
        raise ValueError(
            "the radii must have 0 <= min_radius < max_radius <= 1, got "
            f"{min_radius} and {max_radius}."
        )
    if not max_phase > 0:
        raise ValueError(f"max_phase must be above 0, got {max_phase}.")
    return _build(min_radius, max_radius, max_phase)


@functools.lru_cache(maxsize=256)
def _build(min_radius: float, max_radius: float, max_phase: float) -> Cell:
    nu_log = functools.partial(_nu_log, min_radius, max_radius)
    theta_log = functools.partial(_theta_log, max_phase)

    def param_specs(in_features: int, features: int) -> dict[str, ParamSpec]:
        if features % 2:
            raise ValueError(
                "lru takes an even number of features, real parts and imaginary parts, "
                f"got {features}."
            )
        row = (features // 2,)
        return {
            "kernel": ParamSpec((in_features, features), _half_lecun),
            "nu_log": ParamSpec(row, as_one_program(nu_log)),
            "theta_log": ParamSpec(row, as_one_program(theta_log)),
            "gamma_log": ParamSpec(row, zeros),
        }

    return Cell(
        name="lru",
        param_specs=param_specs,
        initial_carry=zero_carry(1),
        project=_project,
        step=_step,
        output=_output,
        linear=Linear(_coefficients, _pack, _unpack),
    )


_half_lecun = as_one_program(
    jax.nn.initializers.variance_scaling(0.5, "fan_in", "normal")
)


def _nu_log(
    min_radius: float, max_radius: float, key: Array, shape: tuple[int, ...], dtype: Any
) -> Array:
    """Radii uniform on the ring, by area: log(-log(radius))."""
    square = _uniform(key, shape, min_radius**2, max_radius**2)
    return jnp.log(-0.5 * jnp.log(square)).astype(dtype)


def _theta_log(
    max_phase: float, key: Array, shape: tuple[int, ...], dtype: Any
) -> Array:
    return jnp.log(_uniform(key, shape, 0.0, max_phase)).astype(dtype)


def _uniform(key: Array, shape: tuple[int, ...], low: float, high: float) -> Array:
    """Without 0, whose logarithm no gradient survives; 2^-24 at most is drawn as it."""
    drawn = jax.random.uniform(key, shape, jnp.float32, low, high)
    return jnp.maximum(drawn, 2.0**-24)


def _project(params: Params, inputs: Array) -> Array:
    """The real and the imaginary parts of gamma * (x B)."""
    projected = gated_matmul(inputs, params["kernel"], params.get("dropout"))
    shrink = -jnp.expm1(-2 * jnp.exp(params["nu_log"]))  # 1 - |lambda|^2
    gamma = jnp.exp(params["gamma_log"]) * jnp.sqrt(shrink)
    return projected * as_row(jnp.concatenate([gamma, gamma]), projected)


def _coefficients(params: Params, projected: Array) -> tuple[Array, Array]:
    b = _pack(projected)
    radius = jnp.exp(-jnp.exp(as_row(params["nu_log"], b.real)))
    phase = jnp.exp(as_row(params["theta_log"], b.real))
    a = jax.lax.complex(radius * jnp.cos(phase), radius * jnp.sin(phase))
    return jnp.broadcast_to(a, b.shape), b


def _step(params: Params, carry: Array, projected: Array) -> Array:
    a, b = _coefficients(params, projected)
    return _unpack(a * _pack(carry) + b).astype(carry.dtype)


def _pack(carry: Array) -> Array:
    return jax.lax.complex(*jnp.split(widened(carry), 2, axis=-1))


def _unpack(packed: Array) -> Array:
    return jnp.concatenate([packed.real, packed.imag], axis=-1)


def _output(hidden: Array) -> Array:
    return hidden


lru: Cell = lru_cell()
