"""Which solver runs by default, and is it a plain one where a size is not known?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, numpy_rnn, random_problem

import jaxrnn
from jaxrnn.solvers.tuned import TUNED

SIZES = [2**n for n in range(4, 30, 2)]


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("name", ["simple_rnn", "gru", "lstm", "mgu"])
def test_no_size_measured_on_a_cpu_decides_elsewhere(name, platform):
    cell, _ = CELLS[name]
    chosen = {jaxrnn.default_solver(cell, n, platform=platform) for n in SIZES}
    assert len(chosen) == 1


def test_every_size_of_the_table_is_decisive():
    """At each size that the table names, and only there, the solver changes."""

    def changes(cell):
        table = TUNED["cpu"]
        sizes = {
            *table.hoisted_from.values(),
            table.one_chunk_below,
            table.one_chunk_below_elementwise,
        }
        scans = [
            (n, jaxrnn.default_solver(cell, n - 1), jaxrnn.default_solver(cell, n))
            for n in sorted(map(int, sizes))
        ]
        return {n for n, below, above in scans if below != above}

    assert changes(jaxrnn.simple_rnn) == {16_000_000}
    assert changes(jaxrnn.lstm) == {1_000_000}
    assert changes(jaxrnn.gru) == {1_000_000}
    assert changes(jaxrnn.min_gru) == {16_000_000}
    assert changes(jaxrnn.mgu) == set()


def test_cuda_is_a_gpu():
    """The word that `jax.export` has for it."""
    found = jaxrnn.default_solver(jaxrnn.gru, 10_000, platform="cuda")
    assert found == jaxrnn.default_solver(jaxrnn.gru, 10_000, platform="gpu")
    assert isinstance(found, jaxrnn.Fused)


@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "mgu"])
def test_sizes_left_open_by_an_export_choose_the_plain_solver(name, untyped):
    """A program for any batch and time, with the values of the NumPy loop."""
    cell, step = CELLS[name]
    params, inputs, carry = random_problem(cell, np.float32)

    def run(params, inputs, carry):
        return jaxrnn.rnn(cell, params, inputs, initial_carry=carry)

    time, batch = jax.export.symbolic_shape("time, batch")
    open_inputs = jax.ShapeDtypeStruct((time, batch, inputs.shape[-1]), jnp.float32)
    open_carry = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), carry
    )
    export = untyped(jax.export.export(jax.jit(run)))  # such a size is no int
    exported = export(params, open_inputs, open_carry)
    found = exported.call(params, inputs, carry)
    last, outputs, _ = numpy_rnn(step, params, inputs, carry, None)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
        found,
        (last, outputs),
    )
    assert jaxrnn.default_solver(cell) == jaxrnn.Scan()
    assert jaxrnn.default_solver(cell, time * batch) == jaxrnn.Scan()


def test_checkpointed_may_be_exported_with_an_open_time(untyped):
    """How many steps a chunk would have is not known: it is one."""
    params, inputs, carry = random_problem(jaxrnn.gru, np.float32)

    def run(inputs):
        solver = jaxrnn.Checkpointed()
        return jaxrnn.rnn(jaxrnn.gru, params, inputs, solver=solver)[1]

    (time,) = jax.export.symbolic_shape("time")
    shape = jax.ShapeDtypeStruct((time, *inputs.shape[1:]), jnp.float32)
    exported = untyped(jax.export.export(jax.jit(run)))(shape)
    np.testing.assert_allclose(exported.call(inputs), run(inputs), atol=1e-6)
    del carry


def test_predict_may_be_exported_with_open_rows(untyped):
    weights, inputs = jnp.arange(6.0).reshape(3, 2), jnp.ones((5, 3))

    def run(inputs):
        return jaxrnn.predict(weights, inputs, apply_fn=lambda w, x: x @ w)

    (rows,) = jax.export.symbolic_shape("rows")
    shape = jax.ShapeDtypeStruct((rows, 3), jnp.float32)
    exported = untyped(jax.export.export(jax.jit(run)))(shape)
    np.testing.assert_allclose(exported.call(inputs), run(inputs))


@pytest.mark.parametrize("solver", [jaxrnn.HoistedScan, jaxrnn.Checkpointed])
@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_holds_at_least_one_step(solver, chunk):
    with pytest.raises(
        ValueError, match=rf"chunk must be at least 1 step, got {chunk}"
    ):
        solver(chunk=chunk)


@pytest.mark.parametrize("name", ["simple_rnn", "gru", "lstm"])
def test_the_solver_of_a_tpu_lowers_for_it(name):
    """A gradient of it is two loops of operations that every platform has."""
    cell, _ = CELLS[name]
    params, inputs, _ = random_problem(cell, np.float32)
    solver = jaxrnn.default_solver(cell, inputs.size, platform="tpu")

    def loss(params, inputs):
        return jaxrnn.rnn(cell, params, inputs, solver=solver)[1].sum()

    traced = jax.jit(jax.grad(loss)).trace(params, inputs)
    program = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert program.count("stablehlo.while") == 2
    assert "custom_call" not in program
