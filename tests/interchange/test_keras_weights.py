"""Do Keras' lists and files of weights come in and go out as Keras itself reads them?

Every comparison is with Keras 3 on its JAX backend, which saves and loads the files.
"""

import sys
import zipfile

import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras_oracle import get_weights, keras_rules

import jaxrnn
from jaxrnn.interchange import (
    from_keras,
    load_keras,
    replace_keras_weights,
    save_keras_model,
    save_keras_weights,
    to_keras,
)
from jaxrnn.interchange.keras.config import ACTIVATIONS

# Keras' variables, when it saves them: NumPy's note to the authors of Keras.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

FLOAT32 = {"rtol": 0, "atol": 1e-6}  # a few roundings of numbers below one
IDS = np.random.default_rng(0).integers(0, 9, (3, 6)).astype(np.int32)


def draw(tree):
    """Every leaf at random, biases too: none can hide behind its zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.uniform(-0.5, 0.5, leaf.shape).astype(np.float32), tree
    )


def draw_params(model, inputs):
    return draw(jax.eval_shape(model.init, jax.random.key(0), inputs)["params"])


def layer_params(cell, in_features, features):
    specs = cell.param_specs(in_features, features)
    return draw({name: np.zeros(spec.shape) for name, spec in specs.items()})


def dense_params(in_features, features):
    return draw(
        {"kernel": np.zeros((in_features, features)), "bias": np.zeros(features)}
    )


def sequential(*layers, row_shape=(6,)):
    dtype = "int32" if len(row_shape) == 1 else "float32"
    with keras_rules():
        return keras.Sequential([keras.Input(row_shape, dtype=dtype), *layers])


def keras_predict(model, inputs):
    with keras_rules():
        return np.asarray(jax.jit(model)(jnp.asarray(inputs)))


def set_weights(model, weights):
    with keras_rules():
        model.set_weights(weights)


def trees_equal(found, want):
    jax.tree.map(np.testing.assert_array_equal, found, want)


# A deep model of everything that a chain of Keras layers may hold here.
def deep_keras():
    kl = keras.layers
    fast = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
    options = {"return_sequences": True, **fast}
    return sequential(
        kl.Embedding(9, 3),
        kl.Dropout(0.1),
        kl.Bidirectional(kl.LSTM(4, dropout=0.1, **options)),
        kl.Bidirectional(kl.GRU(4, **options)),
        kl.GRU(5, reset_after=False, **options),
        kl.SimpleRNN(5, use_bias=False, **options),
        kl.SimpleRNN(5, **fast),
        kl.Dense(4, "relu"),
        kl.Dense(1, "sigmoid"),
    )


DEEP = jaxrnn.TextClassifier(
    9,
    3,
    jaxrnn.Stacked(
        [
            jaxrnn.Bidirectional(jaxrnn.LSTM(4)),
            jaxrnn.Bidirectional(jaxrnn.GRU(4)),
            jaxrnn.GRU(5, reset_after=False),
            jaxrnn.SimpleRNN(5, use_bias=False),
            jaxrnn.SimpleRNN(5),
        ]
    ),
    hidden_features=4,
    hidden_activation=jax.nn.relu,
)


def upside_down(params):
    """In the worst order that a dict can have."""
    if not isinstance(params, dict):
        return params
    return {name: upside_down(params[name]) for name in sorted(params, reverse=True)}


def deep_params():
    return upside_down(draw_params(DEEP, IDS))


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """The deep model, and where Keras saved it with the state of an optimizer."""
    folder = tmp_path_factory.mktemp("deep")
    model = deep_keras()
    with keras_rules():
        weights = draw([np.zeros(weight.shape) for weight in model.weights])
        model.set_weights(weights)
        model.compile("rmsprop", "binary_crossentropy")
        model.optimizer.build(model.trainable_variables)
        model.save(folder / "model.keras")
        model.save_weights(folder / "model.weights.h5")
    return folder, model


def test_a_list_of_weights_both_ways(deep):
    _, model = deep
    params = from_keras(get_weights(model), like=deep_params())
    want = keras_predict(model, IDS)[:, 0]
    found = jax.nn.sigmoid(jax.jit(DEEP.apply)({"params": params}, IDS))
    np.testing.assert_allclose(found, want, **FLOAT32)
    for found, weight in zip(to_keras(params), get_weights(model), strict=True):
        np.testing.assert_array_equal(found, weight)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_what_keras_saved(deep, name):
    folder, model = deep
    found = load_keras(folder / name, like=jax.eval_shape(deep_params))
    trees_equal(found, from_keras(get_weights(model), like=deep_params()))


def test_a_functional_model_and_files_of_other_versions(tmp_path):
    """Keras before 3.15 saved seeds; Keras 2.13 had another name for "layers"."""
    ids = keras.Input((6,), dtype="int32")
    with keras_rules():
        values = keras.layers.Embedding(9, 3)(ids)
        values = keras.layers.Dropout(0.5)(keras.layers.GRU(4, name="mine")(values))
        model = keras.Model(ids, keras.layers.Dense(1)(values))
        model.save_weights(tmp_path / "model.weights.h5")
    params = jaxrnn.TextClassifier(9, 3, jaxrnn.GRU(4))
    like = draw_params(params, IDS)
    want = from_keras(get_weights(model), like=like)
    trees_equal(load_keras(tmp_path / "model.weights.h5", like=like), want)
    with h5py.File(tmp_path / "model.weights.h5", "a") as file:
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
    trees_equal(load_keras(tmp_path / "model.weights.h5", like=like), want)
    with h5py.File(tmp_path / "model.weights.h5", "a") as file:
        file.move("layers", "_layer_checkpoint_dependencies")
    model.set_weights([0 * weight for weight in get_weights(model)])
    model.load_weights(tmp_path / "model.weights.h5")  # Keras still reads it
    trees_equal(from_keras(get_weights(model), like=like), want)
    trees_equal(load_keras(tmp_path / "model.weights.h5", like=like), want)


def test_what_keras_loads(deep, tmp_path):
    folder, model = deep
    before = get_weights(model)
    params = jax.tree.map(lambda x: x + 1, from_keras(before, like=deep_params()))
    want = to_keras(params)

    save_keras_weights(tmp_path / "model.weights.h5", params)
    fresh = deep_keras()  # without an optimizer whose state Keras would miss
    fresh.load_weights(tmp_path / "model.weights.h5")
    for found, weight in zip(get_weights(fresh), want, strict=True):
        np.testing.assert_array_equal(found, weight)

    replace_keras_weights(folder / "model.keras", tmp_path / "new.keras", params)
    with keras_rules():
        opened = keras.saving.load_model(tmp_path / "new.keras")
    for found, weight in zip(get_weights(opened), want, strict=True):
        np.testing.assert_array_equal(found, weight)
    assert len(opened.optimizer.variables) == len(model.optimizer.variables) == 27
    with (
        zipfile.ZipFile(folder / "model.keras") as old,
        zipfile.ZipFile(tmp_path / "new.keras") as new,
    ):
        assert old.namelist() == new.namelist()
        assert old.read("config.json") == new.read("config.json")


MODELS = {
    "classifier": jaxrnn.TextClassifier(9, 3, jaxrnn.SimpleRNN(4)),
    "classifier_hidden": jaxrnn.TextClassifier(
        9, 3, jaxrnn.LSTM(4, recurrent_activation=jax.nn.hard_sigmoid), 2, jax.nn.relu
    ),
    "classifier_gru": jaxrnn.TextClassifier(
        9, 3, jaxrnn.GRU(4, reset_after=False, reverse=True)
    ),
    "classifier_stacked": jaxrnn.TextClassifier(
        9,
        3,
        jaxrnn.Stacked(
            [
                jaxrnn.Bidirectional(jaxrnn.LSTM(4), jaxrnn.GRU(4)),
                jaxrnn.Bidirectional(jaxrnn.SimpleRNN(2, dropout=0.1), merge=jnp.add),
                jaxrnn.Bidirectional(jaxrnn.GRU(3), merge=jnp.multiply),
            ],
            dropout=0.1,
        ),
    ),
    "flatten": jaxrnn.FlattenClassifier(9, 3, hidden_features=4),
    "forecaster": jaxrnn.Forecaster(
        jaxrnn.SimpleRNN(4, activation=jax.nn.relu, use_bias=False), 5
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_keras_opens_our_models(name, tmp_path):
    """The config is written from the fields: every one of them shows here."""
    model = MODELS[name]
    forecaster = name == "forecaster"
    inputs = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 4, 3)
    inputs = inputs if forecaster else IDS
    params = draw_params(model, inputs)
    path = tmp_path / "model.keras"
    save_keras_model(path, model, params)
    with keras_rules():
        opened = keras.saving.load_model(path)
    want = jax.jit(model.apply)({"params": params}, inputs)
    want = want if forecaster else jax.nn.sigmoid(want)
    np.testing.assert_allclose(keras_predict(opened, inputs)[:, 0], want, **FLOAT32)
    trees_equal(load_keras(path, like=params), params)


@pytest.mark.parametrize("who", ["the model", "the caller"])
def test_keras_masks_where_we_do(who, tmp_path):
    model = MODELS["classifier"]
    ids = IDS * (np.arange(6) > 2)
    params = draw_params(model, ids)
    masked, said = (model.clone(mask_zero=True), {}), (model, {"mask_zero": True})
    saved, option = masked if who == "the model" else said
    save_keras_model(tmp_path / "model.keras", saved, params, **option)
    with keras_rules():
        opened = keras.saving.load_model(tmp_path / "model.keras")
    apply = jax.jit(model.apply)
    logits = apply({"params": params}, ids, mask=ids != 0)
    found = keras_predict(opened, ids)[:, 0]
    np.testing.assert_allclose(found, jax.nn.sigmoid(logits), **FLOAT32)
    unmasked = jax.nn.sigmoid(apply({"params": params}, ids))
    assert np.abs(found - unmasked).max() > 1e-3


def test_a_model_without_ids_masks_none(tmp_path):
    model = MODELS["forecaster"]
    params = draw_params(model, np.zeros((2, 4, 3), np.float32))
    with pytest.raises(ValueError, match="mask_zero is for a model that reads ids"):
        save_keras_model(tmp_path / "model.keras", model, params, mask_zero=True)


def test_keras_drops_out_where_we_do(tmp_path):
    layers = [
        jaxrnn.SimpleRNN(4, dropout=0.1),
        jaxrnn.SimpleRNN(4, recurrent_dropout=0.2),
    ]
    model = jaxrnn.TextClassifier(9, 3, jaxrnn.Stacked(layers, dropout=0.3))
    save_keras_model(tmp_path / "model.keras", model, draw_params(model, IDS))
    with keras_rules():
        opened = keras.saving.load_model(tmp_path / "model.keras")
    _, first, between, second, _ = opened.layers
    assert (first.dropout, first.recurrent_dropout) == (0.1, 0)
    assert between.rate == 0.3
    assert (second.dropout, second.recurrent_dropout) == (0, 0.2)


def test_half_precision_comes_back(tmp_path):
    """Keras' variables have 32 bits there, and hold every one of the 16."""
    model = MODELS["classifier_gru"]
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), draw_params(model, IDS))
    save_keras_model(tmp_path / "model.keras", model, params)
    found = load_keras(tmp_path / "model.keras", like=params)
    trees_equal(found, params)
    assert found["head"]["bias"].dtype == jnp.bfloat16
    with keras_rules():
        opened = keras.saving.load_model(tmp_path / "model.keras")
    for weight, want in zip(get_weights(opened), to_keras(params), strict=True):
        np.testing.assert_array_equal(weight, want.astype(np.float32))


@pytest.mark.parametrize("function", ACTIVATIONS, ids=ACTIVATIONS.values())
def test_names_of_activations(function):
    values = np.linspace(-8, 8, 161, dtype=np.float32)
    with keras_rules():
        want = getattr(keras.activations, ACTIVATIONS[function])(values)
    # exp, or 1 - exp, of up to 3000 in float32
    np.testing.assert_allclose(
        function(jnp.asarray(values)), want, rtol=1e-6, atol=1e-6
    )


def softsign(x):
    return x / (1 + abs(x))


def test_models_that_keras_has_no_name_for(tmp_path, untyped):
    def save(model, params=None, path="model.keras"):
        if params is None:
            params = draw_params(model, IDS)
        untyped(save_keras_model)(tmp_path / path, model, params)

    def classifier(layer):
        return jaxrnn.TextClassifier(9, 3, layer)

    with pytest.raises(ValueError, match=r"activation must be among \['elu'.*softsign"):
        save(classifier(jaxrnn.SimpleRNN(4, activation=softsign)))
    with pytest.raises(TypeError, match=r"must be a TextClassifier, .* got SimpleRNN"):
        save(jaxrnn.SimpleRNN(4), {"kernel": np.ones((2, 3))})
    with pytest.raises(ValueError, match=r"saved without zoneout, .* got 0.1"):
        save(classifier(jaxrnn.GRU(4, zoneout=0.1)))
    with pytest.raises(ValueError, match=r"got a reversed GRU below another layer"):
        save(classifier(jaxrnn.Stacked([jaxrnn.GRU(4, reverse=True), jaxrnn.GRU(4)])))
    with pytest.raises(ValueError, match=r"the merge of a Bidirectional must be"):
        save(classifier(jaxrnn.Bidirectional(jaxrnn.GRU(4), merge=jnp.maximum)))
    with pytest.raises(TypeError, match=r"SimpleRNN, GRU or LSTM, .* got Recurrent"):
        save(classifier(jaxrnn.Recurrent(4, cell=jaxrnn.gru)))
    params = draw_params(MODELS["classifier"], IDS)
    with pytest.raises(ValueError, match=r"embed/embedding must have shape \(8, 3\)"):
        save(jaxrnn.TextClassifier(8, 3, jaxrnn.SimpleRNN(4)), params)
    with pytest.raises(ValueError, match=r"by their names .*found \['params'\]"):
        save(MODELS["classifier"], {"params": params})
    with pytest.raises(ValueError, match=r"path must end in .keras"):
        save(MODELS["classifier"], path="model.h5")
    assert not list(tmp_path.iterdir())


def test_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"needs h5py.*jaxrnn\[interchange\]"):
        save_keras_weights(tmp_path / "model.weights.h5", dense_params(2, 3))
    assert not list(tmp_path.iterdir())


def test_lists_that_do_not_fit(deep, untyped):
    _, model = deep
    weights, like = get_weights(model), deep_params()
    with pytest.raises(ValueError, match=r"must hold 25 arrays, .*found 24 of shapes"):
        from_keras(weights[:-1], like=like)
    swapped = [*weights[:-2], weights[-1], weights[-2]]
    with pytest.raises(ValueError, match=r"head/kernel must have shape \(4, 1\)"):
        from_keras(swapped, like=like)
    with pytest.raises(TypeError, match=r"get_weights.* got str; files are for"):
        untyped(from_keras)("model.keras", like=like)
    with pytest.raises(TypeError, match=r"weights\[0\] must be an array of floats"):
        from_keras(["model.pt", *weights[1:]], like=like)


def test_layers_whose_order_is_not_known():
    one = layer_params(jaxrnn.gru, 3, 4)
    mine = {"rnn": one, "dense": dense_params(4, 1)}
    with pytest.raises(ValueError, match=r"found \['dense', 'rnn'\]; say the order"):
        to_keras(mine)
    first, *_, last = to_keras(mine, order=["rnn", "dense"])
    assert (first.shape, last.shape) == ((3, 12), (1,))
    with pytest.raises(
        ValueError, match=r"found \['layers_0', 'layers_2'\] in recurrent"
    ):
        to_keras({"recurrent": {"layers_0": one, "layers_2": one}})
    with pytest.raises(ValueError, match=r"found \['kernel', 'scale'\] in hidden"):
        to_keras({"hidden": {"kernel": np.ones((2, 2)), "scale": np.ones(2)}})
    projected = layer_params(jaxrnn.lstm_cell(projection_features=2), 3, 4)
    with pytest.raises(ValueError, match="Keras has no LSTM with projection"):
        to_keras({"recurrent": projected})


def test_files_that_do_not_fit(deep, tmp_path):
    folder, _ = deep
    like = deep_params()
    path = tmp_path / "model.weights.h5"
    with pytest.raises(ValueError, match=r"path must end in .weights.h5"):
        save_keras_weights(tmp_path / "model.h5", like)
    del like["hidden"]
    with pytest.raises(
        ValueError,
        match=r"missing none and unexpected \['layers/dense_1/vars/0', 'layers/dense_1",
    ):
        load_keras(folder / "model.keras", like=like)
    save_keras_weights(path, {"head": dense_params(3, 2)})
    with pytest.raises(ValueError, match=r"head/kernel must have shape .*found \(3, 2"):
        load_keras(path, like={"head": dense_params(2, 3)})
    with pytest.raises(ValueError, match=r"unexpected \['layers/bidirectional/back"):
        replace_keras_weights(
            folder / "model.keras",
            tmp_path / "new.keras",
            {"recurrent": layer_params(jaxrnn.gru, 3, 4)},
        )
    with h5py.File(path, "w") as file:
        file.create_group("model")
    with pytest.raises(ValueError, match=r"hold a group layers, .*found \['model'\]"):
        load_keras(path, like=like)
    with zipfile.ZipFile(path, "w") as archive:  # as torch.save writes it
        archive.writestr("model/data.pkl", "")
    with pytest.raises(ValueError, match=r"data.pkl'\]; a file of PyTorch goes"):
        load_keras(path, like=like)
    path.write_bytes(b"anything")
    with pytest.raises(ValueError, match="neither a zip archive nor HDF5"):
        load_keras(path, like=like)
    with pytest.raises(FileNotFoundError):
        load_keras(tmp_path / "nothing.keras", like=like)
