"""How do averages over batches add up exactly?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxrnn.dtypes import widened

Values = Shaped[Any, "..."] | Sequence[Any] | float  # lists of numbers too


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
    def of(cls, values: Values, weight: Values | None = None) -> "Mean":
        """The mean of one batch.

        A value whose weight is 0 is left out, of the mean and of its gradient, even
        where it is NaN or infinite. What a value was computed from is not: the
        derivative of `error**2` at a NaN is NaN, and 0 times it too. So fill up what is
        missing with numbers before it enters the loss; filler rows of a batch are
        copies of real ones.

        Args:
          values: an array of any shape, or a list of numbers.
          weight: of each value; or of its leading axes only, such as one weight per
            row for values (batch, time): then all values of a row have the weight of
            the row. None means 1.

        One mistake cannot be seen here: targets (batch, 1) less predictions (batch,)
        are values (batch, batch), each compared with each, and these look like
        (batch, time). So compare what has one shape; a last axis of 1 goes with
        `targets[:, 0]`.

        Raises:
          TypeError: complex values or weights.
          ValueError: a weight whose shape is not that of the leading axes of `values`.

        Example:
          >>> Mean.of([[1.0, 3.0], [5.0, jnp.nan]], weight=[1, 0]).value.item()
          2.0
        """
        values = _array(values)
        if weight is None:
            return cls(values.sum(), jnp.full((), values.size, values.dtype))
        weight = _array(weight).astype(values.dtype)
        if values.shape[: weight.ndim] != weight.shape:
            raise ValueError(
                "weight must have the shape of values or of their leading axes, got "
                f"weight {weight.shape} for values {values.shape}; reshape drops axes "
                "of 1, and jnp.broadcast_to spreads a weight."
            )
        rest = values.shape[weight.ndim :]
        each = weight.reshape(*weight.shape, *[1] * len(rest))
        counted = jnp.where(each == 0, 0, values)  # 0 * NaN would be NaN
        return cls((counted * each).sum(), weight.sum() * math.prod(rest))

    def add(self, other: "Mean") -> "Mean":
        """The mean over both."""
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> Float[Array, "..."]:
        """The mean itself, total / weight; NaN, with a gradient of 0, of no weight.

        Training on a batch without any weight thus gets a gradient of zeros.
        """
        empty = self.weight == 0
        mean = self.total / jnp.where(empty, 1, self.weight)
        return jnp.where(empty, jnp.nan, mean)


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
      `{name: float}`, or NumPy arrays where several models were trained at once; NaN
      where there is no weight.

    Raises:
      TypeError: what is no {name: Mean}, such as what `values` has returned.

    Example:
      >>> values({"loss": Mean(jnp.array(3.0), jnp.array(2.0))})
      {'loss': 1.5}
    """
    found: Any = type(means).__name__
    if isinstance(means, Mapping):
        items = means.items()
        found = {n: type(x).__name__ for n, x in items if not isinstance(x, Mean)}
    if found:
        raise TypeError(
            f"values makes numbers of {{name: Mean}}, got {found}; the value of a "
            "single Mean is mean.value."
        )
    on_host = {name: _divided(*map(np.asarray, mean)) for name, mean in means.items()}
    return {n: v.item() if v.ndim == 0 else v for n, v in on_host.items()}


def _divided(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`Mean.value` on the host, where it is no program to compile."""
    with np.errstate(all="ignore"):
        return np.where(weight == 0, np.nan, total / weight)


def _array(values: Any) -> Array:
    """In float32 or wider, where sums of many rows are exact enough."""
    array = values if hasattr(values, "dtype") else jnp.asarray(values, float)
    if jnp.iscomplexobj(array):
        raise TypeError(
            "a Mean takes real values and weights, got complex ones; take jnp.abs of "
            "them, or a Mean of each part."
        )
    return widened(array)
