"""Is Deer never wrong, and in how few iterations?

Right is a trajectory in which every step is what the cell makes of the step before, but
for 16 roundings: in chaos no other oracle exists, for there no two solvers agree.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxrnn
from jaxrnn.solvers.base import Steps, flip, hold, restart
from jaxrnn.solvers.trajectory import TOLERANCE, Problem, is_wrong

EPS = np.finfo(np.float32).eps
TAKEN_AGAIN = 2  # in units of eps, as far as two programs of one step are apart
RELU = jaxrnn.simple_rnn_cell(activation=jax.nn.relu)
LINEAR = jaxrnn.simple_rnn_cell(activation=jaxrnn.linear)


def noting(**settings):
    """Deer, and the list of (iterations, repaired from) that it fills."""
    notes = []

    def note(iterations, since):
        notes.append((int(iterations), int(since)))

    return jaxrnn.Deer(report=note, **settings), notes


def fresh(cell, features, scale=1.0, seed=0):
    params = jaxrnn.init_params(cell, jax.random.key(seed), 4, features)
    return dict(params) | {"recurrent_kernel": params["recurrent_kernel"] * scale}


def normal(*shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def off(cell, params, steps, first, carries):
    """The largest residual of any number, in units of what `is_wrong` allows one of.

    That is eps times 1 + its size + that of the carry before as far as the step feels
    it, but no more than 1 + the size of the largest number beside it. What the step,
    taken again here, is rounded otherwise does not count: `TAKEN_AGAIN` times eps of
    what it adds up, the carry before and what is projected as far as it feels them.
    """
    start = cell.initial_carry(params, steps.batch_shape)
    before = jax.tree.map(
        lambda x, y: jnp.concatenate([x[None], y[:-1]]), first, carries
    )
    before = restart(steps.resets, jax.tree.map(lambda x: x[None], start), before)
    projected = cell.project(params, steps.inputs)
    new = hold(steps.mask, cell.step(params, before, projected), before)
    slopes = jax.jacfwd(
        lambda before, x: packed(cell.step(params, before, x)), argnums=(0, 1)
    )
    of_before, of_projected = jax.vmap(jax.vmap(slopes))(before, projected)
    new, carries, before = map(packed, (new, carries, before))
    felt = felt_by(packed(of_before), before)
    felt = hold(steps.mask, felt, jnp.abs(before))
    felt = 1 + jnp.abs(carries) + restart(steps.resets, jnp.zeros_like(felt), felt)
    largest = 1 + jnp.abs(carries).max(-1, keepdims=True)
    rounded = TAKEN_AGAIN * EPS * (felt + felt_by(of_projected, projected))
    residual = jnp.abs(new - carries) - rounded
    return (residual / (EPS * jnp.minimum(felt, largest))).max()


def felt_by(slopes, x):
    return (jnp.abs(slopes) @ jnp.abs(x)[..., None])[..., 0]


def packed(carry):
    return jnp.concatenate(jax.tree.leaves(carry), axis=-1)


@functools.cache
def side_by_side(cell, solver):
    """The residuals of several models at once, and their carries."""

    def run(params, inputs):
        _, carries = jaxrnn.rnn_carries(cell, params, inputs, solver=solver)
        first = cell.initial_carry(params, inputs.shape[1:-1])
        return off(cell, params, Steps(inputs), first, carries), carries

    return jax.jit(jax.vmap(run, in_axes=(0, None)))


def stacked(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.parametrize(
    "cell",
    [
        jaxrnn.simple_rnn,
        pytest.param(jaxrnn.gru, marks=pytest.mark.slow),
        pytest.param(jaxrnn.lstm, marks=pytest.mark.slow),
    ],
    ids=lambda cell: cell.name,
)
def test_never_wrong_however_chaotic(cell):
    """By 16 eps and no more; nor is Scan off, by more than its steps taken again."""
    params = stacked(*(fresh(cell, 16, scale) for scale in (1, 1.5, 2, 4)))
    solver, notes = noting()
    residuals, carries = side_by_side(cell, solver)(params, normal(200, 2, 4))
    jax.effects_barrier()
    of_scan, want = side_by_side(cell, jaxrnn.Scan())(params, normal(200, 2, 4))
    assert of_scan.max() <= 0
    assert residuals.max() <= TOLERANCE
    assert all(iterations <= 16 for iterations, _ in notes)
    since = sorted(since for _, since in notes)  # in no order of the models
    assert since[-1] == 200  # a fresh cell needs no repair
    if cell is jaxrnn.simple_rnn:
        assert since[0] < 200  # four times its kernel does
    # The first is no chaos; its roundings die out.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x[0], y[0], atol=2e-6), carries, want
    )


def test_never_wrong_where_carries_grow():
    """ReLU with a gain of 2, to 2^100, and a memory that forgets nothing, to 150."""
    params, inputs = fresh(RELU, 8, 2.0), normal(100, 2, 4)
    found, carries = side_by_side(RELU, jaxrnn.Deer())(stacked(params), inputs)
    assert found <= TOLERANCE
    assert carries.max() > 2.0**60
    params = fresh(jaxrnn.lstm, 8)
    gates = {0: 3.0, 1: 20.0, 2: 2.0}  # i, f, g
    for gate, value in gates.items():
        params["bias"] = params["bias"].at[8 * gate : 8 * gate + 8].set(value)
    inputs = normal(200, 2, 4)
    solver, notes = noting()
    found, carries = side_by_side(jaxrnn.lstm, solver)(stacked(params), inputs)
    jax.effects_barrier()
    assert found <= TOLERANCE
    assert carries.memory.max() > 150
    assert notes[0][1] > 50  # the clip, far smaller, does not stand in the way
    _, want = side_by_side(jaxrnn.lstm, jaxrnn.Scan())(stacked(params), inputs)
    # A large memory hides no wrong hidden vector: 200 sums of roundings of 150.
    np.testing.assert_allclose(carries.hidden, want.hidden, atol=2e-3)


def test_a_large_number_hides_no_small_wrong_one():
    """Two integrators: 16 eps of the large one are 19, the small one is off by 0.1."""
    carries = jnp.array([[1e7, 0.5]])
    problem = Problem({}, carries[0], None, None, None, None)
    apart, together = jnp.eye(2)[None], jnp.ones((1, 2, 2))
    for error, slopes, wrong in (
        ([0.0, 0.1], apart, True),
        ([0.0, 0.1], together, False),  # it is a difference of large ones, rounded
        ([1.0, 0.0], apart, False),  # a rounding
        ([30.0, 0.0], apart, True),
        ([0.0, jnp.nan], together, True),
        ([0.0, 0.1], jnp.inf * together, True),
    ):
        new = carries + jnp.array([error])
        assert is_wrong(problem, carries, new, slopes).tolist() == [wrong]


def test_where_scan_overflows_it_does():
    """What is infinite or NaN is taken step by step, as Scan takes it."""
    params, inputs = fresh(RELU, 8, 8.0), normal(60, 2, 4)

    def run(solver):
        return jaxrnn.rnn(RELU, params, inputs, solver=solver)[1]

    found, want = map(run, (jaxrnn.Deer(), jaxrnn.Scan(project_first=True)))
    assert not jnp.isfinite(want).all()
    np.testing.assert_array_equal(jnp.isfinite(found), jnp.isfinite(want))
    # Small ones are differences of large ones: that costs some of seven digits.
    np.testing.assert_allclose(found, want, rtol=1e-2)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", ["simple_rnn", "lstm"])
@pytest.mark.slow
def test_repaired_from_the_start_it_is_scan_to_the_bit(name):
    cell = CELLS[name][0]
    params, inputs = fresh(cell, 8, 4.0), normal(50, 3, 4)
    solver, notes = noting(iterations=0)

    @functools.partial(jax.jit, static_argnums=1)
    def run(params, solver):
        return jaxrnn.rnn_carries(cell, params, inputs, solver=solver)[1]

    found, want = run(params, solver), run(params, jaxrnn.Scan(project_first=True))
    jax.effects_barrier()
    assert notes == [(0, 0)]
    jax.tree.map(np.testing.assert_array_equal, found, want)


@pytest.mark.parametrize("name", ["simple_rnn", "gru", "lstm"])
@pytest.mark.slow
def test_few_iterations_at_any_length(name):
    """Of a fresh cell, at 10,000 steps; nothing is left to repair."""
    cell, time = getattr(jaxrnn, name), 10_000
    solver, notes = noting()
    params, inputs = fresh(cell, 8), normal(time, 1, 4)
    _, found = jaxrnn.rnn(cell, params, inputs, solver=solver)
    jax.effects_barrier()
    [(iterations, since)] = notes
    assert 1 < iterations <= 8
    assert since == time
    want = jaxrnn.rnn(cell, params, inputs, solver=jaxrnn.Scan())[1]
    np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.parametrize(
    "cell", [LINEAR, jaxrnn.min_gru, jaxrnn.lru], ids=lambda c: c.name
)
def test_one_iteration_where_the_step_is_linear(cell):
    """Newton's method is exact there; `Cell.linear` only says that it can be cheap."""
    solver, notes = noting()
    params, inputs = (
        jaxrnn.init_params(cell, jax.random.key(0), 4, 8),
        normal(200, 2, 4),
    )
    for run in (cell, cell._replace(linear=None)):
        _, found = jaxrnn.rnn(run, params, inputs, solver=solver)
        _, want = jaxrnn.rnn(cell, params, inputs, solver=jaxrnn.Scan())
        np.testing.assert_allclose(found, want, atol=1e-5 * float(abs(want).max()))
    jax.effects_barrier()
    assert notes == [(1, 200), (1, 200)]


def test_report_within_a_gradient_a_vmap_and_a_checkpoint():
    """Once for each time that it is solved for."""
    solver, notes = noting()
    params = stacked(fresh(jaxrnn.gru, 4), fresh(jaxrnn.gru, 4, 0.5))
    inputs = normal(9, 2, 4)

    def loss(params, solver):
        return jaxrnn.rnn(jaxrnn.gru, params, inputs, solver=solver)[1].sum()

    jax.jit(jax.vmap(jax.grad(functools.partial(loss, solver=solver))))(params)
    jax.effects_barrier()
    assert [since for _, since in notes] == [9, 9]
    notes.clear()
    chunks = jaxrnn.Checkpointed(solver, chunk=3)
    jax.grad(loss)(fresh(jaxrnn.gru, 4), chunks)
    jax.effects_barrier()
    assert [since for _, since in notes] == [3, 3, 3]


def test_bfloat16_iterates_in_float32():
    """The carry between steps is not rounded: closer to float32 than Scan is.

    What is rounded, inputs and what is projected, is so by 2^-9 at most.
    """
    params, inputs = fresh(jaxrnn.gru, 8), normal(100, 2, 4)

    def run(solver, dtype):
        _, outputs = jaxrnn.rnn(jaxrnn.gru, params, inputs, dtype=dtype, solver=solver)
        assert outputs.dtype == dtype
        return np.asarray(outputs, np.float32)

    want = run(jaxrnn.Scan(), jnp.float32)
    found, by_scan = (
        abs(run(solver, jnp.bfloat16) - want).max()
        for solver in (jaxrnn.Deer(), jaxrnn.Scan())
    )
    assert found < min(by_scan, 0.02)


@pytest.mark.parametrize(
    "cell",
    [
        jaxrnn.dropout_cell(jaxrnn.lstm, 0.2, recurrent_rate=0.3),
        jaxrnn.ind_rnn,  # its Jacobian is still a diagonal
        jaxrnn.min_gru,  # it is no longer called linear
    ],
    ids=lambda cell: cell.name,
)
def test_noise_is_that_of_scan(cell):
    cell = jaxrnn.zoneout_cell(cell, 0.2)
    problem = random_problem(cell, np.float32)

    def loss(params, inputs, carry, solver):
        last, outputs = jaxrnn.rnn(
            cell,
            params,
            inputs,
            initial_carry=carry,
            key=jax.random.key(3),
            solver=solver,
        )
        return (outputs**2).sum() + sum(x.sum() for x in jax.tree.leaves(last))

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)), static_argnums=3)
    found, want = (run(*problem, solver) for solver in (jaxrnn.Deer(), jaxrnn.Scan()))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-5), found, want
    )


# Random configurations.

SHAPES = {False: (12, 3, 5), True: (20, 2, 8)}  # reverse: time, batch, features
ANY = [
    jaxrnn.simple_rnn,
    RELU,
    jaxrnn.gru,
    jaxrnn.lstm,
    jaxrnn.lstm_cell(projection_features=2),
    jaxrnn.ind_rnn,
    jaxrnn.mgu,
]


@functools.cache
def with_marks(cell, solver, reverse):
    """A program; the residual of one random configuration of it."""
    time, batch, features = SHAPES[reverse]

    def run(key, size, scale, is_marked):
        of_inputs, of_carry, of_params, of_mask, of_resets = jax.random.split(key, 5)
        steps = Steps(
            size * jax.random.normal(of_inputs, (time, batch, 4)),
            ~is_marked | jax.random.bernoulli(of_mask, 0.7, (time, batch)),
            is_marked & jax.random.bernoulli(of_resets, 0.2, (time, batch)),
        )
        names = cell.param_specs(4, features).items()
        keys = jax.random.split(of_params, len(names))
        params = {
            name: scale * jax.random.normal(key, spec.shape)
            for key, (name, spec) in zip(keys, names, strict=True)
        }
        first = jax.tree.map(
            lambda x: scale * jax.random.normal(of_carry, x.shape),
            cell.initial_carry(params, (batch,)),
        )
        _, carries = jaxrnn.rnn_carries(
            cell,
            params,
            steps.inputs,
            mask=steps.mask,
            resets=steps.resets,
            initial_carry=first,
            reverse=reverse,
            solver=solver,
        )
        if reverse:
            steps, carries = steps.reversed(), flip(carries)
        return off(cell, params, steps, first, carries)

    return jax.jit(run)


@pytest.mark.slow
@settings(deadline=None, derandomize=True, database=None, max_examples=2_000)
@given(
    cell=st.sampled_from(ANY),
    iterations=st.sampled_from([2, 16]),
    reverse=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
    size=st.floats(0.01, 100.0),
    scale=st.floats(0.01, 4.0),
    is_marked=st.booleans(),
)
def test_two_thousand_random_configurations(
    cell, iterations, reverse, seed, size, scale, is_marked
):
    run = with_marks(cell, jaxrnn.Deer(iterations=iterations), reverse)
    residual = run(jax.random.key(seed), *map(np.float32, (size, scale)), is_marked)
    assert residual <= TOLERANCE


# What does not fit.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"iterations": -1}, "at least 0, got -1"),
        ({"clip": 0.0}, "above 0, got 0.0; None tries full steps alone"),
    ],
)
def test_settings_that_are_none(settings, words):
    with pytest.raises(ValueError, match=words):
        jaxrnn.Deer(**settings)


def test_a_carry_of_other_axes_is_refused():
    cell = jaxrnn.simple_rnn._replace(
        initial_carry=lambda params, batch: jnp.zeros((*batch, 2, 8)),
        step=lambda params, carry, x: jnp.tanh(carry + x[..., None, :]),
        output=lambda carry: carry.sum(axis=-2),
        adjoint=None,
    )
    with pytest.raises(
        ValueError, match=r"carry of arrays \(3, 'features'\), got \(3,"
    ):
        jaxrnn.rnn(
            cell, fresh(jaxrnn.simple_rnn, 8), normal(9, 3, 4), solver=jaxrnn.Deer()
        )
