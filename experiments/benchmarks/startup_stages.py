"""From `python` to the first finished update of 002, with a look at the clock between.

python startup_stages.py LAUNCHED INIT

`startup.py` runs it in a fresh process. LAUNCHED is `time.time()` when the process was
asked for; INIT is "jit", where parameters and state come from one compiled program, or
"eager". It prints the milliseconds of every stage, and the number of compiled programs,
as JSON. Nothing is imported before the stage that times it.
"""

import json
import sys
import time


def first_update(launched: float, init: str) -> dict[str, float]:
    """Imports, builds, updates once; returns the milliseconds of every stage."""
    stages, last = {}, launched

    def done(stage):
        nonlocal last
        now = time.time()
        stages[stage], last = 1000 * (now - last), now

    done("python")
    import jax
    import numpy as np

    done("import jax")
    import flax.linen  # noqa: F401

    done("import flax")
    import optax  # noqa: F401

    done("import optax")
    import jaxrnn

    done("import jaxrnn")
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **about: events.append(event)
    )
    jax.devices()
    done("find the device")

    rng = np.random.default_rng(0)
    ids = rng.integers(10_000, size=(128, 100), dtype=np.int32)
    labels = rng.integers(2, size=128).astype(np.float32)
    ones = np.ones(128, np.float32)
    batch = jaxrnn.data.Batch(ids, labels, None, ones, ones)
    model = jaxrnn.TextClassifier(10_000, 32, jaxrnn.SimpleRNN(32))
    optimizer = jaxrnn.keras_adam()

    def loss_fn(params, batch):
        p = jax.nn.sigmoid(model.apply({"params": params}, batch.inputs))
        losses = jaxrnn.binary_cross_entropy(p, batch.targets)
        loss = jaxrnn.Mean.of(losses, batch.sample_weight)
        return loss.value, {"loss": loss}

    def init_fn(key):
        return model.init(key, ids[:1])["params"]

    done("data, model")
    key = jax.random.key(0)
    if init == "jit":
        state = jaxrnn.create_train_state(init_fn, optimizer, key)
    else:
        state = jaxrnn.init_state(init_fn(key), optimizer)
    state = jax.block_until_ready(state)
    done("init")
    traced = jaxrnn.train_step.trace(state, batch, loss_fn=loss_fn, optimizer=optimizer)
    done("update: trace")
    lowered = traced.lower()
    done("update: lower")
    update = lowered.compile()
    done("update: compile")
    _, means = jax.block_until_ready(update(state, batch))
    done("update: run")
    assert np.isfinite(means["loss"].total)
    stages["all"] = 1000 * (last - launched)
    stages["programs"] = events.count("/jax/core/compile/backend_compile_duration")
    return stages


if __name__ == "__main__":
    launched, init = sys.argv[1:]
    print(json.dumps(first_update(float(launched), init)))
