"""Does a state begin as a loop over keys begins it, in one program?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn

IDS = np.ones((2, 3), np.int32)
MODEL = jaxrnn.TextClassifier(9, 4, jaxrnn.SimpleRNN(5))
OPTIMIZER = jaxrnn.keras_adam()


def init_fn(key):
    return MODEL.init(key, IDS)["params"]


@pytest.mark.parametrize("models", [(), (3,), (2, 2)])
def test_every_key_gives_the_state_that_it_gives_alone(models):
    """To the last bit or so: an orthogonal matrix is the end of many roundings."""
    alone = jax.jit(init_fn)
    keys = jax.random.split(jax.random.key(0), models)
    found = jaxrnn.create_train_state(init_fn, OPTIMIZER, keys)
    assert found.step.shape == models
    for i in np.ndindex(models):
        want = jaxrnn.init_state(alone(keys[i]), OPTIMIZER)
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, atol=1e-6),
            found,
            want,
        )
    assert found.params["embed"]["embedding"].std() > 0.01


def test_a_state_is_one_program():
    compiled = []

    def listener(event, duration, **_):
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    optimizer = jaxrnn.keras_rmsprop()  # not seen before
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        jax.block_until_ready(jaxrnn.create_train_state(init_fn, optimizer, keys))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert len(compiled) == 1
