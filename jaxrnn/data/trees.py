"""How do functions of arrays reach into tuples, lists and dicts of arrays?

As `jax.tree` does; but reading data imports no JAX.
"""

from collections.abc import Callable, Mapping
from typing import Any


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same tuples, lists, named tuples and dicts, of other leaves; None is none.

    Example:
      >>> tree_map(len, {"ids": ["a", "bc"], "more": ("def", None)})
      {'ids': [1, 2], 'more': (3, None)}
    """
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        return {name: tree_map(function, value) for name, value in tree.items()}
    if not isinstance(tree, tuple | list):
        return function(tree)
    values = [tree_map(function, value) for value in tree]
    named = hasattr(tree, "_fields")
    return type(tree)(*values) if named else type(tree)(values)


def leaves_of(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    """(where it stands, the leaf) of all.

    Example:
      >>> leaves_of({"ids": 3, "more": (4, None)}, "inputs")
      [("inputs['ids']", 3), ("inputs['more'][0]", 4)]
    """
    if tree is None:
        return []
    if isinstance(tree, Mapping):
        inner = [(f"[{name!r}]", value) for name, value in tree.items()]
    elif isinstance(tree, tuple | list):
        names = getattr(tree, "_fields", None)
        marks = (
            [f".{n}" for n in names] if names else map("[{}]".format, range(len(tree)))
        )
        inner = list(zip(marks, tree, strict=True))
    else:
        return [(path, tree)]
    return [leaf for place, value in inner for leaf in leaves_of(value, path + place)]
