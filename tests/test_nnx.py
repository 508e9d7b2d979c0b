"""Are the NNX layers the Linen layers: names, numbers, noise, training?"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxrnn
import jaxrnn.nnx as jnnx
from jaxrnn.layers.nnx import Layer

BATCH, TIME, IN_FEATURES, FEATURES = 3, 5, 3, 4
RNGS = nnx.Rngs(0)  # where the values do not matter
INPUTS = jax.random.normal(jax.random.key(0), (BATCH, TIME, IN_FEATURES))
MASK = jnp.array([[0, 0, 1, 1, 1], [1, 0, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
LENGTHS = jnp.array([5, 2, 3])
RESETS = jnp.zeros((BATCH, TIME), bool).at[0, 3].set(True)
IDS = jnp.array([[1, 2, 0, 3, 0], [0, 0, 8, 8, 1]])


class Pair(NamedTuple):
    """A Linen layer, an NNX layer with the same options, and what both are given."""

    linen: Any
    nnx: Any
    call: Mapping[str, Any] = MappingProxyType({})
    inputs: Any = INPUTS


def pair(name, call=None, inputs=INPUTS, **options):
    """A recurrent layer in both."""
    sizes = (inputs.shape[-1], FEATURES)
    linen = getattr(jaxrnn, name)(FEATURES, **options)
    return Pair(
        linen, getattr(jnnx, name)(*sizes, rngs=RNGS, **options), call or {}, inputs
    )


ALL = {"return_sequences": True, "return_carry": True}
MIXED = {"dtype": jnp.bfloat16, **ALL}
CARRY = jaxrnn.LSTMCarry(*jax.random.normal(jax.random.key(1), (2, BATCH, FEATURES)))


def both_ways(name, **options):
    """The two layers of a Bidirectional."""
    return [
        getattr(jnnx, name)(IN_FEATURES, FEATURES, rngs=RNGS, **options)
        for _ in range(2)
    ]


def stack(width, **options):
    return [
        jnnx.LSTM(IN_FEATURES, FEATURES, rngs=RNGS),
        jnnx.GRU(width, FEATURES, rngs=RNGS, **options),
    ]


PAIRS = {
    "simple_rnn": pair("SimpleRNN"),
    "relu": pair("SimpleRNN", activation=jax.nn.relu, use_bias=False, **ALL),
    "gru": pair("GRU", **ALL),
    "reset_before": pair("GRU", reset_after=False, **ALL),
    "gru_activations": pair(
        "GRU", activation=jax.nn.relu, recurrent_activation=jax.nn.hard_sigmoid
    ),
    "lstm": pair("LSTM", **ALL),
    "initial_carry": pair("LSTM", {"initial_carry": CARRY}, **ALL),
    "unit_forget_bias": pair("LSTM", unit_forget_bias=False),
    "projection": pair("LSTM", projection_features=2, **ALL),
    "all_carries": pair("LSTM", return_all_carries=True),
    "mask": pair("LSTM", {"mask": MASK}, **ALL),
    "hold_outputs": pair("GRU", {"mask": MASK}, hold_outputs=True, **ALL),
    "lengths": pair("GRU", {"lengths": LENGTHS}, **ALL),
    "resets": pair("GRU", {"resets": RESETS}, **ALL),
    "reverse": pair("LSTM", reverse=True, **ALL),
    "as_made": pair("LSTM", reverse=True, keep_order=False, **ALL),
    "time_major": pair("GRU", time_major=True, inputs=INPUTS[:, :2], **ALL),
    "unbatched": pair("GRU", inputs=INPUTS[0], **ALL),
    "solver": pair("GRU", solver=jaxrnn.Checkpointed(), **ALL),
    "zoneout": pair("GRU", zoneout=0.3, **ALL),
    "dropout": pair("GRU", dropout=0.3, recurrent_dropout=0.3, **ALL),
    "bfloat16": pair("LSTM", **MIXED),
    "recurrent": pair("Recurrent", cell=jaxrnn.mgu, **ALL),
    "bidirectional": Pair(
        jaxrnn.Bidirectional(jaxrnn.LSTM(FEATURES, **ALL)),
        jnnx.Bidirectional(*both_ways("LSTM", **ALL)),
        {"mask": MASK},
    ),
    "sum": Pair(
        jaxrnn.Bidirectional(jaxrnn.GRU(FEATURES), merge=jnp.add),
        jnnx.Bidirectional(*both_ways("GRU"), merge=jnp.add),
        {"initial_carry": (CARRY.hidden, CARRY.memory)},
    ),
    "pair": Pair(
        jaxrnn.Bidirectional(jaxrnn.GRU(FEATURES), merge=None),
        jnnx.Bidirectional(*both_ways("GRU"), merge=None),
    ),
    "stacked": Pair(
        jaxrnn.Stacked(
            [jaxrnn.LSTM(FEATURES), jaxrnn.GRU(FEATURES, **ALL)], dropout=0.3
        ),
        jnnx.Stacked(stack(FEATURES, **ALL), dropout=0.3, rngs=RNGS),
        {"lengths": LENGTHS},
    ),
    "stacked_bidirectional": Pair(
        jaxrnn.Stacked(
            [jaxrnn.Bidirectional(jaxrnn.GRU(FEATURES)), jaxrnn.GRU(FEATURES)]
        ),
        jnnx.Stacked(
            [
                jnnx.Bidirectional(*both_ways("GRU")),
                jnnx.GRU(2 * FEATURES, FEATURES, rngs=RNGS),
            ]
        ),
    ),
    "bidirectional_of_repeated": Pair(
        jaxrnn.Bidirectional(
            jaxrnn.Stacked(
                jaxrnn.Bidirectional(jaxrnn.GRU(FEATURES, **ALL)), num_layers=2
            )
        ),
        jnnx.Bidirectional(
            jnnx.Stacked(
                jnnx.Bidirectional(
                    jnnx.GRU(IN_FEATURES, FEATURES, rngs=RNGS, **ALL), rngs=RNGS
                ),
                num_layers=2,
                rngs=RNGS,
            ),
            rngs=RNGS,
        ),
        {"mask": MASK, "resets": RESETS},
    ),
}


def draw(tree):
    """Every leaf at random, biases too: none can hide behind its zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(-0.8, 0.8, leaf.shape), leaf.dtype), tree
    )


def linen_shapes(layer, inputs):
    return jax.eval_shape(layer.init, jax.random.key(0), inputs)["params"]


def pure_params(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def shapes(tree):
    return {
        jax.tree_util.keystr(path): (leaf.shape, leaf.dtype.name)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def same_numbers(linen, model, inputs, **call):
    """Bit by bit, as both call the same compiled program."""
    params = draw(linen_shapes(linen, inputs))
    assert shapes(pure_params(model)) == shapes(params)
    nnx.update(model, params)
    quiet = {"deterministic": True} if isinstance(model, Layer) else {}
    found = model(inputs, **call, **quiet)
    want = linen.apply({"params": params}, inputs, **call)
    assert jax.tree.structure(found) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, found, want)
    assert shapes(found) == shapes(want)


@pytest.mark.parametrize("name", PAIRS)
def test_same_parameters_same_numbers(name):
    linen, model, call, inputs = PAIRS[name]
    same_numbers(linen, model, inputs, **call)


def test_embedding_and_layers_over_time():
    for options in ({}, {"mask_zero": True}, {"dtype": jnp.bfloat16}):
        linen = jaxrnn.Embed(9, 2, **options)
        same_numbers(linen, jnnx.Embed(9, 2, rngs=RNGS, **options), IDS)
    linen = jaxrnn.TimeDistributed(nn.Dense(2))
    model = jnnx.TimeDistributed(nnx.Linear(IN_FEATURES, 2, rngs=RNGS))
    same_numbers(linen, model, INPUTS)


def make_classifier(rngs, **options):
    """A model whose every part is of NNX."""

    class Classifier(nnx.Module):
        def __init__(self):
            self.embed = jnnx.Embed(9, 4, mask_zero=True, rngs=rngs)
            self.recurrent = jnnx.Bidirectional(
                jnnx.LSTM(4, 8, rngs=rngs, **options),
                jnnx.LSTM(4, 8, rngs=rngs, **options),
            )
            self.head = nnx.Linear(16, 1, rngs=rngs)

        def __call__(self, ids):
            features, mask = self.embed(ids)
            return self.head(self.recurrent(features, mask=mask))[:, 0]

    return Classifier()


def test_initial_values():
    """The distributions of Linen, from keys of their own."""
    model = make_classifier(nnx.Rngs(0))
    forward, reverse = model.recurrent.forward, model.recurrent.reverse
    assert (forward.kernel[...] != reverse.kernel[...]).all()
    recurrent = np.asarray(forward.recurrent_kernel[...])
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(8), atol=1e-5)
    np.testing.assert_array_equal(forward.bias[...], np.repeat([0, 1, 0, 0], 8))
    limit = np.sqrt(6 / (4 + 32))  # glorot_uniform
    assert 0.9 * limit < np.abs(forward.kernel[...]).max() <= limit
    again = make_classifier(nnx.Rngs(0))
    jax.tree.map(np.testing.assert_array_equal, pure_params(model), pure_params(again))


def test_grad_is_that_of_linen():
    linen, model, call, inputs = PAIRS["bidirectional"]
    params = draw(linen_shapes(linen, inputs))
    nnx.update(model, params)

    @nnx.jit
    def of_nnx(model):
        return nnx.grad(lambda m: jnp.sum(m(inputs, **call)[1] ** 2))(model)

    @jax.jit
    def of_linen(params):
        run = lambda p: linen.apply({"params": p}, inputs, **call)[1]  # noqa: E731
        return jax.grad(lambda p: jnp.sum(run(p) ** 2))(params)

    found, want = nnx.to_pure_dict(of_nnx(model)), of_linen(params)
    # Two programs may add in another order: a few roundings of numbers below ten.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        dict(found),
        want,
    )
    assert max(np.abs(x).max() for x in jax.tree.leaves(want)) > 0.1


def test_many_models_at_once():
    """`nnx.vmap` over the making and over the call: one program for all seeds."""

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def make(rngs):
        return jnnx.GRU(IN_FEATURES, FEATURES, rngs=rngs)

    models = make(nnx.Rngs(0))
    kernels = np.asarray(models.kernel[...])
    assert kernels.shape == (3, IN_FEATURES, 3 * FEATURES)
    assert len(np.unique(kernels)) == kernels.size
    found = nnx.vmap(lambda model, inputs: model(inputs), in_axes=(0, None))(
        models, INPUTS
    )
    one = jnnx.GRU(IN_FEATURES, FEATURES, rngs=nnx.Rngs(9))
    for i in range(3):
        nnx.update(one, jax.tree.map(lambda x, i=i: x[i], pure_params(models)))
        np.testing.assert_allclose(found[i], one(INPUTS), rtol=0, atol=1e-6)


def test_split_and_merge():
    model = make_classifier(nnx.Rngs(0), dropout=0.5)
    model.eval()
    want = model(IDS)
    merged = nnx.merge(*nnx.split(model))
    np.testing.assert_array_equal(merged(IDS), want)
    merged.train()
    assert (merged(IDS) != want).any()
    np.testing.assert_array_equal(model(IDS), want)  # a copy, not the same object


NOISY = {
    "dropout": {"dropout": 0.5},
    "recurrent_dropout": {"recurrent_dropout": 0.5},
    "zoneout": {"zoneout": 0.5},
}


@pytest.mark.parametrize("name", NOISY)
def test_noise_is_drawn_anew_while_training(name):
    layer = jnnx.GRU(IN_FEATURES, FEATURES, rngs=nnx.Rngs(0), **NOISY[name])
    run = nnx.jit(lambda layer: layer(INPUTS))
    first, second = run(layer), run(layer)
    assert (first != second).any()
    same = jnnx.GRU(IN_FEATURES, FEATURES, rngs=nnx.Rngs(0), **NOISY[name])
    np.testing.assert_array_equal(run(same), first)  # the seed says it all
    count = int(layer.noise.count[...])
    quiet = layer(INPUTS, deterministic=True)
    layer.eval()
    np.testing.assert_array_equal(layer(INPUTS), quiet)
    assert int(layer.noise.count[...]) == count  # serving draws no key
    assert (layer(INPUTS, deterministic=False) != quiet).any()  # the call goes first
    layer.train()
    assert (layer(INPUTS) != quiet).any()
    np.testing.assert_array_equal(layer(INPUTS, deterministic=True), quiet)
    np.testing.assert_array_equal(nnx.view(layer, deterministic=True)(INPUTS), quiet)


def test_noise_of_two_layers_differs():
    """Layers made from one `Rngs` have a stream each."""
    rngs = nnx.Rngs(0)
    one, other = (jnnx.GRU(3, 4, dropout=0.5, rngs=rngs) for _ in range(2))
    nnx.update(other, pure_params(one))
    assert (one(INPUTS) != other(INPUTS)).any()


def test_dropout_between_layers_follows_the_mode():
    rngs = nnx.Rngs(0)
    model = jnnx.Stacked(stack(FEATURES), dropout=0.5, rngs=rngs)
    assert (model(INPUTS) != model(INPUTS)).any()
    quiet = model(INPUTS, deterministic=True)
    model.eval()
    np.testing.assert_array_equal(model(INPUTS), quiet)
    np.testing.assert_array_equal(quiet, jnnx.Stacked(model.layers, rngs=rngs)(INPUTS))


def test_training_decreases_a_loss():
    """Is the last id of a row above 4? With dropout, by `nnx.Optimizer`."""
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(1, 9, (64, 6)))
    labels = jnp.asarray(ids[:, -1] > 4, jnp.float32)
    model = make_classifier(nnx.Rngs(0), dropout=0.1)
    optimizer = nnx.Optimizer(model, optax.sgd(1.0), wrt=nnx.Param)

    def loss(model):
        return optax.sigmoid_binary_cross_entropy(model(ids), labels).mean()

    @nnx.jit
    def train(model, optimizer):
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    losses = [float(train(model, optimizer)) for _ in range(60)]
    assert losses[0] > 0.6  # log 2 where nothing is known
    assert losses[-1] < 0.4


def test_bad_input_is_explained(untyped):
    layer = jnnx.GRU(IN_FEATURES, FEATURES, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"in_features=2 .* takes kernel of shape"):
        layer(INPUTS[..., :2])
    with pytest.raises(ValueError, match=r"axes \(\*batch, time, in_features\)"):
        untyped(layer)(INPUTS[0, 0])
    with pytest.raises(TypeError, match="floating point, got int32"):
        untyped(layer)(INPUTS.astype(jnp.int32))
    with pytest.raises(ValueError, match=r"\(3, 5\), got \(5, 3\)"):
        untyped(layer)(INPUTS, mask=MASK.T)
    reverse = jnnx.GRU(IN_FEATURES, FEATURES, reverse=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="forward must run from the first step"):
        jnnx.Bidirectional(reverse, layer)
    with pytest.raises(ValueError, match="at least one layer"):
        jnnx.Stacked([])
    with pytest.raises(ValueError, match="needs the cell"):
        jnnx.Recurrent(IN_FEATURES, FEATURES, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"\[0, 9\), found 0 to 9"):
        jnnx.Embed(9, 2, rngs=nnx.Rngs(0))(jnp.array([0, 9]))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got 1.5"):
        jnnx.GRU(IN_FEATURES, FEATURES, dropout=1.5, rngs=nnx.Rngs(0))(INPUTS)
