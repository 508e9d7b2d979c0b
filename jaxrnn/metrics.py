"""How do averages over batches add up exactly?"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Mean(NamedTuple):
    """A weighted mean as its two sums, so that the means of batches add up exactly.

    Example:
      >>> one = Mean.of(jnp.array([1.0, 3.0]))
      >>> two = Mean.of(jnp.array([8.0, 99.0]), weight=jnp.array([1.0, 0.0]))
      >>> one.add(two).value.item()
      4.0
    """

    total: Array
    weight: Array

    @classmethod
    def of(
        cls,
        values: Float[Array, " batch"],
        weight: Float[Array, " batch"] | None = None,
    ) -> "Mean":
        """The mean of one batch; `weight` 0 leaves a row out."""
        weight = jnp.ones_like(values) if weight is None else weight
        return cls((values * weight).sum(), weight.sum())

    def add(self, other: "Mean") -> "Mean":
        """The mean over both."""
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> Array:
        """The mean itself: total / weight."""
        return self.total / self.weight


def over_batches(means: Mapping[str, Mean]) -> dict[str, Mean]:
    """Adds up means that were stacked over batches, as `jax.lax.scan` returns them.

    Example:
      >>> stacked = Mean(total=jnp.array([4.0, 8.0]), weight=jnp.array([2.0, 1.0]))
      >>> over_batches({"loss": stacked})["loss"].value.item()
      4.0
    """
    return {
        name: Mean(mean.total.sum(axis=0), mean.weight.sum(axis=0))
        for name, mean in means.items()
    }


def values(means: Mapping[str, Mean]) -> dict[str, Any]:
    """The means as numbers: the one copy from the device to the host.

    Returns:
      `{name: float}`, or NumPy arrays where several models were trained at once.

    Example:
      >>> values({"loss": Mean(jnp.array(3.0), jnp.array(2.0))})
      {'loss': 1.5}
    """
    on_host = {name: _divided(*map(np.asarray, mean)) for name, mean in means.items()}
    return {n: v.item() if v.ndim == 0 else v for n, v in on_host.items()}


def _divided(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`Mean.value` on the host, where it is no program to compile."""
    with np.errstate(all="ignore"):
        return np.asarray(total / weight)
