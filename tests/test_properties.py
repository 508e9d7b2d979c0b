"""What holds for every cell, solver, mask and restart, whatever the numbers?

Shapes are few, for each takes a compilation; masks, restarts, cuts and values are
drawn freely. One program per cell, solver, shape and direction serves all properties.
"""

import functools

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, FEATURES, IN_FEATURES, SOLVERS, random_problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxrnn

# (time, batch shape). HoistedScan takes 17 steps as one and two chunks of 8.
SHAPES = [(7, (5,)), (6, (2, 2)), (17, (3,))]


def _cases():
    """Every cell with its default solver; every solver with one of the cells."""
    names = list(CELLS)
    for turn, name in enumerate(names):
        shape = SHAPES[turn % len(SHAPES)]
        yield pytest.param(CELLS[name][0], None, *shape, id=f"{name}-default")
    for turn, solver in enumerate(SOLVERS):
        name = names[7 * turn % len(names)]  # 7 shares no factor with their number
        if isinstance(solver, jaxrnn.ParallelScan):
            name = "min_gru"  # with others it is Scan
        shape = SHAPES[turn % len(SHAPES)]
        yield pytest.param(CELLS[name][0], solver, *shape, id=f"{name}-{solver}")


EVERY_CASE = pytest.mark.parametrize(
    ("cell", "solver", "time", "batch"), list(_cases())
)
ALL_CELLS = pytest.mark.parametrize(
    "cell", [cell for cell, _ in CELLS.values()], ids=CELLS
)
IN_FLOAT64 = pytest.mark.usefixtures("x64")


def drawn(max_examples):
    """The same examples in every run; x64 holds for all of them."""
    return settings(
        deadline=None,
        derandomize=True,
        database=None,
        max_examples=max_examples,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


def assert_close(found, want):
    """Float64 has 1e-16 a sum; a few hundred terms of size one stay far below 1e-10."""
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-10)
    jax.tree.map(close, found, want)


def add(*trees):
    return jax.tree.map(lambda *leaves: sum(leaves), *trees)


@functools.cache
def compiled(cell, solver, batch, reverse=False, masked=True):
    """A run and its gradients, over (time, rows) whatever the batch axes are.

    Returns:
      `run(problem, mask, resets) -> ((carry, outputs), (of_params, of_inputs,
      of_carry))`, where the gradients are those of the sum of `weights * outputs` and
      `of_last * carry`.
    """

    def fold(x, axis):
        return x.reshape(*x.shape[:axis], *batch, *x.shape[axis + 1 :])

    def loss(params, inputs, carry, weights, of_last, mask, resets):
        last, outputs = jaxrnn.rnn(
            cell,
            params,
            fold(inputs, 1),
            mask=fold(mask, 1) if masked else None,
            resets=fold(resets, 1) if masked else None,
            initial_carry=jax.tree.map(lambda x: fold(x, 0), carry),
            reverse=reverse,
            solver=solver,
        )
        outputs = outputs.reshape(*inputs.shape[:2], -1)
        last = jax.tree.map(lambda x, like: x.reshape(like.shape), last, carry)
        products = jax.tree.map(jnp.multiply, last, of_last)
        total = sum(map(jnp.sum, jax.tree.leaves(products)))
        return total + jnp.sum(weights[..., None] * outputs), (last, outputs)

    program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))

    def run(problem, mask=None, resets=None):
        (_, found), gradients = program(*problem, mask, resets)
        return jax.tree.map(np.asarray, (found, gradients))

    return run


def draw_problem(data, cell, time, rows):
    """Parameters, inputs, carry, weights of the outputs and of the last carry."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    specs = cell.param_specs(IN_FEATURES, FEATURES)
    params = {name: rng.normal(0, 0.5, spec.shape) for name, spec in specs.items()}
    zero = cell.initial_carry(params, (rows,))
    inputs = rng.normal(0, 0.5, (time, rows, IN_FEATURES))
    carry, of_last = (
        jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape), zero) for _ in range(2)
    )
    return params, inputs, carry, rng.normal(size=(time, rows)), of_last


def draw_marks(data, time, rows, name):
    """A mask or resets, (time, rows)."""
    return data.draw(hnp.arrays(bool, (time, rows)), label=name)


def chosen(rows, tree):
    """`tree` (rows, ...) where `rows` is True, zero elsewhere."""
    return jax.tree.map(lambda x: np.where(rows[:, None], x, 0), tree)


# Masks.


@IN_FLOAT64
@EVERY_CASE
@drawn(8)
@given(st.data())
def test_masked_steps_anywhere_change_nothing(cell, solver, time, batch, data):
    """A short run without a mask, and the same one with masked steps of any content
    before, between and after its own: same outputs, carry and gradients.
    """
    rows, short = int(np.prod(batch)), time // 2 + 1
    problem = draw_problem(data, cell, short, rows)
    params, inputs, carry, weights, of_last = problem
    some = st.permutations(range(time)).map(lambda steps: sorted(steps[:short]))
    steps = [data.draw(some, label="valid steps") for _ in range(rows)]
    valid = (np.transpose(steps), np.arange(rows))

    def spread(x, padding):
        long = np.full((time, *x.shape[1:]), padding, x.dtype)
        long[valid] = x
        return long

    found = compiled(cell, solver, batch, masked=False)(problem)
    (last, outputs), (of_params, of_inputs, of_carry) = found
    garbage = data.draw(st.sampled_from([0.0, 1e30, np.inf, np.nan]), label="garbage")
    mask = spread(np.ones((short, rows), bool), False)
    weights = spread(weights, 3.0)  # outputs there are 0, whatever the loss wants
    longer = params, spread(inputs, garbage), carry, weights, of_last
    padded = compiled(cell, solver, batch)(longer, mask, np.zeros_like(mask))
    want = (last, spread(outputs, 0)), (of_params, spread(of_inputs, 0), of_carry)
    assert_close(padded, want)


@IN_FLOAT64
@EVERY_CASE
@drawn(5)
@given(st.data())
def test_rows_do_not_know_their_order(cell, solver, time, batch, data):
    rows = int(np.prod(batch))
    problem = draw_problem(data, cell, time, rows)
    mask, resets = (draw_marks(data, time, rows, name) for name in ("mask", "resets"))
    order = np.array(data.draw(st.permutations(range(rows)), label="order"))

    def moved(sequences, carries):
        return jax.tree.map(lambda x: x[:, order], sequences), jax.tree.map(
            lambda x: x[order], carries
        )

    params, inputs, carry, weights, of_last = problem
    (inputs, weights), (carry, of_last) = moved((inputs, weights), (carry, of_last))
    run = compiled(cell, solver, batch)
    found = run(
        (params, inputs, carry, weights, of_last), mask[:, order], resets[:, order]
    )
    (last, outputs), (of_params, of_inputs, of_carry) = run(problem, mask, resets)
    (outputs, of_inputs), (last, of_carry) = moved(
        (outputs, of_inputs), (last, of_carry)
    )
    assert_close(found, ((last, outputs), (of_params, of_inputs, of_carry)))


# Direction. A solver does not know it, so the default one will do.


@IN_FLOAT64
@pytest.mark.parametrize("name", ["simple_rnn", "gru", "lstm", "ind_rnn"])
@drawn(10)
@given(st.data())
def test_back_over_the_flipped_is_forth(name, data):
    cell, (time, batch) = CELLS[name][0], SHAPES[0]
    rows = int(np.prod(batch))
    params, inputs, carry, weights, of_last = draw_problem(data, cell, time, rows)
    mask, resets = (draw_marks(data, time, rows, name) for name in ("mask", "resets"))
    resets[0] = False  # backwards a restart before the first step cannot be said
    back = compiled(cell, None, batch, reverse=True)
    flipped = params, inputs[::-1], carry, weights[::-1], of_last
    # Backwards an episode ends where the next one begins, one step later.
    found = back(flipped, mask[::-1], np.roll(resets[::-1], 1, axis=0))
    (last, outputs), (of_params, of_inputs, of_carry) = found
    forth = compiled(cell, None, batch)
    want = forth((params, inputs, carry, weights, of_last), mask, resets)
    assert_close(((last, outputs[::-1]), (of_params, of_inputs[::-1], of_carry)), want)


# Restarts and pieces.


def check_restarts(cell, solver, time, batch, data, reverse):
    """Each episode is a run of its own, from zeros but for the first."""
    rows = int(np.prod(batch))
    problem = draw_problem(data, cell, time, rows)
    params, inputs, first, weights, of_last = problem
    mask, resets = (draw_marks(data, time, rows, name) for name in ("mask", "resets"))
    run = compiled(cell, solver, batch, reverse)
    whole = run(problem, mask, resets)

    number = np.cumsum(resets, axis=0)  # of the episode that a step belongs to
    if reverse:
        number = number[-1] - number
    final = number[0 if reverse else -1]
    parts = []
    for episode in range(time + 1):
        ends = final == episode
        begin = first if episode == 0 else jax.tree.map(np.zeros_like, first)
        part = params, inputs, begin, weights, chosen(ends, of_last)
        within = mask & (number == episode)
        found, (of_params, of_inputs, of_carry) = run(
            part, within, np.zeros_like(resets)
        )
        last, outputs = found
        starts = np.full(rows, episode == 0)
        found = chosen(ends, last), outputs
        parts.append((found, (of_params, of_inputs, chosen(starts, of_carry))))
        if episode == final.max():
            break
    assert_close(add(*parts), whole)


@IN_FLOAT64
@EVERY_CASE
@drawn(5)
@given(st.data())
def test_restarts_are_separate_runs(cell, solver, time, batch, data):
    check_restarts(cell, solver, time, batch, data, reverse=False)


@IN_FLOAT64
@pytest.mark.parametrize("name", ["simple_rnn", "gru", "lstm", "ind_rnn"])
@drawn(10)
@given(st.data())
def test_restarts_in_reverse_are_separate_runs(name, data):
    check_restarts(CELLS[name][0], None, *SHAPES[0], data, reverse=True)


@IN_FLOAT64
@EVERY_CASE
@drawn(5)
@given(st.data())
def test_pieces_are_the_whole(cell, solver, time, batch, data):
    """Every row is cut where it likes and the carry handed on; on the way back its
    cotangent is.
    """
    rows = int(np.prod(batch))
    problem = draw_problem(data, cell, time, rows)
    params, inputs, _, weights, _ = problem
    mask = draw_marks(data, time, rows, "mask")
    cuts = data.draw(hnp.arrays(int, rows, elements=st.integers(0, time)), label="cuts")
    head = mask & (np.arange(time)[:, None] < cuts)
    tail = mask & ~head
    never = np.zeros_like(mask)
    run = compiled(cell, solver, batch)

    (middle, _), _ = run(problem, head, never)
    (last, of_tail), gradients = run(
        (params, inputs, middle, weights, problem[4]), tail, never
    )
    tail_gradients, of_middle = gradients[:2], gradients[2]
    (_, of_head), gradients = run((*problem[:4], of_middle), head, never)
    found = (
        (last, of_head + of_tail),
        (
            *add(tail_gradients, gradients[:2]),
            gradients[2],
        ),
    )
    assert_close(found, run(problem, mask, never))


@pytest.mark.usefixtures("optimized")
@ALL_CELLS
def test_pieces_of_other_lengths_are_the_whole_to_the_bit(cell):
    """In float32, as users compile: the same step runs, so no bit may differ."""
    run = jax.jit(functools.partial(jaxrnn.rnn, cell))
    params, inputs, _ = random_problem(cell, np.float32)
    whole, outputs = run(params, inputs)
    carry, head = run(params, inputs[:3])
    carry, tail = run(params, inputs[3:], initial_carry=carry)
    jax.tree.map(np.testing.assert_array_equal, carry, whole)
    np.testing.assert_array_equal(np.concatenate([head, tail]), outputs)


# One step at a time.


@functools.cache
def compiled_carries(cell):
    return jax.jit(functools.partial(jaxrnn.rnn_carries, cell))


@IN_FLOAT64
@ALL_CELLS
@drawn(8)
@given(st.data())
def test_carries_are_those_of_a_loop_over_steps(cell, data):
    """`rnn_step` in a Python loop that holds and restarts the carry itself."""
    (time, _), rows = SHAPES[0], 5
    params, inputs, carry, _, _ = draw_problem(data, cell, time, rows)
    mask, resets = (draw_marks(data, time, rows, name) for name in ("mask", "resets"))
    last, carries = compiled_carries(cell)(
        params, inputs, mask=mask, resets=resets, initial_carry=carry
    )
    for t in range(time):
        carry = chosen(~resets[t], carry)
        new, _ = jaxrnn.rnn_step(cell, params, carry, inputs[t])
        carry = add(chosen(mask[t], new), chosen(~mask[t], carry))
        assert_close(jax.tree.map(lambda x, t=t: x[t], carries), carry)
    assert_close(last, carry)
