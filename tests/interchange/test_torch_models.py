"""Do whole models of PyTorch compute here what they compute there, and go back?

PyTorch's outputs come from tests/fixtures/torch_models.npz; `make_torch_models.py`
beside it has the models.
"""

import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

import jaxrnn
import jaxrnn.nnx
from jaxrnn.interchange import (
    from_torch,
    from_torch_model,
    load,
    save,
    to_torch,
    to_torch_model,
)

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "torch_models.npz"
with np.load(FIXTURE) as arrays:
    CASES: dict[str, dict] = {}
    for key in arrays:
        case, _, name = key.partition("/")
        CASES.setdefault(case, {})[name] = arrays[key]

MODELS = {
    "classifier": jaxrnn.TextClassifier(
        20,
        embed_features=5,
        recurrent=jaxrnn.Stacked(jaxrnn.Bidirectional(jaxrnn.LSTM(4)), num_layers=2),
        hidden_features=6,
        hidden_activation=jax.nn.relu,
    ),
    "one_step_ahead": jaxrnn.Forecaster(
        jaxrnn.Stacked([jaxrnn.LSTM(4), jaxrnn.GRU(4)]), hidden_features=4
    ),
}
NAMES = {
    "classifier": {
        "embed": "embedding",
        "recurrent": "lstm",
        "hidden": "fc1",
        "head": "fc2",
    },
    "one_step_ahead": {
        "recurrent/layers_0": "lower",
        "recurrent/layers_1": "upper",
        "hidden": "readout.0",
        "head": "readout.2",
    },
}


def state_dict_of(case):
    return {
        name.removeprefix("state_dict/"): value
        for name, value in CASES[case].items()
        if name.startswith("state_dict/")
    }


def shapes_of(case):
    inputs = CASES[case]["inputs"]
    if inputs.dtype == np.float64:  # as the parameters, which `init` makes in 32 bits
        inputs = inputs.astype(np.float32)
    return jax.eval_shape(MODELS[case].init, jax.random.key(0), inputs)["params"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", MODELS)
def test_computes_what_torch_computed(case):
    state_dict, model = state_dict_of(case), MODELS[case]
    params = from_torch_model(state_dict, NAMES[case], like=shapes_of(case))
    found = jax.jit(model.apply)({"params": params}, CASES[case]["inputs"])
    # Float64: another machine may add the terms of a sum in another order.
    np.testing.assert_allclose(found, CASES[case]["outputs"], rtol=0, atol=1e-13)


@pytest.mark.parametrize("case", MODELS)
def test_there_and_back(case):
    """Bit by bit, in PyTorch's order; of an LSTM's two biases, their sum."""
    state_dict = state_dict_of(case)
    params = from_torch_model(state_dict, NAMES[case], like=shapes_of(case))
    back = to_torch_model(params, NAMES[case], like=state_dict)
    assert list(back) == list(state_dict)
    for name, value in state_dict.items():
        if "bias_" in name and not name.startswith("upper"):
            other = name.replace("bias_ih", "bias_hh")
            value = value + state_dict[other] if "bias_ih" in name else 0 * value
        np.testing.assert_array_equal(back[name], value, err_msg=name)


@pytest.mark.parametrize("case", MODELS)
def test_torch_loads_it(case, monkeypatch):
    """Live, where PyTorch is installed: a strict load, and the same outputs."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(FIXTURE.parent))
    import make_torch_models as made

    class_name = {"classifier": "Classifier", "one_step_ahead": "OneStepAhead"}[case]
    theirs = getattr(made, class_name)()
    params = from_torch_model(theirs.state_dict(), NAMES[case], like=shapes_of(case))
    params = jax.tree.map(lambda leaf: leaf + np.float32(0.1), params)
    back = to_torch_model(params, NAMES[case], like=theirs.state_dict())
    theirs.load_state_dict({name: torch.tensor(array) for name, array in back.items()})
    inputs = CASES[case]["inputs"]
    inputs = inputs.astype(np.float32) if inputs.dtype == np.float64 else inputs
    want = theirs(torch.tensor(inputs)).detach().numpy()
    found = MODELS[case].apply({"params": params}, inputs)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


def test_the_whole_may_have_no_name():
    """A Linear without a bias, and a cell, each by itself."""
    kernel = np.arange(6.0).reshape(2, 3)
    found = from_torch_model({"weight": kernel}, {"": ""}, like={"kernel": kernel.T})
    np.testing.assert_array_equal(found["kernel"], kernel.T)
    theirs = to_torch_model(found, {"": ""})
    np.testing.assert_array_equal(theirs["weight"], kernel)
    ours = jaxrnn.init_params(jaxrnn.lstm, jax.random.key(0), 2, 3)
    layer = to_torch(ours)
    cell = {name.removesuffix("_l0"): array for name, array in layer.items()}
    jax.tree.map(np.testing.assert_array_equal, from_torch(cell), from_torch(layer))
    assert to_torch_model(ours, {"": ""}, like=cell).keys() == cell.keys()


LIKE = shapes_of("one_step_ahead")
MISMATCH = r"head/bias must have shape \(1,\), found \(4,\)"
STATE_DICT = state_dict_of("one_step_ahead")
NAMED = NAMES["one_step_ahead"]
BAD = {
    "left_over_there": (
        {**STATE_DICT, "norm.weight": np.ones(4)},
        NAMED,
        r"each of the names of state_dict to one of .*found norm.weight in none; .*or "
        "leave it out",
    ),
    "left_over_here": (
        {k: v for k, v in STATE_DICT.items() if not k.startswith("upper")},
        {k: v for k, v in NAMED.items() if v != "upper"},
        "parameters of `like` to one of .* found recurrent/layers_1/bias in none",
    ),
    "not_there": (STATE_DICT, {**NAMED, "head": "fc"}, "readout.2.weight in none"),
    "twice": (
        STATE_DICT,
        {**NAMED, "recurrent": "lower"},
        "bias in .*name the",
    ),
    "nothing_below": (
        STATE_DICT,
        {**NAMED, "tail": "x"},
        r"nothing below \['tail",
    ),
    "exchanged": (
        STATE_DICT,
        {**NAMED, "hidden": "readout.2", "head": "readout.0"},
        MISMATCH,
    ),
    "other_kind": (
        {**STATE_DICT, "readout.0.scale": np.ones(4)},
        NAMED,
        r"unexpected \['scale'\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_models_are_explained(name):
    state_dict, names, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        from_torch_model(state_dict, names, like=LIKE)


def test_other_errors_are_explained(untyped):
    both = {"weight_ih": np.ones((3, 2)), "weight_hh_l0": np.ones((3, 3))}
    with pytest.raises(ValueError, match="of a layer or of a cell, found both"):
        from_torch(both)
    params = from_torch_model(STATE_DICT, NAMED, like=LIKE)
    with pytest.raises(ValueError, match=r"readout.2.bias must have shape \(3,\)"):
        to_torch_model(params, NAMED, like={**STATE_DICT, "readout.2.bias": np.ones(3)})
    two = {"layers_0": params["recurrent"]["layers_0"]} | {
        "layers_1": params["recurrent"]["layers_0"]
    }
    cell = {"weight_ih": np.ones((16, 3))}
    with pytest.raises(ValueError, match=r"from one layer.*name its parts"):
        to_torch_model(two, {"": ""}, like=cell)
    with pytest.raises(TypeError, match=r"state_dict must be a mapping.*got list"):
        untyped(from_torch_model)([], NAMED, like=LIKE)


class OfNnx(nnx.Module):
    """The forecaster above, in NNX."""

    def __init__(self, rngs):
        self.recurrent = jaxrnn.nnx.Stacked(
            [jaxrnn.nnx.LSTM(3, 4, rngs=rngs), jaxrnn.nnx.GRU(4, 4, rngs=rngs)]
        )
        self.hidden = nnx.Linear(4, 4, rngs=rngs)
        self.head = nnx.Linear(4, 1, rngs=rngs)


def test_like_may_be_an_nnx_module(tmp_path):
    """Every reader: the arrays are those that a Linen model's parameters get."""
    model = OfNnx(nnx.Rngs(0))
    want = from_torch_model(STATE_DICT, NAMED, like=LIKE)
    found = from_torch_model(STATE_DICT, NAMED, like=model)
    jax.tree.map(np.testing.assert_array_equal, found, want)
    nnx.update(model, found)
    save(tmp_path / "m.safetensors", found)
    read = load(tmp_path / "m.safetensors", like=model)
    jax.tree.map(np.testing.assert_array_equal, read, want)
    keras = jaxrnn.interchange.to_keras(found)
    read = jaxrnn.interchange.from_keras(keras, like=model)
    jax.tree.map(np.testing.assert_array_equal, read, want)
    gru = found["recurrent"]["layers_1"]
    read = from_torch(to_torch(gru), like=model.recurrent.layers[1])
    jax.tree.map(np.testing.assert_array_equal, read, gru)
    with pytest.raises(TypeError, match=r"an NNX module, got Dense; of a Linen module"):
        jaxrnn.interchange.from_keras(keras, like=nn.Dense(3))
