"""What do the models share? Their Dense layer, and their checks."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrnn.cells.checks import as_array, check_size
from jaxrnn.cells.params import glorot_uniform
from jaxrnn.dtypes import widened


def check_sizes(model: nn.Module, *names: str) -> None:
    """Raises where a size is below 1, or None where that is no default."""
    optional = {f.name for f in dataclasses.fields(model) if f.default is None}
    for name in names:
        size = getattr(model, name)
        if size is not None or name not in optional:
            check_size(name, size)


def given(deterministic: bool | None) -> dict[str, bool]:
    """The argument of a call; None leaves it to the layer."""
    return {} if deterministic is None else {"deterministic": deterministic}


def dense(features: int, name: str) -> nn.Dense:
    """A Dense layer with Keras' initial values (Flax takes lecun_normal)."""
    return nn.Dense(features, kernel_init=glorot_uniform, name=name)


def head(num_classes: int | None) -> nn.Dense:
    """The last Dense layer: a logit for each class, a single one of two classes."""
    return dense(1 if num_classes is None else num_classes, name="head")


def check_classes(num_classes: int | None) -> None:
    """Raises where there are no classes to tell apart."""
    if num_classes is not None:
        check_size("num_classes", num_classes)
        if num_classes < 2:
            raise ValueError(
                f"num_classes must be at least 2, got {num_classes}; None stands for "
                "two classes with one logit, for a sigmoid."
            )


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
    return widened(features)


def as_sequence(features: Any) -> Array:
    """The same of a layer that returns all of its outputs."""
    if getattr(features, "ndim", None) != 3:
        raise ValueError(
            "recurrent must return its outputs, (batch, time, features), got "
            f"{jax.tree.map(jnp.shape, features)}; say return_sequences=True, leave "
            "out return_carry, and give a Bidirectional a merge."
        )
    return widened(features)


def ranked(name: str, values: Any, axes: tuple[str, ...]) -> Any:
    """What a model is given, as an array.

    Raises:
      TypeError: what is no array of numbers.
      ValueError: other axes.
    """
    array = as_array(name, values)
    if array.ndim != len(axes):
        raise ValueError(
            f"the model takes an array with the axes ({', '.join(axes)}), got shape "
            f"{array.shape}; a single row is array[None]."
        )
    return array
