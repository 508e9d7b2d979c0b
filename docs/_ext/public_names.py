"""Which names are public, and under which path has each its entry?"""

import ast
import importlib
import inspect
import pathlib
import re
import types
from collections.abc import Iterator
from typing import Any

ROOMS = (  # where two name the same, the entry stands in the first
    *("jaxrnn", "jaxrnn.data", "jaxrnn.files", "jaxrnn.interchange", "jaxrnn.metrics"),
    *("jaxrnn.regularizers", "jaxrnn.constraints", "jaxrnn.diagnostics"),
    *("jaxrnn.logs", "jaxrnn.native", "jaxrnn.linen", "jaxrnn.nnx"),
)
OPTIONS = "jaxrnn.layers.options.RecurrentOptions"  # of both families of layers
TYPES = {"Path": "jaxrnn.files.Path", "Record": "jaxrnn.files.Record"} | {
    "OnEpoch": "jaxrnn.logs.OnEpoch"
}
# What layers ask of layers around them, and a reader never does.
BETWEEN_LAYERS = {"run", "call_options", "has_noise", "check", "specs"} | {
    "make_noisy_cell"
}


def names(room: Any) -> dict[str, Any]:
    """What a module offers: what it lists, hands on as itself, or defines."""
    handed_on = re.findall(r"\b(\w+) as \1\b", inspect.getsource(room))
    listed = getattr(room, "__all__", handed_on)
    return {
        name: value
        for name, value in vars(room).items()
        if name[0] != "_" and not isinstance(value, types.ModuleType)
        if name in listed or getattr(value, "__module__", "") == room.__name__
    }


def module(room: str) -> Any:
    """A module by its public path, which need not be the path it is imported by."""
    value = importlib.import_module("jaxrnn")
    for name in room.split(".")[1:]:
        if not hasattr(value, name):
            importlib.import_module(room)
        value = getattr(value, name)
    return value


def public_paths() -> dict[str, str]:
    """From every name that a docstring may say to the path of its entry.

    `rnn`, `jaxrnn.rnn` and `jaxrnn.recurrence.rnn` are all `jaxrnn.rnn`.
    """
    paths = TYPES | {OPTIONS: OPTIONS, "RecurrentOptions": OPTIONS}
    entries: dict[int, str] = {}
    for room in ROOMS:
        paths[room] = room
        for name, value in names(module(room)).items():
            entry = entries.setdefault(id(value), f"{room}.{name}")
            paths[f"{room}.{name}"] = paths[f"{room.split('.')[-1]}.{name}"] = entry
            if room == "jaxrnn":
                paths[name] = entry
            if hasattr(value, "__qualname__"):
                paths[f"{value.__module__}.{value.__qualname__}"] = entry
    return paths


def summaries() -> Iterator[tuple[str, str]]:
    """Every file of the package, and the first line of its docstring."""
    package = pathlib.Path(inspect.getfile(module("jaxrnn"))).parent
    for path in sorted(package.rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        yield str(path.relative_to(package.parent)), (docstring or "").split("\n")[0]
