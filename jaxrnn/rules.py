"""Which parameters does a rule mean? Those whose path ends in its name."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

Rule = TypeVar("Rule")


def rules_by_leaf(params: PyTree, rules: Mapping[str, Rule]) -> list[list[Rule]]:
    """The rules that mean each parameter, in the order given.

    Args:
      params: a pytree of any depth.
      rules: `{name: rule}`. A name is that of a parameter ("kernel") or the end of its
        path ("recurrent/kernel"), and stands for all that fit.

    Returns:
      One list per leaf, in the order of `jax.tree.leaves`.

    Raises:
      ValueError: a name that fits no parameter.

    Example:
      >>> params = {"head": {"kernel": 1}, "rnn": {"kernel": 2, "recurrent_kernel": 3}}
      >>> rules_by_leaf(params, {"kernel": "a", "rnn/kernel": "b"})
      [['a'], ['a', 'b'], []]
    """
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]

    def fits(name: str, path: str) -> bool:
        return f"/{path}".endswith(f"/{name}")

    for name in rules:
        if not any(fits(name, path) for path in paths):
            raise ValueError(
                f"every name in rules must end the path of a parameter, got {name!r}; "
                f"the parameters are {paths}."
            )
    return [[rule for name, rule in rules.items() if fits(name, p)] for p in paths]


def check_rules(rules: Any, such_as: str) -> None:
    """Raises a TypeError where rules are no functions by name.

    Args:
      rules: `{name: function}`.
      such_as: how a rule is written, for the message.
    """
    found: Any = type(rules).__name__
    if isinstance(rules, Mapping):
        found = {name: rule for name, rule in rules.items() if not callable(rule)}
    if found:
        raise TypeError(
            f"rules must be {{name: function}}, such as {{'kernel': {such_as}}}, got "
            f"{found}."
        )


def check_settings(**settings: Any) -> None:
    """Raises a TypeError where a setting of a rule is no number.

    It is an array where a rule was not called: `l2` in the place of `l2(0.01)`.
    """
    for name, setting in settings.items():
        if np.ndim(setting) or np.asarray(setting).dtype.kind not in "fiu":
            found = type(setting).__name__ if np.ndim(setting) else repr(setting)
            raise TypeError(
                f"{name} must be a number, got {found}; a rule is made with its "
                "settings, as in regularizers.l2(0.01) and constraints.max_norm(2.0)."
            )
