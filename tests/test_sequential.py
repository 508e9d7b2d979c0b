"""Does a Sequential hand on mask and noise as Keras does, whatever stands in it?"""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras import layers as kl
from keras_oracle import keras_rules, to_weights

import jaxrnn

KEY = jax.random.key(0)
IDS = jnp.array([[1, 2, 0, 0], [3, 4, 5, 0], [6, 0, 0, 0]])
SENTENCES = jnp.stack([IDS, IDS[::-1], 0 * IDS], axis=1).at[1, 1].set(0)
SEQUENCES = {"return_sequences": True}


def embed(**options):
    wide = jax.nn.initializers.normal(1.0)  # so that a step more or less is seen
    return jaxrnn.Embed(10, 3, mask_zero=True, embedding_init=wide, **options)


def keras_embed():
    return kl.Embedding(10, 3, mask_zero=True)


def layers_of(params):
    """Those with parameters of their own, in the order of their names."""
    if not isinstance(next(iter(params.values())), dict):
        return [params]
    return [one for name in sorted(params) for one in layers_of(params[name])]


KERAS = {
    "nested": (
        lambda: [
            embed(),
            jaxrnn.Sequential([jaxrnn.LSTM(2, **SEQUENCES), jax.nn.relu]),
            jaxrnn.Sequential([jaxrnn.GRU(3)]),
        ],
        lambda: [
            keras_embed(),
            keras.Sequential([kl.LSTM(2, **SEQUENCES), kl.Activation("relu")]),
            keras.Sequential([kl.GRU(3)]),
        ],
        IDS,
    ),
    "mask from inside": (
        lambda: [jaxrnn.Sequential([embed()]), jaxrnn.LSTM(2)],
        lambda: [keras.Sequential([keras_embed()]), kl.LSTM(2)],
        IDS,
    ),
    "sentences": (
        lambda: [embed(), jaxrnn.TimeDistributed(jaxrnn.LSTM(2))],
        lambda: [keras_embed(), kl.TimeDistributed(kl.LSTM(2))],
        SENTENCES,
    ),
    "documents": (
        lambda: [embed(), jaxrnn.TimeDistributed(jaxrnn.LSTM(2)), jaxrnn.LSTM(3)],
        lambda: [keras_embed(), kl.TimeDistributed(kl.LSTM(2)), kl.LSTM(3)],
        SENTENCES,
    ),
}


@pytest.mark.parametrize("name", KERAS)
def test_the_mask_is_handed_on_as_in_keras(name):
    ours, theirs, ids = KERAS[name]
    model = jaxrnn.Sequential(ours())
    found, variables = model.init_with_output(KEY, ids)
    with keras_rules(), warnings.catch_warnings():
        # Keras says that a Sequential destroys the mask, and hands it on.
        warnings.simplefilter("ignore", UserWarning)
        shape = ids.shape[1:]
        of_keras = keras.Sequential([keras.Input(shape, dtype="int32"), *theirs()])
        weights = map(to_weights, layers_of(variables["params"]))
        of_keras.set_weights([one for layer in weights for one in layer])
        want = np.asarray(of_keras(ids))
    if name == "sentences":  # of those without a word Keras' output is not zero
        has_words = np.asarray(ids != 0).any(-1)[..., None]
        assert not np.where(has_words, 0, found).any()
        want = np.where(has_words, want, 0)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    padded = jnp.where(ids == 0, 9, ids)  # no padding, other numbers
    assert not np.allclose(model.apply(variables, padded), found, atol=1e-3)


def test_an_rnn_reads_the_mask_as_a_layer_does():
    """`RNN` around a cell of jaxrnn beside the layer; of Flax it must be replaced."""
    rnn, layer = jaxrnn.RNN(jaxrnn.lstm, features=2), jaxrnn.LSTM(2, **SEQUENCES)
    turned = rnn.clone(reverse=True), layer.clone(reverse=True, keep_order=False)
    for one, other in ((rnn, layer), turned):
        model, like = (jaxrnn.Sequential([embed(), x]) for x in (one, other))
        variables = model.init(KEY, IDS)
        want = like.apply(variables, IDS)
        np.testing.assert_array_equal(model.apply(variables, IDS), want)
    inside = jaxrnn.Sequential([embed(), jaxrnn.TimeDistributed(rnn)])
    found, variables = inside.init_with_output(KEY, SENTENCES)
    like = jaxrnn.Sequential([embed(), jaxrnn.TimeDistributed(layer)])
    np.testing.assert_array_equal(found, like.apply(variables, SENTENCES))

    of_flax = nn.RNN(nn.LSTMCell(2))
    for other in (of_flax, nn.Sequential([jaxrnn.LSTM(2)])):
        with pytest.raises(ValueError, match=r"'layer_1' must take a mask.*jaxrnn.RNN"):
            jaxrnn.Sequential([embed(), other]).init(KEY, IDS)
        jaxrnn.Sequential([other]).init(KEY, jnp.ones((2, 3, 4)))  # there is no mask
    over = jaxrnn.Sequential([embed(), jaxrnn.TimeDistributed(of_flax)])
    with pytest.raises(ValueError, match=r"'layer_1' must take a mask"):
        over.init(KEY, SENTENCES)
    jaxrnn.Sequential([embed(), jaxrnn.RNN(nn.LSTMCell(2))]).init(KEY, IDS)


def test_noise_is_handed_on():
    """To what is said once; and nothing is drawn where it is said that nothing is."""
    over = jaxrnn.TimeDistributed
    cases = [
        (IDS, jaxrnn.Sequential([jaxrnn.LSTM(3), nn.Dropout(0.5)])),
        (SENTENCES, over(jaxrnn.LSTM(3, dropout=0.5))),
        (SENTENCES, over(jaxrnn.Sequential([jaxrnn.LSTM(3, dropout=0.5)]))),
        (SENTENCES, over(nn.Dropout(0.5))),
    ]
    for ids, layer in cases:
        model = jaxrnn.Sequential([embed(), layer])
        variables = model.init(KEY, ids)
        served = model.apply(variables, ids)
        with_key = {"rngs": {"dropout": KEY}}
        trained = model.apply(variables, ids, deterministic=False, **with_key)
        assert not np.allclose(trained, served)
        silent = model.apply(variables, ids, deterministic=True, **with_key)
        np.testing.assert_array_equal(silent, served)
        with pytest.raises(ValueError, match="say deterministic=False to train"):
            model.apply(variables, ids, **with_key)


def test_a_layer_over_time_that_reads_no_steps_gets_no_mask():
    """The `mask` of LayerNorm, say, is of features."""
    layers = [embed(), jaxrnn.TimeDistributed(nn.LayerNorm()), jaxrnn.LSTM(2)]
    model = jaxrnn.Sequential(layers)
    found, variables = model.init_with_output(KEY, IDS)
    params = variables["params"]
    plain = jaxrnn.Sequential([embed(), nn.LayerNorm(), jaxrnn.LSTM(2)])
    params = {**params, "layer_1": params["layer_1"]["layer"]}
    np.testing.assert_array_equal(found, plain.apply({"params": params}, IDS))


def test_a_pair_is_a_result_or_is_merged():
    both = jaxrnn.Bidirectional(jaxrnn.LSTM(3, **SEQUENCES), merge=None)
    one, other = jaxrnn.Sequential([embed(), both]).init_with_output(KEY, IDS)[0]
    assert one.shape == other.shape == (3, 4, 3)
    for layer in (jaxrnn.LSTM(2), jaxrnn.RNN(jaxrnn.gru, features=2)):
        with pytest.raises(ValueError, match=r"handed a pair.*give that a function"):
            jaxrnn.Sequential([both, layer]).init(KEY, jnp.ones((2, 4, 3)))
    merged = [both, lambda pair: pair[0] + pair[1], jaxrnn.LSTM(2)]
    summed = [both.clone(merge=jnp.add), jaxrnn.LSTM(2)]
    model = jaxrnn.Sequential([embed(), *merged])
    found, variables = model.init_with_output(KEY, IDS)
    params = variables["params"]
    params = {**params, "layer_2": params["layer_3"]}
    want = jaxrnn.Sequential([embed(), *summed]).apply({"params": params}, IDS)
    np.testing.assert_array_equal(found, want)


def test_a_layer_stands_there_once():
    """Keras and Flax share its parameters; here each had its own, without a word."""
    dense, words = nn.Dense(3), "object of its own, got the same object twice"
    for layers in ([dense, dense], [dense, jaxrnn.Sequential([dense])]):
        with pytest.raises(ValueError, match=words):
            jaxrnn.Sequential(layers)
    model = jaxrnn.Sequential([dense, jax.nn.relu, nn.Dense(3), jax.nn.relu])
    assert len(model.init(KEY, jnp.ones((2, 3)))["params"]) == 2


def test_steps_that_an_inner_sequential_has_lost_are_refused():
    inner = jaxrnn.Sequential([embed(), jaxrnn.LSTM(3)])
    with pytest.raises(ValueError, match="'layer_0/layer_1' before 'layer_1/layer_0'"):
        jaxrnn.Sequential([inner, jaxrnn.Sequential([jaxrnn.GRU(2)])]).init(KEY, IDS)
    for options in ({"return_carry": True}, {"time_major": True}):
        with pytest.raises(ValueError, match="leave out return_carry"):
            jaxrnn.Sequential([jaxrnn.RNN(jaxrnn.gru, features=2, **options)])


def test_the_mask_of_one_sequence_stays_with_its_steps(untyped):
    layers = [jaxrnn.GRU(3, **SEQUENCES), jaxrnn.GRU(2)]
    model = jaxrnn.Sequential(layers)
    rows, mask = jax.random.normal(KEY, (1, 5, 3)), jnp.arange(5)[None] < 2
    want, variables = model.init_with_output(KEY, rows, mask=mask)
    found = untyped(model.apply)(variables, rows[0], mask=mask[0])
    np.testing.assert_allclose(found, want[0], rtol=1e-6, atol=1e-7)
