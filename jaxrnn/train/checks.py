"""What is checked on the host, where a compiled function sees shapes alone?"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from jaxrnn.data.batches import check_integers
from jaxrnn.train.devices import check_sharding, everywhere

P = ParamSpec("P")
R = TypeVar("R")


def everything_everywhere(
    sharding: NamedSharding, arrays: Mapping[str, PyTree], over: Any
) -> dict[str, PyTree]:
    """The arrays among the arguments of a function, the same on every device."""
    del over
    return {name: everywhere(sharding, array) for name, array in arrays.items()}


def checked_first(
    check: Callable[..., None],
    place: Callable[..., Mapping[str, PyTree]] = everything_everywhere,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Runs `check` on the arguments of every call of a function that is jitted.

    With a `sharding` among them, the arrays are then put onto its mesh.

    What is jitted can be compiled ahead of time as ever: `lower` and `trace` are those
    of the function inside, and they check nothing.

    Args:
      check: takes what the function takes.
      place: `(sharding, {name: arrays}, over) -> {name: arrays on the mesh}`.
    """

    def decorate(jitted: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(jitted)
        by_position = inspect.Parameter.POSITIONAL_OR_KEYWORD
        of_arrays = {
            name
            for name, parameter in signature.parameters.items()
            if parameter.kind == by_position or name == "noise_key"
        }

        @functools.wraps(jitted)
        def function(*args: P.args, **kwargs: P.kwargs) -> R:
            check(*args, **kwargs)
            sharding: Any = kwargs.get("sharding")
            if sharding is None:
                return jitted(*args, **kwargs)
            given = signature.bind(*args, **kwargs).arguments
            check_sharding(sharding)
            arrays = {name: given[name] for name in of_arrays & given.keys()}
            placed: Any = {**given, **place(sharding, arrays, given.get("over"))}
            by_name: Any = jitted
            return by_name(**placed)

        for name in ("lower", "trace", "eval_shape", "clear_cache", "_cache_size"):
            setattr(function, name, getattr(jitted, name))
        return function

    return decorate


def check_order(order: Any, examples: int) -> None:
    """Raises where an order of visiting is known and names a row that is not there.

    It is read back from the device where it lies there: once an epoch, a number a row.
    """
    dtype = getattr(order, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(
            "order must be an array of integers, the rows to visit, got "
            f"{dtype or type(order).__name__}; np.flatnonzero makes them of a mask."
        )
    if order.size == 0 or not _is_known(order):
        return
    rows = jax.device_get(order)
    if rows.min() < 0 or rows.max() >= examples:
        raise ValueError(
            f"order must hold rows of the dataset, from 0 to {examples - 1}, got "
            f"{rows.min()} to {rows.max()}; jax.random.permutation(key, {examples}) "
            "visits each once."
        )


def _is_known(array: Any) -> bool:
    """Whether its values are at hand: no trace is running, no other host has a part."""
    if isinstance(array, np.ndarray):
        return True
    return not isinstance(array, jax.core.Tracer) and array.is_fully_addressable


def check_all_integers(name: str, arrays: PyTree) -> None:
    """Raises where integers of NumPy would wrap around; see `check_integers`."""
    for leaf in jax.tree.leaves(arrays):
        check_integers(name, leaf)


def rows_of(inputs: PyTree) -> int:
    """The number of rows that arrays have in common.

    Raises:
      ValueError: none at all, or another number in one than in the others.
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(inputs)]
    rows = {shape[:1] for shape in shapes}
    if len(rows) != 1 or rows & {(), (0,)}:
        raise ValueError(
            "inputs must be arrays with a common first axis of at least one row, got "
            f"shapes {shapes}."
        )
    return shapes[0][0]
