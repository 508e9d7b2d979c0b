"""In which dtype do sums add up? In float32 at least, whatever the arrays have."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Inexact, Shaped


def widened(values: Shaped[Any, "..."]) -> Inexact[Array, "..."]:
    """The values in float32, or as they are in a wider dtype, or a complex one.

    Losses and scans compute in it: half precision has neither 1 - 1e-7 nor the square
    of 300, and differences of bytes wrap around.

    Example:
      >>> widened(jnp.ones(2, jnp.bfloat16)).dtype, widened(np.ones(2)).dtype
      (dtype('float32'), dtype('float32'))
    """
    # At once: on the way through JAX' integers those of NumPy would lose upper bits.
    wide = jnp.issubdtype(values.dtype, jnp.inexact) and values.dtype.itemsize >= 4
    return jnp.asarray(values, None if wide else jnp.float32)
