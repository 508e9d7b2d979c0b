"""Do clipping, weight decay and schedules give Keras' updates?

RMSprop and Adam themselves are compared in test_keras.py.
"""

import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from keras_oracle import keras_rules

import jaxrnn

STEPS = 12
RNG = np.random.default_rng(0)
PARAMS = {n: RNG.standard_normal(4).astype(np.float32) for n in "abc"}
# Some are clipped and some are not, by each of the bounds below; c once is zero.
SIZES = 10.0 ** RNG.uniform(-2, 1, STEPS)
GRADIENTS = [
    {n: np.float32(size * RNG.standard_normal(4)) for n in PARAMS} for size in SIZES
]
GRADIENTS[3]["c"] = np.zeros(4, np.float32)
# Values of about 1 that round at 6e-8 a step. RMSprop's first step divides by the root
# of the square of a gradient, whose error is 1e-7 of a step of at most 0.1.
TOLERANCE = {"rtol": 0, "atol": 1e-6}


def ours(optimizer):
    """Parameters after every step."""

    def step(carry, gradients):
        params, state = carry
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    gradients = jax.tree.map(lambda *g: jnp.stack(g), *GRADIENTS)
    carry = (PARAMS, optimizer.init(PARAMS))
    return jax.jit(lambda: jax.lax.scan(step, carry, gradients)[1])()


def theirs(optimizer):
    with keras_rules():
        variables = [keras.Variable(p) for p in PARAMS.values()]
        optimizer.build(variables)
        history = []
        for gradients in GRADIENTS:
            optimizer.apply([jnp.asarray(g) for g in gradients.values()])
            history.append([np.asarray(v.value) for v in variables])
    return {
        n: np.stack(v) for n, v in zip(PARAMS, zip(*history, strict=True), strict=True)
    }


def assert_same(found, want):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, **TOLERANCE), found, want
    )


OPTIMIZERS = {
    "rmsprop": (
        lambda rate: jaxrnn.keras_rmsprop(rate, momentum=0.5),
        {"momentum": 0.5},
    ),
    "adam": (jaxrnn.keras_adam, {}),
}
KERAS = {"rmsprop": keras.optimizers.RMSprop, "adam": keras.optimizers.Adam}
CLIPS = {
    None: optax.identity(),
    "clipvalue": optax.clip(0.5),
    "clipnorm": jaxrnn.clip_by_norm(0.5),
    "global_clipnorm": optax.clip_by_global_norm(0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping(name):
    make, settings = OPTIMIZERS[name]
    wanted = []
    for clip, transformation in CLIPS.items():
        bound = {} if clip is None else {clip: 0.5}
        want = theirs(KERAS[name](0.01, **bound, **settings))
        assert_same(ours(optax.chain(transformation, make(0.01))), want)
        for other in wanted:  # each means something else
            assert any(np.abs(other[n] - want[n]).max() > 1e-3 for n in want)
        wanted.append(want)


def test_weight_decay_as_the_docstring_of_keras_adam_has_it():
    found = ours(
        optax.chain(
            jaxrnn.optimizers.scale_by_adam_epsilon_hat(),
            optax.add_decayed_weights(0.1),
            optax.scale_by_learning_rate(0.01),
        )
    )
    assert_same(found, theirs(keras.optimizers.AdamW(0.01, weight_decay=0.1)))


schedules = keras.optimizers.schedules
SCHEDULES = {
    "exponential": (
        optax.exponential_decay(0.1, 4, 0.5),
        schedules.ExponentialDecay(0.1, 4, 0.5),
    ),
    "exponential_staircase": (
        optax.exponential_decay(0.1, 4, 0.5, staircase=True),
        schedules.ExponentialDecay(0.1, 4, 0.5, staircase=True),
    ),
    "cosine": (
        optax.cosine_decay_schedule(0.1, 8, alpha=0.1),
        schedules.CosineDecay(0.1, 8, alpha=0.1),
    ),
    "piecewise": (  # Keras' boundaries belong to the value before them
        optax.piecewise_constant_schedule(0.1, {3 + 1: 0.5, 7 + 1: 0.1}),
        schedules.PiecewiseConstantDecay([3, 7], [0.1, 0.05, 0.005]),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule(name, schedule):
    make, settings = OPTIMIZERS[name]
    our_schedule, keras_schedule = SCHEDULES[schedule]
    want = theirs(KERAS[name](keras_schedule, **settings))
    with keras_rules():  # two of Optax' schedules promote the count of updates
        found = ours(make(our_schedule))
    assert_same(found, want)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_adjustable_changes_no_digit(name):
    make, _ = OPTIMIZERS[name]
    plain, adjustable = ours(make(0.01)), ours(jaxrnn.adjustable(make, 0.01))
    jax.tree.map(np.testing.assert_array_equal, plain, adjustable)


def test_bad_input_is_explained(untyped):
    with pytest.raises(ValueError, match=r"max_norm must be positive, got 0"):
        jaxrnn.clip_by_norm(0.0)
    with pytest.raises(TypeError, match=r"to the optimizer itself: keras_adam\(sch"):
        untyped(jaxrnn.adjustable)(jaxrnn.keras_adam, optax.constant_schedule(0.1))


@pytest.mark.parametrize("rate", [None, "0.1", [0.1], np.ones(1), True, 1j, -0.1])
def test_a_learning_rate_is_a_number(rate, untyped):
    """At None Optax climbs, and an array of one number gives its shape to all."""
    error = ValueError if rate == -0.1 else TypeError
    words = re.escape(f"got {rate!r}.")
    for make in (jaxrnn.keras_adam, jaxrnn.keras_rmsprop):
        with pytest.raises(error, match=f"of at least 0, or a schedule, {words}"):
            untyped(make)(rate)
    with pytest.raises(error, match=f"learning_rate must be one .* least 0, {words}"):
        untyped(jaxrnn.adjustable)(jaxrnn.keras_adam, rate)


def test_settings_are_numbers_in_their_range(untyped):
    for name in ("b1", "b2"):
        with pytest.raises(ValueError, match=f"{name} must .* below 1, got 1.0"):
            jaxrnn.keras_adam(**{name: 1.0})
    for name in ("rho", "momentum"):
        with pytest.raises(TypeError, match=f"{name} must be one number .* got '0.9'"):
            untyped(jaxrnn.keras_rmsprop)(**{name: "0.9"})
    for make in (jaxrnn.keras_adam, jaxrnn.keras_rmsprop):
        with pytest.raises(ValueError, match=r"epsilon must be .* least 0, got nan"):
            make(epsilon=float("nan"))
    with pytest.raises(TypeError, match=r"max_norm must be one number .* got None"):
        untyped(jaxrnn.clip_by_norm)(None)


def test_settings_may_be_what_a_trace_holds(untyped):
    """As `optax.inject_hyperparams` makes them; a rate for each of some models."""

    def updates(rate):
        optimizer = optax.inject_hyperparams(jaxrnn.keras_adam)(rate, b1=0.9)
        return optimizer.update(jnp.ones(()), optimizer.init(jnp.ones(())))[0]

    rates = jnp.array([0.1, 0.2])
    np.testing.assert_allclose(
        untyped(jax.jit(jax.vmap(updates)))(rates), -rates, rtol=1e-4
    )
