"""Is a whole Keras model the same here, and a Sequential of ours the same in Keras?"""

import json
import zipfile

import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras_oracle import keras_rules
from legacy_files import IDS, PREDICTIONS, unpack, write_legacy

import jaxrnn
from jaxrnn.files import BadFile
from jaxrnn.interchange import (
    load_keras,
    load_keras_model,
    save_keras_model,
    to_hard_sigmoid,
)
from jaxrnn.models import flatten

# Keras' variables, when it saves them: NumPy's note to the authors of Keras; and that
# a Flatten leaves the mask behind.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation"),
    pytest.mark.filterwarnings("ignore:Layer .* .of type Flatten"),
    pytest.mark.filterwarnings("ignore:.*HDF5 file"),
]


def keras_sequential(*layers, ids=True):
    with keras_rules():
        shape, dtype = ((6,), "int32") if ids else ((6, 3), "float32")
        model = keras.Sequential([keras.Input(shape, dtype=dtype), *layers])
        rng = np.random.default_rng(0)
        model.set_weights([rng.uniform(-1, 1, w.shape) for w in model.weights])
    return model


def keras_predict(model, inputs):
    with keras_rules():
        return np.asarray(jax.jit(model)(jnp.asarray(inputs)))


def all_layers():
    kl = keras.layers
    fast = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
    options = {"return_sequences": True, **fast}
    hard = {"recurrent_activation": "hard_sigmoid"}
    return keras_sequential(
        kl.Embedding(10, 3, mask_zero=True),
        kl.SpatialDropout1D(0.1),
        kl.Bidirectional(kl.LSTM(2, **options, **hard), merge_mode="mul"),
        kl.Bidirectional(kl.SimpleRNN(2, **options), backward_layer=None),
        kl.GRU(2, go_backwards=True, reset_after=False, **options),
        kl.TimeDistributed(kl.Dense(3, "softplus")),
        kl.LSTM(2, unit_forget_bias=False, zero_output_for_mask=True, **options),
        kl.Activation("silu"),
        kl.Dropout(0.3),
        kl.Flatten(),
        kl.Dense(2, use_bias=False),
        kl.Dense(2, "softmax"),
    )


def apply(model, params, inputs):
    return jax.jit(model.apply)({"params": params}, inputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All layers, as Keras 3 saves them in three ways, and what it predicts."""
    folder = unpack(tmp_path_factory.mktemp("keras"))
    keras.utils.clear_session()  # Keras numbers its names through a process
    model = all_layers()
    with keras_rules():
        model.save(folder / "all.keras")
        model.save(folder / "all.h5")
        model.save_weights(folder / "all.weights.h5")
    np.save(folder / "want.npy", keras_predict(model, IDS))
    return folder


def test_a_model_of_keras_3_there_and_back(folder, tmp_path):
    want = np.load(folder / "want.npy")
    model, params = load_keras_model(folder / "all.keras")
    np.testing.assert_allclose(apply(model, params, IDS), want, rtol=0, atol=1e-6)
    again, same = load_keras_model(folder / "all.h5")  # in the layout of Keras 2
    assert repr(again) == repr(model)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    save_keras_model(tmp_path / "new.keras", model, params)
    with keras_rules():
        opened = keras.saving.load_model(tmp_path / "new.keras")
    np.testing.assert_allclose(keras_predict(opened, IDS), want, rtol=0, atol=1e-6)
    assert [layer.name for layer in opened.layers][:3] == list(model.order)[:3]
    model, params = load_keras_model(tmp_path / "new.keras")
    np.testing.assert_allclose(apply(model, params, IDS), want, rtol=0, atol=1e-6)


def test_a_part_of_a_model(folder):
    _, params = load_keras_model(folder / "all.keras")
    for name, of_class in (
        ("bidirectional_1", "bidirectional_1"),
        ("gru", "gru"),
        ("time_distributed", "time_distributed/layer"),
        ("dense_2", "dense_1"),  # the first one is in the TimeDistributed
    ):
        for file, layer in (
            ("all.keras", name),
            ("all.keras", f"layers/{of_class}"),
            ("all.h5", name),
            ("all.weights.h5", of_class),
        ):
            found = load_keras(folder / file, like=params[name], layer=layer)
            jax.tree.map(np.testing.assert_array_equal, found, params[name])
    like = params["gru"]
    with pytest.raises(BadFile, match=r"hold a layer 'gru_7', found \['input.*name"):
        load_keras(folder / "all.keras", like=like, layer="gru_7")
    with pytest.raises(
        BadFile, match=r"hold a layer gru_7, found .*'gru'.* in /layers"
    ):
        load_keras(folder / "all.weights.h5", like=like, layer="gru_7")
    with pytest.raises(
        BadFile, match=r"kernel must have shape \(4, 6\), found \(3, 8\)"
    ):
        load_keras(folder / "all.keras", like=like, layer="lstm_1")
    with pytest.raises(ValueError, match="reads one layer into `like` of one layer"):
        load_keras(
            folder / "all.keras", like={"embed": like, "head": like}, layer="gru"
        )


def test_names_that_are_taken_here(tmp_path):
    """Keras lets a layer be named as a direction, or as Flax names one in a list."""
    path = tmp_path / "a.h5"
    weights = {"kernel:0": np.ones((2, 2), "f4"), "bias:0": np.ones(2, "f4")}
    names = ("forward", "reverse", "layers_1", "params")
    chain = [("Dense", DENSE | {"name": name}) for name in names]
    write_legacy(path, dict.fromkeys(names, weights), config=config_of(*chain))
    model, params = load_keras_model(path)
    assert list(params) == [f"{name}_" for name in names]
    assert (np.asarray(apply(model, params, np.ones((1, 2)))) == 31).all()
    save_keras_model(tmp_path / "a.keras", model, params)
    again, same = load_keras_model(tmp_path / "a.keras")
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert again.names == model.names


@pytest.mark.slow
def test_hard_sigmoid_goes_to_keras_3_by_its_weights(folder, tmp_path):
    """Two models with it: in gates, and behind a Dense."""
    for name in ("keras_2.2.4", "keras_2.2.4_flatten"):
        model, params = load_keras_model(folder / f"{name}.h5")
        path = tmp_path / f"{name}.keras"
        with pytest.raises(
            ValueError, match=r"interchange.to_hard_sigmoid\(model, par"
        ):
            save_keras_model(path, model, params)
        other, scaled = to_hard_sigmoid(model, params)
        save_keras_model(path, other, scaled)
        with keras_rules():
            opened = keras.saving.load_model(path)
        found = keras_predict(opened, IDS)
        np.testing.assert_allclose(found, PREDICTIONS[name], rtol=0, atol=1e-6)


def test_hard_sigmoid_of_all_models():
    old, new = jaxrnn.keras2_hard_sigmoid, jax.nn.hard_sigmoid
    gru = jaxrnn.GRU(2, activation=old, recurrent_activation=old)
    layers = [jaxrnn.Bidirectional(gru), jaxrnn.SimpleRNN(2, activation=old)]
    model = jaxrnn.TextClassifier(10, 3, jaxrnn.Stacked(layers), 2, old)
    like = jax.eval_shape(model.init, jax.random.key(0), IDS)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.uniform(-1, 1, x.shape).astype("f4"), like)
    other, scaled = to_hard_sigmoid(model, params)
    assert other.hidden_activation is new
    want = apply(model, params, IDS)
    np.testing.assert_allclose(apply(other, scaled, IDS), want, rtol=0, atol=1e-6)
    gru_params = params["recurrent"]["layers_0"]["forward"]
    with pytest.raises(
        ValueError, match=r"activation of an LSTM, .* train on with jax.nn"
    ):
        to_hard_sigmoid(jaxrnn.LSTM(2, activation=old), gru_params)
    with pytest.raises(ValueError, match="a function behind None; train on with"):
        to_hard_sigmoid(jaxrnn.Sequential([old]), {})


@pytest.mark.slow
def test_it_trains(folder):
    """Dropout by its key, gradients everywhere, logits without the last function."""
    model, params = load_keras_model(folder / "all.keras")
    inner = jaxrnn.Sequential(model.layers[:-1], model.names[:-1])

    @jax.jit
    def loss(params, key):
        rngs = {"dropout": key}
        logits = inner.apply({"params": params}, IDS, deterministic=False, rngs=rngs)
        return logits[:, 0].sum(), jax.nn.softmax(logits)

    (total, _), gradient = jax.value_and_grad(loss, has_aux=True)(
        params, jax.random.key(0)
    )
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    assert float(total) != float(loss(params, jax.random.key(1))[0])
    with pytest.raises(ValueError, match="be told what a key for it is to do"):
        model.apply({"params": params}, IDS, rngs={"dropout": jax.random.key(0)})


def config_of(*layers, version_of=None):
    entries = [{"class_name": name, "config": settings} for name, settings in layers]
    return {"class_name": "Sequential", "config": version_of or entries}


DENSE = {"name": "d", "units": 2, "use_bias": True, "activation": "linear"}
LSTM = {
    **{"name": "l", "units": 2, "use_bias": True, "activation": "tanh"},
    **{"recurrent_activation": "sigmoid", "unit_forget_bias": True, "dropout": 0.0},
    **{"recurrent_dropout": 0.0, "return_sequences": False, "go_backwards": False},
}
SEQUENCES = LSTM | {"return_sequences": True}
BACK = {"class_name": "LSTM", "config": LSTM | {"go_backwards": True}}
FORTH = {"class_name": "LSTM", "config": LSTM}
BOTH = {"name": "b", "layer": FORTH, "merge_mode": "concat"}
REFUSED = {
    "Conv1D 'c': a class of layers that is not among": ("Conv1D", {"name": "c"}),
    "'d': the activation 'gelu'": ("Dense", DENSE | {"activation": "gelu"}),
    "'d': the activation 'leaky_relu'": ("Dense", DENSE | {"activation": "leaky_relu"}),
    r"'d': the activation \{'class": ("Dense", DENSE | {"activation": {"class": 1}}),
    "'d': the dtype 'mixed_float16'": ("Dense", DENSE | {"dtype": "mixed_float16"}),
    "'d': the setting lora_rank=4": ("Dense", DENSE | {"lora_rank": 4}),
    "'d': a size 2.5": ("Dense", DENSE | {"units": 2.5}),
    "'d': use_bias None, which is neither": ("Dense", DENSE | {"use_bias": None}),
    "'a/b', which is no name": ("Dense", DENSE | {"name": "a/b"}),
    "LSTM 'l': the setting stateful=True": ("LSTM", LSTM | {"stateful": True}),
    "LSTM 'l': the setting time_major=True": ("LSTM", LSTM | {"time_major": True}),
    "LSTM 'l': the setting return_state": ("LSTM", LSTM | {"return_state": True}),
    "LSTM 'l': zero_output_for_mask=True wi": (
        "LSTM",
        LSTM | {"zero_output_for_mask": True},
    ),
    "LSTM 'l': no 'units'": ("LSTM", {k: v for k, v in LSTM.items() if k != "units"}),
    "'b': two layers that run in the same": ("Bidirectional", BOTH | {"layer": BACK}),
    "'b': merge_mode None": ("Bidirectional", BOTH | {"merge_mode": None}),
    "'b': both directions must return the": (
        "Bidirectional",
        BOTH
        | {
            "backward_layer": {
                "class_name": "LSTM",
                "config": SEQUENCES | {"go_backwards": True},
            }
        },
    ),
    "'t': LSTM inside of it": ("TimeDistributed", {"name": "t", "layer": FORTH}),
    "'f': data_format 'channels_first'": (
        "Flatten",
        {"name": "f", "data_format": "channels_first"},
    ),
    "'o': the setting noise_shape": (
        "Dropout",
        {"name": "o", "rate": 0.1, "noise_shape": [1]},
    ),
}


@pytest.mark.parametrize("match", REFUSED)
def test_what_cannot_be_computed_is_refused_by_name(match, tmp_path):
    path = tmp_path / "a.h5"
    write_legacy(path, {}, config=config_of(REFUSED[match]))
    with pytest.raises(BadFile, match=f"hold a Sequential of Embedding, .*{match}"):
        load_keras_model(path)


def test_other_files_are_refused_by_their_rule(folder, tmp_path):
    path = tmp_path / "a.h5"
    dense = {"d": {"d/kernel:0": np.ones((3, 2)), "d/bias:0": np.ones(2)}}
    config = config_of(("Dense", DENSE))

    def refused(match, layers=dense, config=config, **options):
        write_legacy(path, layers, config=config, **options)
        with pytest.raises(BadFile, match=match):
            load_keras_model(path)

    write_legacy(path, dense, config=config)
    assert load_keras_model(path)[1]["d"]["kernel"].shape == (3, 2)
    refused("keras_version of '1.2.2', which is neither 2 nor 3", version="1.2.2")
    refused("keras_version of 'new'", version="new")
    refused("found Model 'm'", config={"class_name": "Model", "config": {"name": "m"}})
    own = {"class_name": "Dense", "registered_name": "Mine>Dense", "config": DENSE}
    refused("a class of its own, 'Mine>Dense'", config=config_of(version_of=[own]))
    refused(
        "d/kernel must have shape|found 3 arrays", {"d": {**dense["d"], "x": [1.0]}}
    )
    refused("the layer 'd', found none", {})
    refused("found those of .'e'. too", dense | {"e": {"e/kernel:0": np.ones((2, 2))}})
    refused(
        "'d', which is no name of one layer", config=config_of(*[("Dense", DENSE)] * 2)
    )
    refused(r"the layer 'd', found \(0, 2\)", {"d": {"d/kernel:0": np.ones((0, 2))}})
    refused("no layer with weights", {}, config=config_of())
    refused("KeyError|TypeError", config={"class_name": "Sequential", "config": 3})
    refused("AttributeError|TypeError|KeyError", config=[])
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = "{"
    with pytest.raises(BadFile, match="hold JSON in model_config"):
        load_keras_model(path)
    with pytest.raises(BadFile, match="weights alone are for load_keras"):
        load_keras_model(folder / "all.weights.h5")
    config = json.dumps(config_of(("Dense", DENSE)))
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", config)
        archive.write(folder / "all.weights.h5", "model.weights.h5")
    with pytest.raises(BadFile, match=r"hold JSON in config.json and metadata.json"):
        load_keras_model(tmp_path / "a.keras")


def test_a_functional_model_is_read_with_like_or_by_layer(tmp_path):
    """The ways out of what is no Sequential."""
    ids = keras.Input((6,), dtype="int32")
    with keras_rules():
        values = keras.layers.Embedding(10, 3)(ids)
        both = keras.layers.Concatenate()([values, values])
        model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.GRU(2)(both)))
        model.save(tmp_path / "a.h5")
        model.save(tmp_path / "a.keras")
    gru = jax.eval_shape(jaxrnn.GRU(2).init, jax.random.key(0), jnp.ones((1, 1, 6)))
    for name in ("a.h5", "a.keras"):
        way_out = (
            r"like=params\), or of one layer by load_keras\(path, like=params, lay"
        )
        with pytest.raises(BadFile, match=rf"found Functional .*{way_out}"):
            load_keras_model(tmp_path / name)
        (layer,) = [x for x in model.layers if isinstance(x, keras.layers.GRU)]
        found = load_keras(tmp_path / name, like=gru["params"], layer=layer.name)
        kernel = np.asarray(layer.cell.kernel.value)
        np.testing.assert_array_equal(found["kernel"], kernel)
        like = {"embed": {"embedding": np.ones((10, 3))}, "recurrent": gru["params"]}
        like["head"] = {"kernel": np.ones((2, 1)), "bias": np.ones(1)}
        found = load_keras(tmp_path / name, like=like)["recurrent"]
        np.testing.assert_array_equal(found["kernel"], kernel)


def test_parameters_under_names_of_ones_own(tmp_path):
    """The order of save_keras_model and that of load_keras are the same."""
    rng = np.random.default_rng(0)
    params = {
        "rnn": {"kernel": (3, 2), "recurrent_kernel": (2, 2), "bias": (2,)},
        "a": {"kernel": (2, 4), "bias": (4,)},
        "z": {"kernel": (4, 1), "bias": (1,)},
    }
    params = jax.tree.map(
        lambda s: rng.uniform(size=s).astype("f4"),
        params,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    order = ("rnn", "a", "z")
    layers = [jaxrnn.SimpleRNN(2), nn.Dense(4), jax.nn.relu, nn.Dense(1)]
    for model in (
        jaxrnn.Forecaster(jaxrnn.SimpleRNN(2), hidden_features=4),
        jaxrnn.Sequential(layers),
    ):
        path = tmp_path / "a.keras"
        save_keras_model(path, model, params, order=order)
        found = load_keras(path, like=params, order=order)
        jax.tree.map(np.testing.assert_array_equal, found, params)
        with pytest.raises(
            ValueError, match="order must name one layer of params for ea"
        ):
            save_keras_model(path, model, {"rnn": params["rnn"]}, order=order)
        with pytest.raises(ValueError, match="say the order of your own names"):
            save_keras_model(path, model, params, order=("rnn", "z"))
        with pytest.raises(ValueError, match="must have shape"):
            save_keras_model(path, model, params, order=("rnn", "z", "a"))


def test_a_sequential_that_keras_has_no_name_for(tmp_path):
    path = tmp_path / "a.keras"

    def refused(error, match, *layers, ids=True, **options):
        model = jaxrnn.Sequential(layers)
        inputs = IDS if ids else np.ones((1, 6, 3), np.float32)
        params = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
        params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), params)
        with pytest.raises(error, match=match):
            save_keras_model(path, model, params, **options)
        return model, params

    embed, head = jaxrnn.Embed(10, 3, mask_zero=True), nn.Dense(1)
    both = jaxrnn.Bidirectional(jaxrnn.GRU(2, return_sequences=True, hold_outputs=True))
    refused(
        ValueError, "hold_outputs=True before .*jax.export saves", embed, both, head
    )
    odd = nn.Dropout(0.1, broadcast_dims=(2,))
    refused(ValueError, r"broadcast_dims=\(1,\), got \(2,\)", embed, odd, head)
    rnn = jaxrnn.SimpleRNN(2)
    refused(ValueError, "reads ids", rnn, head, ids=False, mask_zero=True)
    turned = jaxrnn.GRU(2, reverse=True, return_sequences=True)
    refused(
        ValueError, "or have keep_order=False, got a reversed GRU", embed, turned, rnn
    )
    model, params = refused(
        TypeError, "got LayerNorm; jax.export", embed, nn.LayerNorm(), rnn
    )
    exported = jax.export.export(jax.jit(model.apply))({"params": params}, IDS)
    found = exported.call({"params": params}, IDS)
    np.testing.assert_allclose(found, apply(model, params, IDS), rtol=0, atol=1e-6)


def test_a_sequential_refuses_steps_that_are_gone():
    """The batch would be time; RepeatVector's steps are new ones."""
    inputs = jnp.ones((6, 5, 3))
    last = jaxrnn.LSTM(8, name="last")
    for between in ([], [nn.Dense(3)]):
        layers = [last, *between, jaxrnn.GRU(4, return_sequences=True)]
        with pytest.raises(ValueError, match=r"'last' before .* return_seq"):
            jaxrnn.Sequential(layers).init(jax.random.key(0), inputs)
    whole = last.clone(return_sequences=True)
    repeated = [last, lambda x: jnp.repeat(x[:, None], 4, axis=1)]
    for layers, shape in (([whole], (6, 4)), (repeated, (6, 4))):
        model = jaxrnn.Sequential([*layers, jaxrnn.GRU(4)])
        outputs, _ = model.init_with_output(jax.random.key(0), inputs)
        assert outputs.shape == shape


def test_a_sequential_says_what_it_takes():
    with pytest.raises(ValueError, match=r"at least one layer, got \[\]; write Sequ"):
        jaxrnn.Sequential([])
    with pytest.raises(
        TypeError, match=r"or a function such as jax.nn.relu, got 'relu'"
    ):
        jaxrnn.Sequential(["relu"])
    with pytest.raises(TypeError, match=r"or a function .*got <class"):
        jaxrnn.Sequential([jaxrnn.GRU])
    with pytest.raises(ValueError, match="leave out return_carry"):
        jaxrnn.Sequential([jaxrnn.GRU(2, return_carry=True)])
    with pytest.raises(ValueError, match="got 'forward'; name it 'forward_'"):
        jaxrnn.Sequential([jaxrnn.GRU(2, name="forward")])
    rows = np.ones((2, 6, 3), np.float32)
    model = jaxrnn.Sequential([jaxrnn.GRU(2, return_sequences=True), flatten])
    variables = model.init(jax.random.key(0), rows)
    mask = np.arange(6) < np.array([[6], [2]])
    found = model.apply(variables, rows, mask=mask)
    assert found.shape == (2, 12)
    assert not found[1, 4:].any()
