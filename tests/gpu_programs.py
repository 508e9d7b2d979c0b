"""The programs that test_gpu_programs.py compiles: {name: () -> (function, arguments)}.

They are compiled in a Python that has XLA for CUDA, so by name (see gpu_compiler.py).
"""

import functools

import jax
import jax.numpy as jnp

import jaxrnn
from jaxrnn import data
from jaxrnn.fused import launch

# As on an H100; what is in the programs is the same.
launch.unavailable, launch.architecture = (lambda: None), (lambda: "90")

TIME, BATCH, FEATURES = 100, 128, 32

CELLS = {"simple_rnn": jaxrnn.simple_rnn, "gru": jaxrnn.gru, "lstm": jaxrnn.lstm}
SOLVERS = {
    "scan": jaxrnn.Scan(project_first=True),
    "one chunk": jaxrnn.HoistedScan(project_first=True, chunk=None),
    "chunks of 64": jaxrnn.HoistedScan(project_first=True, chunk=64),
    "fused": jaxrnn.Fused(),
}


def gradient(cell, solver):
    """Of a loss of all outputs, for all parameters."""

    def loss(params, inputs):
        return (jaxrnn.rnn(cell, params, inputs, solver=solver)[1] ** 2).mean()

    inputs = jax.ShapeDtypeStruct((TIME, BATCH, FEATURES), jnp.float32)
    params = jax.eval_shape(
        lambda: jaxrnn.init_params(cell, jax.random.key(0), FEATURES, FEATURES)
    )
    return jax.grad(loss), params, inputs


def train_reviews(time=100, batch=128, *, otherwise=False):
    """An epoch of tutorial 002: Embed -> SimpleRNN -> Dense, by Adam.

    By the default of a GPU, or what that runs where it cannot have kernels of its own.
    """
    values = time * batch * FEATURES
    solver = jaxrnn.default_solver(jaxrnn.simple_rnn, values, platform="gpu")
    if otherwise:
        solver = solver.otherwise
    layer = jaxrnn.SimpleRNN(FEATURES, solver=solver)
    model = jaxrnn.TextClassifier(10_000, FEATURES, layer)
    optimizer = jaxrnn.keras_adam()
    examples = 20_000
    ids = jax.ShapeDtypeStruct((examples, time), jnp.int32)
    labels = jax.ShapeDtypeStruct((examples,), jnp.float32)
    order = jax.ShapeDtypeStruct((examples,), jnp.int32)

    def init(key):
        return model.init(key, jnp.zeros((1, time), ids.dtype))["params"]

    def loss_fn(params, batch):
        p = jax.nn.sigmoid(model.apply({"params": params}, batch.inputs))
        return jaxrnn.binary_classification_loss(p, batch.targets, batch.sample_weight)

    epoch = functools.partial(
        jaxrnn.train_epoch, loss_fn=loss_fn, optimizer=optimizer, batch_size=batch
    )
    state = jax.eval_shape(
        lambda: jaxrnn.create_train_state(init, optimizer, jax.random.key(0))
    )
    return epoch, state, data.Dataset(ids, labels), order


PROGRAMS = {
    f"{cell}, {solver}": functools.partial(gradient, CELLS[cell], SOLVERS[solver])
    for cell in CELLS
    for solver in SOLVERS
} | {
    "reviews": train_reviews,
    "reviews by a loop": functools.partial(train_reviews, otherwise=True),
}
