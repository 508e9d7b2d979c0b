"""Does `rnn` keep its promises about masks, dtypes, transformations and bad input?"""

import functools
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    BATCH,
    CELLS,
    FEATURES,
    IN_FEATURES,
    MASKS,
    RESETS,
    TIME,
    numpy_rnn,
    random_problem,
)

import jaxrnn
from jaxrnn.cells import ops, params

ALL_CELLS = pytest.mark.parametrize(("cell", "step"), CELLS.values(), ids=CELLS)
THREE_CELLS = pytest.mark.parametrize(
    "cell", [jaxrnn.simple_rnn, jaxrnn.gru, jaxrnn.lstm], ids=lambda cell: cell.name
)


@ALL_CELLS
def test_held_outputs_repeat_the_output_before(cell, step):
    problem = random_problem(cell, np.float32)
    params, inputs, first = problem
    _, found = jaxrnn.rnn(
        cell,
        params,
        inputs,
        mask=MASKS["holes"],
        initial_carry=first,
        hold_outputs=True,
    )
    _, _, want = numpy_rnn(step, *problem, MASKS["holes"])
    np.testing.assert_allclose(found, want, atol=1e-6)  # a few float32 roundings


@THREE_CELLS
def test_row_without_a_valid_step_returns_its_initial_carry(cell):
    """PyTorch raises on a length of 0, and Flax returns the last step's carry."""
    params, inputs, first = random_problem(cell, np.float32)
    mask = jnp.zeros((TIME, BATCH), bool)
    last, outputs = jaxrnn.rnn(cell, params, inputs, mask=mask, initial_carry=first)
    jax.tree.map(np.testing.assert_array_equal, last, first)
    np.testing.assert_array_equal(outputs, 0)


@THREE_CELLS
@pytest.mark.parametrize("solver", [jaxrnn.Scan(), jaxrnn.HoistedScan()], ids=repr)
def test_masked_inputs_have_no_influence_even_if_nan(cell, solver):
    params, inputs, _ = random_problem(cell, np.float32)
    mask = MASKS["holes"]

    def loss(params, inputs):
        last, outputs = jaxrnn.rnn(cell, params, inputs, mask=mask, solver=solver)
        return outputs.sum() + cell.output(last).sum()

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    poisoned = jnp.where(mask[..., None], inputs, jnp.nan)
    jax.tree.map(
        np.testing.assert_array_equal, run(params, poisoned), run(params, inputs)
    )
    assert not np.any(run(params, poisoned)[1][1][~np.asarray(mask)])


@THREE_CELLS
def test_carry_goes_on_in_pieces(cell):
    params, inputs, first = random_problem(cell, np.float32)
    whole, outputs = jaxrnn.rnn(cell, params, inputs, initial_carry=first)
    carry, head = jaxrnn.rnn(cell, params, inputs[:3], initial_carry=first)
    carry, tail = jaxrnn.rnn(cell, params, inputs[3:], initial_carry=carry)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
    jax.tree.map(close, carry, whole)
    close(np.concatenate([head, tail]), outputs)


@pytest.mark.parametrize("batch_shape", [(), (2,), (2, 3)])
@THREE_CELLS
def test_any_number_of_batch_axes(cell, batch_shape):
    params = jaxrnn.init_params(cell, jax.random.key(0), IN_FEATURES, FEATURES)
    rows = max(1, int(np.prod(batch_shape)))
    flat = jax.random.normal(jax.random.key(1), (TIME, rows, IN_FEATURES))
    mask = jnp.arange(TIME)[:, None] < jnp.arange(rows)[None, :] + 1
    last, outputs = jaxrnn.rnn(
        cell,
        params,
        flat.reshape(TIME, *batch_shape, IN_FEATURES),
        mask=mask.reshape(TIME, *batch_shape),
    )
    want_last, want = jaxrnn.rnn(cell, params, flat, mask=mask)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
    close(outputs, want.reshape(TIME, *batch_shape, FEATURES))
    jax.tree.map(
        lambda x, y: close(x, y.reshape(*batch_shape, FEATURES)), last, want_last
    )


@THREE_CELLS
def test_no_time_steps_at_all(cell):
    params, inputs, first = random_problem(cell, np.float32)

    def run(first):
        last, outputs = jaxrnn.rnn(cell, params, inputs[:0], initial_carry=first)
        return sum(leaf.sum() for leaf in jax.tree.leaves(last)), (last, outputs)

    gradient, (last, outputs) = jax.grad(run, has_aux=True)(first)
    jax.tree.map(np.testing.assert_array_equal, last, first)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 1), gradient)
    assert outputs.shape == (0, BATCH, FEATURES)


@pytest.mark.usefixtures("x64")
@THREE_CELLS
def test_dtype_is_what_inputs_and_params_promote_to(cell):
    params, inputs, first = random_problem(cell, np.float64)
    with jax.numpy_dtype_promotion("standard"):
        low = jax.tree.map(lambda x: x.astype(np.float32), params)
        last, outputs = jaxrnn.rnn(cell, low, inputs, initial_carry=first)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves((last, outputs)))


@THREE_CELLS
def test_numpy_arrays_will_do(cell):
    problem = random_problem(cell, np.float32)
    in_numpy = jax.tree.map(np.asarray, problem)
    found = jaxrnn.rnn(cell, *in_numpy[:2], mask=np.asarray(MASKS["holes"]))
    want = jaxrnn.rnn(cell, *problem[:2], mask=MASKS["holes"])
    jax.tree.map(np.testing.assert_array_equal, found, want)


def test_equal_settings_give_the_same_cell():
    assert jaxrnn.simple_rnn_cell(activation=jnp.tanh) is jaxrnn.simple_rnn
    assert jaxrnn.gru_cell(reset_after=True) is jaxrnn.gru
    assert jaxrnn.lstm_cell(unit_forget_bias=True) is jaxrnn.lstm
    relu = jaxrnn.simple_rnn_cell(activation=jax.nn.relu)
    assert relu is jaxrnn.simple_rnn_cell(activation=nn.relu)


@THREE_CELLS
def test_a_reset_forgets_the_initial_carry_too(cell):
    params, inputs, first = random_problem(cell, np.float32)
    resets = jnp.zeros((TIME, BATCH), bool).at[0].set(True)
    found = jaxrnn.rnn(cell, params, inputs, resets=resets, initial_carry=first)
    want = jaxrnn.rnn(cell, params, inputs)
    jax.tree.map(np.testing.assert_array_equal, found, want)


@THREE_CELLS
def test_a_reset_at_a_masked_step_counts(cell):
    """An episode may begin in the padding; what came before is forgotten."""
    params, inputs, first = random_problem(cell, np.float32)
    mask = jnp.ones((TIME, BATCH), bool).at[3:].set(False)
    resets = jnp.zeros((TIME, BATCH), bool).at[4].set(True)
    last, _ = jaxrnn.rnn(
        cell, params, inputs, mask=mask, resets=resets, initial_carry=first
    )
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), last)


@THREE_CELLS
def test_all_carries_and_one_step(cell):
    params, inputs, first = random_problem(cell, np.float32)
    mask = MASKS["holes"]
    options = {"mask": mask, "initial_carry": first}
    for reverse in (False, True):
        last, carries = jaxrnn.rnn_carries(
            cell, params, inputs, reverse=reverse, **options
        )
        want_last, want = jaxrnn.rnn(
            cell, params, inputs, hold_outputs=True, reverse=reverse, **options
        )
        jax.tree.map(np.testing.assert_array_equal, last, want_last)
        np.testing.assert_array_equal(cell.output(carries), want)
        end = 0 if reverse else -1
        jax.tree.map(
            lambda x, y, end=end: np.testing.assert_array_equal(x[end], y),
            carries,
            last,
        )


@THREE_CELLS
def test_one_step_after_another_is_the_whole(cell):
    params, inputs, first = random_problem(cell, np.float32)
    run = functools.partial(jaxrnn.rnn, cell, params, inputs, initial_carry=first)
    want, carry = run(resets=RESETS)[1], first
    for step_inputs, resets, output in zip(inputs, RESETS, want, strict=True):
        carry, found = jaxrnn.rnn_step(cell, params, carry, step_inputs, resets=resets)
        np.testing.assert_allclose(found, output, rtol=0, atol=1e-6)
    carry, output = jaxrnn.rnn_step(cell, params, first, inputs[0], dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves((carry, output))} == {
        jnp.dtype("bfloat16")
    }
    np.testing.assert_allclose(
        output.astype(np.float32), run()[1][0], atol=0.02
    )  # 8 bits


def test_what_fits_is_checked_once(untyped):
    """By shapes and dtypes: a check takes a trace of the cell, longer than a step."""
    looked = []

    def initial_carry(params, batch_shape):
        looked.append(batch_shape)
        return jaxrnn.gru.initial_carry(params, batch_shape)

    cell = jaxrnn.gru._replace(initial_carry=initial_carry)
    params, inputs, first = random_problem(cell, np.float32)
    for run in (
        lambda: jaxrnn.rnn_step(cell, params, first, inputs[0]),
        lambda: jaxrnn.rnn(cell, params, inputs, initial_carry=first),
    ):
        run()
        assert looked
        looked.clear()
        run()
        assert not looked
    with pytest.raises(ValueError, match="carry must have the shapes"):
        untyped(jaxrnn.rnn_step)(cell, params, first[:, :-1], inputs[0])
    with pytest.raises(TypeError, match="floating point, got int32"):
        untyped(jaxrnn.rnn_step)(cell, params, first, inputs[0].astype(int))


def test_a_plain_pair_is_an_lstm_carry():
    params, inputs, first = random_problem(jaxrnn.lstm, np.float32)
    for pair in (tuple(first), list(first)):
        for run in (jaxrnn.rnn, jaxrnn.rnn_carries):
            found = run(jaxrnn.lstm, params, inputs, initial_carry=pair)
            want = run(jaxrnn.lstm, params, inputs, initial_carry=first)
            jax.tree.map(np.testing.assert_array_equal, found, want)
        found, _ = jaxrnn.rnn_step(jaxrnn.lstm, params, pair, inputs[0])
        want, _ = jaxrnn.rnn_step(jaxrnn.lstm, params, first, inputs[0])
        jax.tree.map(np.testing.assert_array_equal, found, want)


@THREE_CELLS
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_mixed_precision(cell, dtype):
    """Float32 parameters keep their dtype, and so do their gradients."""
    params, inputs, first = random_problem(cell, np.float32)

    def loss(params, dtype):
        last, outputs = jaxrnn.rnn(
            cell, params, inputs, initial_carry=first, dtype=dtype
        )
        return (outputs.astype(jnp.float32) ** 2).sum(), (last, outputs)

    low, (last, outputs) = jax.grad(loss, has_aux=True)(params, dtype)
    assert {x.dtype for x in jax.tree.leaves((last, outputs))} == {jnp.dtype(dtype)}
    assert {x.dtype for x in jax.tree.leaves(low)} == {jnp.dtype("float32")}
    high, _ = jax.grad(loss, has_aux=True)(params, jnp.float32)
    for name in params:
        # 8 bits of bfloat16 are 2^-8 a rounding, over seven steps and back; sums of
        # 35 rows, so relative to the largest entry.
        scale = np.abs(high[name]).max()
        np.testing.assert_allclose(low[name], high[name], rtol=0, atol=0.05 * scale)


@pytest.mark.parametrize("solver", [jaxrnn.Scan(), jaxrnn.HoistedScan()], ids=repr)
def test_sums_are_float32_under_bfloat16(solver):
    """A thousand terms of 1/256: bfloat16 alone would stop adding at 1 (8 bits)."""
    cell = jaxrnn.simple_rnn_cell(activation=jaxrnn.linear)
    time = 1000
    params = {
        "kernel": jnp.ones((time, 1)),
        "recurrent_kernel": jnp.zeros((1, 1)),
        "bias": jnp.zeros(1),
    }
    inputs = jnp.full((time, 1, time), 1 / 256, jnp.bfloat16)

    def outputs(params):
        return jaxrnn.rnn(cell, params, inputs, dtype=jnp.bfloat16, solver=solver)[1]

    np.testing.assert_allclose(outputs(params)[0, 0], time / 256, rtol=2**-8)
    gradients = jax.grad(lambda p: outputs(p).astype(jnp.float32).sum())(params)
    np.testing.assert_allclose(gradients["kernel"], time / 256, rtol=1e-6)
    np.testing.assert_allclose(gradients["bias"], time, rtol=1e-6)


def test_lengths_to_mask():
    lengths = jnp.array([[0, 2], [5, 3]])
    found = jaxrnn.lengths_to_mask(lengths, 5)
    want = np.arange(5)[:, None, None] < np.asarray(lengths)
    np.testing.assert_array_equal(found, want)


# Sharding: the batch on two devices, the parameters on both.

SHARDED = """
import jax, numpy as np
import jaxrnn, jaxrnn.nnx
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

few = jax.random.normal(jax.random.key(1), (7, 6, 3))
many = jax.random.normal(jax.random.key(1), (400, 6, 3))  # one device merges these rows
some = jax.random.bernoulli(jax.random.key(2), 0.7, (7, 6))
resets = jax.random.bernoulli(jax.random.key(3), 0.3, (7, 6))
BY_ROWS = P(None, "batch")

def check(axis_type, cell, solver, inputs, mask, resets=None, in_shard_map=False):
    params = jaxrnn.init_params(cell, jax.random.key(0), 3, 4)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(axis_type,))

    def run(params, *steps, devices=False):
        def outputs_of(params, inputs, mask, resets):
            return jaxrnn.rnn(
                cell, params, inputs, mask=mask, resets=resets, solver=solver,
                reverse=resets is not None, key=jax.random.key(3),
            )[1]

        if devices:
            outputs_of = jax.shard_map(
                outputs_of, mesh=mesh, in_specs=(P(), *[BY_ROWS] * 3), out_specs=BY_ROWS
            )

        def loss(params, inputs, *marks):
            outputs = outputs_of(params, inputs, *marks)
            return (outputs ** 2).mean(), outputs
        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, *steps)

    run = jax.jit(run, static_argnames="devices")
    (_, outputs), gradients = run(params, inputs, mask, resets)
    (_, found), found_gradients = run(
        jax.device_put(params, NamedSharding(mesh, P())),
        *jax.device_put((inputs, mask, resets), NamedSharding(mesh, BY_ROWS)),
        devices=in_shard_map,
    )
    # Deer is done on each device where its rows are right to 16 eps a step, 2e-6.
    few_eps = 1e-5 if isinstance(solver, jaxrnn.Deer) else 1e-6
    np.testing.assert_allclose(found, outputs, atol=few_eps)
    for x, y in zip(*map(jax.tree.leaves, (found_gradients, gradients)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    assert "batch" in str(found.sharding.spec)  # outputs stay where the inputs were

assert len(jax.devices()) == 2
scan, hoisted = jaxrnn.Scan(), jaxrnn.HoistedScan(chunk=4)
noisy = jaxrnn.dropout_cell(jaxrnn.gru, rate=0.3, recurrent_rate=0.2)
zoned = jaxrnn.zoneout_cell(noisy, 0.2)
for cell in (jaxrnn.simple_rnn, jaxrnn.lstm):
    check(AxisType.Auto, cell, hoisted, few, some)
check(AxisType.Auto, jaxrnn.simple_rnn, None, many, None)
check(AxisType.Auto, jaxrnn.lstm, scan, few, some)
for cell, solver in (
    (jaxrnn.simple_rnn, hoisted), (jaxrnn.lstm, scan), (noisy, hoisted), (zoned, scan)
):
    check(AxisType.Explicit, cell, solver, few, some, resets)
check(AxisType.Explicit, jaxrnn.simple_rnn, None, many, None)

# Dropout between layers: Flax chooses by a mask that each device has as a whole.
mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Explicit,))
rows = few.swapaxes(0, 1)
divided = jax.device_put(rows, NamedSharding(mesh, P("batch")))
stack = jaxrnn.Stacked(jaxrnn.GRU(4), num_layers=2, dropout=0.5)
variables = stack.init(jax.random.key(0), rows)

def linen(inputs):
    rngs = {"dropout": jax.random.key(1)}
    return stack.apply(variables, inputs, deterministic=False, rngs=rngs)

def of_nnx(inputs):
    rngs = nnx.Rngs(0)
    stack = [jaxrnn.nnx.GRU(size, 4, rngs=rngs) for size in (3, 4)]
    layer = jaxrnn.nnx.Stacked(stack, dropout=0.5, rngs=rngs)
    return layer(inputs, deterministic=False)

for run in (linen, of_nnx):
    assert jax.typeof(run(divided)).sharding.spec[0] == "batch"
    np.testing.assert_allclose(run(divided), run(rows), atol=1e-6)
for cell, solver in (
    (jaxrnn.simple_rnn, None),
    (jaxrnn.lstm, hoisted),
    (jaxrnn.lstm, jaxrnn.Checkpointed(scan, chunk=3)),
    (jaxrnn.mgu, scan),
    (jaxrnn.lstm, jaxrnn.Deer(iterations=2)),  # two are too few: it repairs
    (jaxrnn.lru, jaxrnn.ParallelScan()),
):
    check(AxisType.Auto, cell, solver, few, some, resets, in_shard_map=True)
    check(AxisType.Auto, cell, solver, few, None, in_shard_map=True)
for cell, solver in (
    (jaxrnn.ind_rnn, jaxrnn.Deer()), (jaxrnn.min_gru, jaxrnn.ParallelScan())
):
    check(AxisType.Explicit, cell, solver, few, some, resets)
"""


@pytest.mark.slow
def test_batch_on_two_devices_gives_the_same_numbers():
    flags = {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=os.environ | flags,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# Bad input: the rule, the value found, the way out.


def call(**changes):
    params, inputs, _ = random_problem(jaxrnn.lstm, np.float32)
    arguments = {"params": params, "inputs": inputs} | changes
    return jaxrnn.rnn(jaxrnn.lstm, **arguments)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"inputs": np.ones(3, np.float32)}, ValueError, r"axes .* shape \(3,\)"),
        ({"inputs": np.ones((7, 5, 3), int)}, TypeError, r"floating point, got int64"),
        (
            {"inputs": np.ones((7, 5, 2), np.float32)},
            ValueError,
            r"in_features=2 .* kernel of shape \(2, 16\), got \(3, 16\)",
        ),
        (
            {"mask": np.ones((5, 7), bool)},
            ValueError,
            r"\(7, 5\), got \(5, 7\); layers take \(batch, time\)",
        ),
        (
            {"mask": np.ones((7, 5), np.int32)},
            TypeError,
            r"boolean .* got int32; write mask != 0",
        ),
        (
            {"resets": np.ones((5, 7), bool)},
            ValueError,
            r"resets must have the \(time, \*batch\) shape .* got \(5, 7\)",
        ),
        (
            {"resets": np.ones((7, 5), np.int32)},
            TypeError,
            r"resets must be boolean with True = a new episode, got int32",
        ),
        (
            {"params": {"kernel": np.ones((3, 16), np.float32)}},
            ValueError,
            r"takes the parameters \['bias', .* got \['kernel'\]",
        ),
        (
            {"initial_carry": np.ones((5, 4), np.float32)},
            ValueError,
            r"initial_carry must have .* LSTMCarry\(hidden=\(5, 4\)",
        ),
        (
            {
                "initial_carry": jaxrnn.LSTMCarry(
                    np.ones((2, 4), np.float32), np.ones((5, 4), np.float32)
                )
            },
            ValueError,
            r"got LSTMCarry\(hidden=\(2, 4\)",
        ),
    ],
)
def test_bad_input_is_explained(changes, error, words, untyped):
    with pytest.raises(error, match=words):
        untyped(call)(**changes)


@pytest.mark.parametrize(
    "solver",
    [
        None,
        jaxrnn.HoistedScan(chunk=None),
        jaxrnn.HoistedScan(chunk=3),
        jaxrnn.Checkpointed(jaxrnn.HoistedScan(), chunk=3),
    ],
    ids=repr,
)
def test_no_row_at_all_has_a_gradient_of_zeros(solver):
    cell = jaxrnn.simple_rnn
    params = jaxrnn.init_params(cell, jax.random.key(0), IN_FEATURES, FEATURES)
    inputs = jnp.ones((TIME, 0, IN_FEATURES))

    def loss(params):
        last, outputs = jaxrnn.rnn(cell, params, inputs, solver=solver)
        return last.sum() + outputs.sum()

    for gradient in jax.tree.leaves(jax.grad(loss)(params)):
        np.testing.assert_array_equal(gradient, 0)


def plain(params, hidden, projected):
    """A step that computes in whatever JAX promotes to."""
    return jnp.tanh(projected + hidden @ params["recurrent_kernel"])


def rounded(params, hidden, projected):
    """The way out that the error names."""
    return jnp.tanh(projected + ops.matmul(hidden, params["recurrent_kernel"]))


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        (
            {"step": lambda params, h, x: (plain(params, h, x), h)},
            r"the carry alone, bfloat16\[5,4\]; that of mine returned \(float32",
        ),
        (
            {
                "initial_carry": lambda p, shape: jaxrnn.LSTMCarry(
                    *2 * (jaxrnn.simple_rnn.initial_carry(p, shape),)
                ),
                "step": lambda params, carry, x: (carry.hidden, carry.memory),
                "output": lambda carry: carry.hidden,
            },
            r"bfloat16\[5,4\]\). Write return LSTMCarry\(hidden, memory",
        ),
        (
            {"step": lambda params, h, x: None},
            r"returned None. Return it in the structure in which Cell.initial_carry",
        ),
        (
            {"step": plain},
            r"it took, bfloat16\[5,4\]; that of mine returned float32\[5,4\]",
        ),
        (
            {"step": lambda params, h, x: rounded(params, h, x)[..., :2]},
            r"it took, bfloat16\[5,4\]; that of mine returned bfloat16\[5,2\]",
        ),
        (
            {"step": rounded, "output": lambda h: {"h": h}},
            r"one array \(\*batch, features\) .* returned {'h': bfloat16\[5,4\]}",
        ),
        (
            {"step": rounded, "output": lambda h: h.astype(jnp.float32)},
            r"dtype of the carry, bfloat16; that of mine returned float32\[5,4\]",
        ),
    ],
)
@jax.numpy_dtype_promotion("standard")  # as users have it
def test_functions_of_a_cell_that_do_not_fit_are_explained(functions, words):
    mine = jaxrnn.simple_rnn._replace(name="mine", adjoint=None, **functions)
    params, inputs, carry = random_problem(mine, np.float32)
    with pytest.raises(TypeError, match=words):
        jaxrnn.rnn(mine, params, inputs, dtype=jnp.bfloat16)
    with pytest.raises(TypeError, match=words):
        jaxrnn.rnn_step(mine, params, carry, inputs[0], dtype=jnp.bfloat16)


def test_a_step_that_keeps_the_dtype_runs_in_any():
    """Mixed precision by the functions that the error names; float32 by any."""
    mine = jaxrnn.simple_rnn._replace(name="mine", adjoint=None, step=rounded)
    params, inputs, _ = random_problem(mine, np.float32)
    _, narrow = jaxrnn.rnn(mine, params, inputs, dtype=jnp.bfloat16)
    _, wide = jaxrnn.rnn(mine._replace(step=plain), params, inputs)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(np.float32), wide, atol=0.05)  # 2^-8 each


def test_a_cell_may_ask_for_its_batch():
    """A step of two axes, features in fours, an output that nobody calls."""

    def specs(in_features, features):
        if features % 4:
            raise ValueError(f"features must be a multiple of 4, got {features}.")
        return params.fused_specs(1, in_features, features, ("bias",))

    def step(weights, hidden, projected):
        assert hidden.ndim == 2
        mixed = hidden + hidden.mean(axis=1, keepdims=True)
        return jnp.tanh(projected + ops.recurrent_project(weights, mixed))

    cell = jaxrnn.Cell(
        "fours", specs, params.zero_hidden, ops.affine_project, step, lambda h: (h, h)
    )
    weights = jaxrnn.init_params(cell, jax.random.key(0), 2, 8)
    last, carries = jaxrnn.rnn_carries(cell, weights, jnp.ones((7, 5, 2)))
    np.testing.assert_array_equal(last, carries[-1])
    with pytest.raises(TypeError, match=r"one array \(\*batch, features\)"):
        jaxrnn.rnn(cell, weights, jnp.ones((7, 5, 2)))


@pytest.mark.parametrize("dtype", [float, "float64", np.float64])
def test_float64_is_float32_without_x64_as_in_jax(dtype):
    problem = random_problem(jaxrnn.gru, np.float32)[:2]
    for _ in range(2):  # what ran before makes no difference
        _, outputs = jaxrnn.rnn(jaxrnn.gru, *problem, dtype=dtype)
        assert outputs.dtype == jnp.float32
        with jax.enable_x64(True):
            _, outputs = jaxrnn.rnn(jaxrnn.gru, *problem, dtype=dtype)
            assert outputs.dtype == jnp.float64


@ALL_CELLS
def test_parameters_are_drawn_in_half_precision_too(cell, step):
    """Those of float32, rounded, where no distribution is sampled otherwise."""
    del step
    drawn, wide = (
        jaxrnn.init_params(cell, jax.random.key(0), 2, 4, dtype)
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    assert {value.dtype for value in drawn.values()} == {jnp.dtype(jnp.bfloat16)}
    kernel = drawn.get("recurrent_kernel")
    if kernel is not None and kernel.ndim == 2:
        rounded = wide["recurrent_kernel"].astype(jnp.bfloat16)
        np.testing.assert_array_equal(kernel, rounded)
