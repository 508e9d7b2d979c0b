"""Does a model run from a file, in a process that has neither jaxrnn nor Flax?"""

import os
import pathlib
import pickle
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
import jaxrnn.nnx

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "serving.md"
ALONE = """
import sys
sys.modules |= dict.fromkeys(("jaxrnn", "flax", "optax"))  # to import them would fail
"""
PLATFORMS = ("cpu", "cuda", "tpu")


def run_alone(code, folder):
    """Runs code in a process without jaxrnn, in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE + code],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=600,  # against hanging
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_jaxrnn_cannot_be_imported_there(tmp_path):
    for name in ("jaxrnn", "flax.linen"):
        with pytest.raises(AssertionError, match="ModuleNotFoundError"):
            run_alone(f"import {name}", tmp_path)


def blocks(place):
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"<!-- {place} -->\n```python\n(.*?)```", text, re.S)


@pytest.mark.slow
def test_the_page_says_how(tmp_path, monkeypatch, untyped):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks("here"):
        untyped(exec)(compile(code, PAGE.name, "exec"), names)
    (code,) = blocks("there")
    run_alone(code + "\nnp.savez('found', inputs, mask, last, *carry, output)", ".")
    inputs, mask, last, hidden, memory, output = np.load("found.npz").values()
    model, variables = names["model"], names["variables"]
    want = model.apply(variables, inputs, mask=mask)
    np.testing.assert_allclose(last, want, rtol=0, atol=1e-6)
    want_carry, want = model.clone(return_carry=True).apply(variables, inputs)
    np.testing.assert_allclose(output, want, rtol=0, atol=1e-6)
    np.testing.assert_allclose(hidden, want_carry.hidden, rtol=0, atol=1e-6)
    np.testing.assert_allclose(memory, want_carry.memory, rtol=0, atol=1e-6)


# Every sort of layer; all are run by one process.

RNGS = nnx.Rngs(0)
INPUTS = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
MASK = np.random.default_rng(1).random((4, 5)) > 0.4
LINEN = {
    "SimpleRNN": jaxrnn.SimpleRNN(4),
    "GRU": jaxrnn.GRU(4, return_sequences=True),
    "Bidirectional": jaxrnn.Bidirectional(jaxrnn.LSTM(4)),
    "Stacked": jaxrnn.Stacked(jaxrnn.LSTM(4), num_layers=2),
}
NNX = {
    "GRU": jaxrnn.nnx.GRU(3, 4, rngs=RNGS),
    "Stacked": jaxrnn.nnx.Stacked(
        [jaxrnn.nnx.LSTM(3, 4, rngs=RNGS), jaxrnn.nnx.SimpleRNN(4, 4, rngs=RNGS)]
    ),
}


def whole_and_step(model, apply, step, initial_carry):
    """A run with a mask, and a step whose carry is a list: functions, arguments."""
    structure = jax.tree.structure(initial_carry)

    def one(carry, inputs):
        carry, output = step(jax.tree.unflatten(structure, carry), inputs)
        return jax.tree.leaves(carry), output

    carry = [0.1 + np.asarray(x) for x in jax.tree.leaves(initial_carry)]
    yield "whole", lambda inputs, mask: apply(inputs, mask=mask), (INPUTS, MASK)
    if not isinstance(model, jaxrnn.Bidirectional):
        yield "step", one, (carry, INPUTS[:, 0])


def programs():
    for name, layer in LINEN.items():
        variables = layer.init(jax.random.key(0), INPUTS)

        def apply(*args, layer=layer, variables=variables, **options):
            return layer.apply(variables, *args, **options)

        def step(*args, apply=apply):
            return apply(*args, method="step")

        carry = None
        if name != "Bidirectional":
            carry = apply((4,), method="initial_carry")
        for kind, run, given in whole_and_step(layer, apply, step, carry):
            yield f"{name}, {kind}", run, given
    for name, layer in NNX.items():
        carry = layer.initial_carry((4,))
        for kind, run, given in whole_and_step(layer, layer, layer.step, carry):
            yield f"nnx {name}, {kind}", run, given
    model = jaxrnn.TextClassifier(9, 3, jaxrnn.GRU(4), mask_zero=True)
    ids = np.random.default_rng(2).integers(0, 9, (4, 5)).astype(np.int32)
    variables = model.init(jax.random.key(0), ids)
    yield "TextClassifier", lambda ids: model.apply(variables, ids), (ids,)


THERE = """
import pathlib, pickle
import jax.export
found = {}
for path in pathlib.Path().glob("*.jax"):
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    given = pickle.loads(path.with_suffix(".given").read_bytes())
    found[path.stem] = jax.device_get(program.call(*given))
pathlib.Path("found").write_bytes(pickle.dumps(found))
"""


@pytest.mark.slow
def test_every_sort_of_layer_runs_from_a_file(tmp_path, untyped):
    """Of open sizes, for three platforms, with the default solver."""
    rows, time = jax.export.symbolic_shape("rows, time")
    wanted = {}
    for name, run, given in programs():
        shapes = jax.tree.map(
            lambda x, run=run: jax.ShapeDtypeStruct(
                (rows, *(time if n == 5 else n for n in x.shape[1:])), x.dtype
            ),
            given,
        )
        exported = untyped(jax.export.export(jax.jit(run), platforms=PLATFORMS))(
            *shapes
        )
        (tmp_path / f"{name}.jax").write_bytes(exported.serialize())
        (tmp_path / f"{name}.given").write_bytes(pickle.dumps(given))
        wanted[name] = run(*jax.tree.map(jnp.asarray, given))
    run_alone(THERE, tmp_path)
    found = pickle.loads((tmp_path / "found").read_bytes())
    assert set(found) == set(wanted)
    assert len(found) == 12
    for name, want in wanted.items():
        jax.tree.map(
            lambda x, y, name=name: np.testing.assert_allclose(
                x, y, rtol=0, atol=1e-6, err_msg=name
            ),
            found[name],
            want,
        )
