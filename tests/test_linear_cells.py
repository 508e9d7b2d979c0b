"""Do cells with a linear step start as their papers say, and say what they cannot?"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn

PUBLIC = np.load(pathlib.Path(__file__).parent / "fixtures" / "linear_cells.npz")
KEY = jax.random.key(0)
MANY = 4_000  # features: a share of them has a standard deviation of 0.008 at most


def drawn(cell, features=MANY):
    params = jaxrnn.init_params(cell, KEY, 8, features)
    assert all(jnp.isfinite(x).all() for x in params.values())
    return jax.tree.map(np.asarray, params)


def assert_uniform(values, low, high):
    """The largest distance of the shares below from those of a uniform distribution.

    Kolmogorov: above 1.95 / sqrt(number) in one of a thousand draws.
    """
    shares = (np.sort(values) - low) / (high - low)
    wanted = (np.arange(len(values)) + 0.5) / len(values)
    assert abs(shares - wanted).max() < 1.95 / np.sqrt(len(values))


def positive(x):
    """The activation that minGRU-pytorch has for its logarithms."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


def of_min_gru(theirs):
    candidate, gate = jnp.split(theirs["to_hidden_and_gate.weight"].T, 2, axis=1)
    return {"kernel": jnp.concatenate([gate, candidate], axis=1)}


def of_min_lstm(theirs):
    candidate, *gates = jnp.split(theirs["to_hidden_and_f_i_gate.weight"].T, 3, axis=1)
    return {"kernel": jnp.concatenate([*gates, candidate], axis=1)}


def of_rg_lru(theirs):
    """Its gates scale the inputs themselves: the identity is their projection."""
    identity = jnp.eye(theirs["a_gate.w"].shape[1])
    kernels = theirs["a_gate.w"][0], theirs["input_gate.w"][0], identity
    biases = theirs["a_gate.b"][0], theirs["input_gate.b"][0], jnp.zeros(len(identity))
    return {
        "kernel": jnp.concatenate(kernels, axis=1),
        "bias": jnp.concatenate(biases),
        "recurrent_logit": -theirs["a_param"],
    }


def of_lru(theirs):
    """Its gamma, the paper's, knows nothing of lambda; ours is a factor beside one."""
    shrink = 1 - jnp.exp(-2 * jnp.exp(theirs["nu_log"]))
    return {
        "kernel": jnp.concatenate([theirs["B"][..., 0].T, theirs["B"][..., 1].T], 1),
        "nu_log": theirs["nu_log"],
        "theta_log": theirs["theta_log"],
        "gamma_log": theirs["gamma_log"] - jnp.log(shrink) / 2,
    }


def lru_and_dense(theirs, inputs, outputs):
    """Re(C h) + D x."""
    kernel = jnp.concatenate([theirs["C"][..., 0], -theirs["C"][..., 1]], axis=1)
    return outputs @ kernel.T + inputs @ theirs["D"].T


def as_they_are(theirs, inputs, outputs):
    del theirs, inputs
    return outputs


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("solver", [jaxrnn.Scan(), jaxrnn.ParallelScan()], ids=repr)
@pytest.mark.parametrize(
    ("name", "cell", "translate", "read", "digits"),
    [
        (
            "min_gru",
            jaxrnn.min_gru_cell(activation=positive, use_bias=False),
            of_min_gru,
            as_they_are,
            1e-12,
        ),
        (
            "min_lstm",
            jaxrnn.min_lstm_cell(activation=positive, use_bias=False),
            of_min_lstm,
            as_they_are,
            1e-12,
        ),
        ("lru", jaxrnn.lru, of_lru, lru_and_dense, 1e-12),
        ("rg_lru", jaxrnn.rg_lru, of_rg_lru, as_they_are, 1e-6),  # it sums in float32
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_public_implementations_give_the_same(
    name, cell, translate, read, digits, solver
):
    """Outputs, and gradients by their own parameters, as fixtures have them."""
    case = {
        key.removeprefix(f"{name}/"): jnp.asarray(PUBLIC[key])
        for key in PUBLIC
        if key.startswith(f"{name}/")
    }
    theirs = {
        key.removeprefix("param/"): value
        for key, value in case.items()
        if key.startswith("param/")
    }

    def loss(theirs, inputs):
        _, outputs = jaxrnn.rnn(
            cell, translate(theirs), inputs.swapaxes(0, 1), solver=solver
        )
        outputs = read(theirs, inputs, outputs.swapaxes(0, 1))
        return jnp.sum(case["cotangent"] * outputs), outputs

    (_, outputs), (gradients, of_inputs) = jax.value_and_grad(
        loss, argnums=(0, 1), has_aux=True
    )(theirs, case["inputs"])
    np.testing.assert_allclose(outputs, case["outputs"], atol=digits)
    np.testing.assert_allclose(outputs, case.get("steps", outputs), atol=digits)
    np.testing.assert_allclose(of_inputs, case["grad/inputs"], atol=digits)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient, case[f"grad/{key}"], atol=digits)


def test_lru_starts_on_the_ring_of_its_paper():
    cell = jaxrnn.lru_cell(min_radius=0.9, max_radius=0.999, max_phase=np.pi)
    params = drawn(cell)
    radius = np.exp(-np.exp(params["nu_log"]))
    assert_uniform(radius**2, 0.9**2, 0.999**2)  # uniform on the area of the ring
    assert_uniform(np.exp(params["theta_log"]), 0, np.pi)
    params = drawn(jaxrnn.lru)
    assert_uniform(np.exp(-2 * np.exp(params["nu_log"])), 0, 1)
    assert_uniform(np.exp(params["theta_log"]), 0, 2 * np.pi)
    # 32,000 numbers: the deviation of their variance is 0.0005.
    np.testing.assert_allclose(params["kernel"].var(), 1 / (2 * 8), atol=0.002)


def test_lru_turns_white_noise_into_carries_of_size_one():
    """What gamma starts as is for."""
    cell = jaxrnn.lru_cell(min_radius=0.5, max_radius=0.9)
    params = jaxrnn.init_params(cell, KEY, 8, 1_000)
    noise = jax.random.normal(jax.random.key(1), (200, 4, 8))
    last, _ = jaxrnn.rnn(cell, params, noise)
    # Each of the two parts of B x has the variance 1/2.
    np.testing.assert_allclose((last**2).mean(), 0.5, atol=0.05)


def test_rg_lru_starts_as_its_paper_says():
    params = drawn(jaxrnn.rg_lru)
    a = 1 / (1 + np.exp(-params["recurrent_logit"].astype(np.float64)))
    assert_uniform(a**8, 0.9, 0.999)
    np.testing.assert_allclose(params["kernel"].var(), 1 / 8, atol=0.002)
    assert not params["bias"].any()


def test_rg_lru_forgets_nothing_with_a_finite_gradient():
    """Where r is too small for float32, a is 1, and a root of 0 has no slope."""
    params = jaxrnn.init_params(jaxrnn.rg_lru, KEY, 2, 3)
    params = params | {"bias": params["bias"].at[:3].set(-200.0)}

    def loss(params):
        return (jaxrnn.rnn(jaxrnn.rg_lru, params, jnp.ones((7, 2)))[1] ** 2).sum()

    assert all(jnp.isfinite(x).all() for x in jax.grad(loss)(params).values())


@pytest.mark.parametrize("cell", [jaxrnn.min_gru, jaxrnn.min_lstm, jaxrnn.rg_lru])
def test_gates_that_are_shut_or_open_leave_no_nan(cell):
    params = jaxrnn.init_params(cell, KEY, 2, 3)

    def loss(params, inputs):
        solver = jaxrnn.ParallelScan()
        return (jaxrnn.rnn(cell, params, inputs, solver=solver)[1] ** 2).sum()

    for size in (-1e4, 1e4):
        values = jax.value_and_grad(loss)(params, jnp.full((7, 5, 2), size))
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(values))


@pytest.mark.parametrize("name", ["min_gru", "min_lstm", "lru", "rg_lru"])
def test_bfloat16_is_float32_but_for_roundings(name):
    """Every number is rounded to 8 bits, by 2^-9 at most, some of them seven times."""
    cell = getattr(jaxrnn, name)
    params = jaxrnn.init_params(cell, KEY, 3, 4)
    inputs = jax.random.normal(jax.random.key(1), (7, 5, 3))
    _, want = jaxrnn.rnn(cell, params, inputs)
    for solver in (jaxrnn.Scan(), jaxrnn.ParallelScan()):
        _, found = jaxrnn.rnn(cell, params, inputs, dtype=jnp.bfloat16, solver=solver)
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(jnp.float32), want, atol=0.03)


def test_layers_run_them():
    inputs = jnp.ones((2, 7, 3))
    layer = jaxrnn.Recurrent(4, cell=jaxrnn.lru, solver=jaxrnn.ParallelScan())
    outputs, params = layer.init_with_output(KEY, inputs)
    assert outputs.shape == (2, 4)
    assert set(params["params"]) == {"kernel", "nu_log", "theta_log", "gamma_log"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jaxrnn.init_params(jaxrnn.lru, KEY, 2, 3), "even number .* got 3"),
        (lambda: jaxrnn.lru_cell(min_radius=0.9, max_radius=0.5), "got 0.9 and 0.5"),
        (lambda: jaxrnn.lru_cell(max_radius=1.1), "<= 1, got 0.0 and 1.1"),
        (lambda: jaxrnn.lru_cell(max_phase=0.0), "above 0, got 0.0"),
        (lambda: jaxrnn.rg_lru_cell(exponent=-8.0), "above 0, got -8.0"),
        (
            lambda: jaxrnn.Recurrent(
                4, cell=jaxrnn.min_gru, recurrent_kernel_init=jax.nn.initializers.zeros
            ).init(KEY, jnp.ones((2, 7, 3))),
            r"min_gru has not; its parameters are \['bias', 'kernel'\]",
        ),
    ],
)
def test_what_does_not_fit_is_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("make", [jaxrnn.min_gru_cell, jaxrnn.min_lstm_cell])
def test_an_activation_is_a_function(make, untyped):
    with pytest.raises(TypeError, match=r"activation must be a function .* got 'tanh'"):
        untyped(make)(activation="tanh")
