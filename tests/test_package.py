"""Does the package keep its floors, import little, and name no machine?"""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import jaxrnn

ROOT = pathlib.Path(jaxrnn.__file__).parent

# A file imports from lower floors only; data/ is a house of its own.
FLOORS = [
    {"cells", "native"},
    {"solvers"},
    {"recurrence"},
    {"layers", "flax_rnn"},
    {"modules", "nnx"},
    {"models"},
    {"interchange", "train"},
    {"plateaus"},
    {"fitting"},
]
SIDE = {
    "data",
    "flat",
    "metrics",
    "optimizers",
    "losses",
    "regularizers",
    "constraints",
    "logs",
    "report",
}
MAY_USE_FROM_THE_SIDE = {
    "cells": {"flat"},
    "solvers": {"flat"},
    "layers": {"flat"},
    "train": {"data", "metrics"},
    "fitting": {"data", "metrics"},
}


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "jaxrnn":
                names = [f"jaxrnn.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("jaxrnn."):
                yield name.split(".")[1]


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
