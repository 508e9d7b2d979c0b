"""Is it a size, an array, a dtype, a key, a cell? What is none, raises by name."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.cells.base import AnyArray, Cell


def check_size(name: str, size: Any) -> None:
    """Raises a ValueError where a number of features, or of ids, is none.

    Example:
      >>> check_size("features", 0)
      Traceback (most recent call last):
      ValueError: features must be a whole number of at least 1, got 0.
    """
    is_whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    if not is_whole or size < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}.")


def as_array(name: str, values: Any) -> AnyArray:
    """Arrays as they are; nested lists, and what else holds numbers, as an array.

    Raises:
      TypeError: what is no numbers, or rows of different lengths.

    Example:
      >>> as_array("inputs", [[1.0, 2.0], [3.0, 4.0]]).shape
      (2, 2)
      >>> as_array("inputs", None)
      Traceback (most recent call last):
      TypeError: inputs must be an array of numbers, got None; np.asarray makes one of \
nested lists.
    """
    if isinstance(values, jax.Array):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OSUmM":
        return values
    try:
        return jnp.asarray(values)
    except (TypeError, ValueError) as error:
        found = f"a {type(values).__name__}"
        way_out = "np.asarray makes one of nested lists"
        if isinstance(values, str | None):
            found = repr(values)
        elif hasattr(values, "dtype"):
            found = f"an array of {values.dtype}"
        elif isinstance(values, list | tuple):
            way_out = (
                "rows of different lengths are padded, as jaxrnn.data.buckets does"
            )
        raise TypeError(
            f"{name} must be an array of numbers, got {found}; {way_out}."
        ) from error


def check_dtype(name: str, dtype: Any) -> None:
    """Raises a TypeError where something is to be computed, or kept, in no floats.

    Args:
      name: for the message.
      dtype: None passes: it stands for a default.

    Example:
      >>> check_dtype("dtype", jnp.bfloat16)
      >>> check_dtype("dtype", int)
      Traceback (most recent call last):
      TypeError: dtype must be floating point, such as jnp.float32, got int64.
    """
    if dtype is None:
        return
    try:
        found, fits = np.dtype(dtype), jnp.issubdtype(dtype, jnp.floating)
    except TypeError:  # a name that is none
        found, fits = repr(dtype), False
    if not fits:
        raise TypeError(
            f"{name} must be floating point, such as jnp.float32, got {found}."
        )


def check_key(name: str, key: Any) -> None:
    """Raises where a key is none, or several; the raw bits of one pass, as in JAX.

    Raises:
      TypeError: what is no key.
      ValueError: several keys.

    Example:
      >>> check_key("key", 0)
      Traceback (most recent call last):
      TypeError: key must be a key of JAX, got 0; make one with jax.random.key(seed).
    """
    dtype = getattr(key, "dtype", None)
    is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not is_key and (dtype != jnp.uint32 or not key.ndim):
        found = repr(key) if dtype is None else f"{dtype} of shape {key.shape}"
        raise TypeError(
            f"{name} must be a key of JAX, got {found}; make one with "
            "jax.random.key(seed)."
        )
    if key.ndim > (0 if is_key else 1):
        raise ValueError(
            f"{name} must be one key, got several of shape {key.shape}; take keys[0], "
            "or jax.vmap over the keys."
        )


def check_cell(cell: Any) -> None:
    """Raises a TypeError where what is given for a cell is none.

    Example:
      >>> check_cell(mgu_cell)
      Traceback (most recent call last):
      TypeError: cell must be a Cell of jaxrnn, got mgu_cell; write mgu_cell().
    """
    if isinstance(cell, Cell):
        return
    has_name = isinstance(cell, type) or inspect.isfunction(inspect.unwrap(cell))
    name = cell.__name__ if has_name else type(cell).__name__
    call = f"{name}({', '.join(_required(cell))})" if has_name else "cell"
    if hasattr(cell, "initialize_carry"):
        way_out = (
            f"a cell of Flax runs in jaxrnn.RNN({call}), in the place of "
            "flax.linen.RNN, or one of NNX in jaxrnn.nnx.RNN"
        )
    elif has_name and not isinstance(cell, type):
        way_out = f"write {call}"
    else:
        way_out = "take one such as jaxrnn.gru, or jaxrnn.mgu_cell()"
    found = repr(cell) if isinstance(cell, str | float | None) else name
    raise TypeError(f"cell must be a Cell of jaxrnn, got {found}; {way_out}.")


def _required(function: Callable[..., Any]) -> list[str]:
    """The arguments that a function, or a class, cannot do without."""
    optional = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in optional
    ]
