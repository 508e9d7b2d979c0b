"""Have the solvers without a sequence of steps every derivative, and no loop over time?

`tests/test_solvers.py` runs them with all masks and resets; here are derivatives twice,
forward mode, `vmap` within `vmap`, and their programs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BATCH, CELLS, MASKS, RESETS, TIME, random_problem

import jaxrnn
from jaxrnn.solvers.affine import affine_scan

IN_FLOAT64 = pytest.mark.usefixtures("x64")
SCAN = jaxrnn.Scan()
FORWARD, BACKWARD = False, True  # a solver is not told: one direction a case will do
# Jacobians: a matrix, one of two leaves, a diagonal; linear cells: real, complex.
CASES = [
    ("simple_rnn", jaxrnn.Deer(), FORWARD),
    ("simple_rnn", jaxrnn.Deer(iterations=2), BACKWARD),
    ("gru", jaxrnn.Deer(), BACKWARD),
    ("gru", jaxrnn.Deer(iterations=2), FORWARD),
    ("lstm", jaxrnn.Deer(), FORWARD),
    ("lstm", jaxrnn.Deer(iterations=2), BACKWARD),
    ("ind_rnn", jaxrnn.Deer(clip=None), FORWARD),
    ("gru", jaxrnn.Checkpointed(jaxrnn.Deer(), chunk=3), BACKWARD),
    ("min_gru", jaxrnn.ParallelScan(), FORWARD),
    ("min_lstm", jaxrnn.ParallelScan(), BACKWARD),
    ("lru", jaxrnn.ParallelScan(), BACKWARD),
    ("rg_lru", jaxrnn.ParallelScan(), FORWARD),
]
EVERY_CASE = pytest.mark.parametrize(("name", "solver", "reverse"), CASES, ids=str)


def assert_close(found, want, tolerance=1e-10):
    """Float64 has 1e-16 a sum; a few hundred terms of size one stay far below 1e-10."""
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance)
    jax.tree.map(close, found, want)


def loss(
    cell,
    solver,
    params,
    inputs,
    carry,
    mask=MASKS["holes"],
    resets=RESETS,
    reverse=False,
):
    """Every output and the last carry enter unevenly."""
    last, outputs = jaxrnn.rnn(
        cell,
        params,
        inputs,
        mask=mask,
        resets=resets,
        initial_carry=carry,
        reverse=reverse,
        solver=solver,
    )
    weights = jnp.linspace(-1, 1, outputs.size, dtype=outputs.dtype)
    of_last = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(last))
    return jnp.sum(weights * outputs.ravel() ** 2) + of_last


@functools.cache
def derivatives(name, solver, reverse, *, once):
    """The second derivative along the gradient and a slope in forward mode, jitted."""

    def both(problem, mask, resets):
        def run(*problem):
            cell, _ = CELLS[name]
            return loss(cell, solver, *problem, mask, resets, reverse)

        def slope(*problem):
            ones = jax.tree.map(jnp.ones_like, problem)
            return jax.jvp(run, problem, ones)[1]

        def norm(*problem):
            gradients = jax.grad(run, argnums=(0, 1, 2))(*problem)
            return sum(jnp.sum(x**2) for x in jax.tree.leaves(gradients))

        twice = jax.grad(slope if once else norm, argnums=(0, 1, 2))
        return slope(*problem), twice(*problem)

    return jax.jit(both)


@pytest.mark.slow
@IN_FLOAT64
@EVERY_CASE
def test_forward_mode_and_second_derivatives(name, solver, reverse):
    """With every mask, with resets and without.

    Within a `lax.scan`, as `Checkpointed` has one, the second derivative is the
    gradient of a `jvp`; the next test says why.
    """
    problem = random_problem(CELLS[name][0], np.float64)
    once = isinstance(solver, jaxrnn.Checkpointed)
    found, want = (derivatives(name, s, reverse, once=once) for s in (solver, SCAN))
    always = jnp.ones((TIME, BATCH), bool)
    for mask in MASKS.values():
        for resets in (RESETS, ~always):
            marks = always if mask is None else mask, resets
            # Sums of squares of larger numbers:
            assert_close(found(problem, *marks), want(problem, *marks), tolerance=1e-9)


@IN_FLOAT64
@pytest.mark.parametrize("of_gradient", [jax.jacfwd, jax.jacrev])
def test_second_derivative_within_a_scan_is_right_or_refused(of_gradient):
    """Never one that went through the iterations; JAX 0.12 has the right one.

    The ways out that the error names run in the test above.
    """
    params, inputs, carry = random_problem(jaxrnn.gru, np.float64)

    def of_bias(solver, bias):
        return loss(jaxrnn.gru, solver, params | {"bias": bias}, inputs, carry)

    def twice(solver):
        return of_gradient(jax.grad(functools.partial(of_bias, solver)))(params["bias"])

    solver = jaxrnn.Checkpointed(jaxrnn.Deer(), chunk=3)
    if jax.__version_info__ >= (0, 12):
        assert_close(twice(solver), twice(SCAN), tolerance=1e-9)
        return
    words = r"cannot be differentiated again; write .* \(jax.jacrev\(jax.jacfwd\("
    with pytest.raises(TypeError, match=words):
        twice(solver)


@pytest.mark.slow
@IN_FLOAT64
@EVERY_CASE
def test_vmap_within_vmap(name, solver, reverse):
    """Over models and over rows, each with a mask of its own: values and gradients.

    A gradient under `vmap` is that of one model; Scan, one at a time, is the oracle.
    """
    cell, _ = CELLS[name]
    models = [random_problem(cell, np.float64, seed) for seed in range(3)]
    _, inputs, carry = models[0]
    params = jax.tree.map(lambda *x: jnp.stack(x), *(p for p, _, _ in models))

    def of_row(solver):
        run = functools.partial(loss, cell, solver, reverse=reverse)
        return jax.value_and_grad(run, argnums=(0, 1, 2))

    rows = jax.vmap(of_row(solver), in_axes=(None, 1, 0, 1, 1))
    all_of_them = jax.jit(jax.vmap(rows, in_axes=(0, None, None, None, None)))
    found = all_of_them(params, inputs, carry, MASKS["holes"], RESETS)
    one = jax.jit(of_row(SCAN))
    for model, (params, _, _) in enumerate(models):
        for row in (0, BATCH - 1):
            first = jax.tree.map(lambda x, row=row: x[row], carry)
            marks = MASKS["holes"][:, row], RESETS[:, row]
            want = one(params, inputs[:, row], first, *marks)
            assert_close(jax.tree.map(lambda x, at=(model, row): x[at], found), want)


@pytest.mark.parametrize(
    "name",
    [
        "lru",
        "rg_lru",
        "gru",
        pytest.param("simple_rnn", marks=pytest.mark.slow),
        pytest.param("lstm", marks=pytest.mark.slow),
    ],
)
def test_float32_against_float64(name):
    """Each of seven steps rounds by 6e-8, and so do the sums of the gradient."""
    solver = jaxrnn.Deer() if CELLS[name][0].linear is None else jaxrnn.ParallelScan()
    problem = random_problem(CELLS[name][0], np.float32)
    run = functools.partial(loss, CELLS[name][0])
    value = jax.jit(jax.value_and_grad(run, argnums=(1, 2, 3)), static_argnums=0)
    found = value(solver, *problem)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), problem)
        want = value(SCAN, *wide)
    assert_close(found, want, tolerance=2e-5)


@IN_FLOAT64
@pytest.mark.parametrize("solver", [jaxrnn.Deer(), jaxrnn.ParallelScan()], ids=repr)
def test_masked_inputs_have_no_influence_even_if_nan(solver):
    cell = jaxrnn.gru if isinstance(solver, jaxrnn.Deer) else jaxrnn.min_lstm
    params, inputs, carry = random_problem(cell, np.float64)
    run = jax.jit(jax.value_and_grad(functools.partial(loss, cell, solver), (0, 1, 2)))
    poisoned = jnp.where(MASKS["holes"][..., None], inputs, jnp.nan)
    found = run(params, poisoned, carry)
    jax.tree.map(np.testing.assert_array_equal, found, run(params, inputs * 1.0, carry))


# The programs.


def primitives(jaxpr):
    """The names of all primitives, those of inner jaxprs too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


def loops(function, *arguments):
    names = list(primitives(jax.make_jaxpr(function)(*arguments).jaxpr))
    return sum(name in ("while", "scan") for name in names)


@pytest.mark.parametrize(
    ("name", "solver", "number"),
    [
        ("min_gru", jaxrnn.ParallelScan(), 0),
        ("lru", jaxrnn.ParallelScan(), 0),
        ("gru", jaxrnn.Deer(), 2),  # over iterations, and over steps to be repaired
        ("lru", jaxrnn.Deer(), 0),
        ("gru", jaxrnn.ParallelScan(), 1),  # handed to Scan
    ],
    ids=str,
)
def test_no_loop_over_time(name, solver, number):
    """Nor does a gradient add one to what the values take."""
    cell, _ = CELLS[name]
    problem = random_problem(cell, np.float32)
    run = functools.partial(loss, cell, solver)
    assert loops(run, *problem) == number
    of_scan = 1 if solver == jaxrnn.ParallelScan() and number else 0
    assert loops(jax.grad(run, (0, 1, 2)), *problem) == number + of_scan


@IN_FLOAT64
@pytest.mark.parametrize("kind", ["diagonal", "complex", "matrix"])
@pytest.mark.slow
def test_affine_scan_is_a_loop_and_a_linear_map(kind):
    """The values of a NumPy loop; derivatives by b and by a of finite differences."""
    rng = np.random.default_rng(0)
    shape = (13, 2, 3)
    a, b, da, db = (
        rng.normal(size=(*shape, 3) if kind == "matrix" and turn % 2 == 0 else shape)
        for turn in range(4)
    )
    if kind == "complex":
        a, b = a + 1j * rng.normal(size=shape), b - 1j * rng.normal(size=shape)

    def loop(a, b):
        x, found = np.zeros_like(b[0]), []
        for a_t, b_t in zip(a, b, strict=True):
            x = (a_t * x if kind != "matrix" else (a_t @ x[..., None])[..., 0]) + b_t
            found.append(x)
        return np.stack(found)

    want = loop(a, b)
    np.testing.assert_allclose(jax.jit(affine_scan)(a, b), want, rtol=1e-10, atol=1e-10)
    h = 1e-6  # the error is h^2 times a third derivative
    da, db = (jnp.asarray(x, y.dtype) for x, y in ((da, a), (db, b)))
    _, slope = jax.jvp(affine_scan, (jnp.asarray(a), jnp.asarray(b)), (da, db))
    ahead, behind = (loop(a + s * h * da, b + s * h * db) for s in (1, -1))
    difference = (ahead - behind) / (2 * h)
    tolerance = 1e-8 * abs(difference).max()
    np.testing.assert_allclose(slope, difference, rtol=0, atol=tolerance)
