"""Does every example in a docstring run, and does every public name have one?"""

import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
import jaxrnn.nnx


def public_names(module):
    return {name: value for name, value in vars(module).items() if name[0] != "_"}


def docstring_examples():
    """Every docstring with an example, in every module, with its module's names."""
    found = {}
    for info in pkgutil.walk_packages(jaxrnn.__path__, "jaxrnn."):
        module = importlib.import_module(info.name)
        names = {
            "jax": jax,
            "jnp": jnp,
            "np": np,
            **public_names(jaxrnn),
            **public_names(module),
        }
        for example in doctest.DocTestFinder().find(module, globs=names):
            if example.examples:
                found[example.name] = example
    return found


EXAMPLES = docstring_examples()


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_docstring_example_runs(example):
    output = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=output.append)
    assert runner.failures == 0, "".join(output)


PUBLIC = [
    jaxrnn,
    jaxrnn.nnx,
    jaxrnn.data,
    jaxrnn.diagnostics,
    jaxrnn.interchange,
    jaxrnn.regularizers,
    jaxrnn.constraints,
    jaxrnn.metrics,
    jaxrnn.logs,
    jaxrnn.files,
]


def test_the_public_names_fit_on_a_screen():
    """The names of `jaxrnn/__init__.py`, in 24 lines of 80 columns."""
    source = pathlib.Path(jaxrnn.__file__).read_text(encoding="utf-8")
    names = re.findall(r"^from \S+ import \w+ as (\w+)", source, re.M)
    assert len(textwrap.wrap(", ".join(names), 80)) <= 24
    assert set(names) <= set(public_names(jaxrnn))


@pytest.mark.parametrize("module", PUBLIC, ids=lambda m: m.__name__)
def test_every_public_name_has_a_docstring(module):
    for name, value in public_names(module).items():
        ours = getattr(value, "__module__", "").startswith("jaxrnn")
        if ours and (inspect.isclass(value) or inspect.isroutine(value)):
            assert inspect.getdoc(value), f"{name} has no docstring"
            assert "Alias for field" not in inspect.getdoc(value)
