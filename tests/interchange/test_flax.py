"""Do the weights of Flax' cells compute the same here, and ours there?"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.interchange import from_linen, from_nnx, to_linen, to_nnx

IN_FEATURES, FEATURES = 4, 4  # equal: a matrix that is transposed fits too
INPUTS = jax.random.normal(jax.random.key(0), (2, 5, IN_FEATURES))
FLOAT32 = {"rtol": 0, "atol": 1e-6}  # a few roundings of numbers below one

OURS = {"simple_rnn": jaxrnn.simple_rnn, "gru": jaxrnn.gru, "lstm": jaxrnn.lstm}
LINEN = {  # name: (the cell there, ours)
    "SimpleCell": (nn.SimpleCell, "simple_rnn"),
    "GRUCell": (nn.GRUCell, "gru"),
    "LSTMCell": (nn.LSTMCell, "lstm"),
    "OptimizedLSTMCell": (nn.OptimizedLSTMCell, "lstm"),
}
NNX = {
    "SimpleCell": (nnx.SimpleCell, "simple_rnn"),
    "GRUCell": (nnx.GRUCell, "gru"),
    "LSTMCell": (nnx.LSTMCell, "lstm"),
    "OptimizedLSTMCell": (nnx.OptimizedLSTMCell, "lstm"),
}


def draw(tree):
    """Every leaf at random, biases too: none can hide behind its zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.uniform(-0.5, 0.5, leaf.shape).astype(np.float32), tree
    )


def draw_ours(name, **options):
    cell = getattr(jaxrnn, f"{name}_cell")(**options)
    specs = cell.param_specs(IN_FEATURES, FEATURES)
    return cell, draw({n: np.zeros(spec.shape) for n, spec in specs.items()})


def run(cell, params):
    _, outputs = jaxrnn.rnn(cell, params, jnp.moveaxis(INPUTS, 1, 0))
    return jnp.moveaxis(outputs, 0, 1)


def run_linen(cell_class, params):
    return nn.RNN(cell_class(FEATURES)).apply({"params": {"cell": params}}, INPUTS)


def nnx_cell(cell_class):
    return cell_class(IN_FEATURES, FEATURES, rngs=nnx.Rngs(0))


def run_nnx(cell_class, params):
    cell = nnx_cell(cell_class)
    nnx.update(cell, params)
    return nnx.RNN(cell)(INPUTS)


@pytest.mark.parametrize("name", LINEN)
def test_from_linen(name):
    cell_class, ours = LINEN[name]
    variables = nn.RNN(cell_class(FEATURES)).init(jax.random.key(0), INPUTS)
    theirs = draw(variables["params"]["cell"])
    params = from_linen(theirs)
    np.testing.assert_allclose(
        run(OURS[ours], params), run_linen(cell_class, theirs), **FLOAT32
    )
    jax.tree.map(np.testing.assert_array_equal, to_linen(params), dict(theirs))


@pytest.mark.parametrize("name", ["SimpleCell", "GRUCell", "LSTMCell"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_to_linen(name, use_bias):
    cell_class, ours = LINEN[name]
    cell, params = draw_ours(ours, use_bias=use_bias)
    theirs = to_linen(params)
    np.testing.assert_allclose(
        run_linen(cell_class, theirs), run(cell, params), **FLOAT32
    )


@pytest.mark.parametrize("name", NNX)
def test_from_nnx(name):
    cell_class, ours = NNX[name]
    state = nnx.to_pure_dict(nnx.state(nnx_cell(cell_class), nnx.Param))
    theirs = draw(state)
    params = from_nnx(theirs)
    np.testing.assert_allclose(
        run(OURS[ours], params), run_nnx(cell_class, theirs), **FLOAT32
    )
    back = to_nnx(params, optimized=name == "OptimizedLSTMCell")
    jax.tree.map(np.testing.assert_array_equal, back, theirs)


@pytest.mark.parametrize("name", NNX)
@pytest.mark.parametrize("use_bias", [True, False])
def test_to_nnx(name, use_bias):
    cell_class, ours = NNX[name]
    cell, params = draw_ours(ours, use_bias=use_bias)
    if "recurrent_bias" in params:  # what NNX cannot hold, see below
        params["recurrent_bias"][2 * FEATURES :] = 0
    theirs = to_nnx(params, optimized=name == "OptimizedLSTMCell")
    np.testing.assert_allclose(
        run_nnx(cell_class, theirs), run(cell, params), **FLOAT32
    )


@pytest.mark.parametrize("convert", [to_linen, to_nnx])
def test_what_flax_lacks_is_explained(convert):
    with pytest.raises(ValueError, match="resets after the matmul"):
        convert(draw_ours("gru", reset_after=False)[1])
    with pytest.raises(ValueError, match="no LSTM with projection"):
        convert(draw_ours("lstm", projection_features=2)[1])


def test_a_bias_inside_the_reset_gate_is_too_much_for_nnx():
    with pytest.raises(ValueError, match=r"gate n of recurrent_bias must be zero"):
        to_nnx(draw_ours("gru")[1])


def test_other_trees_are_explained():
    linen = to_linen(draw_ours("gru")[1])
    nnx_params = to_nnx(draw_ours("lstm")[1], optimized=True)
    with pytest.raises(ValueError, match=r"found \['cell/hn/bias'.*params\[\"cell\"\]"):
        from_linen({"cell": linen})
    with pytest.raises(ValueError, match="an NNX cell is for from_nnx"):
        from_linen(nnx_params)
    with pytest.raises(ValueError, match="of the cell alone"):
        from_nnx({"cell": nnx_params})
    with pytest.raises(ValueError, match="with 1, 3 or 4 gates, found"):
        from_nnx(nnx_params | {"dense_h": {"kernel": np.ones((5, 9)), "bias": 1.0}})
    with pytest.raises(TypeError, match="dense_i/kernel must be an array of floats"):
        from_nnx({**nnx_params, "dense_i": {"kernel": np.ones((4, 9), int)}})
