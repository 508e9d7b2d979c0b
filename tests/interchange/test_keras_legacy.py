"""Do files of Keras 2 give the weights, and the predictions, that they gave there?

The files and what Keras predicted are in tests/fixtures/keras_legacy; what they have
not, a writer of the layout makes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from legacy_files import IDS, PREDICTIONS, unpack, write_legacy

import jaxrnn
from jaxrnn.files import BadFile
from jaxrnn.interchange import from_keras, load_keras, load_keras_model, to_keras


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("legacy"))


def trees_equal(found, want):
    jax.tree.map(np.testing.assert_array_equal, found, want)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_whole_model_predicts_what_it_did_in_keras(name, folder):
    model, params = load_keras_model(folder / f"{name}.h5")
    found = jax.jit(model.apply)({"params": params}, IDS)
    np.testing.assert_allclose(found, PREDICTIONS[name], rtol=0, atol=1e-6)


def test_the_files_tell_what_a_bidirectional_makes_of_padding(folder):
    """It holds its output in Keras 2.3, and is zero in TensorFlow."""
    name = "keras_2.3.1_tagger"
    model, params = load_keras_model(folder / f"{name}.h5")
    embed, both, *rest = model.layers
    sides = [side.clone(hold_outputs=False) for side in (both.forward, both.reverse)]
    other = jaxrnn.Sequential([embed, both.clone(forward=sides[0], reverse=sides[1])])
    other = jaxrnn.Sequential([*other.layers, *rest], model.names)
    found = jax.jit(other.apply)({"params": params}, IDS)
    assert np.abs(found - np.array(PREDICTIONS[name])).max() > 1e-3


def test_weights_alone(folder):
    model, params = load_keras_model(folder / "keras_2.1.6.h5")
    alone = folder / "keras_2.1.6_all.weights_only.h5"
    trees_equal(load_keras(alone, like=params, order=model.order), params)
    with pytest.raises(
        BadFile, match=r"whole model .* weights alone are for load_keras"
    ):
        load_keras_model(alone)
    model, params = load_keras_model(folder / "tf_2.15.h5")  # its names are text
    alone = folder / "tf_2.15_all.weights_only.h5"
    trees_equal(load_keras(alone, like=params, order=model.order), params)
    _, archived = load_keras_model(folder / "tf_2.15.keras")
    trees_equal(
        jax.tree.leaves(archived), to_leaves(params, archived)
    )  # whose layers have the same names


def to_leaves(params, like):
    return jax.tree.leaves({name: params[name] for name in like})


def test_cudnn_layers_become_lstm_and_gru(folder):
    model, params = load_keras_model(folder / "keras_2.2.4_cudnn.h5")
    alone = folder / "keras_2.2.4_cudnn.weights_only.h5"
    trees_equal(load_keras(alone, like=params, order=model.order), params)
    gru = params["cu_dnngru_1"]
    assert gru["recurrent_bias"].shape == (9,)
    rng = np.random.default_rng(0)
    weights = [rng.uniform(size=s).astype("f4") for s in ((4, 9), (3, 9), (18,))]
    found = from_keras(weights, like=gru)
    np.testing.assert_array_equal(found["recurrent_bias"], weights[2][9:])
    np.testing.assert_array_equal(found["recurrent_kernel"][:, :3], weights[1][:, :3].T)
    back = to_keras(found)  # what Keras' GRU holds is taken as it is
    trees_equal(from_keras(back, like=gru), found)


def test_where_shapes_alone_speak_the_error_names_the_setting(folder, tmp_path):
    alone = folder / "keras_2.2.4_cudnn.weights_only.h5"
    before = jaxrnn.GRU(3, reset_after=False)
    shapes = jax.eval_shape(before.init, jax.random.key(0), jnp.zeros((1, 2, 4)))
    like = shapes["params"]
    with pytest.raises(
        BadFile, match=r"found \(18,\), that of a CuDNNGRU with reset_a"
    ):
        load_keras(alone, like=like, layer="cu_dnngru_1")
    after = jax.eval_shape(jaxrnn.GRU(3).init, jax.random.key(0), jnp.zeros((1, 2, 4)))[
        "params"
    ]
    load_keras(alone, like=after, layer="cu_dnngru_1")  # the way out
    kernels = {
        "gru/kernel:0": np.ones((4, 9)),
        "gru/recurrent_kernel:0": np.ones((3, 9)),
    }
    write_legacy(tmp_path / "a.h5", {"gru": {**kernels, "gru/bias:0": np.ones(9)}})
    with pytest.raises(
        BadFile, match=r"\(2, 9\), found \(9,\), that of a GRU with r.*F"
    ):
        load_keras(tmp_path / "a.h5", like=after)
    load_keras(tmp_path / "a.h5", like=like)
    write_legacy(tmp_path / "b.h5", {"gru": {**kernels, "gru/bias:0": np.ones((2, 9))}})
    with pytest.raises(
        BadFile, match=r"\(9,\), found \(2, 9\), that of a GRU with r.*T"
    ):
        load_keras(tmp_path / "b.h5", like=like)
    load_keras(tmp_path / "b.h5", like=after)
    with pytest.raises(
        ValueError, match=r"the bias must have shape .* reset_after=True"
    ):
        from_keras([np.ones((4, 9)), np.ones((3, 9)), np.ones((2, 9))], like=like)


MODEL = jaxrnn.TextClassifier(9, 3, jaxrnn.Bidirectional(jaxrnn.LSTM(2)))
NAMES = ("kernel", "recurrent_kernel", "bias")


def draw_params():
    like = jax.eval_shape(MODEL.init, jax.random.key(0), IDS)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(-1, 1, x.shape).astype(x.dtype), like)


def both(inside, params):
    """The weights of a Bidirectional, under names of one spelling or another."""
    return {
        f"bidirectional_1/{side}{inside}/{name}:0": params["recurrent"][own][name]
        for side, own in (("forward_", "forward"), ("backward_", "reverse"))
        for name in NAMES
    }


def as_layers(params, inside="lstm1"):
    head = params["head"]
    return {
        "embedding_1": {"embedding_1/embeddings:0": params["embed"]["embedding"]},
        "dropout_1": {},
        "bidirectional_1": both(inside, params),
        "dense_1": {f"dense_1/{name}:0": head[name] for name in ("kernel", "bias")},
    }


LAYOUTS = {
    "bytes": {},
    "text": {"as_text": True},
    "cell": {"inside": "lstm/lstm_cell_1"},
    "long lists": {"parts": 3},
    "whole": {"config": {}},
    "whole, text, optimizer": {"config": {}, "as_text": True, "optimizer": True},
    "weights, optimizer": {"optimizer": True},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, tmp_path):
    options = dict(LAYOUTS[name])
    params = draw_params()
    layers = as_layers(params, options.pop("inside", "lstm1"))
    write_legacy(tmp_path / "a.h5", layers, **options)
    trees_equal(load_keras(tmp_path / "a.h5", like=params), params)
    part = load_keras(
        tmp_path / "a.h5", like=params["recurrent"], layer="bidirectional_1"
    )
    trees_equal(part, params["recurrent"])


def without(layers, name):
    return {key: value for key, value in layers.items() if key != name}


def test_files_that_do_not_fit(tmp_path):
    params = draw_params()
    path = tmp_path / "a.h5"
    layers = as_layers(params)

    def refused(rule, layers=layers, like=params, layer=None, **options):
        write_legacy(path, layers, **options)
        with pytest.raises(BadFile, match=rule):
            load_keras(path, like=like, layer=layer)

    refused(
        "found 7 arrays, .* for its 9, .*other settings", without(layers, "dense_1")
    )
    refused("found 10 arrays", layers | {"conv": {"conv/kernel:0": np.ones((2, 2))}})
    refused(r"'dropout_1', .*; name one of these", layer="lstm")
    swapped = both("lstm1", params)
    swapped = dict(sorted(swapped.items()))  # backward before forward, bias first
    refused("in its order, found 'bidire", layers | {"bidirectional_1": swapped})
    turned = dict(reversed(both("lstm1", params).items()))
    refused("in its order, found", layers | {"bidirectional_1": turned})
    wide = {"dense_1/kernel:0": np.ones((5, 1)), "dense_1/bias:0": np.ones(1)}
    refused(r"head/kernel must have shape \(4, 1\)", layers | {"dense_1": wide})
    whole = {"dense_1/kernel:0": np.ones((4, 1), int), "dense_1/bias:0": np.ones(1)}
    refused("hold floats .* found dtype int64", layers | {"dense_1": whole})
