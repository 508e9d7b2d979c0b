"""How is a package imported that may be missing?"""

import importlib
from typing import Any


def optional(module: str, extra: str) -> Any:
    """Imports what an extra of jaxrnn brings.

    Args:
      module: its full name, such as "matplotlib.figure".
      extra: the one that brings it, such as "plots".

    Raises:
      ImportError: without it; says how to get it.

    Example:
      >>> optional("json", "experiments").loads("[1]")
      [1]
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this needs {module.split('.')[0]}, which is not installed; "
            f"pip install jaxrnn[{extra}] brings it."
        ) from error
