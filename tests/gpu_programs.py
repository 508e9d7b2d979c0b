"""The programs that test_gpu_programs.py compiles: {name: () -> (function, arguments)}.

They are compiled in a Python that has XLA for CUDA, so by name (see gpu_compiler.py).
"""

import functools

import gpu_compiler
import jax
import jax.numpy as jnp
import numpy as np

import jaxrnn
from jaxrnn import data

TIME, BATCH, FEATURES = 100, 128, 32

CELLS = {"simple_rnn": jaxrnn.simple_rnn, "gru": jaxrnn.gru, "lstm": jaxrnn.lstm}
SOLVERS = {
    "scan": jaxrnn.Scan(project_first=True),
    "one chunk": jaxrnn.HoistedScan(project_first=True, chunk=None),
    "chunks of 64": jaxrnn.HoistedScan(project_first=True, chunk=64),
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


def train_reviews(time=500, batch=32):
    """An update of the model of reviews: Embed -> SimpleRNN -> Dense, by RMSprop."""
    values = time * batch * FEATURES
    solver = jaxrnn.default_solver(jaxrnn.simple_rnn, values, platform="gpu")
    layer = jaxrnn.SimpleRNN(FEATURES, solver=solver)
    model = jaxrnn.TextClassifier(10_000, FEATURES, layer)
    optimizer = jaxrnn.keras_rmsprop()
    weights = jax.ShapeDtypeStruct((batch,), jnp.float32)
    ids = jax.ShapeDtypeStruct((batch, time), jnp.int32)

    def init(key):
        return model.init(key, jnp.zeros(ids.shape, ids.dtype))["params"]

    def loss_fn(params, batch):
        p = jax.nn.sigmoid(model.apply({"params": params}, batch.inputs))
        return jaxrnn.binary_classification_loss(p, batch.targets, batch.sample_weight)

    step = functools.partial(jaxrnn.train_step, loss_fn=loss_fn, optimizer=optimizer)
    state = jax.eval_shape(
        lambda: jaxrnn.create_train_state(init, optimizer, jax.random.key(0))
    )
    return step, state, data.Batch(ids, weights, None, weights)


def add_by_our_own_kernel():
    """A kernel of CUDA C++, launched by XLA: the way that needs nothing built."""
    source = """
extern "C" __global__ void add(const float* a, const float* b, float* sum) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  sum[i] = a[i] + b[i];
}
"""
    blocks, threads = 4, 32
    shape = jax.ShapeDtypeStruct((blocks * threads,), jnp.float32)

    def add(a, b):
        call = jax.ffi.ffi_call("__gpu$xla.gpu.ptx", shape, custom_call_api_version=4)
        return call(
            a,
            b,
            name="add",
            kernel_type="ptx",
            kernel_data=gpu_compiler.ptx(source),
            grid_x=np.int32(blocks),
            grid_y=np.int32(1),
            grid_z=np.int32(1),
            block_x=np.int32(threads),
            block_y=np.int32(1),
            block_z=np.int32(1),
            shared_mem_bytes=np.int32(0),
        )

    return add, shape, shape


PROGRAMS = {
    f"{cell}, {solver}": functools.partial(gradient, CELLS[cell], SOLVERS[solver])
    for cell in CELLS
    for solver in SOLVERS
} | {"reviews": train_reviews, "our own kernel": add_by_our_own_kernel}
