"""What do the models share? Their Dense layer, and their checks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrnn.cells.base import check_size
from jaxrnn.cells.params import glorot_uniform


def check_sizes(model: nn.Module, *names: str) -> None:
    """Raises where a size is given that is below 1."""
    for name in names:
        if getattr(model, name) is not None:
            check_size(name, getattr(model, name))


def given(deterministic: bool | None) -> dict[str, bool]:
    """The argument of a call; None leaves it to the layer."""
    return {} if deterministic is None else {"deterministic": deterministic}


def dense(features: int, name: str) -> nn.Dense:
    """A Dense layer with Keras' initial values (Flax takes lecun_normal)."""
    return nn.Dense(features, kernel_init=glorot_uniform, name=name)


def as_features(features: Any) -> Array:
    """What a recurrent layer of a narrow `dtype` returns, for the layers above it.

    In mixed precision the recurrence is narrow; the Dense layers, which cost little,
    and with them the logits and the loss are not.
    """
    if getattr(features, "ndim", None) != 2:
        raise ValueError(
            "recurrent must return its last output, (batch, features), got "
            f"{jax.tree.map(jnp.shape, features)}; leave out return_sequences and "
            "return_carry, and give a Bidirectional a merge."
        )
    return features.astype(jnp.float32) if features.dtype.itemsize < 4 else features


def check_rank(array: Any, axes: tuple[str, ...]) -> None:
    if array.ndim != len(axes):
        raise ValueError(
            f"the model takes an array with the axes ({', '.join(axes)}), got shape "
            f"{array.shape}; a single row is array[None]."
        )
