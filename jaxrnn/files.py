"""How does the package meet the file system, and packages that may be missing?

Files are written whole or not at all, results as one JSON object a line, and what can
be made again lies in one folder of the user's.
"""

import contextlib
import importlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Path = str | os.PathLike[str]
Record = Mapping[str, Any]


def cache_folder() -> pathlib.Path:
    """The user's folder for what can be made again; it may be deleted at any time.

    Returns:
      `$XDG_CACHE_HOME/jaxrnn`, or `~/.cache/jaxrnn` where that is not set. It need not
      exist.

    Raises:
      RuntimeError: the user has no home directory.

    Example:
      >>> cache_folder().name
      'jaxrnn'
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return pathlib.Path(home).expanduser() / "jaxrnn"
    except RuntimeError as error:
        raise RuntimeError(
            "there is no home directory to keep a cache in: HOME is not set, and the "
            "system knows no such user; set HOME or XDG_CACHE_HOME."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
    """Yields a path to write to, which becomes `path` when all went well.

    Until then an older file stays as it is; after an error it stays for good. Nobody
    meets half a file, and of two processes that write the same one, the last wins.

    Args:
      path: the file; its folder is made where it is missing.

    Example:
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with replacing(f"{folder}/words.txt") as unfinished:
      ...         _ = unfinished.write_text("all of them")
      ...     os.listdir(folder)
      ['words.txt']
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f".{path.name}."
    ) as folder:
        unfinished = pathlib.Path(folder) / path.name
        yield unfinished
        os.replace(unfinished, path)  # atomic: same file system


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


def json_line(record: Record) -> str:
    r"""One record as a line of JSON, newline included.

    Arrays and numbers of NumPy and JAX become lists and numbers. What is not finite is
    written as NaN, Infinity or -Infinity, which Python reads and JSON proper does not
    know.

    Raises:
      TypeError: a value that is none of these and that JSON does not know.

    Example:
      >>> json_line({"epoch": 0, "loss": np.array([0.5, 0.25])})
      '{"epoch": 0, "loss": [0.5, 0.25]}\n'
    """
    return json.dumps(record, default=_plain) + "\n"


def write_json_lines(path: Path, records: Iterable[Record]) -> None:
    """Writes one JSON object per line, in place of what the file held.

    Args:
      path: the file; its folder is made where it is missing.
      records: see `json_line`.

    Example:
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_json_lines(f"{folder}/run.jsonl", [{"seed": 0}, {"seed": 1}])
      ...     read_json_lines(f"{folder}/run.jsonl")
      [{'seed': 0}, {'seed': 1}]
    """
    with replacing(path) as unfinished:
        unfinished.write_text("".join(map(json_line, records)), encoding="utf-8")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Reads what `write_json_lines` wrote."""
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(
        "a record holds numbers, text, lists, dicts and arrays, got "
        f"{type(value).__name__}; turn it into one of them."
    )
