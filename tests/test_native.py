"""Are the native loops exact, chosen when they should be, and honest when they cannot?

The matrix of all cells, masks and resets stands in `test_solvers.py`, which they run in
float64; here is what is theirs alone. Their threads and blocks of rows are at work from
some thousand rows and steps on.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HAS_COMPILER, MASKS, RESETS, random_problem

import jaxrnn
from jaxrnn import native
from jaxrnn.native import store
from jaxrnn.solvers import native as solver_module

needs_compiler = pytest.mark.skipif(
    not HAS_COMPILER, reason="no C++ compiler: the native solver is not tested here"
)
KNOWN = {
    "simple_rnn": jaxrnn.simple_rnn,
    "simple_rnn_relu": jaxrnn.simple_rnn_cell(activation=jax.nn.relu),
    "gru": jaxrnn.gru,
    "lstm": jaxrnn.lstm,
}
ALL_KNOWN = pytest.mark.parametrize("cell", KNOWN.values(), ids=KNOWN)


def loss(cell, solver, params, inputs, carry, mask, resets):
    last, outputs = jaxrnn.rnn(
        cell,
        params,
        inputs,
        mask=mask,
        resets=resets,
        initial_carry=carry,
        solver=solver,
    )
    weights = jnp.cos(jnp.arange(outputs.size, dtype=outputs.dtype))
    of_last = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(last))
    return jnp.sum(weights.reshape(outputs.shape) * outputs) + of_last


def large_problem(cell, time, batch, in_features, features):
    """As wide as not to divide by a vector or a tile of rows, float64."""
    rng = np.random.default_rng(0)
    params = {
        name: 0.15 * rng.standard_normal(spec.shape)  # no exploding gradient
        for name, spec in cell.param_specs(in_features, features).items()
    }
    inputs = rng.standard_normal((time, batch, in_features))
    carry = cell.initial_carry(params, (batch,))
    carry = jax.tree.map(lambda x: rng.standard_normal(x.shape), carry)
    mask, resets = rng.random((time, batch)) < 0.8, rng.random((time, batch)) < 0.1
    return params, inputs, carry, jnp.asarray(mask), jnp.asarray(resets)


def largest_error(found, want):
    """Of a tree, each array relative to the largest value of its oracle."""
    errors = jax.tree.map(
        lambda x, y: np.max(np.abs(np.float64(x) - y)) / np.max(np.abs(y)), found, want
    )
    return max(jax.tree.leaves(errors))


def cast(tree, dtype):
    return jax.tree.map(lambda x: x if x.dtype == bool else jnp.asarray(x, dtype), tree)


@needs_compiler
@pytest.mark.usefixtures("x64")
@ALL_KNOWN
def test_many_rows_on_two_threads_in_both_dtypes(cell):
    """75 rows are blocks and a rest; 19 and 37 features no whole vectors.

    Float64 against `Scan` in float64: the order of the sums alone, 1e-12. Float32
    against the same: the rounding of 60 steps and of sums over 4,500 rows, 2e-5 of the
    largest value (XLA's own float32 is as far off, 1e-5).
    """
    problem = large_problem(cell, 60, 75, 19, 37)
    run = jax.jit(
        jax.value_and_grad(loss, argnums=(2, 3, 4)), static_argnames=("cell", "solver")
    )
    want = run(cell, jaxrnn.Scan(), *cast(problem, np.float64))
    for dtype, bound in ((np.float64, 1e-12), (np.float32, 2e-5)):
        found = run(cell, jaxrnn.Native(), *cast(problem, dtype))
        assert largest_error(found, want) < bound
        again = run(cell, jaxrnn.Native(), *cast(problem, dtype))
        jax.tree.map(np.testing.assert_array_equal, found, again)  # to the bit


@needs_compiler
@pytest.mark.usefixtures("x64")
def test_batch_axes_and_none():
    params, inputs, carry = random_problem(jaxrnn.lstm, np.float64)
    run = functools.partial(jaxrnn.rnn, jaxrnn.lstm, params)
    last, outputs = run(inputs, initial_carry=carry, solver=jaxrnn.Native())
    rows = jax.tree.map(lambda x: x.reshape(1, 5, -1), (carry, last))
    split, split_outputs = run(
        inputs[:, None], initial_carry=rows[0], solver=jaxrnn.Native()
    )
    np.testing.assert_array_equal(split_outputs[:, 0], outputs)
    jax.tree.map(np.testing.assert_array_equal, split, rows[1])
    one = jax.tree.map(lambda x: x[2], carry)
    _, row = run(inputs[:, 2], initial_carry=one, solver=jaxrnn.Native())
    np.testing.assert_array_equal(row, outputs[:, 2])


@needs_compiler
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["simple_rnn", "lstm"])
def test_second_derivatives_and_vmap(name):
    cell = KNOWN[name]
    problems = [random_problem(cell, np.float64, seed) for seed in range(2)]
    inputs, carry = problems[0][1:]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p[0] for p in problems))

    def gradient_norm(params, solver):
        run = functools.partial(loss, cell, solver)
        gradients = jax.grad(run, argnums=(0, 1))(
            params, inputs, carry, MASKS["holes"], RESETS
        )
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients))

    found, want = (
        jax.jit(jax.vmap(jax.grad(functools.partial(gradient_norm, solver=solver))))(
            stacked
        )
        for solver in (jaxrnn.Native(), jaxrnn.Scan())
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), found, want
    )


@needs_compiler
def test_nan_goes_through_and_a_mask_stops_it():
    """NaN must pass a tanh that clamps its argument, and stay in its row."""
    params, inputs, _ = random_problem(jaxrnn.simple_rnn, np.float32)
    inputs = inputs.at[3, 1].set(jnp.nan)
    run = functools.partial(jaxrnn.rnn, jaxrnn.simple_rnn, params)
    last, _ = run(inputs, solver=jaxrnn.Native())
    assert np.isnan(last[1]).all()
    assert np.isfinite(np.delete(last, 1, axis=0)).all()
    mask = jnp.ones(inputs.shape[:2], bool).at[3, 1].set(False)
    last, _ = run(inputs, mask=mask, solver=jaxrnn.Native())
    assert np.isfinite(last).all()


@needs_compiler
def test_inputs_that_need_no_gradient_get_none():
    params, inputs, carry = random_problem(jaxrnn.gru, np.float32)

    def program(argnums):
        run = functools.partial(loss, jaxrnn.gru, jaxrnn.Native())
        text = jax.jit(jax.grad(run, argnums)).lower(params, inputs, carry, None, None)
        return re.findall(r"custom_call @jaxrnn_backward.*-> (.*)", text.as_text())[0]

    shape = f"tensor<{'x'.join(map(str, inputs.shape))}xf32>"
    assert shape in program((0, 1))
    assert shape not in program(0)


def test_default_solver_is_native_where_it_has_been_built(monkeypatch, tmp_path):
    built = tmp_path / "cache" / "native.so"
    monkeypatch.setenv("JAXRNN_NATIVE", "1")
    monkeypatch.setattr(native, "library", lambda: built)
    assert jaxrnn.default_solver(jaxrnn.gru, 10**5) == jaxrnn.Scan()
    store.keep(built, lambda path: path.write_text("the loops"))
    for cell in KNOWN.values():
        assert jaxrnn.default_solver(cell, 10**7) == jaxrnn.Native()
        assert jaxrnn.default_solver(cell, 512) != jaxrnn.Native()
    for cell in (jaxrnn.mgu, jaxrnn.gru_cell(reset_after=False), jaxrnn.ind_rnn):
        assert jaxrnn.default_solver(cell, 10**7) != jaxrnn.Native()
    assert jaxrnn.default_solver(jaxrnn.lstm, 10**7, jnp.bfloat16) != jaxrnn.Native()
    divided = jaxrnn.default_solver(jaxrnn.lstm, 10**7, divided=True)
    assert divided != jaxrnn.Native()
    monkeypatch.undo()
    assert (
        jaxrnn.default_solver(jaxrnn.lstm, 10**7) != jaxrnn.Native()
    )  # JAXRNN_NATIVE=0


def test_a_cell_with_a_projection_of_its_own_is_not_known():
    doubled = jaxrnn.gru._replace(project=lambda params, inputs: 2 * inputs)
    assert not solver_module.knows(doubled, np.float32)
    assert solver_module.knows(jaxrnn.gru, np.float32)


@pytest.mark.parametrize("compiler", [None, "false"])
def test_without_a_compiler_a_warning_and_hoisted_scan(monkeypatch, tmp_path, compiler):
    monkeypatch.setattr(native, "library", lambda: tmp_path / "cache" / "native.so")
    monkeypatch.setattr(native, "compiler_found", lambda: compiler)
    for function in (native.load, solver_module._loaded):
        function.cache_clear()
    params, inputs, _ = random_problem(jaxrnn.gru, np.float32)
    expected = "needs a C.. compiler" if compiler is None else "could not compile"
    try:
        with pytest.warns(UserWarning, match=f"runs as HoistedScan: .*{expected}"):
            last, _ = jaxrnn.rnn(jaxrnn.gru, params, inputs, solver=jaxrnn.Native())
    finally:
        for function in (native.load, solver_module._loaded):
            function.cache_clear()
        jax.clear_caches()  # the program above runs HoistedScan under Native's name
    solver = jaxrnn.HoistedScan(chunk=None)
    want, _ = jaxrnn.rnn(jaxrnn.gru, params, inputs, solver=solver)
    np.testing.assert_array_equal(last, want)
    assert not [*tmp_path.glob("cache/*")]  # nothing half made is left behind


@needs_compiler
def test_the_library_depends_on_source_and_processor(monkeypatch):
    native._digest.cache_clear()
    here = native.library()
    monkeypatch.setattr(native, "_processor", lambda: "another one")
    native._digest.cache_clear()
    assert native.library() != here
    native._digest.cache_clear()
