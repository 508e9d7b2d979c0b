"""Does `jax.export` take every layer and model, of open sizes and of known ones?

The program must mean the same wherever it is made and wherever it is run: it holds no
call into a library of the machine that made it.
"""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import CELLS, HAS_COMPILER, HAS_KERNELS, random_problem

import jaxrnn
import jaxrnn.nnx
from jaxrnn import native

RNGS = nnx.Rngs(0)
LINEN = {
    "SimpleRNN": jaxrnn.SimpleRNN(4),
    "GRU": jaxrnn.GRU(4, reverse=True, return_sequences=True),
    "LSTM": jaxrnn.LSTM(4, return_carry=True),
    "LSTM, time-major": jaxrnn.LSTM(4, time_major=True, dtype=jnp.bfloat16),
    "Recurrent": jaxrnn.Recurrent(4, cell=jaxrnn.mgu),
    "LayerNorm": jaxrnn.Recurrent(4, cell=jaxrnn.layer_norm_lstm),
    "Bidirectional": jaxrnn.Bidirectional(jaxrnn.LSTM(4)),
    "Stacked": jaxrnn.Stacked(jaxrnn.GRU(4), num_layers=2),
    "TimeDistributed": jaxrnn.TimeDistributed(nn.Dense(2)),
    "RNN of Flax's": jaxrnn.RNN(nn.GRUCell(4)),
    "RNN": jaxrnn.RNN(jaxrnn.simple_rnn, features=4),
    "Forecaster": jaxrnn.Forecaster(jaxrnn.SimpleRNN(4), hidden_features=2),
}
OF_IDS = {
    "Embed": jaxrnn.Embed(9, 3),
    "TextClassifier": jaxrnn.TextClassifier(9, 3, jaxrnn.LSTM(4), mask_zero=True),
}
NNX = {
    "SimpleRNN": jaxrnn.nnx.SimpleRNN(3, 4, rngs=RNGS),
    "GRU": jaxrnn.nnx.GRU(3, 4, reverse=True, rngs=RNGS, return_sequences=True),
    "LSTM": jaxrnn.nnx.LSTM(3, 4, return_carry=True, rngs=RNGS),
    "Bidirectional": jaxrnn.nnx.Bidirectional(
        jaxrnn.nnx.LSTM(3, 4, rngs=RNGS), jaxrnn.nnx.LSTM(3, 4, rngs=RNGS)
    ),
    "RNN of Flax's": jaxrnn.nnx.RNN(nnx.GRUCell(3, 4, rngs=RNGS)),
}


def assert_close(found, want, tolerance=2e-6):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance),
        found,
        want,
    )


def check_open_sizes(run, untyped, *features, time_major=False, integers=False):
    """One program for any batch and time, with the numbers of the function itself."""
    rows, time = jax.export.symbolic_shape("rows, time")
    leading = (time, rows) if time_major else (rows, time)
    dtype = jnp.int32 if integers else jnp.float32
    shape = jax.ShapeDtypeStruct((*leading, *features), dtype)
    exported = untyped(jax.export.export(jax.jit(run)))(shape)  # such sizes are no ints
    given = 8 * np.random.default_rng(0).random((5, 7, *features))
    given = jnp.asarray(given.astype(dtype))
    assert_close(exported.call(given), run(given))


@pytest.mark.parametrize("name", LINEN)
def test_every_linen_layer_takes_open_sizes(name, untyped):
    layer = LINEN[name]
    variables = layer.init(jax.random.key(0), jnp.ones((2, 2, 3)))
    run = functools.partial(layer.apply, variables)
    check_open_sizes(run, untyped, 3, time_major="time-major" in name)


@pytest.mark.parametrize("name", OF_IDS)
def test_every_model_of_ids_takes_open_sizes(name, untyped):
    model = OF_IDS[name]
    variables = model.init(jax.random.key(0), jnp.ones((2, 2), jnp.int32))
    run = functools.partial(model.apply, variables)
    check_open_sizes(run, untyped, integers=True)


@pytest.mark.parametrize("name", NNX)
def test_every_nnx_layer_takes_open_sizes(name, untyped):
    check_open_sizes(lambda inputs: NNX[name](inputs), untyped, 3)


def called(program):
    return set(re.findall(r"custom_call @(\S+?)\(", program))


def exported_gradient(cell, solver, problem, *arguments):
    """Value and gradients with two marks; the program must lie in no other library."""

    def loss(params, inputs, carry, marks):
        last, outputs = jaxrnn.rnn(
            cell,
            params,
            inputs,
            mask=marks,
            resets=~marks,
            initial_carry=carry,
            solver=solver,
        )
        of_last = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(last))
        return jnp.sum(jnp.sin(outputs)) + of_last

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    marks = np.arange(math.prod(problem[1].shape[:2])).reshape(problem[1].shape[:2]) % 3
    given = (*problem, jnp.asarray(marks > 0))
    exported = jax.export.export(run)(*(arguments or given))
    assert called(exported.mlir_module()) <= {"shape_assertion"}
    return exported.call(*given), run(*given)


NOT_JAX_ALONE = [jaxrnn.Native()] if HAS_COMPILER else []
NOT_JAX_ALONE += [jaxrnn.Fused()] if HAS_KERNELS else []


@pytest.mark.parametrize("solver", NOT_JAX_ALONE, ids=repr)
@pytest.mark.parametrize("name", ["simple_rnn", "gru", "lstm"])
def test_an_exported_program_calls_no_other_library(name, solver):
    """And has the numbers of the one that does: of sums of 35 rows, in float32."""
    cell, _ = CELLS[name]
    problem = random_problem(cell, np.float32)
    found, want = exported_gradient(cell, solver, problem)
    assert_close(found, want, tolerance=2e-5)
    text = jax.jit(lambda p: jaxrnn.rnn(cell, *p, solver=solver)).lower(problem[:2])
    assert called(text.as_text())  # where it runs at once


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
@pytest.mark.parametrize("loops", ["0", "1"])
def test_an_export_of_the_default_does_not_depend_on_compiled_loops(monkeypatch, loops):
    native.load()
    monkeypatch.setenv("JAXRNN_NATIVE", loops)
    rng = np.random.default_rng(0)
    params, _, _ = random_problem(jaxrnn.lstm, np.float32)
    inputs = jnp.asarray(rng.standard_normal((40, 20, 3)), jnp.float32)
    carry = jaxrnn.lstm.initial_carry(params, (20,))
    native_runs = jaxrnn.default_solver(jaxrnn.lstm, 40 * 20 * 4) == jaxrnn.Native()
    assert native_runs == (loops == "1")
    problem = params, inputs, carry
    found, want = exported_gradient(jaxrnn.lstm, None, problem)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-3), found, want
    )


@pytest.mark.parametrize(
    "solver", [jaxrnn.HoistedScan(), *NOT_JAX_ALONE], ids=lambda s: type(s).__name__
)
def test_gradients_take_open_sizes_with_every_solver(solver, untyped):
    problem = random_problem(jaxrnn.gru, np.float32)
    time, rows = jax.export.symbolic_shape("time, rows")
    params, inputs, carry = problem
    arguments = (
        params,
        jax.ShapeDtypeStruct((time, rows, inputs.shape[-1]), jnp.float32),
        jax.ShapeDtypeStruct((rows, carry.shape[-1]), jnp.float32),
        jax.ShapeDtypeStruct((time, rows), bool),
    )
    run = untyped(exported_gradient)
    assert_close(*run(jaxrnn.gru, solver, problem, *arguments), tolerance=2e-5)
