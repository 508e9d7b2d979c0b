"""Which parameters does a rule mean? Those whose path ends in its name."""

from collections.abc import Mapping
from typing import TypeVar

import jax
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
