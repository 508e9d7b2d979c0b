"""Are dropout and zoneout what they say, for every cell, with the masks drawn?

The oracle of dropout: to drop from what a kernel multiplies is to drop rows of that
kernel, for each batch row and gate by themselves; then the NumPy loop of the cell.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BATCH, CELLS, MASKS, RESETS, numpy_rnn, random_problem

import jaxrnn
from jaxrnn.cells import ops

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(3)
NOISELESS = {name: cell for name, cell in CELLS.items() if cell[0].noise is None}
ALL_CELLS = pytest.mark.parametrize(("cell", "step"), NOISELESS.values(), ids=NOISELESS)


def assert_close(found, want):
    """Float64: a few hundred roundings of numbers of size one."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-10), found, want
    )


def drop_rows(kernel, masks):
    """Of a kernel with gates side by side, or of a diagonal."""
    if kernel.ndim == 1:
        return kernel * masks[0]
    gates = np.split(kernel, len(masks), axis=1)
    return np.concatenate(
        [mask[:, None] * gate for mask, gate in zip(masks, gates, strict=True)], axis=1
    )


@pytest.mark.parametrize(("rate", "recurrent_rate"), [(0.4, 0.0), (0.3, 0.5)])
@ALL_CELLS
def test_dropout_drops_rows_of_the_kernels(cell, step, rate, recurrent_rate):
    if cell.linear is not None:
        recurrent_rate = 0.0  # refused, see below
    params, inputs, first = random_problem(cell, np.float64)
    noisy = jaxrnn.dropout_cell(cell, rate, recurrent_rate=recurrent_rate)
    last, outputs = jaxrnn.rnn(
        noisy, params, inputs, initial_carry=first, mask=MASKS["holes"], key=KEY
    )
    masks, _ = noisy.noise(KEY, params, inputs)
    masks = {name: np.asarray(masks[name]) for name in set(masks) - set(params)}
    for row in range(BATCH):
        dropped = jax.tree.map(np.asarray, params)
        dropped["kernel"] = drop_rows(dropped["kernel"], masks["dropout"][:, row])
        if recurrent_rate:
            dropped["recurrent_kernel"] = drop_rows(
                dropped["recurrent_kernel"], masks["recurrent_dropout"][:, row]
            )
        want_last, want, _ = numpy_rnn(
            step,
            dropped,
            inputs[:, row : row + 1],
            jax.tree.map(lambda x, row=row: x[row : row + 1], first),
            MASKS["holes"][:, row : row + 1],
        )
        assert_close(outputs[:, row], want[:, 0])
        assert_close(jax.tree.map(lambda x, row=row: x[row : row + 1], last), want_last)


def test_masks_have_their_rates_and_one_for_each_gate():
    params, _, _ = random_problem(jaxrnn.gru, np.float64)
    inputs = jnp.ones((2, 10_000, 3))
    cell = jaxrnn.dropout_cell(jaxrnn.gru, 0.25, recurrent_rate=0.4)
    noisy, _ = cell.noise(KEY, params, inputs)
    for name, rate in (("dropout", 0.25), ("recurrent_dropout", 0.4)):
        mask = np.asarray(noisy[name])
        assert mask.shape[0] == 3
        # A share of 120,000 (or 90,000) draws: its standard deviation is 0.0016.
        np.testing.assert_allclose((mask == 0).mean(), rate, atol=0.008)
        np.testing.assert_allclose(mask[mask > 0], 1 / (1 - rate), rtol=1e-12)
        assert not np.array_equal(mask[0], mask[1])
    noisy, _ = jaxrnn.dropout_cell(jaxrnn.gru, 0.25).noise(KEY, params, inputs)
    assert noisy["dropout"].shape == (1, 10_000, 3)
    assert "recurrent_dropout" not in noisy


@pytest.mark.parametrize("reverse", [False, True])
def test_zoneout_keeps_the_units_that_were_drawn(reverse):
    """Against a loop over `cell.step`, with the masks that `noise` draws."""
    rates = jaxrnn.LSTMCarry(hidden=0.3, memory=0.6)
    cell = jaxrnn.zoneout_cell(jaxrnn.lstm, rates)
    params, inputs, first = random_problem(cell, np.float64)
    mask = MASKS["holes"]
    last, outputs = jaxrnn.rnn(
        cell,
        params,
        inputs,
        mask=mask,
        resets=RESETS,
        initial_carry=first,
        reverse=reverse,
        key=KEY,
        hold_outputs=True,
    )
    zeroed = jnp.where(mask[..., None], inputs, 0)
    _, zoned = cell.noise(KEY, params, zeroed)
    hidden, memory = np.array(first.hidden), np.array(first.memory)
    step = dict(CELLS.values())[jaxrnn.lstm]
    times = range(len(inputs))
    for t in reversed(times) if reverse else times:
        boundary = t + 1 if reverse else t
        for row in range(BATCH):
            if boundary < len(inputs) and RESETS[boundary, row]:
                hidden[row], memory[row] = 0, 0
            if mask[t, row]:
                new = step(
                    jax.tree.map(np.asarray, params),
                    jaxrnn.LSTMCarry(hidden[row], memory[row]),
                    np.asarray(inputs[t, row]),
                )
                keep = jax.tree.map(lambda x, t=t, row=row: x[t, row], zoned.keep)
                hidden[row] = np.where(keep.hidden, hidden[row], new.hidden)
                memory[row] = np.where(keep.memory, memory[row], new.memory)
        assert_close(outputs[t], hidden)
    assert_close(last, jaxrnn.LSTMCarry(hidden, memory))


def test_zoneout_has_its_rates():
    rates = jaxrnn.LSTMCarry(hidden=0.3, memory=0.6)
    cell = jaxrnn.zoneout_cell(jaxrnn.lstm, rates)
    params, _, _ = random_problem(cell, np.float64)
    _, zoned = cell.noise(KEY, params, jnp.ones((100, 100, 3)))
    shares = jax.tree.map(lambda keep: keep.mean().item(), zoned.keep)
    # 40,000 draws: a standard deviation of 0.0025.
    np.testing.assert_allclose(shares, rates, atol=0.012)
    assert not np.array_equal(zoned.keep.hidden, zoned.keep.memory)


@pytest.mark.parametrize("solver", [jaxrnn.HoistedScan(), jaxrnn.Checkpointed()])
def test_gradients_with_noise_are_those_of_scan(solver):
    """A solver that computes a step twice sees the same noise twice."""
    cell = jaxrnn.dropout_cell(jaxrnn.gru, 0.2, recurrent_rate=0.3)
    cell = jaxrnn.zoneout_cell(cell, 0.2)
    problem = random_problem(cell, np.float64)

    def loss(params, inputs, first, solver):
        last, outputs = jaxrnn.rnn(
            cell,
            params,
            inputs,
            mask=MASKS["holes"],
            initial_carry=first,
            key=KEY,
            solver=solver,
        )
        return (outputs**2).sum() + last.sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=3)
    assert_close(gradient(*problem, solver), gradient(*problem, jaxrnn.Scan()))


@pytest.mark.parametrize("name", ["min_gru", "lru"])
def test_what_noise_leaves_of_a_linear_step(name):
    """Dropout of the inputs leaves it linear, zoneout does not say that it is."""
    cell, _ = CELLS[name]
    problem = random_problem(cell, np.float64)
    dropped, zoned = jaxrnn.dropout_cell(cell, 0.4), jaxrnn.zoneout_cell(cell, 0.4)
    assert dropped.linear is cell.linear
    assert zoned.linear is None

    def run(cell, solver, params, inputs, first):
        return jaxrnn.rnn(
            cell,
            params,
            inputs,
            mask=MASKS["holes"],
            resets=RESETS,
            initial_carry=first,
            key=KEY,
            solver=solver,
        )

    for cell in (dropped, zoned):
        found = run(cell, jaxrnn.ParallelScan(), *problem)
        assert_close(found, run(cell, jaxrnn.Scan(), *problem))


def test_no_key_no_noise():
    for cell in (
        jaxrnn.dropout_cell(jaxrnn.lstm, 0.5, recurrent_rate=0.5),
        jaxrnn.zoneout_cell(jaxrnn.lstm, 0.0),
    ):
        params, inputs, first = random_problem(cell, np.float64)
        found = jaxrnn.rnn(cell, params, inputs, initial_carry=first)
        assert_close(
            found, jaxrnn.rnn(jaxrnn.lstm, params, inputs, initial_carry=first)
        )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jaxrnn.dropout_cell(jaxrnn.gru, 1.0), r"rate must lie in \[0, 1\)"),
        (
            lambda: jaxrnn.dropout_cell(jaxrnn.gru, recurrent_rate=-0.1),
            r"recurrent_rate .* got -0.1",
        ),
        (lambda: jaxrnn.zoneout_cell(jaxrnn.gru, 1.5), r"got 1.5"),
        (
            lambda: jaxrnn.dropout_cell(jaxrnn.lru, recurrent_rate=0.1),
            r"a recurrent kernel multiplies, and lru has none, got 0.1; write rate",
        ),
    ],
)
def test_bad_rates_are_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def plain_step(params, hidden, projected):
    return jnp.tanh(projected + ops.matmul(hidden, params["recurrent_kernel"]))


def plain_project(params, inputs):
    return ops.add_row(ops.matmul(inputs, params["kernel"]), params["bias"])


def test_a_cell_that_reads_no_mask_is_refused():
    """Nothing would be dropped; the functions that the errors name drop."""
    mine = jaxrnn.simple_rnn._replace(name="mine", adjoint=None, step=plain_step)
    with pytest.raises(ValueError, match=r"the step of mine .*recurrent_project, or"):
        jaxrnn.dropout_cell(mine, recurrent_rate=0.5)
    with pytest.raises(ValueError, match="the step of mine"):
        jaxrnn.Recurrent(4, cell=mine, recurrent_dropout=0.5).init(
            jax.random.key(0), jnp.ones((2, 3, 4))
        )
    jaxrnn.dropout_cell(mine, 0.5)  # its project reads the mask
    with pytest.raises(ValueError, match=r"the project of mine .*affine_project, or"):
        jaxrnn.dropout_cell(mine._replace(project=plain_project), 0.5)

    def step(params, hidden, projected):
        return jnp.tanh(projected + ops.recurrent_project(params, hidden))

    cell = jaxrnn.dropout_cell(mine._replace(step=step), 0.5, recurrent_rate=0.5)
    params = jaxrnn.init_params(cell, KEY, 2, 3, jnp.float64)
    inputs = jnp.ones((7, 5, 2))
    _, served = jaxrnn.rnn(cell, params, inputs)
    _, trained = jaxrnn.rnn(cell, params, inputs, key=jax.random.key(1))
    assert abs(served - trained).max() > 0.1


def test_rates_that_do_not_fit_the_carry():
    cell = jaxrnn.zoneout_cell(jaxrnn.gru, jaxrnn.LSTMCarry(0.1, 0.2))
    params, inputs, _ = random_problem(jaxrnn.gru, np.float64)
    with pytest.raises(
        ValueError, match=r"structure of the carry of gru, .* LSTMCarry"
    ):
        jaxrnn.rnn(cell, params, inputs)


@pytest.mark.parametrize("number", [np.float32, np.float64, jnp.float32], ids=str)
def test_rates_of_any_kind_are_those_of_float(number, untyped):
    """The same cell for equal settings; NumPy's dtype would become the masks'."""

    def made(rate):
        pair = jaxrnn.LSTMCarry(rate, 0.5)
        cells = [jaxrnn.zoneout_cell(jaxrnn.lstm, one) for one in (rate, pair)]
        cells.append(jaxrnn.dropout_cell(jaxrnn.gru, rate, recurrent_rate=rate))
        layer = jaxrnn.LSTM(3, dropout=rate, zoneout=rate, dtype=jnp.bfloat16)
        layer = jaxrnn.Stacked(layer, num_layers=2, dropout=rate)
        inputs = jnp.ones((2, 4, 3), jnp.bfloat16)
        variables = layer.init(jax.random.key(0), inputs)
        rngs = {"dropout": jax.random.key(1)}
        return cells, layer.apply(variables, inputs, deterministic=False, rngs=rngs)

    cells, outputs = untyped(made)(number(0.25))
    of_float, want = made(0.25)
    for cell, other in zip(cells, of_float, strict=True):
        assert cell is other
    np.testing.assert_array_equal(outputs, want)
