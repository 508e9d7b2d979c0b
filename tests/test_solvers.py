"""Does every solver give the numbers of a NumPy loop, and their derivatives?

One compiled program per cell, solver and direction gives values and gradients for all
masks, so that the whole matrix stays affordable.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    BATCH,
    CELLS,
    HAS_KERNELS,
    MASKS,
    RESETS,
    SOLVERS,
    TIME,
    numpy_rnn,
    random_problem,
)

import jaxrnn

pytestmark = pytest.mark.usefixtures("x64")
FOUR = ("simple_rnn", "simple_rnn_softsign", "gru", "lstm")  # one without an adjoint
ALL_CELLS = pytest.mark.parametrize(("cell", "step"), CELLS.values(), ids=CELLS)
ALL_SOLVERS = pytest.mark.parametrize("solver", SOLVERS, ids=repr)


def _pairs():
    """Every cell with every solver, but for pairs in which a solver hands over.

    Deer knows of a cell no more than its step, so in quick runs one will do for each
    kind of carry and of Jacobian.
    """
    of_deer = {"simple_rnn", "gru", "lstm_projection", "ind_rnn", "lstm_zoneout"}
    for name, (cell, step) in CELLS.items():
        for solver in SOLVERS:
            parallel = isinstance(solver, jaxrnn.ParallelScan)
            if parallel and cell.linear is None and name != "gru":
                continue
            late = isinstance(solver, jaxrnn.Deer) and name not in of_deer
            marks = [pytest.mark.slow] if late else []
            yield pytest.param(cell, step, solver, id=f"{name}-{solver}", marks=marks)


FOUR_CELLS = pytest.mark.parametrize(
    ("cell", "step"), [CELLS[name] for name in FOUR], ids=FOUR
)
FUSED = [jaxrnn.Fused()] if HAS_KERNELS else []
ALWAYS = jnp.ones((TIME, BATCH), bool)


def assert_close(found, want, tolerance=1e-10):
    """Float64 has 1e-16 a sum; a few hundred terms of size one stay far below 1e-10."""
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance),
        found,
        want,
    )


def _pairs_in_reverse():
    """Every cell with one solver, and so every solver with two cells at least."""
    others = itertools.cycle(
        solver for solver in SOLVERS if solver != jaxrnn.ParallelScan()
    )
    for name, (cell, step) in CELLS.items():
        solver = jaxrnn.ParallelScan() if cell.linear else next(others)
        yield pytest.param(cell, step, solver, id=f"{name}-{solver}")


def scalar(cell, solver, reverse, params, inputs, carry, mask, resets, weights=None):
    """A scalar that every output and the last carry enter unevenly, and both."""
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
    weights = uneven(outputs) if weights is None else weights
    of_last = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(last))
    return jnp.sum(weights * outputs) + of_last, (last, outputs)


def uneven(outputs):
    return jnp.linspace(-1, 1, outputs.size).reshape(outputs.shape)


@functools.cache
def compiled(cell, solver, reverse=False):
    """Values and gradients; without a mask or resets they are arrays all the same."""
    run = functools.partial(scalar, cell, solver, reverse)
    run = jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True))

    def call(params, inputs, carry, mask, resets=None, weights=None):
        mask = ALWAYS if mask is None else mask
        resets = ~ALWAYS if resets is None else resets
        if weights is None:
            like = jax.tree.leaves(cell.initial_carry(params, inputs.shape[:-1]))[0]
            weights = uneven(like)
        return run(params, inputs, carry, mask, resets, weights)

    return call


@functools.cache
def reference(cell, mask, resets):
    problem = random_problem(cell, np.float64)
    resets = RESETS if resets else None
    return compiled(cell, jaxrnn.Scan())(*problem, MASKS[mask], resets)


@pytest.mark.parametrize(("cell", "step", "solver"), list(_pairs()))
def test_values_and_gradients(cell, step, solver):
    """Values against a NumPy loop; gradients against JAX's of the plain scan, which
    another test holds against finite differences.
    """
    problem = random_problem(cell, np.float64)
    for name, mask in MASKS.items():
        for resets in (None, RESETS):
            (_, found), gradients = compiled(cell, solver)(*problem, mask, resets)
            last, outputs, _ = numpy_rnn(step, *problem, mask, resets)
            assert_close(found, (last, outputs))
            assert_close(gradients, reference(cell, name, resets is not None)[1])


@pytest.mark.parametrize(("cell", "step", "solver"), list(_pairs_in_reverse()))
def test_values_and_gradients_in_reverse(cell, step, solver):
    """Values against a NumPy loop that goes backwards; gradients against those of the
    plain scan that goes forward, over all that is turned around by hand.
    """
    problem = params, inputs, carry = random_problem(cell, np.float64)
    ends = np.roll(RESETS, -1, axis=0)  # an episode ends before the next one begins
    ends[-1] = False
    for mask in MASKS.values():
        for resets in (None, RESETS):
            run = compiled(cell, solver, reverse=True)
            (_, found), gradients = run(*problem, mask, resets)
            last, outputs, _ = numpy_rnn(step, *problem, mask, resets, reverse=True)
            assert_close(found, (last, outputs))
            _, (of_params, of_inputs, of_carry) = compiled(cell, jaxrnn.Scan())(
                params,
                inputs[::-1],
                carry,
                None if mask is None else mask[::-1],
                None if resets is None else jnp.asarray(ends[::-1]),
                uneven(outputs)[::-1],
            )
            assert_close(gradients, (of_params, of_inputs[::-1], of_carry))


@ALL_SOLVERS
@pytest.mark.parametrize("name", ["simple_rnn", "lstm"])
def test_neither_mask_nor_resets(name, solver):
    """The programs above always have both; this is the one without."""
    cell, step = CELLS[name]
    problem = random_problem(cell, np.float64)
    run = functools.partial(scalar, cell, solver, False)
    run = jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True))
    (_, found), gradients = run(*problem, None, None)
    last, outputs, _ = numpy_rnn(step, *problem, None)
    assert_close(found, (last, outputs))
    assert_close(gradients, reference(cell, "none", False)[1])


@pytest.mark.parametrize("name", ["simple_rnn", "simple_rnn_no_bias", "ind_rnn"])
def test_loop_that_carries_delta(name):
    """What HoistedScan does in one chunk without marks: each output alone, both, twice.

    The models are three at once; Scan, one model at a time, is the oracle.
    """
    cell, _ = CELLS[name]
    problems = [random_problem(cell, np.float64, seed) for seed in range(3)]
    _, inputs, first = problems[0]

    def losses(solver, params, inputs, first):
        last, outputs = jaxrnn.rnn(
            cell, params, inputs, initial_carry=first, solver=solver
        )
        of_last, of_outputs = jnp.mean(jnp.sin(last)), jnp.mean(jnp.cos(outputs))
        return jnp.stack([of_last, of_outputs, of_last * of_outputs])

    def derivatives(solver, params):
        gradients = jax.jacrev(functools.partial(losses, solver), argnums=(0, 1, 2))

        def norm(params):
            of_all = jax.tree.leaves(gradients(params, inputs, first))
            return sum(jnp.sum(leaf**2) for leaf in of_all)

        return gradients(params, inputs, first), jax.grad(norm)(params)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p[0] for p in problems))
    solver = jaxrnn.HoistedScan(chunk=None)
    found = jax.jit(jax.vmap(functools.partial(derivatives, solver)))(stacked)
    one_model = jax.jit(functools.partial(derivatives, jaxrnn.Scan()))
    want = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(one_model(p[0]) for p in problems)
    )
    assert_close(found, want)


@pytest.mark.parametrize("mask", ["none", "holes"])
@ALL_CELLS
def test_reference_gradients_are_finite_differences(cell, step, mask):
    def loss(*problem):
        run = compiled(cell, jaxrnn.Scan())
        return run(*problem, MASKS[mask], RESETS)[0][0]

    def gradient(*problem):
        return compiled(cell, jaxrnn.Scan())(*problem, MASKS[mask], RESETS)[1]

    problem = random_problem(cell, np.float64)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), problem
    )
    step_size = 1e-5  # the error is step_size^2 times a third derivative: about 1e-9
    ahead, behind = (
        loss(
            *jax.tree.map(
                lambda a, d, s=sign: a + s * step_size * d, problem, direction
            )
        )
        for sign in (1, -1)
    )
    along = sum(
        jnp.sum(g * d)
        for g, d in zip(
            jax.tree.leaves(gradient(*problem)), jax.tree.leaves(direction), strict=True
        )
    )
    np.testing.assert_allclose(along, (ahead - behind) / (2 * step_size), rtol=1e-6)


@FOUR_CELLS
def test_second_derivatives(cell, step):
    problem = random_problem(cell, np.float64)

    def gradient_norm(params, solver):
        run = functools.partial(scalar, cell, solver, False)
        gradients, _ = jax.grad(run, has_aux=True)(
            params, *problem[1:], MASKS["holes"], RESETS
        )
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients))

    run = jax.jit(jax.grad(gradient_norm), static_argnums=1)
    want = run(problem[0], jaxrnn.Scan())
    for solver in (jaxrnn.HoistedScan(chunk=2), *FUSED):
        found = run(problem[0], solver)
        assert_close(found, want, tolerance=1e-9)  # sums of squares of larger numbers


@pytest.mark.parametrize(
    "solver", [jaxrnn.Scan(), jaxrnn.HoistedScan(), *FUSED], ids=repr
)
@FOUR_CELLS
def test_vmap_over_params_is_a_loop_over_params(cell, step, solver):
    """Several seeds at once: values and gradients, one model at a time as oracle."""
    problems = [random_problem(cell, np.float64, seed) for seed in range(3)]
    inputs, first = problems[0][1:]
    run = compiled(cell, solver)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p[0] for p in problems))
    found = jax.vmap(lambda params: run(params, inputs, first, MASKS["holes"]))(stacked)
    want = [run(params, inputs, first, MASKS["holes"]) for params, *_ in problems]
    assert_close(found, jax.tree.map(lambda *leaves: jnp.stack(leaves), *want))


@pytest.mark.parametrize(
    "solver", [jaxrnn.Scan(), jaxrnn.HoistedScan(), *FUSED], ids=repr
)
@FOUR_CELLS
def test_vmap_over_inputs_is_a_batch_axis(cell, step, solver):
    params, inputs, first = random_problem(cell, np.float64)

    def one_row(inputs, first, mask):
        return jaxrnn.rnn(
            cell, params, inputs, mask=mask, initial_carry=first, solver=solver
        )

    found = jax.vmap(one_row, in_axes=(1, 0, 1), out_axes=(0, 1))(
        inputs, first, MASKS["holes"]
    )
    last, outputs, _ = numpy_rnn(step, params, inputs, first, MASKS["holes"])
    assert_close(found, (last, outputs))


@functools.cache
def forward_derivatives(cell, solver):
    """`jvp` along a direction; `jacfwd` and `hessian` of a row of the initial carry."""

    def run(*problem):
        return scalar(cell, solver, False, *problem, MASKS["holes"], RESETS)

    def of_row(row, params, inputs, carry):
        return run(params, inputs, set_row(carry, row))[0]

    def derivatives(problem, direction):
        row = jax.tree.map(lambda x: x[1], problem[2])
        _, along = jax.jvp(lambda *problem: run(*problem)[0], problem, direction)
        of_outputs = jax.jacfwd(lambda x: run(*problem[:2], set_row(problem[2], x))[1])
        return along, of_outputs(row), jax.hessian(of_row)(row, *problem)

    def set_row(carry, row):
        return jax.tree.map(lambda x, one: x.at[1].set(one), carry, row)

    return jax.jit(derivatives)


@pytest.mark.parametrize(
    "solver",
    [None, jaxrnn.HoistedScan(chunk=2), jaxrnn.Checkpointed(jaxrnn.HoistedScan())]
    + [s for s in SOLVERS if isinstance(s, jaxrnn.Native | jaxrnn.Fused)],
    ids=repr,
)
@pytest.mark.parametrize("name", ["simple_rnn", "gru", "lstm"])
def test_forward_mode(name, solver):
    """`jvp`, `jacfwd`, `hessian` are those of the plain scan, which JAX derives; and
    what a gradient says.
    """
    cell, _ = CELLS[name]
    problem, direction = (random_problem(cell, np.float64, seed) for seed in (0, 1))
    found = forward_derivatives(cell, solver)(problem, direction)
    assert_close(found, forward_derivatives(cell, jaxrnn.Scan())(problem, direction))
    _, gradients = reference(cell, "holes", True)
    along = jax.tree.map(lambda x, y: jnp.sum(x * y), gradients, direction)
    np.testing.assert_allclose(found[0], sum(jax.tree.leaves(along)), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [jaxrnn.HoistedScan(chunk=None)]
    + [s for s in SOLVERS if isinstance(s, jaxrnn.Fused)],
    ids=repr,
)
@pytest.mark.parametrize("name", [n for n in CELLS if n not in ("gru", "lstm")])
def test_forward_mode_of_every_cell(name, solver):
    """Without marks, `jvp` is what a gradient says."""
    cell, _ = CELLS[name]
    problem, direction = (random_problem(cell, np.float64, seed) for seed in (0, 1))

    def run(*problem):
        return scalar(cell, solver, False, *problem, None, None)[0]

    _, along = jax.jit(lambda *given: jax.jvp(run, *given))(problem, direction)
    _, gradients = reference(cell, "none", False)
    want = jax.tree.map(lambda x, y: jnp.sum(x * y), gradients, direction)
    np.testing.assert_allclose(along, sum(jax.tree.leaves(want)), rtol=1e-9)


def test_backward_loop_of_hoisted_scan_has_one_matmul():
    """No gradient of the recurrent kernel is added up inside the loop."""
    problem = random_problem(jaxrnn.simple_rnn, np.float64)

    def dots_in_loops(solver):
        run = functools.partial(scalar, jaxrnn.simple_rnn, solver, False)
        jaxpr = jax.make_jaxpr(jax.grad(run, has_aux=True))(*problem, None, None)
        return [count_dots(body) for body in scan_bodies(jaxpr.jaxpr)]

    forward, backward = dots_in_loops(jaxrnn.HoistedScan())
    assert (forward, backward) == (2, 1)  # x W and h U; delta U'
    assert dots_in_loops(jaxrnn.HoistedScan(chunk=None)) == [1, 1]  # x W goes before
    assert dots_in_loops(jaxrnn.Scan())[-1] > 1


def inner_jaxprs(equation):
    for value in equation.params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            yield inner


def scan_bodies(jaxpr):
    for equation in jaxpr.eqns:
        for inner in inner_jaxprs(equation):
            if equation.primitive.name == "scan":
                yield inner
            else:
                yield from scan_bodies(inner)


def count_dots(jaxpr):
    here = sum(e.primitive.name == "dot_general" for e in jaxpr.eqns)
    return here + sum(count_dots(i) for e in jaxpr.eqns for i in inner_jaxprs(e))
