"""How much memory do the programs need? XLA says it when it has compiled them.

Nothing here runs: `memory_analysis` of a compiled program is exact and needs no data.
`temp` is what lives between arguments and results.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HAS_COMPILER

import jaxrnn

pytestmark = pytest.mark.usefixtures("optimized")


FLOAT = 4  # bytes
LAYERS = pytest.mark.parametrize(
    "layer_type",
    [jaxrnn.SimpleRNN, jaxrnn.GRU, jaxrnn.LSTM],
    ids=lambda layer: layer.__name__,
)


def memory(function, *arguments):
    """Bytes of temporary values, and of results."""
    found = jax.jit(function).lower(*arguments).compile().memory_analysis()
    return found.temp_size_in_bytes, found.output_size_in_bytes


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


# The forward pass. A history of outputs would be 32 floats a step and row.

BATCH, IN_FEATURES, FEATURES = 16, 2, 32


def growth(layer, masked):
    """Bytes that each further step of each row takes, in temporaries and results."""

    def bytes_of(time):
        shape = (time, BATCH) if layer.time_major else (BATCH, time)
        inputs = floats(*shape, IN_FEATURES)
        variables = jax.eval_shape(layer.init, jax.random.key(0), inputs)
        mask = jax.ShapeDtypeStruct(shape, bool) if masked else None

        def run(variables, inputs, mask):
            return layer.apply(variables, inputs, mask=mask)

        return sum(memory(run, variables, inputs, mask))

    return (bytes_of(256) - bytes_of(64)) / (192 * BATCH)


@LAYERS
def test_last_output_alone_keeps_no_history(layer_type):
    """Time-major inputs are read where they lie: memory does not depend on time."""
    assert growth(layer_type(FEATURES, time_major=True), masked=False) == 0


@LAYERS
def test_batch_major_and_masked_inputs_are_copied_once_and_no_more(layer_type):
    """The copy has the time axis first, and zeros where NaN may have stood. A mask
    takes some bytes of its own.
    """
    copy = IN_FEATURES * FLOAT
    of_masks = 4
    assert growth(layer_type(FEATURES), masked=True) <= copy + of_masks


def test_a_history_that_is_asked_for_would_be_seen():
    layer = jaxrnn.GRU(FEATURES, time_major=True, return_sequences=True)
    assert growth(layer, masked=False) >= FEATURES * FLOAT


# The gradient. A value is one float for each step, row and feature.


def gradient_memory(cell, time, batch, features, solver=None, in_features=None):
    """Temporary bytes of the gradient of the parameters, from the last output."""
    specs = cell.param_specs(in_features or features, features)
    params = {name: floats(*spec.shape) for name, spec in specs.items()}

    def loss(params, inputs):
        carry, _ = jaxrnn.rnn(cell, params, inputs, solver=solver)
        return cell.output(carry).sum()

    inputs = floats(time, batch, in_features or features)
    return memory(jax.grad(loss), params, inputs)[0]


def of_programs(cell, time, batch, features, solver):
    """Of the values, then of their gradient: temporary bytes, and loops."""
    params = {
        name: floats(*spec.shape)
        for name, spec in cell.param_specs(features, features).items()
    }

    def loss(params, inputs):
        return jnp.sum(jaxrnn.rnn(cell, params, inputs, solver=solver)[1] ** 2)

    for function in (loss, jax.grad(loss)):
        lowered = jax.jit(function).lower(params, floats(time, batch, features))
        program = lowered.compile()
        loops = len(re.findall(r" while\(", program.as_text()))
        yield program.memory_analysis().temp_size_in_bytes, loops


@pytest.mark.parametrize(
    ("name", "projected"),
    [
        ("min_gru", 2),
        pytest.param("min_lstm", 3, marks=pytest.mark.slow),
        pytest.param("lru", 1, marks=pytest.mark.slow),
        pytest.param("rg_lru", 3, marks=pytest.mark.slow),
    ],
)
def test_parallel_scan_keeps_its_rounds_and_has_no_loop(name, projected):
    """The rounds of a and b are 2 (1 + 1/2 + 1/4 + ...) floats a value, and as many on
    the way back; besides, what is projected and what becomes of it.
    """
    shape = (100, 4, 32)
    (values, loops), (gradient, loops_of_gradient) = of_programs(
        getattr(jaxrnn, name), *shape, jaxrnn.ParallelScan()
    )
    assert loops == loops_of_gradient == 0
    a_value = math.prod(shape) * FLOAT
    assert 2 < values / a_value < 6.1
    assert 0.8 < gradient / a_value / (6 + 3 * projected) < 1.1


@pytest.mark.slow
def test_gradient_of_deer_has_no_further_loop():
    """One over iterations, one over steps that are to be repaired."""
    found = of_programs(jaxrnn.gru, 20, 2, 4, jaxrnn.Deer())
    assert [loops for _, loops in found] == [2, 2]


@pytest.mark.slow
def test_deer_keeps_jacobians_and_checkpoints_those_of_a_chunk():
    """Three arrays of them and some of carries; eight chunks take an eighth."""
    time, batch, features = 256, 2, 16
    measure = functools.partial(
        gradient_memory, jaxrnn.simple_rnn, time, batch, features
    )
    of_jacobians = 3 * time * batch * features**2 * FLOAT
    whole = measure(jaxrnn.Deer())
    assert 0.5 * of_jacobians < whole < 1.1 * of_jacobians
    assert measure(jaxrnn.Checkpointed(jaxrnn.Deer(), chunk=32)) < whole / 4


@pytest.mark.parametrize(
    ("cell", "floor", "shape"),
    [
        (jaxrnn.simple_rnn, 1, (100, 512, 32)),
        (jaxrnn.simple_rnn, 1, (500, 128, 32)),
        (jaxrnn.simple_rnn, 1, (499, 128, 32)),  # a prime: no chunks without a rest
        (jaxrnn.simple_rnn, 1, (256, 64, 256)),
        (jaxrnn.lstm, 5, (100, 512, 32)),
        (jaxrnn.lstm, 5, (500, 128, 32)),
        (jaxrnn.lstm, 5, (499, 128, 32)),
        (jaxrnn.lstm, 5, (256, 64, 256)),
    ],
)
def test_gradient_takes_little_more_than_what_it_must_keep(cell, floor, shape):
    """At least the carry (LSTM: also the four gates; one of h, c, o follows from the
    others) of every step; what a chunk of some steps stores on the way back comes on
    top. (Of 30 steps a chunk is a large part: there the factor is 1.8 to 2.0.)
    """
    values = math.prod(shape)
    found = gradient_memory(cell, *shape, jaxrnn.HoistedScan()) / (values * FLOAT)
    assert floor <= found <= 1.5 * floor


def test_default_keeps_four_floats_a_value():
    """All steps in one chunk are the faster way: carries, deltas, and the projected
    inputs with and without the bias.
    """
    shape = (256, 64, 256)
    found = gradient_memory(jaxrnn.simple_rnn, *shape) / (math.prod(shape) * FLOAT)
    assert found < 4.01


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_scan_keeps_about_twice_as_much(name):
    """Why `HoistedScan` is there for large LSTMs, and what it would save a GRU."""
    cell = getattr(jaxrnn, name)
    shape = (500, 128, 32)
    plain = gradient_memory(cell, *shape, jaxrnn.Scan())
    hoisted = gradient_memory(cell, *shape, jaxrnn.HoistedScan())
    assert 1.3 < plain / hoisted < 2.5


TIMES = (256, 4096)


def exponent(cell, solver):
    """Fits memory ~ time^p and returns p."""
    found = [gradient_memory(cell, time, 8, 16, solver, 4) for time in TIMES]
    return np.polyfit(np.log(TIMES), np.log(found), 1)[0]


@pytest.mark.parametrize("name", ["simple_rnn", "lstm"])
@pytest.mark.slow
def test_checkpoints_take_the_root_of_time(name):
    """sqrt(time) chunks keep a carry each, and one chunk sqrt(time) steps."""
    assert exponent(getattr(jaxrnn, name), jaxrnn.Checkpointed()) < 0.65


def test_without_checkpoints_memory_grows_with_time():
    assert exponent(jaxrnn.lstm, jaxrnn.Scan()) > 0.95


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
@pytest.mark.parametrize(
    ("layer_type", "kept"),
    [(jaxrnn.SimpleRNN, 1), (jaxrnn.GRU, 5), (jaxrnn.LSTM, 6)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_native_gradient_keeps_carries_and_gates_alone(layer_type, kept):
    """Neither projected inputs nor the cotangents of the gates are ever whole."""
    time, batch, features = 200, 16, 32
    layer = layer_type(features, time_major=True, solver=jaxrnn.Native())
    inputs = floats(time, batch, features)
    variables = jax.eval_shape(layer.init, jax.random.key(0), inputs)

    def loss(variables, inputs):
        return jnp.sum(layer.apply(variables, inputs) ** 2)

    temporary, _ = memory(jax.grad(loss, argnums=(0, 1)), variables, inputs)
    floor = time * batch * features * kept * FLOAT
    assert floor <= temporary < 1.05 * floor + 50_000  # and some arrays without time


def test_features_of_embedded_ids_are_not_copied():
    """Ids are looked up in the order of time, so that no transpose is left over."""
    batch, time, embed_features = 13, 11, 17
    layer = jaxrnn.SimpleRNN(19, solver=jaxrnn.HoistedScan(chunk=None))
    model = jaxrnn.TextClassifier(100, embed_features, layer)
    ids = jax.ShapeDtypeStruct((batch, time), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), ids)

    def loss(variables, ids):
        return jnp.sum(model.apply(variables, ids) ** 2)

    program = jax.jit(jax.grad(loss)).lower(variables, ids).compile().as_text()
    sizes = rf"\[{batch},{time},{embed_features}\]|\[{embed_features},{batch},{time}\]"
    assert f"f32[{time},{batch},{embed_features}]" in program
    assert not re.findall(rf"f32(?:{sizes})\S* (?:copy|transpose)\(", program)
