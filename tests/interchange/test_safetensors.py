"""Does a file of our own give back every bit, and is a bad one explained?"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxrnn
from jaxrnn.interchange import load, save

TREE = {
    "embed": {"embedding": jnp.arange(6.0).reshape(2, 3)},
    "recurrent": {
        "layers_0": {
            "forward": {"kernel": np.linspace(0, 1, 6).reshape(3, 2).T},  # not C order
            "reverse": {"kernel": jnp.array([1.5, np.nan], jnp.bfloat16)},
        }
    },
    "scalar": np.float16(1 / 3),
    "step": jnp.array(7),
    "empty": np.zeros((0, 3)),
}


def test_every_bit_comes_back(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    save(path, TREE, metadata={"epoch": "3"})
    with pytest.warns(UserWarning, match="infinite, 1 in recurrent/layers_0/reverse/"):
        found = load(path, like=TREE)

    def check(value, want):
        want = np.asarray(want)
        assert (value.dtype, value.shape) == (want.dtype, want.shape)
        assert value.tobytes() == want.tobytes()

    jax.tree.map(check, found, TREE)
    assert os.listdir(path.parent) == [path.name]
    with safetensors.safe_open(path, framework="numpy") as file:  # other tools read it
        assert file.metadata()["epoch"] == "3"
        kernel = file.get_tensor("recurrent/layers_0/forward/kernel")
    want = TREE["recurrent"]["layers_0"]["forward"]["kernel"]
    np.testing.assert_array_equal(kernel, want)


def test_trains_on_from_what_was_loaded(tmp_path):
    """NumPy arrays go where the parameters of `init` go, and are not written to."""
    model = jaxrnn.Forecaster(jaxrnn.SimpleRNN(3), hidden_features=2)
    inputs = jnp.ones((4, 5, 1))
    params = model.init(jax.random.key(0), inputs)["params"]
    save(tmp_path / "model.safetensors", params)
    loaded = load(tmp_path / "model.safetensors", like=params)
    model.apply({"params": loaded}, inputs)  # outside of jit too
    optimizer = jaxrnn.keras_rmsprop()

    def loss_fn(params, batch):
        error = model.apply({"params": params}, batch.inputs) - batch.targets
        loss = jaxrnn.Mean.of(error**2, batch.sample_weight)
        return loss.value, {"loss": loss}

    batch = jaxrnn.data.Batch(inputs, jnp.zeros(4), None, jnp.ones(4))
    before = jax.tree.map(np.copy, loaded)
    states = [
        jaxrnn.train_step(
            jaxrnn.init_state(start, optimizer),
            batch,
            loss_fn=loss_fn,
            optimizer=optimizer,
        )[0]
        for start in (loaded, params)
    ]
    found, want = (state.params for state in states)
    jax.tree.map(np.testing.assert_array_equal, found, want)
    jax.tree.map(np.testing.assert_array_equal, loaded, before)
    changed = jax.tree.map(lambda x, y: not np.array_equal(x, y), found, before)
    assert changed["head"]["bias"]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, {"a": np.ones(3)})
    for value in (np.array([None]), np.array(["text"]), jnp.zeros(3, jnp.float8_e5m2)):
        with pytest.raises(TypeError, match=r"params must be arrays of bool, .* in a;"):
            save(path, {"a": value})
    with pytest.raises(ValueError, match="must take at most 4194304 bytes, got 5000"):
        save(path, {"a": np.ones(3)}, metadata={"story": "x" * 5_000_000})
    assert load(path)["a"].tolist() == [1, 1, 1]
    assert os.listdir(tmp_path) == [path.name]


def test_errors_are_explained(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=r"names without \"/\".*got 'a/b'"):
        save(path, {"a/b": np.ones(3)})
    path.write_bytes(b"PK\3\4 or anything else")
    with pytest.raises(ValueError, match="must be a file written by save"):
        load(path)
    safetensors.numpy.save_file({"weight": np.ones(3)}, path)
    with pytest.raises(ValueError, match=r"'version': '1'\}, found \{'format': None"):
        load(path)
    save(path, {"a": {"b": np.ones(3)}})
    with pytest.raises(ValueError, match=r"missing \['a/c'\] and unexpected \['a/b'\]"):
        load(path, like={"a": {"c": np.ones(3)}})
    with pytest.raises(ValueError, match=r"a/b must have shape \(2,\), found \(3,\)"):
        load(path, like={"a": {"b": np.ones(2)}})
