"""Is little done between `python` and the first update? Counted, without a clock."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import startup

import jaxrnn
from jaxrnn.cells import params

EXPERIMENTS = pathlib.Path(startup.__file__).parents[1]


def in_fresh_python(code, **environment):
    """What the last line that `code` prints says; it may import the experiments."""
    inherited = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | {"PYTHONPATH": str(EXPERIMENTS)} | environment,
        capture_output=True,
        text=True,
        timeout=600,  # against hanging
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_first_update_is_two_programs_and_two_of_a_key():
    """The initial state and the update; eagerly, initial values alone are dozens."""
    stages = startup.in_fresh_python("jit", programs=None)
    assert stages["programs"] == 2 + 2  # jax.random.key makes two, of some ms each
    assert {"python", "import jaxrnn", "init", "update: compile"} < set(stages)


@pytest.mark.slow
def test_a_first_epoch_of_fit_is_three_programs():
    code = """
import json
import jax, numpy as np, jaxrnn

compiled = []
def listener(event, seconds, fun_name="", **about):
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(fun_name.removeprefix("jit(").removesuffix(")"))
jax.monitoring.register_event_duration_secs_listener(listener)

dataset = jaxrnn.data.Dataset(np.ones((5, 3, 2), np.float32), np.ones(5, np.float32))
model = jaxrnn.Forecaster(jaxrnn.SimpleRNN(4), hidden_features=2)
optimizer = jaxrnn.keras_adam()

def loss_fn(params, batch):
    error = model.apply({"params": params}, batch.inputs) - batch.targets
    loss = jaxrnn.Mean.of(error**2, batch.sample_weight)
    return loss.value, {"loss": loss}

def init_fn(key):
    return model.init(key, dataset.inputs)["params"]

keys = jax.random.split(jax.random.key(0), 2)
compiled.clear()
state = jaxrnn.create_train_state(init_fn, optimizer, keys)
jaxrnn.fit(state, dataset, loss_fn=loss_fn, optimizer=optimizer, key=keys, epochs=1,
    batch_size=2, validation=dataset, over=jax.vmap)
print(json.dumps(compiled))
"""
    compiled = in_fresh_python(code, JAX_DISABLE_MOST_OPTIMIZATIONS="true")
    assert compiled == ["create_train_state", "one_epoch", "evaluate"]


@pytest.mark.parametrize("over", [jax.vmap, jaxrnn.one_by_one])
def test_one_program_draws_the_initial_values_of_eager_init(over):
    """To float32's rounding, which a compiler may choose; in fact to the bit."""
    model = jaxrnn.TextClassifier(7, 3, jaxrnn.GRU(4))
    ids = np.ones((1, 2), np.int32)

    def init(seed):
        return model.init(jax.random.key(seed), ids)

    several = jax.jit(over(init))(np.arange(2))
    for seed in range(2):
        jax.tree.map(
            lambda found, want, seed=seed: np.testing.assert_allclose(
                found[seed], want, rtol=0, atol=1e-6
            ),
            several,
            init(seed),
        )


@pytest.mark.parametrize("name", ["glorot_uniform", "orthogonal"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_initializers_are_those_of_jax(name, dtype, x64):
    del x64
    key, shape = jax.random.key(3), (4, 12)
    found = getattr(params, name)(key, shape, dtype)
    want = getattr(jax.nn.initializers, name)()(key, shape, dtype)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, want, rtol=0, atol=4 * jnp.finfo(dtype).eps)


KEEP = """
import json, os, jax, jaxrnn
before = jax.config.jax_compilation_cache_dir
from program_cache import keep_programs
keep_programs()
jax.jit(lambda x: x + 1)(1.0).block_until_ready()
folder = jax.config.jax_compilation_cache_dir
kept = os.listdir(folder) if os.path.isdir(folder) else []
print(json.dumps([before, folder, len(kept)]))
"""


@pytest.mark.parametrize(
    ("variable", "folder", "enabled"),
    [
        ("XDG_CACHE_HOME", "jaxrnn/programs", "true"),
        ("JAX_COMPILATION_CACHE_DIR", "", "true"),
        ("XDG_CACHE_HOME", "jaxrnn/programs", "false"),
    ],
)
def test_programs_are_kept_where_they_are_wanted(tmp_path, variable, folder, enabled):
    chosen = {variable: str(tmp_path), "JAX_ENABLE_COMPILATION_CACHE": enabled}
    before, found, kept = in_fresh_python(KEEP, **chosen)
    is_default = variable == "XDG_CACHE_HOME"
    assert before == (None if is_default else str(tmp_path))  # not by the library
    assert pathlib.Path(found) == tmp_path / folder
    assert (kept > 0) == (enabled == "true")
