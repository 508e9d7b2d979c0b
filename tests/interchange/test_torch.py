"""Do the weights of PyTorch compute here what they compute there, and go back?

PyTorch's outputs come from tests/fixtures/torch.npz, so that most of this runs without
it.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.interchange import from_torch, to_torch

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "torch.npz"
# PyTorch's time axis comes first, and it returns outputs, (h_n, c_n).
AS_TORCH = {"time_major": True, "return_sequences": True, "return_carry": True}
LAYERS = {
    "rnn_tanh": jaxrnn.SimpleRNN(3, **AS_TORCH),
    "rnn_relu": jaxrnn.SimpleRNN(3, activation=jax.nn.relu, **AS_TORCH),
    "gru": jaxrnn.GRU(3, **AS_TORCH),
    "lstm": jaxrnn.LSTM(3, **AS_TORCH),
    "lstm_proj": jaxrnn.LSTM(3, projection_features=2, **AS_TORCH),
}
with np.load(FIXTURE) as arrays:
    CASES: dict[str, dict] = {}
    for key in arrays:
        case, _, name = key.partition("/")
        CASES.setdefault(case, {})[name] = arrays[key]


def state_dict_of(case):
    return {
        name.removeprefix("state_dict/"): value
        for name, value in CASES[case].items()
        if name.startswith("state_dict/")
    }


def layer_of(case):
    """Our layer with the settings of a case, as its name has them."""
    layer = LAYERS[case.partition("-")[0]].clone(use_bias="no_bias" not in case)
    layer = jaxrnn.Bidirectional(layer) if "bidirectional" in case else layer
    return jaxrnn.Stacked(layer, num_layers=2) if "-2" in case else layer


@functools.partial(jax.jit, static_argnums=0)
def run(layer, params, inputs):
    """As PyTorch: outputs, and {h_n, c_n} of all layers and directions."""
    carry, outputs = layer.apply({"params": params}, inputs)
    carries = jax.tree.leaves(
        carry, is_leaf=lambda one: isinstance(one, jaxrnn.LSTMCarry)
    )
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *carries)
    return outputs, dict(zip(("h_n", "c_n"), jax.tree.leaves(stacked), strict=False))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", CASES)
def test_computes_what_torch_computed(case):
    want, layer = CASES[case], layer_of(case)
    inputs = jnp.zeros(want["inputs"].shape, jnp.float32)  # as the layer's parameters
    shapes = jax.eval_shape(layer.init, jax.random.key(0), inputs)["params"]
    params = from_torch(state_dict_of(case), like=shapes)
    outputs, last = run(layer, params, want["inputs"])
    # Float64: another machine may add the ten terms of a sum in another order.
    for name, found in {"outputs": outputs, **last}.items():
        np.testing.assert_allclose(found, want[name], rtol=0, atol=1e-13, err_msg=name)
    assert ("c_n" in last) == ("c_n" in want)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case):
    """Bit by bit; of the two biases of an RNN and an LSTM, their sum."""
    state_dict = state_dict_of(case)
    back = to_torch(from_torch(state_dict, prefix=""), prefix="")
    assert list(back) == list(state_dict)  # in PyTorch's order
    for name, value in state_dict.items():
        if "bias" in name and not case.startswith("gru"):
            other = name.replace("_ih_", "_hh_")
            value = value + state_dict[other] if "_ih_" in name else 0 * value
        np.testing.assert_array_equal(back[name], value, err_msg=name)


@pytest.mark.parametrize("name", ["rnn_tanh", "gru", "lstm"])
def test_torch_loads_it(name):
    """Live, where PyTorch is installed: a strict load, and the same outputs."""
    torch = pytest.importorskip("torch")
    module = getattr(torch.nn, name.removesuffix("_tanh").upper())
    rnn = module(3, 3, num_layers=2, bidirectional=True)
    params = from_torch(rnn.state_dict())
    params = jax.tree.map(lambda leaf: leaf + np.float32(0.1), params)
    state_dict = to_torch(params)
    rnn.load_state_dict({k: torch.tensor(v) for k, v in state_dict.items()})
    inputs = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    want, _ = rnn(torch.tensor(inputs))
    found, _ = run(layer_of(f"{name}-2-bidirectional"), params, inputs)
    np.testing.assert_allclose(found, want.detach().numpy(), rtol=0, atol=1e-6)


def test_tensors_of_any_kind():
    """With a gradient, and in a dtype that NumPy lacks."""
    torch = pytest.importorskip("torch")
    gru = torch.nn.GRU(2, 3)
    want = from_torch(gru.state_dict())
    found = from_torch(dict(gru.named_parameters()))
    np.testing.assert_array_equal(found["kernel"], want["kernel"])
    half = from_torch(gru.bfloat16().state_dict())
    assert half["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(half["kernel"], want["kernel"].astype(jnp.bfloat16))


def test_prefix_finds_the_layer_of_a_model():
    state_dict = {f"rnn.{k}": v for k, v in state_dict_of("gru-1").items()}
    state_dict["head.weight"] = np.ones((1, 3))
    found = from_torch(state_dict, prefix="rnn.")
    want = from_torch(state_dict_of("gru-1"))
    jax.tree.map(np.testing.assert_array_equal, found, want)
    assert to_torch(found, prefix="rnn.").keys() == state_dict.keys() - {"head.weight"}
    with pytest.raises(ValueError, match=r"found head.weight; .*one of \['rnn\.'\]"):
        from_torch({"head.weight": np.ones((1, 3)), **state_dict})


def without(names, case="lstm-2-bidirectional"):
    return {k: v for k, v in state_dict_of(case).items() if k not in names}


BAD_STATE_DICTS = {
    "a_bias": (without(["bias_hh_l1"]), r"missing \['bias_hh_l1'\]"),
    "a_weight": (without(["weight_hh_l0_reverse"]), r"\['weight_hh_l0_reverse'\]"),
    "a_layer": (
        without([k for k in state_dict_of("lstm-2-bidirectional") if "l0" in k]),
        r"numbered from 0.*found \[\(1, 'forward'\), \(1, 'reverse'\)\]",
    ),
    "a_direction": (
        without([k for k in state_dict_of("lstm-2-bidirectional") if "1_rev" in k]),
        "same directions in each",
    ),
    "nothing": ({}, "found none"),
    "gates": (
        {"weight_ih_l0": np.ones((6, 2)), "weight_hh_l0": np.ones((6, 3))},
        r"found \{'weight_ih_l0': \(6, 2\)",
    ),
    "rows": (
        {**state_dict_of("gru-1"), "weight_ih_l0": np.ones((8, 3))},
        r"'weight_ih_l0': \(8, 3\)",
    ),
    "short_bias": (
        {**state_dict_of("lstm-1"), "bias_hh_l0": np.ones(1)},
        r"bias_hh_l0 must have shape \(12,\), found \(1,\)",
    ),
}


@pytest.mark.parametrize("name", BAD_STATE_DICTS)
def test_bad_state_dicts_are_explained(name):
    state_dict, match = BAD_STATE_DICTS[name]
    with pytest.raises(ValueError, match=match):
        from_torch(state_dict)


def test_other_errors_are_explained(untyped):
    lstm = from_torch(state_dict_of("lstm-1"))
    gru = from_torch(state_dict_of("gru-1"))
    with pytest.raises(ValueError, match=r"missing \['layers_0/bias'.*unexpected"):
        from_torch(state_dict_of("lstm-1"), like={"layers_0": lstm})
    with pytest.raises(ValueError, match=r"kernel must have shape \(3, 9\), found"):
        from_torch(state_dict_of("lstm-1"), like={**lstm, "kernel": gru["kernel"]})
    with pytest.raises(ValueError, match="must agree in"):
        to_torch({"layers_0": lstm, "layers_1": gru})
    with pytest.raises(ValueError, match="resets after the matmul"):
        to_torch({k: v for k, v in gru.items() if k != "recurrent_bias"})
    with pytest.raises(ValueError, match="must be of a SimpleRNN, GRU or LSTM"):
        to_torch({"kernel": np.ones((2, 3))})
    with pytest.raises(TypeError, match=r"state_dict must be a mapping.*got str"):
        untyped(from_torch)("model.pt")
    with pytest.raises(TypeError, match="weight_ih_l0 must be an array of floats"):
        from_torch({"weight_ih_l0": np.ones((3, 3), int)})
