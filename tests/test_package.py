"""Does the package keep its floors, import little, and name no machine?"""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys

import pytest

import jaxrnn

ROOT = pathlib.Path(jaxrnn.__file__).parent

# A file imports from lower floors only; what stands at the side, from no floor. The
# picture in CONTRIBUTING.md is this one.
FLOORS = [
    {"cells", "native"},
    {"fused"},
    {"solvers"},
    {"checks"},
    {"recurrence"},
    {"diagnostics", "layers"},  # but for the layers of the next floor
    {"layers.linen", "layers.nnx"},
    {"linen", "nnx"},
    {"models"},
    {"interchange"},
]
SIDE = {
    "data",
    "dtypes",
    "files",
    "metrics",
    "optimizers",
    "losses",
    "regularizers",
    "constraints",
    "rules",
    "train",
}
MAY_USE_FROM_THE_SIDE = {
    "cells": {"dtypes"},
    "solvers": {"dtypes"},
    "metrics": {"dtypes"},
    "native": {"files"},
    "fused": {"files"},
    "train": {"data", "files", "metrics"},
    "data": {"files"},
    "interchange": {"files"},
    "models": {"dtypes"},
    "losses": {"dtypes", "metrics"},
    "regularizers": {"dtypes", "rules"},
    "constraints": {"rules"},
}
FAMILIES = ("linen", "nnx")  # layers/linen.py, linen_wrappers.py, ... are one room


def room(path):
    """Its folder, or where that is layers/ perhaps its family."""
    first, *rest = path.relative_to(ROOT).with_suffix("").parts
    of_layers = rest[0].split("_")[0] if first == "layers" else ""
    return f"layers.{of_layers}" if of_layers in FAMILIES else first


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module in ("jaxrnn", "jaxrnn.layers"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("jaxrnn."):
                file = ROOT.parent / name.replace(".", "/")
                yield room(file.with_suffix(".py"))


FILES = [p for p in sorted(ROOT.rglob("*.py")) if p.parent != ROOT or p.stem[0] != "_"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_imports_from_lower_floors_only(path):
    here = room(path)
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    for name in set(imported_rooms(path)) - {here}:
        if name in SIDE:
            assert name in MAY_USE_FROM_THE_SIDE.get(here, ()), f"{here} uses {name}"
        else:
            assert here in floor, f"{here} stands at the side and uses {name}"
            assert floor[name] < floor[here], f"{here} uses {name}"


def imported_files(path):
    """The files of the package that a file imports, tables of contents left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "jaxrnn"
        ):
            folder = ROOT.parent / node.module.replace(".", "/")
            names = [folder / alias.name for alias in node.names]
            for module in (folder, *names):
                yield module.with_suffix(".py")


@pytest.mark.parametrize(
    "path", [*(ROOT / "layers").glob("*.py")], ids=lambda p: p.name
)
def test_linen_and_nnx_do_not_know_each_other(path):
    """Nor do the files that serve both know either."""
    known = {f"layers.{name}" for name in FAMILIES} & set(imported_rooms(path))
    assert known <= {room(path)}


def test_no_circle_between_files():
    files = [path for path in FILES if path.stem != "__init__"]
    graph = {path: set(imported_files(path)) & set(files) for path in files}
    assert ROOT / "train/state.py" in graph[ROOT / "train/fit.py"]
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_every_room_has_a_floor():
    assert {room(p) for p in FILES} == set.union(*FLOORS) | SIDE


@pytest.mark.parametrize("path", [*(ROOT / "data").glob("*.py")], ids=lambda p: p.name)
def test_data_imports_no_jax(path):
    assert not re.search(r"^\s*(import|from) (jax\b|flax)", path.read_text(), re.M)


def in_fresh_python(code):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_import_loads_nothing_heavy():
    heavy = [
        "tensorflow_datasets",
        "tensorflow",
        "matplotlib",
        "keras",
        "torch",
        "tqdm",
        "tensorboardX",
        "h5py",
        "equinox",
        "safetensors",
        "flax.nnx",
    ]
    loaded = in_fresh_python(
        f"import sys, jaxrnn; print([m for m in {heavy} if m in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_import_loads_no_package_beyond_its_dependencies():
    """Without a clock: what jax, flax, optax and jaxtyping load, and itself."""
    code = """
import sys, flax.linen, jax, jaxtyping, optax
before = set(sys.modules)
import jaxrnn
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
print(*loaded - set(sys.stdlib_module_names))
"""
    loaded = set(in_fresh_python(code).split())
    assert loaded <= {"jaxrnn", "jaxtyping", "wadler_lindig"}  # jaxtyping's printer


def test_importing_does_not_start_a_device():
    code = """
import jaxrnn
from jax._src import xla_bridge
print(xla_bridge.backends_are_initialized())
"""
    assert in_fresh_python(code).strip() == "False"
