"""Do constraints bound weights as Keras' do, after every update?"""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from keras_oracle import keras_rules

import jaxrnn
from jaxrnn.constraints import constrained, max_norm, min_max_norm, non_neg, unit_norm

RNG = np.random.default_rng(0)
# Columns whose norms are far below, near and far above the bounds, and one of zeros.
KERNEL = (RNG.standard_normal((4, 5)) * [1e-3, 0.3, 1, 10, 0]).astype(np.float32)
BIAS = np.array([3.0, -4.0, 0.5], np.float32)

PAIRS = {
    "max_norm": (max_norm(), keras.constraints.MaxNorm()),
    "max_norm_rows": (max_norm(0.5, axis=1), keras.constraints.MaxNorm(0.5, axis=1)),
    "max_norm_all": (
        max_norm(1.0, axis=(0, 1)),
        keras.constraints.MaxNorm(1.0, axis=(0, 1)),
    ),
    "unit_norm": (unit_norm(), keras.constraints.UnitNorm()),
    "min_max_norm": (
        min_max_norm(0.5, 2.0),
        keras.constraints.MinMaxNorm(0.5, 2.0),
    ),
    "min_max_norm_rate": (
        min_max_norm(0.5, 2.0, rate=0.3, axis=1),
        keras.constraints.MinMaxNorm(0.5, 2.0, rate=0.3, axis=1),
    ),
    "non_neg": (non_neg, keras.constraints.NonNeg()),
}
OF_A_BIAS = ["max_norm", "unit_norm", "min_max_norm", "non_neg"]


def test_constraints():
    """To one or two units of the last digit: the same few operations."""

    def apply(functions, values):
        return jax.jit(lambda x: [function(x) for function in functions])(values)

    for values, names in ((KERNEL, list(PAIRS)), (BIAS, OF_A_BIAS)):
        ours, theirs = zip(*(PAIRS[name] for name in names), strict=True)
        found = apply(ours, values)
        with keras_rules():
            wanted = apply(theirs, values)
        for name, new, want in zip(names, found, wanted, strict=True):
            np.testing.assert_allclose(new, want, rtol=3e-7, atol=0, err_msg=name)
            assert np.abs(want - values).max() > 0.1, name


STEPS = 12
RULES = {"recurrent/kernel": max_norm(1.0), "bias": non_neg, "head/kernel": unit_norm()}
PARAMS = {
    "recurrent": {
        "kernel": RNG.standard_normal((4, 5)).astype(np.float32),
        "recurrent_kernel": RNG.standard_normal((5, 5)).astype(np.float32),
        "bias": np.full(5, 0.1, np.float32),
    },
    "head": {"kernel": RNG.standard_normal((5, 2)).astype(np.float32)},
}
GRADIENTS = [
    jax.tree.map(lambda p: RNG.standard_normal(p.shape).astype(np.float32), PARAMS)
    for _ in range(STEPS)
]


def run(optimizer):
    """All parameters after every step."""

    @jax.jit
    def update(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params, history = PARAMS, []
    state = optimizer.init(params)
    for gradients in GRADIENTS:
        params, state = update(params, state, gradients)
        history.append(params)
    return history


def test_training_with_constraints():
    """A dozen steps of RMSprop that reach the bounds, against Keras' own optimizer."""
    found = run(constrained(jaxrnn.keras_rmsprop(0.1), RULES))
    free = run(jaxrnn.keras_rmsprop(0.1))
    with keras_rules():
        variables = [keras.Variable(p) for p in jax.tree.leaves(PARAMS)]
        head_kernel, bias, kernel, _ = variables  # sorted by name
        head_kernel.constraint = keras.constraints.UnitNorm()
        bias.constraint = keras.constraints.NonNeg()
        kernel.constraint = keras.constraints.MaxNorm(1.0)
        optimizer = keras.optimizers.RMSprop(0.1)
        optimizer.build(variables)
        for gradients, params, unbound in zip(GRADIENTS, found, free, strict=True):
            optimizer.apply([jnp.asarray(g) for g in jax.tree.leaves(gradients)])
            want = [np.asarray(variable.value) for variable in variables]
            for ours, theirs in zip(jax.tree.leaves(params), want, strict=True):
                # Values of about 1 that round at 6e-8 a step, a few roundings each.
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
            np.testing.assert_array_equal(
                want[1] == 0, params["recurrent"]["bias"] == 0
            )
            np.testing.assert_array_equal(  # no constraint, the very same updates
                params["recurrent"]["recurrent_kernel"],
                unbound["recurrent"]["recurrent_kernel"],
            )
    biases = np.stack([params["recurrent"]["bias"] for params in found])
    assert 5 < (biases == 0).sum() < biases.size - 5  # kept from below, and let go
    norms = np.linalg.norm(found[-1]["recurrent"]["kernel"], axis=0)
    assert (norms < 1 + 3e-7).all()  # bounded, to the last digits
    assert (norms > 0.999).any()


def test_non_negative_means_it():
    """Parameters and updates of all sizes: never below zero, not by one rounding."""
    sizes = 10.0 ** RNG.integers(-20, 20, (2, 10_000))
    old, step = (RNG.standard_normal((2, 10_000)) * sizes).astype(np.float32)
    optimizer = constrained(optax.sgd(1.0), {"w": non_neg})

    @jax.jit
    def update(params, gradients):
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return optax.apply_updates(params, updates)["w"]

    new = update({"w": old}, {"w": step})
    want = np.maximum(old - step, 0)
    assert (new >= 0).all()
    np.testing.assert_array_equal(new[want == 0], 0)
    # p + (c - p) rounds at the size of the larger of the two.
    assert (np.abs(new - want) <= 1.2e-7 * (np.abs(old) + np.abs(want))).all()


def test_rules_act_in_their_order():
    both = {"w": non_neg, "a/w": max_norm(1.0)}
    params = {"a": {"w": jnp.array([-3.0, 3.0])}}
    optimizer = constrained(optax.sgd(0.0), both)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    new = optax.apply_updates(params, updates)["a"]["w"]
    np.testing.assert_allclose(new, [0, 1], atol=1e-6)  # not [0, 1/sqrt(2)]


def test_an_optimizer_gets_what_else_it_asks_for():
    """Polyak's step, the loss / |gradient|^2 of the gradient, needs the loss."""
    params = {"w": jnp.array([3.0, 4.0])}
    optimizer = constrained(optax.polyak_sgd(max_learning_rate=9.0), {"w": non_neg})
    updates, _ = optimizer.update(params, optimizer.init(params), params, value=12.5)
    np.testing.assert_allclose(updates["w"], [-1.5, -2.0], rtol=1e-6)


def test_bad_input_is_explained():
    optimizer = constrained(optax.sgd(0.1), {"kernel": non_neg, "bais": non_neg})
    with pytest.raises(ValueError, match=r"'bais'; .*'head/kernel', 'recurrent/bias'"):
        optimizer.init(PARAMS)
    optimizer = constrained(optax.sgd(0.1), {"kernel": non_neg})
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))
    with pytest.raises(ValueError, match=r"min_value=2\.0, max_value=1"):
        min_max_norm(2.0, 1.0)
    with pytest.raises(ValueError, match="max_value=-1"):
        max_norm(-1.0)
