"""A linear regression, and an epoch of it written as a Python loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn
from jaxrnn import data

OPTIMIZER = jaxrnn.keras_adam(0.05)
RNG = np.random.default_rng(0)
EXAMPLES, BATCH_SIZE = 10, 4  # the last batch is short
DATASET = data.Dataset(
    RNG.standard_normal((EXAMPLES, 3)).astype(np.float32),
    RNG.standard_normal(EXAMPLES).astype(np.float32),
)
ORDER = jnp.asarray(RNG.permutation(EXAMPLES))


def loss_fn(params, batch):
    error = batch.inputs @ params["w"] + params["b"] - batch.targets
    loss = jaxrnn.Mean.of(error**2, batch.sample_weight)
    size = jaxrnn.Mean.of(abs(error), batch.sample_weight)
    return loss.value, {"loss": loss, "absolute_error": size}


def new_state(key=None):
    key = jax.random.key(0) if key is None else key
    params = {"w": jax.random.normal(key, (3,)), "b": jnp.zeros(())}
    return jaxrnn.init_state(params, OPTIMIZER)


def python_epoch(state, dataset, order):
    """The oracle: a Python loop over true short batches, no filler, Optax by hand."""
    params, opt_state = state.params, state.opt_state
    totals = {"loss": 0.0, "absolute_error": 0.0}
    for first in range(0, len(order), BATCH_SIZE):
        rows = np.asarray(order[first : first + BATCH_SIZE])

        def loss(params, rows=rows):
            error = dataset.inputs[rows] @ params["w"] + params["b"]
            return jnp.mean((error - dataset.targets[rows]) ** 2)

        error = dataset.inputs[rows] @ params["w"] + params["b"] - dataset.targets[rows]
        totals["loss"] += float((error**2).sum())
        totals["absolute_error"] += float(abs(error).sum())
        updates, opt_state = OPTIMIZER.update(jax.grad(loss)(params), opt_state)
        params = optax.apply_updates(params, updates)
    return params, {name: total / len(order) for name, total in totals.items()}


def assert_close(found, want):
    """Float32 sums in another order: a few units in the seventh digit."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-6), found, want
    )


def noisy_loss_fn(params, batch, key=None):
    """Dropout of the inputs by hand, where a key is given."""
    if key is not None:
        mask = jax.random.bernoulli(key, 0.5, batch.inputs.shape)
        batch = batch._replace(inputs=jnp.where(mask, batch.inputs, 0))
    return loss_fn(params, batch)
