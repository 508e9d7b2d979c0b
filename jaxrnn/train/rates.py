"""How does a learning rate change by epoch? It stands in the optimizer's state."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.train.plateaus import History
from jaxrnn.train.state import TrainState

LearningRate = Callable[[int, Any, History], Any]  # (epoch, rate, history) -> rate


def rates(state: TrainState) -> dict[str, Any]:
    """The learning rates of an `adjustable` optimizer, or of several.

    Returns:
      `{"learning_rate": rate}`; with a rate for each group of `optax.multi_transform`
      `{"learning_rate/group": rate, ...}`. A rate is a number, or one per model.

    Raises:
      ValueError: no rate in the state, or several that no group tells apart.

    Example:
      >>> import optax
      >>> optimizer = optax.multi_transform(
      ...     {"slow": adjustable(optax.sgd, 0.25), "fast": adjustable(optax.sgd, 0.5)},
      ...     {"embed": "slow", "head": "fast"},
      ... )
      >>> state = init_state({"embed": jnp.ones(2), "head": jnp.ones(3)}, optimizer)
      >>> for name, rate in rates(state).items():
      ...     print(name, rate)
      learning_rate/fast 0.5
      learning_rate/slow 0.25
    """
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    found = [(path, leaf) for path, leaf in leaves if _is_rate(path)]
    if not found:
        raise ValueError(
            "learning_rate needs an optimizer whose rate stands in its state, found "
            "none; make it by jaxrnn.adjustable(jaxrnn.keras_adam, 0.001), say, for "
            "init_state and fit."
        )
    groups = [_groups(path) if len(found) > 1 else [] for path, _ in found]
    by_name = {
        "/".join(["learning_rate", *group]): np.asarray(leaf, np.float64)[()]
        for group, (_, leaf) in zip(groups, found, strict=True)
    }
    if len(by_name) < len(found):
        raise ValueError(
            "every adjustable learning rate must belong to a group of its own, found "
            f"{len(found)} for the groups {groups}; optax.multi_transform names groups."
        )
    return by_name


def with_rates(state: TrainState, rates: Mapping[str, Any]) -> TrainState:
    """The state with other rates, in the shapes and dtypes it has: nothing recompiles.

    Args:
      state: of an `adjustable` optimizer.
      rates: all of them, under the names and in the order of `rates(state)`.

    Raises:
      TypeError: a rate that is no number.
      ValueError: a negative rate, or NaN; another number of them than of models.
    """
    in_order = iter(rates.values())

    def replaced(path: Any, old: Any) -> Any:
        if not _is_rate(path):
            return old
        new = next(in_order)
        found = np.asarray(new)
        if found.dtype.kind not in "fiuV":  # V is that of bfloat16
            raise TypeError(
                f"learning_rate must return a number, got {new!r}; return the rate "
                "that it is given where nothing is to change."
            )
        if found.shape not in ((), old.shape) or not (found >= 0).all():
            raise ValueError(
                "learning_rate must return a number that is not negative, or as many "
                f"as there are models, {old.shape}, got {new!r}."
            )
        return jnp.broadcast_to(jnp.asarray(new, old.dtype), old.shape)

    opt_state = jax.tree_util.tree_map_with_path(replaced, state.opt_state)
    return state._replace(opt_state=opt_state)


def _is_rate(path: Any) -> bool:
    """Whether a leaf is what `optax.inject_hyperparams` keeps as the learning rate."""
    return path[-2:] == (
        jax.tree_util.GetAttrKey("hyperparams"),
        jax.tree_util.DictKey("learning_rate"),
    )


def _groups(path: Any) -> list[str]:
    """The labels of `optax.multi_transform` on the way to a rate."""
    keys = [key for key in path[:-1] if isinstance(key, jax.tree_util.DictKey)]
    return [str(key.key) for key in keys]
