"""May the axes of an array be merged for speed? XLA:CPU likes one long axis best.

It computes a tanh up to three times as fast over one long axis as over rows of 32, and
multiplies without a copy where time and batch are one axis.
"""

import jax
from jax import Array


def may_merge_axes() -> bool:
    """Not where devices share arrays: an axis that is sharded would be gathered."""
    return jax.device_count() == 1


def flat(array: Array) -> Array:
    """The array with all its axes merged, where that may be.

    Example:
      >>> flat(jnp.ones((2, 3))).shape, flat(jnp.ones(())).shape
      ((6,), ())
    """
    return array.reshape(-1) if array.ndim > 1 and may_merge_axes() else array
