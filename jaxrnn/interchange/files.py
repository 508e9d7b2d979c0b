"""How is a file written so that nobody meets half of it?"""

import contextlib
import importlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

Path = str | os.PathLike[str]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
    """Yields a path to write to, which becomes `path` when all went well.

    Until then an older file stays as it is; after an error it stays for good.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f".{path.name}."
    ) as folder:
        unfinished = pathlib.Path(folder) / path.name
        yield unfinished
        os.replace(unfinished, path)  # atomic: same file system


def optional(module: str) -> Any:
    """Imports what an extra brings.

    Raises:
      ImportError: without it; says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this needs {module.split('.')[0]}, which is not installed; "
            "pip install jaxrnn[interchange] brings it."
        ) from error
