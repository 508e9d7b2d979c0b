"""What are all x_t of x_t = a_t x_{t-1} + b_t? Found without a loop over time."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def affine_scan(a: Array, b: Array) -> Array:
    """x_t = a_t x_{t-1} + b_t from x_0 = 0 on, for all t at once.

    An associative scan: some 2 log2(time) rounds, each over all of time. Its derivative
    in any direction is another such scan, and a pullback is one from the last step to
    the first, with a transposed; nothing of the rounds is kept for it.

    Args:
      a: (time, *batch, n), a diagonal at every step, or (time, *batch, n, n), a matrix;
        real or complex.
      b: (time, *batch, n).

    Returns:
      (time, *batch, n).

    Example:
      >>> a = jnp.array([[0.0], [2.0], [3.0]])
      >>> affine_scan(a, jnp.ones((3, 1))).tolist()
      [[1.0], [3.0], [10.0]]
    """

    def residual(x: Array) -> Array:
        return x - times(a, shifted(x))

    def solve(residual: object, b: Array) -> Array:
        del residual
        return _solve(a, b)

    def transpose_solve(residual: object, cotangent: Array) -> Array:
        """g_t + a_{t+1}^T (g_{t+1} + a_{t+2}^T (...)), from the last step on."""
        del residual
        later = a if a.ndim == b.ndim else jnp.swapaxes(a, -1, -2)
        later = jnp.concatenate([later[1:], jnp.zeros_like(later[:1])])
        return jnp.flip(_solve(jnp.flip(later, 0), jnp.flip(cotangent, 0)), 0)

    return jax.lax.custom_linear_solve(residual, b, solve, transpose_solve)


def _solve(a: Array, b: Array) -> Array:
    return jax.lax.associative_scan(_after, (a, b))[1]


def _after(first: tuple[Array, Array], then: tuple[Array, Array]) -> Any:
    """The map c (a x + b) + d of the steps of `then` after those of `first`."""
    (a, b), (c, d) = first, then
    both = c * a if a.ndim == b.ndim else jnp.matmul(c, a, precision="highest")
    return both, times(c, b) + d


def times(a: Array, x: Array) -> Array:
    """The product a x at every step, for a diagonal or a matrix."""
    if a.ndim == x.ndim:
        return a * x
    return jnp.matmul(a, x[..., None], precision="highest")[..., 0]


def shifted(x: Array, first: Array | None = None) -> Array:
    """x_{t-1} of every step; before the first one `first`, or zeros."""
    before = jnp.zeros_like(x[:1]) if first is None else first[None]
    return jnp.concatenate([before, x[:-1]])
