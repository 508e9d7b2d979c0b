"""What every comparison runs over, and oracles written as NumPy loops.

One list of cells, one of solvers, one of masks: a new one joins every comparison.
"""

import emulated_gpu
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special  # Flax and JAX bring SciPy

import jaxrnn
from jaxrnn import native

TIME, BATCH, IN_FEATURES, FEATURES = 7, 5, 3, 4

SOLVERS = [
    jaxrnn.Scan(),
    jaxrnn.Scan(project_first=True),
    jaxrnn.HoistedScan(),
    jaxrnn.HoistedScan(unroll=2, chunk=2),  # 7 steps: 1, then 3 times 2
    jaxrnn.HoistedScan(project_first=True, chunk=None),
    jaxrnn.Checkpointed(jaxrnn.HoistedScan(), chunk=3),
    jaxrnn.ParallelScan(),
]
# test_native.py says in so many words that it is not tested where no compiler is.
HAS_COMPILER = native.compiler_found() is not None
SOLVERS += [jaxrnn.Native()] if HAS_COMPILER else []
# On a GPU its kernels run there, elsewhere in an emulation that a compiler makes.
HAS_KERNELS = HAS_COMPILER or jax.default_backend() == "gpu"
if jax.default_backend() != "gpu" and HAS_COMPILER:
    emulated_gpu.install()
if HAS_KERNELS:
    SOLVERS += [jaxrnn.Fused(otherwise=jaxrnn.Scan())]
SOLVERS += [jaxrnn.Deer(), jaxrnn.Deer(iterations=2)]  # two are too few: it repairs


def softsign(x):
    """An activation that jaxrnn does not know: its cells have no adjoint."""
    return x / (1 + abs(x))


def relu(x):
    return np.maximum(x, 0)


def identity(x):
    return x


def hard_sigmoid(x):
    return np.clip(x / 6 + 0.5, 0, 1)


def keras2_hard_sigmoid(x):
    return np.clip(0.2 * x + 0.5, 0, 1)


def simple_rnn_step(activation):
    def step(params, hidden, x):
        bias = params.get("bias", 0)
        recurrent = hidden @ params["recurrent_kernel"]
        return activation(x @ params["kernel"] + recurrent + bias)

    return step


def gru_step(activation, gate, *, reset_after):
    """Keras' equations, gate by gate."""

    def step(params, hidden, x):
        kernels = np.split(params["kernel"], 3, axis=1)
        recurrent_kernels = np.split(params["recurrent_kernel"], 3, axis=1)
        width = len(kernels) * hidden.shape[-1]
        biases = np.split(params.get("bias", np.zeros(width)), 3)
        recurrent_biases = np.split(params.get("recurrent_bias", np.zeros(width)), 3)
        x_z, x_r, x_n = (x @ w + b for w, b in zip(kernels, biases, strict=True))
        u_z, u_r, u_n = recurrent_kernels
        c_z, c_r, c_n = recurrent_biases
        z = gate(x_z + hidden @ u_z + c_z)
        r = gate(x_r + hidden @ u_r + c_r)
        if reset_after:
            n = activation(x_n + r * (hidden @ u_n + c_n))
        else:
            n = activation(x_n + (r * hidden) @ u_n)
        return z * hidden + (1 - z) * n

    return step


def lstm_step(activation, gate):
    def step(params, carry, x):
        hidden, memory = carry
        bias = params.get("bias", 0)
        z = x @ params["kernel"] + hidden @ params["recurrent_kernel"] + bias
        i, f, g, o = np.split(z, 4, axis=-1)
        memory = gate(f) * memory + gate(i) * activation(g)
        return jaxrnn.LSTMCarry(gate(o) * activation(memory), memory)

    return step


def projected_lstm_step(params, carry, x):
    carry = lstm_step(np.tanh, sigmoid)(params, carry, x)
    return carry._replace(hidden=carry.hidden @ params["projection_kernel"])


def ind_rnn_step(params, hidden, x):
    recurrent = params["recurrent_kernel"] * hidden
    return relu(x @ params["kernel"] + params["bias"] + recurrent)


def mgu_step(params, hidden, x):
    w_f, w_n = np.split(params["kernel"], 2, axis=1)
    u_f, u_n = np.split(params["recurrent_kernel"], 2, axis=1)
    b_f, b_n = np.split(params["bias"], 2)
    f = sigmoid(x @ w_f + b_f + hidden @ u_f)
    n = np.tanh(x @ w_n + b_n + (f * hidden) @ u_n)
    return (1 - f) * hidden + f * n


def normalize(x, scale):
    variance = ((x - x.mean(axis=-1, keepdims=True)) ** 2).mean(axis=-1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + 1e-5) * scale


def layer_norm_lstm_step(params, carry, x):
    hidden, memory = carry
    preactivations = (
        normalize(x @ params["kernel"], params["kernel_scale"])
        + normalize(hidden @ params["recurrent_kernel"], params["recurrent_scale"])
        + params["bias"]
    )
    i, f, g, o = np.split(preactivations, 4, axis=-1)
    memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
    exposed = normalize(memory, params["memory_scale"]) + params["memory_bias"]
    return jaxrnn.LSTMCarry(sigmoid(o) * np.tanh(exposed), memory)


def layer_norm_gru_step(params, hidden, x):
    """Both gates are normalised together, the candidate by itself."""
    gates = 2 * hidden.shape[-1]
    w, u = params["kernel"], params["recurrent_kernel"]
    s, r_scale, b = params["kernel_scale"], params["recurrent_scale"], params["bias"]
    of_gates = (
        normalize(x @ w[:, :gates], s[:gates])
        + normalize(hidden @ u[:, :gates], r_scale[:gates])
        + b[:gates]
    )
    z, r = np.split(sigmoid(of_gates), 2, axis=-1)
    h_n = normalize(hidden @ u[:, gates:], r_scale[gates:]) + params["recurrent_bias"]
    n = np.tanh(normalize(x @ w[:, gates:], s[gates:]) + b[gates:] + r * h_n)
    return z * hidden + (1 - z) * n


def min_gru_step(params, hidden, x):
    x_z, n = np.split(x @ params["kernel"] + params["bias"], 2, axis=-1)
    z = sigmoid(x_z)
    return (1 - z) * hidden + z * n


def min_lstm_step(params, hidden, x):
    x_f, x_i, n = np.split(x @ params["kernel"] + params["bias"], 3, axis=-1)
    f, i = sigmoid(x_f), sigmoid(x_i)
    return f / (f + i) * hidden + i / (f + i) * n


def lru_step(params, carry, x):
    """In complex numbers."""
    re, im = np.split(carry, 2, axis=-1)
    eigenvalues = np.exp(-np.exp(params["nu_log"]) + 1j * np.exp(params["theta_log"]))
    gamma = np.exp(params["gamma_log"]) * np.sqrt(1 - abs(eigenvalues) ** 2)
    of_re, of_im = np.split(params["kernel"], 2, axis=-1)
    h = eigenvalues * (re + 1j * im) + gamma * (x @ (of_re + 1j * of_im))
    return np.concatenate([h.real, h.imag], axis=-1)


def rg_lru_step(params, hidden, x):
    x_r, x_i, v = np.split(x @ params["kernel"] + params["bias"], 3, axis=-1)
    a = sigmoid(params["recurrent_logit"]) ** (8 * sigmoid(x_r))
    return a * hidden + np.sqrt(1 - a**2) * (sigmoid(x_i) * v)


def zoned_step(step, rate):
    """Without noise zoneout mixes: each unit keeps `rate` of its value."""

    def zoned(params, carry, x):
        new = step(params, carry, x)
        return jax.tree.map(lambda old, new: rate * old + (1 - rate) * new, carry, new)

    return zoned


sigmoid, jax_sigmoid = special.expit, jax.nn.sigmoid

# name: (the cell, the same step in NumPy)
CELLS = {
    "simple_rnn": (jaxrnn.simple_rnn, simple_rnn_step(np.tanh)),
    "simple_rnn_relu": (
        jaxrnn.simple_rnn_cell(activation=jax.nn.relu),
        simple_rnn_step(relu),
    ),
    "simple_rnn_sigmoid": (
        jaxrnn.simple_rnn_cell(activation=jax.nn.sigmoid),
        simple_rnn_step(sigmoid),
    ),
    "simple_rnn_linear": (
        jaxrnn.simple_rnn_cell(activation=jaxrnn.linear),
        simple_rnn_step(identity),
    ),
    "simple_rnn_softsign": (
        jaxrnn.simple_rnn_cell(activation=softsign),
        simple_rnn_step(softsign),
    ),
    "simple_rnn_no_bias": (
        jaxrnn.simple_rnn_cell(use_bias=False),
        simple_rnn_step(np.tanh),
    ),
    "gru": (jaxrnn.gru, gru_step(np.tanh, sigmoid, reset_after=True)),
    "gru_no_bias": (
        jaxrnn.gru_cell(use_bias=False),
        gru_step(np.tanh, sigmoid, reset_after=True),
    ),
    "gru_reset_before": (
        jaxrnn.gru_cell(reset_after=False, recurrent_activation=jax.nn.hard_sigmoid),
        gru_step(np.tanh, hard_sigmoid, reset_after=False),
    ),
    "gru_softsign": (
        jaxrnn.gru_cell(activation=softsign),
        gru_step(softsign, sigmoid, reset_after=True),
    ),
    "lstm": (jaxrnn.lstm, lstm_step(np.tanh, sigmoid)),
    "lstm_no_bias": (jaxrnn.lstm_cell(use_bias=False), lstm_step(np.tanh, sigmoid)),
    "lstm_keras2": (
        jaxrnn.lstm_cell(recurrent_activation=jaxrnn.keras2_hard_sigmoid),
        lstm_step(np.tanh, keras2_hard_sigmoid),
    ),
    "lstm_softsign": (
        jaxrnn.lstm_cell(recurrent_activation=softsign),
        lstm_step(np.tanh, softsign),
    ),
    "lstm_projection": (
        jaxrnn.lstm_cell(projection_features=2),
        projected_lstm_step,
    ),
    "ind_rnn": (jaxrnn.ind_rnn, ind_rnn_step),
    "mgu": (jaxrnn.mgu, mgu_step),
    "layer_norm_lstm": (jaxrnn.layer_norm_lstm, layer_norm_lstm_step),
    "layer_norm_gru": (jaxrnn.layer_norm_gru, layer_norm_gru_step),
    "lstm_zoneout": (
        jaxrnn.zoneout_cell(jaxrnn.lstm, 0.25),
        zoned_step(lstm_step(np.tanh, sigmoid), 0.25),
    ),
    "min_gru": (jaxrnn.min_gru, min_gru_step),
    "min_lstm": (jaxrnn.min_lstm, min_lstm_step),
    "lru": (jaxrnn.lru, lru_step),
    "rg_lru": (jaxrnn.rg_lru, rg_lru_step),
}


def _masks():
    """(time, batch) masks by name; the last row of the real ones has no valid step."""
    steps = np.arange(TIME)[:, None]
    lengths = np.array([TIME, 3, 1, 5, 0])
    holes = np.random.default_rng(0).random((TIME, BATCH)) < 0.6
    holes[:, -1] = False
    return {
        "none": None,
        "all_valid": jnp.ones((TIME, BATCH), bool),
        "right_padding": jnp.asarray(steps < lengths),
        "left_padding": jnp.asarray(steps >= TIME - lengths),
        "holes": jnp.asarray(holes),
    }


MASKS = _masks()

# (time, batch): episodes of several lengths; the last row never restarts. Together
# with the masks, restarts fall on valid and on masked steps.
RESETS = np.random.default_rng(1).random((TIME, BATCH)) < 0.3
RESETS[0, 0], RESETS[:, -1] = True, False
RESETS = jnp.asarray(RESETS)


def random_problem(cell, dtype, seed=0):
    """Parameters away from their initial zeros, inputs and an initial carry."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        return jnp.asarray(0.5 * rng.standard_normal(shape), dtype)

    specs = cell.param_specs(IN_FEATURES, FEATURES)
    params = {name: draw(spec.shape) for name, spec in specs.items()}
    inputs = draw((TIME, BATCH, IN_FEATURES))
    carry = jax.tree.map(
        lambda leaf: draw(leaf.shape), cell.initial_carry(params, (BATCH,))
    )
    return params, inputs, carry


def numpy_rnn(numpy_step, params, inputs, carry, mask, resets=None, reverse=False):
    """The recurrence as a Python loop: carry, outputs (zero where masked), held."""
    params, inputs, carry = jax.tree.map(np.asarray, (params, inputs, carry))
    hidden = jax.tree.leaves(carry)[0]  # the hidden vector comes first
    outputs = np.zeros((*inputs.shape[:-1], hidden.shape[-1]), inputs.dtype)
    held = np.zeros_like(outputs)
    times = range(len(inputs))
    for t in reversed(times) if reverse else times:
        valid = np.ones(inputs.shape[1:-1], bool) if mask is None else mask[t]
        boundary = t + 1 if reverse else t  # backwards an episode ends before the next
        if resets is not None and boundary < len(inputs):
            again = np.asarray(resets[boundary])[:, None]
            carry = jax.tree.map(lambda old, a=again: np.where(a, 0, old), carry)
        new = numpy_step(params, carry, inputs[t])
        carry = jax.tree.map(
            lambda new, old, valid=valid: np.where(valid[:, None], new, old), new, carry
        )
        held[t] = jax.tree.leaves(carry)[0]
        outputs[t] = np.where(valid[:, None], held[t], 0)
    return carry, outputs, held
