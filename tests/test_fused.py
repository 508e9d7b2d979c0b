"""Are the kernels of `Fused` exact, and does it say what it cannot do?

The matrix of all cells, masks and resets stands in `test_solvers.py`, in float64. Here
is what is its own: sizes, threads and layouts of memory, float32 and bfloat16, and that
no thread depends on how fast another one is. Where there is no GPU the kernels run in
an emulation, see `emulated_gpu.py`.
"""

from typing import NamedTuple

import emulated_gpu
import gpu_compiler
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, HAS_COMPILER, HAS_KERNELS, MASKS, RESETS, random_problem
from jax.sharding import AxisType
from random_steps import random_cell

import jaxrnn
from jaxrnn.cells.ops import affine_project
from jaxrnn.cells.params import fused_specs, ones, zero_hidden
from jaxrnn.fused import launch
from jaxrnn.fused.blocks import Unsupported
from jaxrnn.fused.emit import Problem, Tree, backward_kernel, forward_kernel
from jaxrnn.fused.plan import SHARED_BYTES, Plan, plan, registers_of
from jaxrnn.solvers.adjoints import adjoint_of

needs_kernels = pytest.mark.skipif(
    not HAS_KERNELS, reason="neither a GPU nor a C++ compiler: kernels are not tested"
)
needs_emulation = pytest.mark.skipif(
    not HAS_COMPILER or jax.default_backend() == "gpu",
    reason="the emulation needs a C++ compiler, and no GPU",
)


def own_cell(name="attending", step=None):
    """A cell that no library has, without an adjoint: softmax, branches, a scalar."""

    def param_specs(in_features, features):
        return fused_specs(2, in_features, features, ("bias",)) | {
            "scale": jaxrnn.ParamSpec((features,), ones),
            "temperature": jaxrnn.ParamSpec((1,), ones),
        }

    def attend(params, hidden, projected):
        attention, new = jnp.split(projected + hidden @ params["recurrent_kernel"], 2)
        attention = jax.nn.softmax(attention * params["temperature"]) * len(hidden)
        new = jnp.where(new > 0, jnp.tanh(new), params["scale"] * jnp.expm1(new))
        return jax.nn.relu6(attention) * new + (1 - attention) * hidden / 2

    def batched(params, hidden, projected):
        step_of_row = step or attend
        for _ in hidden.shape[:-1]:
            step_of_row = jax.vmap(step_of_row, in_axes=(None, 0, 0))
        return step_of_row(params, hidden, projected)

    return jaxrnn.Cell(
        name, param_specs, zero_hidden, affine_project, batched, lambda hidden: hidden
    )


NAMES = (
    *("simple_rnn", "simple_rnn_relu", "simple_rnn_linear", "gru", "gru_reset_before"),
    *("lstm", "ind_rnn", "mgu", "layer_norm_gru", "layer_norm_lstm"),
)
OF_ALL = {name: CELLS[name][0] for name in NAMES} | {
    "dropout": jaxrnn.dropout_cell(jaxrnn.gru, 0.2, recurrent_rate=0.3),
    "zoneout": jaxrnn.zoneout_cell(jaxrnn.lstm, 0.3),
    "own": own_cell(),
}


def drawn(cell, rng, time, batch_shape, in_features, features, dtype=jnp.float32):
    """Parameters that neither vanish nor explode, inputs and an initial carry."""

    def draw(shape, scale=0.5):
        return jnp.asarray(scale * rng.standard_normal(shape), dtype)

    params = {
        name: draw(spec.shape, 1 / np.sqrt((*spec.shape, 1)[0]))
        for name, spec in cell.param_specs(in_features, features).items()
    }
    carry = jax.tree.map(
        lambda leaf: draw(leaf.shape), cell.initial_carry(params, batch_shape)
    )
    return params, draw((time, *batch_shape, in_features)), carry


def value_and_gradients(cell, solver, *, reverse=False):
    def loss(params, inputs, carry, mask, resets, key):
        last, outputs = jaxrnn.rnn(
            cell,
            params,
            inputs,
            mask=mask,
            resets=resets,
            initial_carry=carry,
            reverse=reverse,
            key=key if cell.noise else None,
            solver=solver,
        )
        outputs = outputs.astype(jnp.float32)
        weights = jnp.cos(jnp.arange(outputs.size, dtype=jnp.float32))
        of_last = sum(
            jnp.sin(x.astype(jnp.float32)).sum() for x in jax.tree.leaves(last)
        )
        total = (
            weights.reshape(outputs.shape) * outputs
        ).mean() + of_last / outputs.size
        return total, (last, outputs)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def assert_close(found, want, tolerance):
    """By the largest number of each array."""

    def check(x, y):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        atol = tolerance * max(1, abs(y).max(initial=0))
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)

    jax.tree.map(check, found, want)


@needs_kernels
@pytest.mark.parametrize(
    "turn",
    [*range(13), *(pytest.param(n, marks=pytest.mark.slow) for n in range(13, 26))],
)
def test_any_configuration_is_exact(turn):
    """26 kinds of kernels, 8 draws each: within 2e-6 of Scan, in float32.

    A sum of 70 products in another order is off by some 1e-7.
    """
    rng = np.random.default_rng(turn)
    cell = list(OF_ALL.values())[turn % len(OF_ALL)]
    features = int(rng.choice([1, 2, 5, 8, 31, 32, 33, 70]))
    threads = rng.choice([None, 1, 2, 4, 8])
    batch_shape = ((), (3,), (2, 2))[turn % 3]
    time, in_features = int(rng.integers(1, 12)), int(rng.integers(1, 4))
    has_mask, has_resets, reverse = rng.random(3) < 0.6
    fused = value_and_gradients(cell, jaxrnn.Fused(threads), reverse=bool(reverse))
    scan = value_and_gradients(cell, jaxrnn.Scan(), reverse=bool(reverse))
    shape = (time, *batch_shape)
    for draw in range(8):
        problem = drawn(cell, rng, time, batch_shape, in_features, features)
        mask = jnp.asarray(rng.random(shape) < rng.random()) if has_mask else None
        resets = jnp.asarray(rng.random(shape) < 0.3) if has_resets else None
        given = (*problem, mask, resets, jax.random.key(draw))
        with jax.default_matmul_precision("highest"):
            assert_close(fused(*given), scan(*given), 2e-6)


@needs_kernels
@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "layer_norm_gru"])
def test_weights_beyond_the_registers_are_in_shared_memory(name):
    """Which they are, the plan decides: from 100 to 260 features, by cell."""
    cell = CELLS[name][0]
    features = {"simple_rnn": 260, "lstm": 120, "layer_norm_gru": 100}[name]
    problem = drawn(cell, np.random.default_rng(0), 5, (2,), 3, features)
    given = (*problem, MASKS["holes"][:5, :2], RESETS[:5, :2], None)
    of_kernels = _problem(cell, features)
    assert forward_kernel(of_kernels, save=True).plan.kept < features
    with jax.default_matmul_precision("highest"):
        want = value_and_gradients(cell, jaxrnn.Scan())(*given)
        found = value_and_gradients(cell, jaxrnn.Fused())(*given)
    assert_close(found, want, 5e-6)  # sums of 260 terms


@needs_kernels
@pytest.mark.parametrize("name", ["simple_rnn", "gru", "lstm", "mgu"])
def test_bfloat16_sums_in_float32(name):
    """Near Scan's float32: a step rounds its carry to 8 bits, and nothing else.

    Half a unit of the last place is 2^-9; ten steps add up some of them.
    """
    cell = CELLS[name][0]
    problem = drawn(cell, np.random.default_rng(0), 10, (3,), 4, 16, jnp.bfloat16)
    marks = (None, None, None)
    (_, found), _ = value_and_gradients(cell, jaxrnn.Fused())(*problem, *marks)
    params, inputs, carry = jax.tree.map(lambda x: x.astype(jnp.float32), problem)
    scan = value_and_gradients(cell, jaxrnn.Scan())
    (_, want), _ = scan(params, inputs, carry, *marks)
    assert_close(found, want, 2e-2)

    def loss(params, solver):  # parameters in float32, computed in bfloat16
        _, outputs = jaxrnn.rnn(cell, params, inputs, dtype=jnp.bfloat16, solver=solver)
        return (outputs.astype(jnp.float32) ** 2).mean()

    gradients = jax.grad(loss)(params, jaxrnn.Fused())
    assert {x.dtype for x in gradients.values()} == {np.dtype(np.float32)}
    assert_close(gradients, jax.grad(loss)(params, jaxrnn.Scan()), 2e-2)


@needs_emulation
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if "layer" in name else [])
        for name in OF_ALL
    ],
)
def test_the_order_of_threads_does_not_matter(name, monkeypatch):
    """No thread reads what another writes before the next barrier: equal bits."""
    cell = OF_ALL[name]
    problem = drawn(cell, np.random.default_rng(0), 5, (2,), 3, 40)
    given = (*problem, MASKS["holes"][:5, :2], RESETS[:5, :2], jax.random.key(0))
    run = value_and_gradients(cell, jaxrnn.Fused(threads_per_feature=4))
    forwards = run(*given)
    monkeypatch.setattr(emulated_gpu, "BACKWARDS", [True])
    assert jax.tree.all(jax.tree.map(np.array_equal, forwards, run(*given)))


@needs_kernels
@pytest.mark.slow
def test_models_side_by_side_are_models_one_by_one():
    """Nested: parameters, inputs or both of every model; a launch for all of them."""
    rng = np.random.default_rng(0)
    cell = jaxrnn.lstm
    problems = [drawn(cell, rng, 6, (3,), 2, 5) for _ in range(6)]
    params, inputs, carry = jax.tree.map(
        lambda *x: jnp.stack(x).reshape(2, 3, *x[0].shape), *problems
    )

    def run(params, inputs, carry):
        marks = (MASKS["holes"][:6, :3], RESETS[:6, :3], None)
        return value_and_gradients(cell, jaxrnn.Fused())(params, inputs, carry, *marks)

    def one_model(i, tree):
        return jax.tree.map(lambda x: x[i], tree)

    problem = params, inputs, carry
    both = jax.vmap(jax.vmap(run))(*problem)
    one = jax.vmap(jax.vmap(run, in_axes=(0, None, 0)), in_axes=(0, None, None))
    shared_carry = one_model(0, carry)
    shared = one(params, inputs[0, 0], shared_carry)
    for i in np.ndindex(2, 3):
        assert_close(one_model(i, both), run(*one_model(i, problem)), 1e-6)
        given = one_model(i, params), inputs[0, 0], one_model(i[1], shared_carry)
        assert_close(one_model(i, shared), run(*given), 1e-6)


def _problem(
    cell, features, *, mask=True, resets=True, dtype=jnp.float32, threads=None
):
    params, inputs, carry = jax.eval_shape(
        lambda: drawn(cell, np.random.default_rng(0), 1, (), 3, features, dtype)
    )
    projected = jax.eval_shape(cell.project, params, inputs)
    trees = Tree.of(params), Tree.of(carry), Tree.of(projected, 1)
    return Problem(cell, adjoint_of(cell), *trees, mask, resets, threads)


@needs_kernels
def test_one_kernel_serves_all_sizes_of_time_and_batch(monkeypatch):
    sources = []
    real = launch.launch

    def noting(kernel, operands, **sizes):
        sources.append(kernel.source)
        return real(kernel, operands, **sizes)

    monkeypatch.setattr(launch, "launch", noting)
    params = jaxrnn.init_params(jaxrnn.gru, jax.random.key(0), 2, 3)
    for shape in ((7, 5, 2), (9, 2), (3, 4, 4, 2)):
        jaxrnn.rnn(jaxrnn.gru, params, jnp.ones(shape), solver=jaxrnn.Fused())
    assert len(sources) >= 3
    assert len(set(sources)) == 1


def test_every_cell_has_kernels_or_a_reason():
    refused = {}
    for name, (cell, _) in CELLS.items():
        params, inputs, carry = random_problem(cell, np.float32)
        steps = jaxrnn.solvers.Steps(inputs, MASKS["holes"], RESETS)
        reason = jaxrnn.solvers.fused.refusal(
            jaxrnn.Fused(), cell, params, carry, steps
        )
        if reason is not None:
            refused[name] = reason
    if HAS_KERNELS:
        want = "an array of shape (2,) at every step is not made of whole 4 features"
        halves = "its step cuts within 4 features, at 2"
        assert refused == {"lstm_projection": want, "lru": halves}


def sorting(params, hidden, projected):
    return jnp.sort(hidden) + projected[: len(hidden)]


def with_an_array(params, hidden, projected):
    return hidden * jnp.arange(len(hidden), dtype=hidden.dtype) + projected[::2]


def squaring_a_matrix(params, hidden, projected):
    recurrent = params["recurrent_kernel"] ** 2
    return (hidden @ recurrent + projected)[: len(hidden)]


def looping(params, hidden, projected):
    return (
        jax.lax.fori_loop(0, 3, lambda _, h: h / 2, hidden) + projected[: len(hidden)]
    )


def selecting_of_three(params, hidden, projected):
    which = (hidden > 0).astype(jnp.int32) + (hidden > 1).astype(jnp.int32)
    return jax.lax.select_n(which, hidden, -hidden, projected[: len(hidden)])


def in_bytes(params, hidden, projected):
    return hidden + projected[: len(hidden)].astype(jnp.int8).astype(hidden.dtype)


def rounding(params, hidden, projected):
    return jax.lax.reduce_precision(hidden + projected[: len(hidden)], 8, 7)


def reducing(params, hidden, projected):
    total = jax.lax.reduce(hidden, 0.0, lambda x, y: x + y * y, (0,))
    return total + projected[: len(hidden)]


def summing_a_matrix(params, hidden, projected):
    return params["recurrent_kernel"].sum(0)[: len(hidden)] + hidden


def making_a_matrix(params, hidden, projected):
    return (hidden[:, None] @ projected[None, : len(hidden)]).sum(1)


REFUSED = {
    "its step uses `sort`, for which there is no CUDA": sorting,
    "its step uses `integer_pow` of a matrix": squaring_a_matrix,
    "its step uses `iota`": with_an_array,
    "its step uses `scan`": looping,
    "its step selects one of more than two arrays": selecting_of_three,
    "its step computes in int8": in_bytes,
    "its step rounds to fewer bits than its dtype has": rounding,
    "its step uses `reduce`, for which there is no CUDA": reducing,
    "its step uses `reduce_sum` of a matrix": summing_a_matrix,
    "its step has a matmul that makes a matrix": making_a_matrix,
}


@needs_kernels
@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_become_a_kernel_is_named(reason):
    """With the way out that the message names, and that way goes."""
    cell = own_cell("refused", REFUSED[reason])
    params, inputs, carry = drawn(cell, np.random.default_rng(0), 5, (2,), 3, 4)
    run = jax.tree_util.Partial(jaxrnn.rnn, cell, params, inputs, initial_carry=carry)
    with pytest.raises(ValueError, match=r"Fused cannot run refused: ") as raised:
        run(solver=jaxrnn.Fused())
    assert reason in str(raised.value)
    assert "Fused(otherwise=HoistedScan(chunk=None))" in str(raised.value)
    scan = jaxrnn.HoistedScan(chunk=None)
    assert_close(run(solver=jaxrnn.Fused(otherwise=scan)), run(solver=scan), 0)


def of_columns(params, hidden, projected):
    del projected
    return params["column"][:, 0] * hidden + params["columns"].sum(1)


def of_scalars(params, hidden, projected):
    one, two, three = params["three"]
    return one * hidden + two * params["scalar"] + projected[: len(hidden)] * three


def of_rows(params, hidden, projected):
    rows = projected.reshape(2, -1)
    rows = (rows - rows.mean()) * params["rows"]
    return (rows @ params["square"])[1] + jnp.concatenate(rows)[: len(hidden)] + hidden


def of_scores(params, hidden, projected):
    score = hidden @ params["column"] + params["columns"][:, 1] @ hidden
    return jax.nn.sigmoid(score) * projected[: len(hidden)] + hidden.ravel()


def of_turned_matrices(params, hidden, projected):
    square = params["square"]
    once, again = square[None].transpose(0, 2, 1)[0], square[:, None].transpose(2, 1, 0)
    return hidden @ once + again[:, 0].T @ hidden + projected[: len(hidden)]


def of_one_number(params, hidden, projected):
    ones_like = jnp.full_like(hidden, params["scalar"])
    return (
        ones_like @ params["square"]
        + (ones_like @ ones_like) * hidden
        + projected[: len(hidden)]
    )


LAYOUTS = (of_columns, of_scalars, of_rows, of_scores, of_turned_matrices)
LAYOUTS += (of_one_number,)


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("turn", range(4))
def test_random_steps_are_exact_or_refused(turn):
    """Whatever a step moves, multiplies and sums: no kernel has a wrong number."""
    refused = set()

    def otherwise(cell, *given):
        refused.add(cell.name)
        return jaxrnn.Scan()(cell, *given)

    seeds = range(10 * turn, 10 * (turn + 1))
    for seed in seeds:
        cell, rng = random_cell(seed), np.random.default_rng(seed)
        given = (*drawn(cell, rng, 3, (2,), 3, 1 + seed % 5), None, None, None)
        with jax.default_matmul_precision("highest"):
            want = value_and_gradients(cell, jaxrnn.Scan())(*given)
            fused = value_and_gradients(cell, jaxrnn.Fused(otherwise=otherwise))
            assert_close(fused(*given), want, 5e-6)
    assert len(refused) <= 0.7 * len(seeds)


@needs_kernels
@pytest.mark.parametrize("features", [pytest.param(1, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize("step", LAYOUTS)
def test_parameters_of_any_layout(step, features):
    """The axis of features last, first or nowhere; rows, and turned matrices."""

    def param_specs(in_features, n):
        shapes = {"column": (n, 1), "columns": (n, 2), "rows": (2, n)}
        shapes |= {"square": (n, n), "three": (3,), "scalar": ()}
        specs = {name: jaxrnn.ParamSpec(shape, ones) for name, shape in shapes.items()}
        return own_cell().param_specs(in_features, n) | specs

    cell = own_cell("layout", lambda *given: jnp.tanh(step(*given)))
    cell = cell._replace(param_specs=param_specs)
    rng = np.random.default_rng(0)
    params, inputs, carry = drawn(cell, rng, 5, (2,), 3, features)
    given = (params, inputs, carry, MASKS["holes"][:5, :2], RESETS[:5, :2], None)
    with jax.default_matmul_precision("highest"):
        want = value_and_gradients(cell, jaxrnn.Scan())(*given)
        assert_close(value_and_gradients(cell, jaxrnn.Fused())(*given), want, 2e-6)


def with_an_axis(hidden):
    return hidden.sum(axis=1, keepdims=True)


def with_an_assertion(hidden):
    assert hidden.ndim == 2, "two axes"
    return hidden


@needs_kernels
@pytest.mark.parametrize(
    ("kept", "reason"), [(with_an_axis, "axis 1"), (with_an_assertion, "two axes")]
)
def test_a_step_that_wants_a_batch_is_refused(kept, reason):
    """Scan calls it with the batch at hand; a kernel has one row."""

    def step(params, hidden, projected):
        return jnp.tanh(projected + kept(hidden))

    cell = jaxrnn.simple_rnn._replace(name="batch", step=step, adjoint=None)
    params, inputs, _ = drawn(cell, np.random.default_rng(0), 5, (2,), 3, 4)
    words = rf"one row without axes of a batch \({reason}"
    with pytest.raises(ValueError, match=words):
        jaxrnn.rnn(cell, params, inputs, solver=jaxrnn.Fused())
    found = jaxrnn.rnn(
        cell, params, inputs, solver=jaxrnn.Fused(otherwise=jaxrnn.Scan())
    )
    assert_close(found, jaxrnn.rnn(cell, params, inputs, solver=jaxrnn.Scan()), 0)


@needs_kernels
def test_sizes_that_a_cell_refuses():
    """A multiple of heads is no trouble; a width that is that of the inputs is."""

    def run(rule, in_features, features, solver):
        def param_specs(in_features, features):
            if not rule(in_features, features):
                raise ValueError("not this size")
            return jaxrnn.gru.param_specs(in_features, features)

        cell = jaxrnn.gru._replace(param_specs=param_specs)
        rng = np.random.default_rng(0)
        params, inputs, _ = drawn(cell, rng, 5, (2,), in_features, features)
        return jaxrnn.rnn(cell, params, inputs, solver=solver)

    def in_heads(n, m):
        return n % 3 == 0 == m % 4

    found = run(in_heads, 3, 4, jaxrnn.Fused())
    assert_close(found, run(in_heads, 3, 4, jaxrnn.Scan()), 2e-6)

    def equal(n, m):
        return n == m

    with pytest.raises(ValueError, match="no other size: not this size"):
        run(equal, 4, 4, jaxrnn.Fused())
    run(equal, 4, 4, jaxrnn.Fused(otherwise=jaxrnn.Scan()))


@needs_kernels
def test_a_step_over_a_traced_value_is_refused():
    @jax.jit
    def run(scale):
        cell = own_cell("scaled", lambda params, hidden, _: scale * hidden)
        params, inputs, _ = drawn(cell, np.random.default_rng(0), 5, (2,), 3, 4)
        return jaxrnn.rnn(cell, params, inputs, solver=jaxrnn.Fused())

    with pytest.raises(ValueError, match="an argument of a transformed function"):
        run(2.0)


@needs_kernels
def test_integers_names_and_kinds_of_floats_are_those_of_jax():
    """Names that are no C, integers beyond what float32 holds, float64 in between."""

    def step(params, hidden, projected):
        width = len(hidden)
        count = (hidden > 0).astype(jnp.int32) * -7
        big = jnp.maximum(jnp.abs(count) + 16_777_216, 16_777_217) - 16_777_210
        wide = hidden.astype(jnp.float64)
        tiny = (wide + 1e-12 - wide) * 1e11
        small = (jax.lax.rem(count, jnp.int32(4)) + jnp.sign(count) + big).astype(
            hidden.dtype
        )
        of_params = params["scale-2"] * params["scale"] + params["scale_0"]
        new = projected[:width] * of_params + small / 16 + tiny.astype(hidden.dtype)
        return jnp.tanh(new) if width > 1 else new

    def specs(in_features, features):
        names = ("scale", "scale_0", "scale-2")
        scales = {name: jaxrnn.ParamSpec((features,), ones) for name in names}
        return own_cell().param_specs(in_features, features) | scales

    cell = own_cell("2nd, with Ä", step)._replace(param_specs=specs)
    with jax.enable_x64(True):
        problem = drawn(cell, np.random.default_rng(0), 5, (2,), 3, 4)
        given = (*problem, None, None, None)
        found = value_and_gradients(cell, jaxrnn.Fused())(*given)
        assert_close(found, value_and_gradients(cell, jaxrnn.Scan())(*given), 2e-6)
        kernel = forward_kernel(_problem(cell, 4), save=True)
    assert "using real = double;" in kernel.source


@needs_kernels
def test_shard_map():
    params, inputs, _ = drawn(jaxrnn.gru, np.random.default_rng(0), 5, (2,), 3, 4)
    mesh = jax.make_mesh(
        (1,), ("d",), devices=jax.devices()[:1], axis_types=(AxisType.Auto,)
    )
    axes = jax.sharding.PartitionSpec(None, "d")

    def loss(params, inputs, solver):
        return (jaxrnn.rnn(jaxrnn.gru, params, inputs, solver=solver)[1] ** 2).sum(0)

    def of_devices(params, inputs):
        of_device = jax.shard_map(
            lambda *arrays: loss(*arrays, jaxrnn.Fused()),
            mesh=mesh,
            in_specs=(jax.sharding.PartitionSpec(), axes),
            out_specs=jax.sharding.PartitionSpec("d"),
        )
        return of_device(params, inputs).sum()

    found = jax.jit(jax.grad(of_devices))(params, inputs)
    wanted = jax.grad(lambda *arrays: loss(*arrays, jaxrnn.Scan()).sum())
    assert_close(found, wanted(params, inputs), 2e-6)


@needs_kernels
def test_no_models_and_no_launch():
    params, inputs, _ = drawn(jaxrnn.gru, np.random.default_rng(0), 5, (2,), 3, 4)

    def run(inputs):
        return jaxrnn.rnn(jaxrnn.gru, params, inputs, solver=jaxrnn.Fused())[1]

    assert jax.vmap(run)(jnp.zeros((0, *inputs.shape))).shape == (0, 5, 2, 4)


def test_threads_beyond_a_block_are_told():
    reason = "33 features, 32 threads each, are more than 1024 threads of a block"
    with pytest.raises(Unsupported, match=reason):
        forward_kernel(_problem(jaxrnn.gru, 33, threads=32), save=True)
    assert forward_kernel(_problem(jaxrnn.gru, 33), save=True).plan.threads <= 1024


@needs_kernels
@pytest.mark.parametrize(
    ("features", "dtype", "reason"),
    [
        (1025, jnp.float32, "1025 features are more than 1024 threads of a block"),
        (512, jnp.float32, "are more than one block of a GPU can hold"),
        (4, jnp.float16, "it computes in float16"),
    ],
)
def test_what_no_block_can_hold_is_told(features, dtype, reason):
    cell = jaxrnn.gru
    params, inputs, _ = drawn(
        cell, np.random.default_rng(0), 2, (1,), 2, features, dtype
    )
    with pytest.raises(ValueError, match=reason):
        jaxrnn.rnn(cell, params, inputs, solver=jaxrnn.Fused())


class Device(NamedTuple):
    """What JAX tells of a GPU."""

    compute_capability: str
    shared_memory_per_block_optin: int
    device_kind: str = "a GPU"


def test_a_gpu_of_amd_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [Device("gfx942", 65_536)])
    said = emulated_gpu.ON_A_GPU["unavailable"]()
    assert said == "JAX runs on 'a GPU', which is no NVIDIA GPU"


def test_a_smaller_gpu_holds_fewer_features(monkeypatch):
    """99 KB for a block of an RTX 4090, 227 KB for one of an H100."""
    problem = _problem(jaxrnn.lstm, 140)
    monkeypatch.setattr(jax, "devices", lambda: [Device("8.9", 101_376)])
    small = problem._replace(shared_bytes=launch.shared_bytes())
    backward_kernel(problem, (True, True))
    with pytest.raises(Unsupported, match="more than one block of a GPU can hold"):
        backward_kernel(small, (True, True))


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_without_a_gpu_it_raises(monkeypatch):
    monkeypatch.setattr(launch, "unavailable", emulated_gpu.ON_A_GPU["unavailable"])
    params, inputs, _ = random_problem(jaxrnn.gru, np.float32)
    with pytest.raises(ValueError, match=r"JAX runs on 'cpu', which is no NVIDIA GPU"):
        jaxrnn.rnn(jaxrnn.gru, params, inputs, solver=jaxrnn.Fused())
    scan = jaxrnn.HoistedScan(chunk=None)
    solver = jaxrnn.Fused(otherwise=scan)
    found = jaxrnn.rnn(jaxrnn.gru, params, inputs, solver=solver)
    assert_close(found, jaxrnn.rnn(jaxrnn.gru, params, inputs, solver=scan), 0)


def test_without_nvrtc_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(launch, "architecture", lambda: "90")
    monkeypatch.setattr(launch, "nvrtc", lambda: None)
    said = emulated_gpu.ON_A_GPU["unavailable"]()
    assert (
        said == "NVRTC (libnvrtc.so.13) is missing; pip install 'jax[cuda13]' brings it"
    )


@pytest.mark.parametrize("threads", [0, 3, 64, -1])
def test_threads_per_feature_is_a_power_of_two(threads):
    with pytest.raises(ValueError, match=rf"a power of two up to 32, got {threads}"):
        jaxrnn.Fused(threads_per_feature=threads)


@needs_emulation
def test_a_program_for_the_cpu_of_a_machine_with_a_gpu(monkeypatch):
    """Where it is compiled for decides, not where it was traced."""
    monkeypatch.setattr(launch, "PLATFORM", "cuda")
    monkeypatch.setattr(
        launch,
        "launch",
        lambda kernel, operands, *, time, rows: [
            jnp.full(x.shape, jnp.nan, x.dtype)
            for x in launch.results_of(kernel, operands[0].shape[0], time, rows)
        ],
    )
    problem = drawn(jaxrnn.gru, np.random.default_rng(0), 5, (2,), 3, 4)
    marks = (None, None, None)
    found = value_and_gradients(jaxrnn.gru, jaxrnn.Fused())(*problem, *marks)
    want = value_and_gradients(jaxrnn.gru, jaxrnn.HoistedScan(chunk=None))
    assert_close(found, want(*problem, *marks), 1e-6)


def test_the_default_of_a_gpu_can_be_switched_off(monkeypatch):
    values = 100 * 32 * 32
    chosen = jaxrnn.default_solver(jaxrnn.lstm, values, platform="gpu")
    one_chunk = jaxrnn.HoistedScan(project_first=True, chunk=None)
    assert chosen == jaxrnn.Fused(otherwise=one_chunk)
    divided = jaxrnn.default_solver(jaxrnn.lstm, values, platform="gpu", divided=True)
    assert divided == one_chunk
    monkeypatch.setenv("JAXRNN_FUSED", "0")
    assert jaxrnn.default_solver(jaxrnn.lstm, values, platform="gpu") == one_chunk


def test_a_plan_fits_whatever_is_asked():
    """Registers and shared memory of a block, or a reason; every thread has work."""
    for features in range(1, 1100, 7):
        for weights in (0, 1, 4, 8):
            found = plan(
                features,
                weights=weights,
                buffers=weights,
                reductions=2,
                streams=8,
                itemsize=4,
            )
            if isinstance(found, Plan):
                assert found.threads >= features * found.splits
                assert found.threads <= 1024
                assert found.threads % 32 == 0
                assert found.span * found.splits >= features
                assert found.kept % 4 == found.span % 4 == 0
                assert found.shared_bytes <= SHARED_BYTES
                room = registers_of(found.threads)
                assert weights * found.kept + 24 <= room or not found.kept
            else:
                assert "block" in found


@pytest.mark.slow
@pytest.mark.gpu_compiler
@pytest.mark.skipif(not gpu_compiler.AVAILABLE, reason=gpu_compiler.MISSING)
def test_no_register_is_spilled(tmp_path):
    """By NVIDIA's assembler for an H100, 32 and 64 features of every cell.

    It also shows that an old driver takes the PTX: of 100 features NVRTC gives hints
    that PTX_VERSION does not know, if nobody cuts them.
    """
    sources = {}
    for name, (cell, _) in CELLS.items():
        for features in (32, 64, 100) if name == "layer_norm_gru" else (32, 64):
            try:
                problem = _problem(cell, features)
                direct = (True,) * len(problem.carry.leaves)
                forward = forward_kernel(problem, save=True)
                backward = backward_kernel(problem, direct)
            except Unsupported:
                continue
            sources[f"{name}_{features}_forward"] = forward.source
            sources[f"{name}_{features}_backward"] = backward.source
    found = gpu_compiler.assembled(sources, tmp_path)
    assert len(found) > 80
    spilled = {name for name, spills in found.items() if spills}
    assert {name for name in spilled if "_100_" not in name} == set()
