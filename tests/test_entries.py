"""Is what does not fit refused where it enters, by an error that says the way out?

Every row stands for a rule. Before there was one, most of these gave a number.
"""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import SOLVERS, random_problem

import jaxrnn
import jaxrnn.nnx
from jaxrnn import data
from jaxrnn.cells.params import zero_carry, zero_hidden

KEY = jax.random.key(0)
WRAPS = 2**32 + 3  # its lower 32 bits are a 3
INPUTS = np.ones((5, 2), np.float32)
DATASET = data.Dataset(INPUTS, np.ones(5, np.float32))
ORDER = np.arange(5)
STREAM = data.streams(np.ones((7, 2), np.float32), 2)
BATCH = data.Batch(INPUTS, DATASET.targets, None, np.ones(5, np.float32))


def refused(untyped, call, error, words):
    """As users call: no annotation is checked, and dtypes promote."""
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(error, match=re.escape(words)),
    ):
        untyped(call)()


def loss_fn(params, batch):
    error = (batch.inputs @ params["w"] - batch.targets) ** 2
    loss = jaxrnn.Mean.of(error, batch.sample_weight)
    return loss.value, {"loss": loss}


def new_state():
    return jaxrnn.init_state({"w": jnp.zeros(2)}, OPTIMIZER)


def several_states():
    return jax.tree.map(lambda x: jnp.stack([x, x]), new_state())


OPTIMIZER = optax.sgd(0.1)
PARAMS = {"w": jnp.zeros(2)}
evaluate = functools.partial(jaxrnn.evaluate, PARAMS, loss_fn=loss_fn)
predict = functools.partial(jaxrnn.predict, 0.0, apply_fn=lambda p, x: x)
train_step = functools.partial(jaxrnn.train_step, loss_fn=loss_fn, optimizer=OPTIMIZER)


def train_epoch(dataset=DATASET, order=ORDER, state=new_state, batch_size=2, **options):
    return jaxrnn.train_epoch(
        state(),
        dataset,
        order,
        loss_fn=loss_fn,
        optimizer=OPTIMIZER,
        batch_size=batch_size,
        **options,
    )


# Rows: arrays that belong together have as many, and there is one at least.

SHORT = DATASET._replace(targets=np.ones(3, np.float32))
EMPTY = data.Dataset(INPUTS[:0], DATASET.targets[:0])
ROWS = {
    "step_jacobians, none": (
        lambda: jaxrnn.diagnostics.step_jacobians(jaxrnn.gru, WEIGHTS, SEQUENCE[:0]),
        "inputs must have at least one step, where there is something to differentiate",
    ),
    "evaluate, lengths": (lambda: evaluate(SHORT), "targets must have one row per"),
    "train_epoch, lengths": (lambda: train_epoch(SHORT), "targets must have one row"),
    "predict, lengths": (
        lambda: predict((np.ones(5), np.ones(3))),
        "a common first axis of at least one row, got shapes [(5,), (3,)]",
    ),
    "train_step, lengths": (
        lambda: train_step(new_state(), BATCH._replace(targets=np.ones(3))),
        "must all have the same number of rows, 1 or more, got shapes {'inputs': (5, 2)"
        ", 'targets': (3,)",
    ),
    "evaluate, none": (lambda: evaluate(EMPTY), "at least one example"),
    "train_epoch, none": (lambda: train_epoch(EMPTY), "at least one example"),
    "predict, none": (lambda: predict(INPUTS[:0]), "at least one row, got shapes [(0,"),
    "predict, no array": (lambda: predict(()), "at least one row, got shapes []"),
    "train_step, none": (
        lambda: train_step(new_state(), jax.tree.map(lambda x: x[:0], BATCH)),
        "must all have the same number of rows, 1 or more",
    ),
    "streams, no axis": (lambda: data.streams(np.array(5), 1), "got shape ()"),
    "predict, a mean": (
        lambda: predict(INPUTS, apply_fn=lambda p, x: x.mean()),
        "apply_fn must return one row per row of its inputs (5,), got shape ()",
    ),
    "evaluate, weights": (
        lambda: evaluate(DATASET._replace(sample_weight=np.ones((5, 1)))),
        "one number per example (5,), or per step of inputs or targets [(5, 2)], got",
    ),
    "window_as_time, axes": (
        lambda: data.window_as_time(np.ones((3, 4, 1))),
        "(examples, step), got (3, 4, 1)",
    ),
}


@pytest.mark.parametrize("rule", ROWS)
def test_rows_belong_together(rule, untyped):
    call, words = ROWS[rule]
    refused(untyped, call, ValueError, words)


COUNTS = {
    "batches": lambda n: data.batches(DATASET, n),
    "streams": lambda n: data.streams(np.arange(5), n),
    "evaluate": lambda n: evaluate(DATASET, batch_size=n),
    "predict": lambda n: predict(INPUTS, batch_size=n),
    "train_epoch": lambda n: train_epoch(batch_size=n),
    "sine_series": lambda n: data.sine_series(n, rng=np.random.default_rng(0)),
    "sine_windows": lambda n: data.sine_windows(np.ones(9), n),
    "train_stream": lambda n: jaxrnn.train_stream(
        new_state(), 0, STREAM, loss_fn=loss_fn, optimizer=OPTIMIZER, chunk=n
    ),
    "train_batches": lambda n: jaxrnn.train_batches(
        new_state(), [BATCH], loss_fn=loss_fn, optimizer=OPTIMIZER, updates_per_call=n
    ),
}


@pytest.mark.parametrize("entry", COUNTS)
def test_a_count_is_a_whole_number_of_at_least_one(entry, untyped):
    for count in (0, -1):
        refused(
            untyped,
            lambda count=count: COUNTS[entry](count),
            ValueError,
            f"must be at least 1, got {count}",
        )
    refused(untyped, lambda: COUNTS[entry](2.5), TypeError, "a whole number, got 2.5")


# Orders: rows of the dataset, one order per model.

ORDERS = {
    "on the device": (jnp.array([0, 1, 999, -7]), ValueError, "got -7 to 999"),
    "on the host": (np.array([0, WRAPS]), ValueError, f"0 to 4, got 0 to {WRAPS}"),
    "floats": (jnp.zeros(5), TypeError, "must be an array of integers, the rows"),
    "bools": (jnp.zeros(5, bool), TypeError, "the rows to visit, got bool"),
    "list": ([0, 1], TypeError, "the rows to visit, got list"),
    "two of them": (jnp.zeros((2, 5), int), ValueError, "got order (2, 5), over=None"),
    "one row": (jnp.array(0), ValueError, "(*models, examples)"),
    "empty": (jnp.zeros(0, int), ValueError, "examples must be at least 1, got 0"),
}


@pytest.mark.parametrize("rule", ORDERS)
def test_an_order_names_rows_of_the_dataset(rule, untyped):
    order, error, words = ORDERS[rule]
    refused(untyped, lambda: train_epoch(order=order), error, words)


@pytest.mark.parametrize(
    ("models", "over"), [(2, None), (3, jax.vmap)], ids=["no over", "another number"]
)
def test_several_models_have_an_order_each(models, over, untyped):
    order = jnp.zeros((models, 5), int)
    refused(
        untyped,
        lambda: train_epoch(order=order, state=several_states, over=over),
        ValueError,
        "a state of models (2,)",
    )


def test_what_is_jitted_is_still_compiled_ahead_of_time():
    lowered = jaxrnn.evaluate.lower(PARAMS, DATASET, loss_fn=loss_fn)
    assert lowered.compile()(PARAMS, DATASET)["loss"].value == 1


# Integers: all of their bits arrive.

IDS = np.array([[1, WRAPS]])
INTEGERS = {
    "check_dataset": lambda: data.check_dataset(data.Dataset(IDS, np.ones(1))),
    "batches": lambda: data.batches(data.Dataset(INPUTS[:2], IDS[0]), 1),
    "streams": lambda: data.streams(IDS[0], 1),
    "evaluate": lambda: evaluate(data.Dataset(IDS, np.ones(1))),
    "train_epoch": lambda: train_epoch(data.Dataset(IDS, np.ones(1)), np.arange(1)),
    "predict": lambda: predict(IDS),
    "train_step": lambda: train_step(new_state(), BATCH._replace(targets=IDS[0])),
    "train_stream": lambda: jaxrnn.train_stream(
        new_state(), 0, data.Dataset(IDS, IDS), loss_fn=None, optimizer=None, chunk=1
    ),
    "evaluate_stream": lambda: jaxrnn.evaluate_stream(
        params=0, carry=0, stream=data.Dataset(IDS, IDS), loss_fn=None, chunk=1
    ),
    "pad_sequences": lambda: data.pad_sequences(IDS),
    "pad_sequences, list": lambda: data.pad_sequences([[1, WRAPS]]),
    "pad_sequences, value": lambda: data.pad_sequences([[1]], value=WRAPS),
    "Embed": lambda: jaxrnn.Embed(9, 2).init(KEY, IDS),
    "lengths_to_mask": lambda: jaxrnn.lengths_to_mask(IDS[0], 7),
    "lengths": lambda: jaxrnn.GRU(2).init(KEY, jnp.ones((2, 7, 2)), lengths=IDS[0]),
}


@pytest.mark.parametrize("entry", INTEGERS)
def test_integers_do_not_wrap_around(entry, untyped):
    refused(untyped, INTEGERS[entry], ValueError, str(WRAPS))


def test_integers_that_fit_pass():
    ids = np.array([[-(2**31), 2**31 - 1]])
    assert data.pad_sequences(list(ids)).tolist() == ids.tolist()
    assert predict(ids).tolist() == ids.tolist()
    assert data.pad_sequences([[], [-1]], value=-2).tolist() == [[-2], [-1]]
    with pytest.raises(ValueError, match="ids of row 0 must fit into int32"):
        data.pad_sequences([np.array([2**32 - 1], np.uint32)])  # -1 in int32


def test_padding_is_found_in_a_list_too(untyped):
    assert untyped(data.padding_mask)([[0, 7]]).tolist() == [[False, True]]


# Sizes and rates: by name, where a layer or a cell is made.

SIZES = {
    **{
        f"init_params, {cell.name}": (
            lambda cell=cell: jaxrnn.init_params(cell, KEY, 2, 0),
            "features must be a whole number of at least 1, got 0",
        )
        for cell in (jaxrnn.lstm, jaxrnn.ind_rnn, jaxrnn.layer_norm_gru)
    },
    "init_params, in_features": (
        lambda: jaxrnn.init_params(jaxrnn.gru, KEY, 0, 2),
        "in_features must be a whole number of at least 1, got 0",
    ),
    "lstm_cell": (
        lambda: jaxrnn.lstm_cell(projection_features=0),
        "projection_features must be",
    ),
    "LSTM": (lambda: jaxrnn.LSTM(0), "features must be"),
    "GRU, a float": (lambda: jaxrnn.GRU(2.5), "at least 1, got 2.5"),
    "Recurrent": (lambda: jaxrnn.Recurrent(-1, cell=jaxrnn.mgu), "got -1"),
    "inputs": (
        lambda: jaxrnn.LSTM(4).init(KEY, jnp.ones((5, 7, 0))),
        "in_features, the last axis of inputs, must be",
    ),
    "RNN": (lambda: jaxrnn.RNN(jaxrnn.gru, features=0), "features must be"),
    "RNN, inputs": (
        lambda: jaxrnn.RNN(jaxrnn.gru, features=2).init(KEY, jnp.ones((5, 7, 0))),
        "in_features, the last axis of inputs, must be",
    ),
    "Embed": (lambda: jaxrnn.Embed(0, 4), "vocab_size must be"),
    "TextClassifier": (
        lambda: jaxrnn.TextClassifier(9, 0, jaxrnn.GRU(2)),
        "embed_features must be",
    ),
    "FlattenClassifier": (
        lambda: jaxrnn.FlattenClassifier(9, 2, 0),
        "hidden_features must be",
    ),
    "FlattenClassifier, ids": (
        lambda: jaxrnn.FlattenClassifier(9, 2, 2).init(KEY, jnp.ones((5, 0), int)),
        "time, the last axis of ids, must be",
    ),
    "Forecaster": (lambda: jaxrnn.Forecaster(jaxrnn.GRU(2), 0), "hidden_features"),
    "Forecaster, none": (
        lambda: jaxrnn.Forecaster(jaxrnn.GRU(2), None),
        "hidden_features must be a whole number of at least 1, got None",
    ),
    "nnx.LSTM": (lambda: jaxrnn.nnx.LSTM(2, 0, rngs=nnx.Rngs(0)), "features must be"),
    "nnx.GRU": (lambda: jaxrnn.nnx.GRU(0, 2, rngs=nnx.Rngs(0)), "in_features must be"),
    "nnx.Embed": (lambda: jaxrnn.nnx.Embed(3, 0, rngs=nnx.Rngs(0)), "features must be"),
    "nnx.RNN": (
        lambda: jaxrnn.nnx.RNN(jaxrnn.gru, in_features=2, features=0, rngs=nnx.Rngs(0)),
        "features must be",
    ),
}


@pytest.mark.parametrize("entry", SIZES)
def test_a_size_is_a_whole_number_of_at_least_one(entry, untyped):
    call, words = SIZES[entry]
    refused(untyped, call, ValueError, words)


@pytest.mark.parametrize("family", ["linen", "nnx"])
@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout", "zoneout"])
def test_a_rate_lies_in_0_1(family, name, untyped):
    make = (
        functools.partial(jaxrnn.GRU, 2)
        if family == "linen"
        else functools.partial(jaxrnn.nnx.GRU, 2, 2, rngs=nnx.Rngs(0))
    )
    for rate in (2.0, 1.0, -0.5, float("nan")):
        refused(
            untyped,
            lambda rate=rate: make(**{name: rate}),
            ValueError,
            f"{name} must lie in [0, 1), got {rate}",
        )


@pytest.mark.parametrize("rate", [None, "0.1"])
def test_a_rate_is_a_number(rate, untyped):
    for make in (
        lambda: jaxrnn.GRU(2, dropout=rate),
        lambda: jaxrnn.dropout_cell(jaxrnn.gru, rate),
    ):
        refused(untyped, make, TypeError, f"must be a number in [0, 1), got {rate!r}")


def test_a_rate_of_a_constraint_lies_in_0_1():
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\], got 2.0"):
        jaxrnn.constraints.min_max_norm(rate=2.0)


@pytest.mark.parametrize("solver", [jaxrnn.HoistedScan, jaxrnn.Checkpointed])
def test_a_chunk_is_a_whole_number_where_the_solver_is_made(solver, untyped):
    refused(untyped, lambda: solver(chunk=2.5), TypeError, "a whole number of steps")
    refused(untyped, lambda: solver(chunk=0), ValueError, "at least 1 step, got 0")


# Kinds: what is given is what it stands for.

WEIGHTS, SEQUENCE, CARRY = random_problem(jaxrnn.gru, jnp.float32)
LAYER = jaxrnn.GRU(4)
BATCH_MAJOR = jnp.moveaxis(SEQUENCE, 0, 1)
rnn = functools.partial(jaxrnn.rnn, jaxrnn.gru, WEIGHTS, SEQUENCE)


def make_states(key=KEY, optimizer=OPTIMIZER):
    return jaxrnn.create_train_state(lambda key: {"w": jnp.zeros(2)}, optimizer, key)


def step(loss_fn=loss_fn, optimizer=OPTIMIZER, **options):
    functions = {"loss_fn": loss_fn, "optimizer": optimizer}
    return jaxrnn.train_step(new_state(), BATCH, **functions, **options)


def step_from(state, optimizer):
    return jaxrnn.train_step(state, BATCH, loss_fn=loss_fn, optimizer=optimizer)


def loss_alone(params, batch):
    return loss_fn(params, batch)[0]


def loss_and_arrays(params, batch):
    return loss_fn(params, batch)[0], {"loss": loss_fn(params, batch)[0]}


def loss_of_rows(params, batch):
    return (batch.inputs @ params["w"] - batch.targets) ** 2, {}


def means_without_carry(params, carry, batch):
    return jnp.sum(carry), loss_fn({"w": jnp.zeros(2)}, BATCH)[1]


def mine(**functions):
    return jaxrnn.min_gru._replace(name="mine", **functions)


def untold(in_features, features):
    return {"kernel": ((in_features, features), nn.initializers.ones)}


MIN_WEIGHTS = jaxrnn.init_params(jaxrnn.min_gru, KEY, 2, 3)
NO_BRACKETS = "cell must be a Cell of jaxrnn, got mgu_cell; write mgu_cell()."
OF_FLAX = "got GRUCell; a cell of Flax runs in jaxrnn.RNN(cell), in the place of flax."
NO_SPEC = (
    "must return {name: ParamSpec(shape, init)}, shape a tuple and init a function"
)
MEANS = "loss_fn must return (loss, {name: Mean}), the loss a scalar, got "
diagnostics = jaxrnn.diagnostics
KINDS = {
    "Recurrent": (lambda: jaxrnn.Recurrent(4, cell=jaxrnn.mgu_cell), NO_BRACKETS),
    "Recurrent, Flax": (lambda: jaxrnn.Recurrent(4, cell=nn.GRUCell(4)), OF_FLAX),
    "Recurrent, name": (
        lambda: jaxrnn.Recurrent(4, cell="gru"),
        "got 'gru'; take one such as jaxrnn.gru",
    ),
    "nnx.Recurrent": (
        lambda: jaxrnn.nnx.Recurrent(2, 4, cell=jaxrnn.mgu_cell, rngs=nnx.Rngs(0)),
        NO_BRACKETS,
    ),
    "RNN": (lambda: jaxrnn.RNN(jaxrnn.mgu_cell, features=4), NO_BRACKETS),
    "RNN, class": (
        lambda: jaxrnn.RNN(nn.GRUCell),
        "got GRUCell; a cell of Flax runs in jaxrnn.RNN(GRUCell(features)), in",
    ),
    "nnx.RNN": (
        lambda: jaxrnn.nnx.RNN(jaxrnn.LSTM(4), rngs=nnx.Rngs(0)),
        "got LSTM; take one such as jaxrnn.gru, or jaxrnn.mgu_cell()",
    ),
    "rnn": (lambda: jaxrnn.rnn(jaxrnn.mgu_cell, {}, INPUTS), NO_BRACKETS),
    "rnn_carries": (lambda: jaxrnn.rnn_carries(WEIGHTS, 0, 0), "got dict; take one"),
    "rnn_step": (
        lambda: jaxrnn.rnn_step(jaxrnn.dropout_cell, {}, CARRY, INPUTS),
        "got dropout_cell; write dropout_cell(cell).",
    ),
    "init_params, cell": (
        lambda: jaxrnn.init_params(nn.GRUCell(4), KEY, 2, 3),
        OF_FLAX,
    ),
    "default_solver": (lambda: jaxrnn.default_solver(jaxrnn.mgu_cell), NO_BRACKETS),
    "lyapunov_exponents": (
        lambda: diagnostics.lyapunov_exponents(jaxrnn.mgu_cell, {}, INPUTS),
        NO_BRACKETS,
    ),
    "step_jacobians": (
        lambda: diagnostics.step_jacobians(jaxrnn.mgu_cell, {}, INPUTS),
        NO_BRACKETS,
    ),
    "fixed_points": (
        lambda: diagnostics.fixed_points(jaxrnn.mgu_cell, {}, INPUTS[0], CARRY),
        NO_BRACKETS,
    ),
    "param_specs": (
        lambda: jaxrnn.init_params(mine(param_specs=untold), KEY, 2, 3),
        NO_SPEC,
    ),
    "param_specs, layer": (
        lambda: jaxrnn.Recurrent(3, cell=mine(param_specs=untold)).init(KEY, SEQUENCE),
        NO_SPEC,
    ),
    "param_specs, RNN": (
        lambda: jaxrnn.nnx.RNN(
            mine(param_specs=untold), in_features=2, features=3, rngs=nnx.Rngs(0)
        ),
        NO_SPEC,
    ),
    "initial_carry": (
        lambda: jaxrnn.rnn(
            mine(initial_carry=lambda p, batch_shape: jnp.zeros(batch_shape)),
            MIN_WEIGHTS,
            jnp.ones((7, 5, 2)),
        ),
        "that of mine returned float32[] without batch axes; write jnp.zeros((*batch",
    ),
    "rnn, params": (
        lambda: jaxrnn.rnn(jaxrnn.gru, None, SEQUENCE),
        "params must be a dict {name: array}, got NoneType; init_params(cell, key",
    ),
    "rnn, variables": (
        lambda: jaxrnn.rnn(jaxrnn.gru, {"params": WEIGHTS}, SEQUENCE),
        "got {'params': 'dict'}; init_params(cell, key, ...) makes them, and those of",
    ),
    "rnn_step, a list": (
        lambda: jaxrnn.rnn_step(
            jaxrnn.gru, {**WEIGHTS, "bias": [0.0]}, CARRY, SEQUENCE[0]
        ),
        "params must be a dict {name: array}, got {'bias': 'list'}",
    ),
    "Sequential": (
        lambda: jaxrnn.Sequential([jaxrnn.nnx.GRU(2, 4, rngs=nnx.Rngs(0))]),
        "a module of Linen, got one of NNX, whose parameters would not be those of",
    ),
    "init_params, key": (
        lambda: jaxrnn.init_params(jaxrnn.gru, 0, 2, 3),
        "key must be a key of JAX, got 0; make one with jax.random.key(seed)",
    ),
    "rnn, key": (
        lambda: rnn(key=jnp.zeros(2)),
        "key must be a key of JAX, got float32 of shape (2,); make one",
    ),
    "rnn, solver": (
        lambda: rnn(solver=jaxrnn.Scan),
        "such as jaxrnn.Scan(), got Scan; None takes the default",
    ),
    "layer, solver": (
        lambda: jaxrnn.GRU(2, solver="deer").init(KEY, SEQUENCE),
        "such as jaxrnn.Scan(), got 'deer'; None takes",
    ),
    "Checkpointed": (
        lambda: jaxrnn.Checkpointed(jaxrnn.Scan),
        "such as jaxrnn.Scan(), got Scan",
    ),
    "Fused": (lambda: jaxrnn.Fused(otherwise="scan"), "jaxrnn.Scan(), got 'scan'"),
    "create_train_state, key": (
        lambda: make_states(key=jax.random.PRNGKey(0)),
        "key must be a typed key, got an array of uint32; make one",
    ),
    "train_step, key": (lambda: step(noise_key=0), "noise_key must be a typed key"),
    "nnx.GRU, rngs": (
        lambda: jaxrnn.nnx.GRU(2, 3, rngs=0),
        "rngs must be flax.nnx.Rngs, got 0; write nnx.Rngs(0)",
    ),
    "nnx.Embed, rngs": (lambda: jaxrnn.nnx.Embed(2, 3, rngs=KEY), "must be flax.nnx"),
    "init_state": (
        lambda: jaxrnn.init_state(PARAMS, "adam"),
        "must be an Optax transformation, got 'adam'; write jaxrnn.keras_adam(0.001)",
    ),
    "create_train_state": (
        lambda: make_states(optimizer=optax.adam),
        "must be an Optax transformation, got adam; write",
    ),
    "train_step, optimizer": (
        lambda: step(optimizer=jaxrnn.keras_adam),
        "must be an Optax transformation, got keras_adam; write",
    ),
    "adjustable": (
        lambda: jaxrnn.adjustable(jaxrnn.keras_adam(), 0.1),
        "got GradientTransformationExtraArgs; write adjustable(keras_adam, 0.001)",
    ),
    "train_step, loss alone": (
        lambda: step(loss_alone),
        f"{MEANS}float32[]; jaxrnn.squared_error_loss, classification_loss, binary",
    ),
    "train_step, arrays": (
        lambda: step(loss_and_arrays),
        f"{MEANS}(float32[], {{loss: float32[]}}); ",
    ),
    "train_step, rows": (lambda: step(loss_of_rows), f"{MEANS}(float32[5], {{}}); "),
    "train_step, a name": (lambda: step("mse"), "loss_fn must be a function (params, "),
    "train_batches": (
        lambda: jaxrnn.train_batches(
            new_state(), [BATCH], loss_fn=loss_alone, optimizer=OPTIMIZER
        ),
        MEANS,
    ),
    "evaluate": (
        lambda: jaxrnn.evaluate(PARAMS, DATASET, loss_fn=loss_alone),
        MEANS,
    ),
    "evaluate, dataset": (
        lambda: evaluate((INPUTS, INPUTS)),
        "a dataset must be a data.Dataset, got tuple; write data.Dataset(inputs, targ",
    ),
    "train_epoch, dataset": (
        lambda: train_epoch(dataset=INPUTS, order=ORDER),
        "must be a data.Dataset, got ndarray",
    ),
    "evaluate, state": (
        lambda: jaxrnn.evaluate(new_state(), DATASET, loss_fn=loss_fn),
        "params must be the parameters, got a TrainState; write state.params",
    ),
    "evaluate, over": (
        lambda: evaluate(DATASET, over="vmap"),
        "over must be jax.vmap or jaxrnn.one_by_one, got 'vmap'",
    ),
    "predict, state": (
        lambda: jaxrnn.predict(new_state(), INPUTS, apply_fn=lambda p, x: x),
        "got a TrainState; write state.params",
    ),
    "predict, None": (
        lambda: predict(INPUTS, apply_fn=None),
        "apply_fn must be a function (params, inputs) -> predictions, got None; write "
        'lambda params, inputs: model.apply({"params": params}, inputs)',
    ),
    "predict, model": (
        lambda: predict(INPUTS, apply_fn=jaxrnn.Embed(9, 2)),
        "predictions, got one of (ids); write lambda params, inputs: model.apply(",
    ),
    "predict, nothing": (
        lambda: predict(INPUTS, apply_fn=lambda p, x: None),
        "apply_fn must return an array, or several, got none; a function with def",
    ),
    "predict, list": (
        lambda: predict(INPUTS.tolist()),
        "an array, or a tuple, list or dict of arrays, got float in list; np.asarray",
    ),
    "predict, words": (
        lambda: predict(np.array(["good", "bad"])),
        "inputs must be numbers, got an array of <U4; np.unique(values, return_inverse",
    ),
    "predict, batch_size": (
        lambda: predict(INPUTS, batch_size=None),
        "batch_size must be a whole number, got None",
    ),
    "train_epoch, state": (
        lambda: train_epoch(state=lambda: PARAMS),
        "state must be a TrainState, got dict; write init_state(params, optimizer)",
    ),
    "train_step, state": (
        lambda: train_step(PARAMS, BATCH),
        "state must be a TrainState, got dict",
    ),
    "train_step, no key": (
        lambda: step(noise_key=KEY),
        "loss_fn must be a function (params, batch, key) -> (loss, {name: Mean}), got "
        "one of (params, batch); ",
    ),
    "train_step, integers": (
        lambda: train_step(
            jaxrnn.init_state({"w": jnp.zeros(2, int)}, OPTIMIZER), BATCH
        ),
        "params must be floating point, to have a gradient, got int32 at ['w']; write",
    ),
    "train_step, a loss": (
        lambda: step(jaxrnn.squared_error_loss),
        "predictions must be an array, got dict; in a loss_fn(params, batch) they are",
    ),
    "train_step, classes": (
        lambda: step(jaxrnn.classification_loss),
        "logits must be an array, got dict; in a loss_fn(params, batch) they are",
    ),
    "train_batches, dataset": (
        lambda: jaxrnn.train_batches(
            new_state(), DATASET, loss_fn=loss_fn, optimizer=OPTIMIZER
        ),
        "an iterable of batches, got Dataset; write data.batches(dataset, 32, rng=rng)",
    ),
    "train_batches, state": (
        lambda: jaxrnn.train_batches(
            PARAMS, [BATCH], loss_fn=loss_fn, optimizer=OPTIMIZER
        ),
        "state must be a TrainState, got dict",
    ),
    "train_stream, state": (
        lambda: jaxrnn.train_stream(
            PARAMS, 0, DATASET, loss_fn=loss_fn, optimizer=OPTIMIZER, chunk=2
        ),
        "state must be a TrainState, got dict",
    ),
    "create_train_state, init_fn": (
        lambda: jaxrnn.create_train_state(OPTIMIZER, loss_fn, KEY),
        "init_fn must be a function key -> params, got GradientTransformation",
    ),
    "create_train_state, None": (
        lambda: jaxrnn.create_train_state(None, OPTIMIZER, KEY),
        "init_fn must be a function key -> params, got None; write lambda key: model.",
    ),
    "batches, rng": (
        lambda: data.batches(DATASET, 2, rng=42),
        "rng must be a numpy.random.Generator, got 42; np.random.default_rng(seed)",
    ),
    "sine_series, rng": (
        lambda: data.sine_series(9, rng=42),
        "rng must be a numpy.random.Generator, got 42",
    ),
    "bucket_batches, rng": (
        lambda: data.bucket_batches([DATASET], 2, rng=42),
        "rng must be a numpy.random.Generator, got 42",
    ),
    "bucket_batches, dataset": (
        lambda: data.bucket_batches(DATASET, 2),
        "a list of datasets, as of buckets, got Dataset; batches(dataset, 2) cuts a",
    ),
    "check_dataset, labels": (
        lambda: data.check_dataset(data.Dataset(INPUTS, np.array(["good"] * 5))),
        "targets must be numbers, got an array of <U4; np.unique",
    ),
    "streams": (lambda: data.streams(["a", "b"], 1), "numbers, got an array of <U1"),
    "buckets, boundaries": (
        lambda: data.buckets([[1]], np.ones(1), 4),
        "boundaries must be a list of some, got int; write [one] of a single one",
    ),
    "buckets, targets": (
        lambda: data.buckets([[1]], None, [4]),
        "targets must be an array with one row per row, or a list of rows, got None",
    ),
    "pad_sequences": (
        lambda: data.pad_sequences([1, 2, 3]),
        "sequences must be a list of rows of ids, got {'int'}; write [ids] for a",
    ),
    "pad_sequences, iterator": (
        lambda: data.pad_sequences(iter([[1]])),
        "got list_iterator; write [ids] for a single row, list(rows) for an iterator",
    ),
    "series_of": (
        lambda: data.series_of(INPUTS, ["sales"]),
        "a table of pandas or Polars, got ndarray; windows and Scale.of take arrays",
    ),
    "Tokenizer.fit": (
        lambda: data.Tokenizer.fit(text for text in ["good"]),
        "texts must be a list of strings, got generator; write list(texts)",
    ),
    "Tokenizer.fit, split": (
        lambda: data.Tokenizer.fit(["good"], split=None),
        "split must be a string, got None",
    ),
    "Tokenizer.fit, num_words": (
        lambda: data.Tokenizer.fit(["good"], num_words=2.5),
        "num_words must be a whole number, got 2.5; None keeps all",
    ),
    "Tokenizer": (
        lambda: data.Tokenizer({"good": 1.0}),
        "a word index is {word: id}, ids whole numbers, got 'good': 1.0",
    ),
    "Tokenizer, name": (
        lambda: data.Tokenizer("words.json"),
        "a word index is {word: id}, such as tokenizer.word_index, got str; Tokenizer.",
    ),
    "load_vectors": (
        lambda: data.load_vectors("none", data.Tokenizer({"good": 1}), np.ones((2, 2))),
        "word_index must be {word: id}, such as tokenizer.word_index, got Tokenizer",
    ),
    "penalty": (
        lambda: jaxrnn.regularizers.penalty(WEIGHTS, {"kernel": "l2"}),
        "as {'kernel': regularizers.l2(0.01)}, got {'kernel': 'l2'}",
    ),
    "penalty, None": (
        lambda: jaxrnn.regularizers.penalty(WEIGHTS, None),
        "rules must be {name: function}, such as {'kernel': regularizers.l2(0.01)}",
    ),
    "penalty, not called": (
        lambda: jaxrnn.regularizers.penalty(
            WEIGHTS, {"kernel": jaxrnn.regularizers.l2}
        ),
        "must be a number, got ArrayImpl; a rule is made with its settings, as in",
    ),
    "activity_penalty": (
        lambda: jaxrnn.regularizers.activity_penalty(INPUTS, 0.1),
        "rules must be {name: function}",
    ),
    "l2": (lambda: jaxrnn.regularizers.l2("0.1"), "rate must be a number, got '0.1'"),
    "constrained": (
        lambda: jaxrnn.constraints.constrained(OPTIMIZER, {"kernel": 2.0}),
        "as {'kernel': constraints.max_norm(2.0)}, got {'kernel': 2.0}",
    ),
    "constrained, optimizer": (
        lambda: jaxrnn.constraints.constrained("adam", {}),
        "must be an Optax transformation, got 'adam'; write constrained(keras_adam",
    ),
    "max_norm": (
        lambda: jaxrnn.constraints.max_norm(None),
        "max_value must be a number, got None",
    ),
    "lyapunov_exponents, count": (
        lambda: diagnostics.lyapunov_exponents(
            jaxrnn.gru, WEIGHTS, SEQUENCE, count=1.5
        ),
        "count must be a whole number, got 1.5",
    ),
    "step_jacobians, params": (
        lambda: diagnostics.step_jacobians(jaxrnn.gru, None, SEQUENCE),
        "params must be a dict {name: array}, got NoneType",
    ),
    "fixed_points, starts": (
        lambda: diagnostics.fixed_points(jaxrnn.gru, WEIGHTS, SEQUENCE[0, 0], None),
        "starts must be carries, leaves (*batch, features), as from rnn_carries, got",
    ),
    "fixed_points, tolerance": (
        lambda: diagnostics.fixed_points(
            jaxrnn.gru, WEIGHTS, SEQUENCE[0, 0], CARRY, tolerance=None
        ),
        "tolerance must be a number, got None",
    ),
    "save": (
        lambda: jaxrnn.interchange.save("none", new_state()),
        "params must be a mapping of names, as model.init returns them, got TrainState",
    ),
    "to_torch": (
        lambda: jaxrnn.interchange.to_torch(None),
        "params must be a mapping of names, as model.init returns them, got NoneType",
    ),
    "save, metadata": (
        lambda: jaxrnn.interchange.save("none", WEIGHTS, metadata={"epochs": 3}),
        "metadata must be {name: text}, got {'epochs': 3}; json.dumps makes a text",
    ),
    "to_keras, order": (
        lambda: jaxrnn.interchange.to_keras({"rnn": WEIGHTS}, order="rnn"),
        "order must be a list of names, such as [\"recurrent\"], got 'rnn'",
    ),
    "from_torch_model, names": (
        lambda: jaxrnn.interchange.from_torch_model({}, ["rnn"], like=WEIGHTS),
        "names must be {path of a layer here: name of a module there}, such as",
    ),
    "values": (
        lambda: jaxrnn.metrics.values({"loss": 0.5}),
        "numbers of {name: Mean}, got {'loss': 'float'}; the value of a single",
    ),
    "values, one": (
        lambda: jaxrnn.metrics.values(jaxrnn.Mean.of(jnp.ones(2))),
        "numbers of {name: Mean}, got Mean",
    ),
    **{
        f"{loss.__name__}, lists": (
            lambda loss=loss: loss([0.5, 0.5], [1.0, 0.0]),
            "must be an array, got list; in a loss_fn(params, batch) they are what the",
        )
        for loss in (
            jaxrnn.squared_error_loss,
            jaxrnn.classification_loss,
            jaxrnn.multi_label_loss,
            jaxrnn.binary_classification_loss,
        )
    },
    "evaluate_stream": (
        lambda: jaxrnn.evaluate_stream(
            {},
            jnp.zeros(1),
            data.Dataset(jnp.ones((1, 4)), jnp.ones((1, 4))),
            loss_fn=means_without_carry,
            chunk=2,
        ),
        "must return (loss, (carry, {name: Mean})), the loss a scalar, got (float32[],",
    ),
}


@pytest.mark.parametrize("other", [jaxrnn.keras_adam(), optax.sgd(0.1, momentum=0.9)])
def test_a_state_is_that_of_its_optimizer(other, untyped):
    """Adam's state went through plain SGD; the way out begins the other one anew."""
    words = "optimizer must be the one that the state was made with, whose opt_state"
    for call in (
        lambda state: step_from(state, other),
        lambda state: jaxrnn.train_batches(
            state, [BATCH], loss_fn=loss_fn, optimizer=other
        ),
    ):
        refused(untyped, lambda call=call: call(new_state()), ValueError, words)
    fresh = jax.tree.map(jnp.copy, PARAMS)  # a state is used up
    assert step_from(jaxrnn.init_state(fresh, other), other)[0].step == 1
    of_adam = jaxrnn.init_state(PARAMS, jaxrnn.keras_adam())
    refused(untyped, lambda: step_from(of_adam, OPTIMIZER), ValueError, words)


def test_a_key_is_one(untyped):
    keys = jax.random.split(KEY, 3)
    cell = jaxrnn.dropout_cell(jaxrnn.gru, 0.5)
    for call in (
        lambda: jaxrnn.init_params(jaxrnn.gru, keys, 2, 3),
        lambda: jaxrnn.rnn(cell, WEIGHTS, SEQUENCE, key=keys),
    ):
        words = "key must be one key, got several of shape (3,); take keys[0], or jax."
        refused(untyped, call, ValueError, words)


def test_layers_upon_one_another_are_a_list(untyped):
    call = functools.partial(jaxrnn.Stacked, LAYER, jaxrnn.GRU(4))
    words = "1 or more, got a layer; several are a list, Stacked([first, second])"
    refused(untyped, call, ValueError, words)


@pytest.mark.parametrize("entry", KINDS)
def test_what_is_given_is_what_it_stands_for(entry, untyped):
    call, words = KINDS[entry]
    refused(untyped, call, TypeError, words)


def test_a_cell_without_a_recurrent_kernel_finds_its_width(untyped):
    """The two ways out: `zero_carry`, and a function of one's own."""

    def own(params, batch_shape):
        return jnp.zeros((*batch_shape, params["kernel"].shape[-1] // 2))

    inputs = jnp.ones((7, 5, 2))
    want = jaxrnn.rnn(jaxrnn.min_gru, MIN_WEIGHTS, inputs)
    for start in (own, zero_carry(2)):
        found = jaxrnn.rnn(mine(initial_carry=start), MIN_WEIGHTS, inputs)
        jax.tree.map(np.testing.assert_array_equal, found, want)
    for start, words in (
        (zero_hidden, "zero_hidden reads the width of the carry off recurrent_kernel"),
        (
            lambda p, shape: zero_carry(2)({}, shape),
            "off kernel, got the parameters []",
        ),
    ):
        call = functools.partial(
            jaxrnn.rnn, mine(initial_carry=start), MIN_WEIGHTS, inputs
        )
        refused(untyped, call, ValueError, words)


# Arrays: nested lists are as good, and what is no array of numbers says so.

NESTED = BATCH_MAJOR.tolist()
VALID = np.ones(BATCH_MAJOR.shape[:2], bool).tolist()
FORECASTER = jaxrnn.Forecaster(LAYER, 2)
TAGGER = jaxrnn.TextTagger(9, 2, jaxrnn.GRU(2, return_sequences=True), 2)
CALLS = {
    "rnn": lambda x: jaxrnn.rnn(jaxrnn.gru, WEIGHTS, x),
    "rnn_carries": lambda x: jaxrnn.rnn_carries(jaxrnn.gru, WEIGHTS, x),
    "rnn_step": lambda x: jaxrnn.rnn_step(jaxrnn.gru, WEIGHTS, CARRY, x),
    "step_jacobians": lambda x: diagnostics.step_jacobians(jaxrnn.gru, WEIGHTS, x),
    "output_jacobians": lambda x: diagnostics.output_jacobians(jaxrnn.gru, WEIGHTS, x),
    "gradient_norms": lambda x: diagnostics.gradient_norms(jaxrnn.gru, WEIGHTS, x),
    "lyapunov": lambda x: diagnostics.lyapunov_exponents(jaxrnn.gru, WEIGHTS, x),
    "fixed_points": lambda x: diagnostics.fixed_points(jaxrnn.gru, WEIGHTS, x, CARRY),
    "GRU": lambda x: LAYER.init(KEY, x),
    "RNN": lambda x: jaxrnn.RNN(nn.GRUCell(4)).init(KEY, x),
    "nnx.RNN": lambda x: jaxrnn.nnx.RNN(nnx.GRUCell(2, 4, rngs=nnx.Rngs(0)))(x),
    "Sequential": lambda x: jaxrnn.Sequential([LAYER]).init(KEY, x),
    "TimeDistributed": lambda x: jaxrnn.TimeDistributed(nn.Dense(2)).init(KEY, x),
    "Forecaster": lambda x: FORECASTER.init(KEY, x),
    "Embed": lambda ids: jaxrnn.Embed(9, 2).init(KEY, ids),
    "nnx.Embed": lambda ids: jaxrnn.nnx.Embed(9, 2, rngs=nnx.Rngs(0))(ids),
    "TextTagger": lambda ids: TAGGER.init(KEY, ids),
    "lengths_to_mask": lambda ids: jaxrnn.lengths_to_mask(ids, 9),
}


@pytest.mark.parametrize("entry", CALLS)
def test_what_is_no_array_of_numbers_says_so(entry, untyped):
    for given, words in (
        (None, "must be an array of numbers, got None; np.asarray makes one of nested"),
        ([[1.0, 2.0], [3.0]], "got a list; rows of different lengths are padded"),
        ([["good", "film"]], "must be an array of numbers, got a list"),
        (np.array([["good", "film"]]), "array of numbers, got an array of <U4"),
    ):
        refused(untyped, lambda g=given: CALLS[entry](g), TypeError, words)


def test_nested_lists_are_arrays(untyped):
    """Inputs, masks, resets and carries of every entry; those of layers ever were."""

    def same(found, want):
        jax.tree.map(np.testing.assert_array_equal, found, want)

    weights, inputs, carry = random_problem(jaxrnn.lstm, jnp.float32)
    valid = np.ones(inputs.shape[:2], bool)
    valid[2:, 0] = False
    marks = {"mask": valid, "resets": ~valid, "initial_carry": carry}
    pair = (carry.hidden.tolist(), carry.memory.tolist())
    lists = {"mask": valid.tolist(), "resets": (~valid).tolist(), "initial_carry": pair}
    for run in (jaxrnn.rnn, jaxrnn.rnn_carries):
        found = untyped(run)(jaxrnn.lstm, weights, inputs.tolist(), **lists)
        same(found, run(jaxrnn.lstm, weights, inputs, **marks))
    found = untyped(jaxrnn.rnn_step)(
        jaxrnn.gru, WEIGHTS, CARRY.tolist(), SEQUENCE[0].tolist(), resets=[True] * 5
    )
    want = jaxrnn.rnn_step(
        jaxrnn.gru, WEIGHTS, CARRY, SEQUENCE[0], resets=jnp.ones(5, bool)
    )
    same(found, want)
    found, want = (
        untyped(diagnostics.step_jacobians)(jaxrnn.gru, WEIGHTS, x, mask=mask)
        for x, mask in ((SEQUENCE.tolist(), valid.tolist()), (SEQUENCE, valid))
    )
    same(found, want)
    ids = [[1, 2, 0], [3, 4, 5]]
    for model, given, options in (
        (LAYER, NESTED, {"mask": VALID}),
        (jaxrnn.RNN(nn.GRUCell(4)), NESTED, {"mask": VALID}),
        (jaxrnn.Sequential([LAYER]), NESTED, {"mask": VALID}),
        (FORECASTER, NESTED, {"mask": VALID}),
        (jaxrnn.TimeDistributed(nn.Dense(2)), NESTED, {}),
        (jaxrnn.Embed(9, 2, mask_zero=True), ids, {}),
        (TAGGER, ids, {}),
    ):
        variables = model.init(KEY, jnp.asarray(given))
        want = model.apply(variables, jnp.asarray(given))
        same(untyped(model.apply)(variables, given, **options), want)


# Dtypes: a recurrence is computed in floats, lengths are integers.


def flax_rnn(**options):
    return jaxrnn.RNN(nn.GRUCell(4)).init(KEY, BATCH_MAJOR, **options)


def complex_carry():
    return CARRY.astype(jnp.complex64)


DTYPES = {
    "rnn, complex carry": (
        lambda: rnn(initial_carry=complex_carry()),
        "initial_carry must be floating point, got complex64",
    ),
    "rnn, carry of integers": (
        lambda: rnn(initial_carry=CARRY.astype(int)),
        "initial_carry must be floating point, got int32",
    ),
    "rnn_step": (
        lambda: jaxrnn.rnn_step(jaxrnn.gru, WEIGHTS, complex_carry(), SEQUENCE[0]),
        "carry must be floating point, got complex64",
    ),
    "layer": (
        lambda: LAYER.apply(
            {"params": WEIGHTS}, BATCH_MAJOR, initial_carry=complex_carry()
        ),
        "initial_carry must be floating point, got complex64",
    ),
    "step of a layer": (
        lambda: LAYER.apply(
            {"params": WEIGHTS}, complex_carry(), SEQUENCE[0], method="step"
        ),
        "carry must be floating point, got complex64",
    ),
    "RNN, carry of integers": (
        lambda: flax_rnn(initial_carry=CARRY.astype(int)),
        "turns a carry of int32 into one of float32",
    ),
    "rnn, dtype": (lambda: rnn(dtype=jnp.int32), "floating point, such as jnp.float32"),
    "rnn, a name": (lambda: rnn(dtype="flot16"), "as jnp.float32, got 'flot16'"),
    "rnn, params": (
        lambda: jaxrnn.rnn(
            jaxrnn.gru, jax.tree.map(lambda x: x + 0j, WEIGHTS), SEQUENCE
        ),
        "must be floating point, such as jnp.float32, got complex64",
    ),
    "init_params": (
        lambda: jaxrnn.init_params(jaxrnn.gru, KEY, 2, 3, int),
        "dtype must be floating point",
    ),
    "layer, dtype": (lambda: jaxrnn.GRU(2, dtype=int), "dtype must be floating"),
    "layer, param_dtype": (
        lambda: jaxrnn.nnx.GRU(2, 2, param_dtype=int, rngs=nnx.Rngs(0)),
        "param_dtype must be floating point",
    ),
    "Mean": (lambda: jaxrnn.Mean.of(jnp.ones(3) * 1j), "takes real values and weights"),
    "sine_windows": (lambda: data.sine_windows(np.ones(9) * 1j), "real numbers, got"),
    "pad_sequences": (lambda: data.pad_sequences([[1]], value=0.5), "got 0.5"),
    "lengths_to_mask": (
        lambda: jaxrnn.lengths_to_mask(jnp.array([2.5]), 3),
        "lengths must be integers, got float32",
    ),
    "lengths": (
        lambda: LAYER.init(KEY, BATCH_MAJOR, lengths=jnp.full(5, 2.5)),
        "lengths must be integers, got float32",
    ),
    "RNN, seq_lengths": (
        lambda: flax_rnn(seq_lengths=jnp.full(5, 2.5)),
        "lengths must be integers, got float32",
    ),
}


@pytest.mark.parametrize("entry", DTYPES)
def test_numbers_are_of_the_kind_that_is_computed_with(entry, untyped):
    call, words = DTYPES[entry]
    refused(untyped, call, TypeError, words)


def test_lengths_lie_within_the_steps(untyped):
    for lengths, words in (([8], "got 8 to 8"), ([-1], "got -1 to -1")):
        refused(
            untyped,
            lambda lengths=lengths: jaxrnn.lengths_to_mask(jnp.array(lengths), 7),
            ValueError,
            f"between 0 and the number of steps, 7, {words}",
        )
    refused(
        untyped,
        lambda: flax_rnn(seq_lengths=jnp.array([9, 1, 1, 1, 1])),
        ValueError,
        "the number of steps, 7, got 1 to 9",
    )
    refused(
        untyped,
        lambda: flax_rnn(seq_lengths=jnp.array([1])),
        ValueError,
        "the batch shape of inputs (5,), got (1,)",
    )
    refused(
        untyped,
        lambda: jaxrnn.lengths_to_mask(jnp.array([0]), -1),
        ValueError,
        "0 or more, got -1",
    )


def test_a_carry_between_chunks_keeps_its_kind_of_numbers():
    def sums(params, carry, batch):
        loss = jaxrnn.Mean.of(batch.inputs)
        return loss.value, (carry + batch.inputs.sum(axis=1), {"loss": loss})

    stream = data.Dataset(jnp.full((2, 4), 0.75), jnp.ones((2, 4)))
    with jax.numpy_dtype_promotion("standard"):
        call = functools.partial(
            jaxrnn.evaluate_stream, {}, stream=stream, loss_fn=sums, chunk=2
        )
        with pytest.raises(TypeError, match="got one of int32 before a chunk"):
            call(carry=jnp.zeros(2, int))
    assert call(carry=jnp.zeros(2))[0].tolist() == [3, 3]


# Nothing to do: no step, no row.


@pytest.mark.parametrize("solver", SOLVERS[1:], ids=repr)
@pytest.mark.parametrize(("time", "batch"), [(0, 5), (7, 0)])
def test_no_step_or_no_row_gives_what_scan_gives(solver, time, batch):
    inputs, carry = SEQUENCE[:time, :batch], CARRY[:batch]
    mask = jnp.ones(inputs.shape[:2], bool)

    def run(carry, params, solver):
        ran = jaxrnn.rnn(
            jaxrnn.gru, params, inputs, mask=mask, initial_carry=carry, solver=solver
        )
        return sum(x.sum() for x in ran), ran

    gradient = jax.grad(run, argnums=(0, 1), has_aux=True)
    found, want = (gradient(carry, WEIGHTS, s) for s in (solver, jaxrnn.Scan()))
    jax.tree.map(np.testing.assert_array_equal, found, want)


@pytest.mark.parametrize("steps", ["none", "none that is valid"])
@pytest.mark.parametrize("kind", ["RNN", "layer"])
def test_without_a_step_the_carry_stays(kind, steps):
    """Of two directions around a Flax cell or a layer; `mask` is all False."""
    if kind == "RNN":
        layer = jaxrnn.RNN(nn.GRUCell(4), return_carry=True)
    else:
        layer = jaxrnn.GRU(4, return_carry=True, return_sequences=True)
    layer = jaxrnn.Bidirectional(layer)
    time = 0 if steps == "none" else 7
    carries, outputs = layer.init_with_output(
        KEY,
        BATCH_MAJOR[:, :time],
        mask=jnp.zeros((5, time), bool),
        initial_carry=(CARRY, 2 * CARRY),
    )[0]
    jax.tree.map(np.testing.assert_array_equal, carries, (CARRY, 2 * CARRY))
    np.testing.assert_array_equal(outputs, jnp.zeros((5, time, 8)))


def test_an_rnn_without_a_step_keeps_its_carry():
    (carry, outputs), _ = jaxrnn.RNN(nn.GRUCell(4), reverse=True).init_with_output(
        KEY,
        BATCH_MAJOR[:, :0],
        initial_carry=CARRY,
        seq_lengths=jnp.zeros(5, int),
        return_carry=True,
    )
    np.testing.assert_array_equal(carry, CARRY)
    assert outputs.shape == (5, 0, 4)


# An RNN around a Flax cell cannot do all that a layer can.


def nnx_rnn():
    return jaxrnn.nnx.RNN(nnx.GRUCell(4, 4, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))


def linen_rnn():
    return jaxrnn.RNN(nn.GRUCell(4))


AROUND = {
    "Stacked": (
        lambda: jaxrnn.Stacked([linen_rnn()]).bind({}),
        lambda: jaxrnn.nnx.Stacked([nnx_rnn()]),
    ),
    "Bidirectional": (
        lambda: jaxrnn.Bidirectional(linen_rnn()).bind({}),
        lambda: jaxrnn.nnx.Bidirectional(nnx_rnn(), nnx_rnn()),
    ),
    "RNN": (lambda: linen_rnn().bind({}), nnx_rnn),
}


@pytest.mark.parametrize("around", AROUND)
def test_an_rnn_has_no_step(around):
    words = "an RNN has no `step` and no `initial_carry`"
    for make in AROUND[around]:
        with pytest.raises(TypeError, match=words):
            make().initial_carry((5,))
        if around != "Bidirectional":  # which never has a step
            with pytest.raises(TypeError, match=words):
                make().step((CARRY,), SEQUENCE[0])


def test_an_rnn_is_not_repeated():
    for layer in (nnx_rnn(), jaxrnn.nnx.Bidirectional(nnx_rnn(), nnx_rnn())):
        with pytest.raises(TypeError, match="this RNN does not say how wide"):
            jaxrnn.nnx.Stacked(layer, 2, rngs=nnx.Rngs(0))
