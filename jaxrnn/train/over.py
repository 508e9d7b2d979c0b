"""How do several models train in one program? All at once, or one after the other."""

from collections.abc import Callable
from typing import Any

import jax

Over = Callable[[Callable], Callable]  # jax.vmap, one_by_one


def one_by_one(function: Callable) -> Callable:
    """Maps over the leading axis of every argument, one element after the other.

    The same meaning as `jax.vmap`, with `jax.lax.map` underneath: for `over` in
    `train_epoch`, `evaluate` and `fit`. It needs the memory of one model at a time.
    `jax.vmap` fills an accelerator that one model cannot fill.

    Example:
      >>> one_by_one(jnp.dot)(jnp.ones((5, 2)), jnp.ones((5, 2))).tolist()
      [2.0, 2.0, 2.0, 2.0, 2.0]
    """

    def mapped(*arguments: Any) -> Any:
        return jax.lax.map(lambda row: function(*row), arguments)

    return mapped


def over_models(over: Over | None, function: Callable) -> Callable:
    """The function of several models; `over` is None where there is one alone.

    Raises:
      TypeError: an `over` that is no function of a function.
    """
    if over is None:
        return function
    if not callable(over):
        raise TypeError(
            f"over must be jax.vmap or jaxrnn.one_by_one, got {over!r}; it is left out "
            "for a single model."
        )
    return over(function)
