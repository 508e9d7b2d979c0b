"""Does the learning rate of every epoch follow its rule, model by model?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import data
from jaxrnn.train.epoch import keeping_epoch

EXAMPLES = 20
INPUTS = np.random.default_rng(0).standard_normal((EXAMPLES, 3)).astype(np.float32)
TARGETS = INPUTS @ np.array([1.0, -2.0, 0.5], np.float32)
REGRESSION = data.Dataset(INPUTS, TARGETS)
ADJUSTABLE = jaxrnn.adjustable(optax.sgd, 0.1)


def regression_loss_fn(params, batch):
    error = batch.inputs @ params["w"] - batch.targets
    loss = jaxrnn.Mean.of(error**2, batch.sample_weight)
    return loss.value, {"loss": loss}


fit_regression = functools.partial(
    jaxrnn.fit,
    loss_fn=regression_loss_fn,
    optimizer=ADJUSTABLE,
    epochs=4,
    batch_size=EXAMPLES,
    shuffle=False,
)


def halve(epoch, rate, history):
    """A rule that reads all that it is given."""
    assert len(history.get("loss", [])) == epoch
    return rate if epoch < 2 else rate * 0.5


def new_regression(w=0.0):
    return jaxrnn.init_state({"w": jnp.full(3, w, jnp.float32)}, ADJUSTABLE)


def test_learning_rate_by_epoch_is_a_numpy_loop():
    state, history = fit_regression(
        new_regression(), REGRESSION, key=jax.random.key(0), learning_rate=halve
    )
    w = np.zeros(3)
    for rate in (0.1, 0.1, 0.05, 0.025):
        w -= rate * 2 * INPUTS.T @ (INPUTS @ w - TARGETS) / EXAMPLES
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
    want = np.float32([0.1, 0.1, 0.05, 0.025])
    np.testing.assert_array_equal(history["learning_rate"], want)
    np.testing.assert_allclose(state.opt_state.hyperparams["learning_rate"], 0.025)


@pytest.mark.parametrize("over", [jax.vmap, jaxrnn.one_by_one])
def test_each_model_has_a_rate_of_its_own(over):
    """The first one starts at the solution and has nothing to gain, the second has."""
    starts = jnp.array([[1.0, -2.0, 0.5], [9.0, 9.0, 9.0]])
    fit = functools.partial(
        fit_regression,
        jax.vmap(lambda w: jaxrnn.init_state({"w": w}, ADJUSTABLE))(starts),
        REGRESSION,
        key=jax.random.split(jax.random.key(0), 2),
        over=over,
    )
    rule = jaxrnn.ReduceOnPlateau("val_loss", factor=0.5, patience=1)
    _, history = fit(learning_rate=rule, validation=REGRESSION)
    np.testing.assert_allclose(
        history["learning_rate"],
        [[0.1, 0.1], [0.1, 0.1], [0.05, 0.1], [0.025, 0.1]],
        rtol=1e-6,
    )
    assert (history["loss"][:, 1] > 0.1).all()
    _, history = fit(learning_rate=lambda epoch, rate, history: 0.0)  # one for all
    np.testing.assert_array_equal(history["learning_rate"], np.zeros((4, 2)))
    np.testing.assert_array_equal(history["loss"], history["loss"][:1].repeat(4, 0))


@pytest.mark.parametrize("over", [jax.vmap, jaxrnn.one_by_one])
def test_a_grid_of_learning_rates_is_one_program(over):
    """Each model is the one of an optimizer with that rate; float32 rounding, 1e-6."""
    rates = jnp.array([0.3, 0.1, 0.01])

    def new_state(rate):
        state = new_regression()
        opt_state = optax.tree.set(state.opt_state, learning_rate=rate)
        return state._replace(opt_state=opt_state)

    before = keeping_epoch._cache_size()
    states, history = fit_regression(
        jax.vmap(new_state)(rates),
        REGRESSION,
        key=jnp.broadcast_to(jax.random.key(0), rates.shape),
        over=over,
    )
    assert keeping_epoch._cache_size() == before + 1
    np.testing.assert_array_equal(optax.tree.get(states, "learning_rate"), rates)
    assert history["loss"].shape == (4, 3)
    for i, rate in enumerate(rates.tolist()):
        optimizer = optax.sgd(rate)
        state, want = fit_regression(
            jaxrnn.init_state({"w": jnp.zeros(3)}, optimizer),
            REGRESSION,
            optimizer=optimizer,
            key=jax.random.key(0),
        )
        np.testing.assert_allclose(history["loss"][:, i], want["loss"], rtol=2e-6)
        np.testing.assert_allclose(
            states.params["w"][i], state.params["w"], rtol=2e-6, atol=1e-6
        )
    assert len(set(history["loss"][-1])) == 3


def test_another_rate_compiles_nothing():
    compiled, by_epoch = [], []

    def listener(event, duration, **_):
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        fit_regression(
            new_regression(),
            REGRESSION,
            key=jax.random.key(0),
            learning_rate=halve,
            on_epoch=lambda epoch, record, state: by_epoch.append(len(compiled)),
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert by_epoch == [by_epoch[0]] * 4


def test_several_functions_after_every_epoch():
    calls = []

    def note(name):
        return lambda epoch, record, state: calls.append((name, epoch, list(record)))

    fit_regression(
        new_regression(),
        REGRESSION,
        key=jax.random.key(0),
        epochs=2,
        learning_rate=halve,
        on_epoch=(note("a"), note("b")),
    )
    names = ["loss", "learning_rate"]
    want = [("a", 0, names), ("b", 0, names), ("a", 1, names), ("b", 1, names)]
    assert calls == want


# One rate per group of parameters.

GROUPS = optax.multi_transform(
    {
        "slow": jaxrnn.adjustable(optax.sgd, 0.05),
        "fast": optax.chain(optax.clip(1e6), jaxrnn.adjustable(optax.sgd, 0.1)),
    },
    {"v": "slow", "w": "fast"},
)


def groups_loss_fn(params, batch):
    error = batch.inputs @ (params["v"] + params["w"]) - batch.targets
    loss = jaxrnn.Mean.of(error**2, batch.sample_weight)
    return loss.value, {"loss": loss}


@pytest.mark.parametrize("over", [None, jax.vmap])
def test_the_rate_of_each_group_follows_the_rule_by_itself(over):
    """As in PyTorch, whose schedulers go over the groups. The oracle: a NumPy loop."""
    state = jaxrnn.init_state({"v": jnp.zeros(3), "w": jnp.zeros(3)}, GROUPS)
    key = jax.random.key(0)
    if over is not None:
        state, key = jax.tree.map(lambda x: x[None], (state, key))
    state, history = fit_regression(
        state,
        REGRESSION,
        loss_fn=groups_loss_fn,
        optimizer=GROUPS,
        key=key,
        learning_rate=halve,
        over=over,
    )
    v, w = np.zeros((2, 3))
    for scale in (1, 1, 0.5, 0.25):
        gradient = 2 * INPUTS.T @ (INPUTS @ (v + w) - TARGETS) / EXAMPLES
        v, w = v - scale * 0.05 * gradient, w - scale * 0.1 * gradient
    np.testing.assert_allclose(state.params["v"].ravel(), v, rtol=1e-5)
    np.testing.assert_allclose(state.params["w"].ravel(), w, rtol=1e-5)
    want = np.array([1, 1, 0.5, 0.25])
    for name, rate in {"fast": 0.1, "slow": 0.05}.items():
        found = history[f"learning_rate/{name}"].ravel()
        np.testing.assert_allclose(found, want * rate, rtol=1e-6)
    assert set(history) == {"loss", "learning_rate/fast", "learning_rate/slow"}


def test_a_parameter_may_be_called_learning_rate():
    """Its moments in the state of Adam are none."""
    optimizer = jaxrnn.adjustable(jaxrnn.keras_adam, 0.1)

    def loss_fn(params, batch):
        loss = jaxrnn.Mean.of((params["learning_rate"] - batch.targets) ** 2)
        return loss.value, {"loss": loss}

    _, history = fit_regression(
        jaxrnn.init_state({"learning_rate": jnp.zeros(())}, optimizer),
        REGRESSION,
        loss_fn=loss_fn,
        optimizer=optimizer,
        key=jax.random.key(0),
        learning_rate=halve,
    )
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0.05, 0.025])


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (0.1, "got 0.1; .* goes to the optimizer: adjustable"),
        (optax.constant_schedule(0.1), r"got one of \(count\); .* keras_adam\(sched"),
        (lambda epoch, rate: rate, r"got one of \(epoch, rate\); write ReduceOnPlat"),
        (jaxrnn.ReduceOnPlateau, r"got the class ReduceOnPlateau; write ReduceOnPlat"),
        (lambda *given: None, "return a number, got None; return the rate that"),
        (lambda *given: "0.1", "return a number, got '0.1'"),
        (lambda *given: -0.1, r"a number that is not negative, .* got -0.1"),
        (lambda *given: np.ones(2), r"as many as there are models, \(\), got array"),
        (lambda *given: float("nan"), "not negative, .* got nan"),
    ],
)
def test_a_rule_is_a_function_that_returns_a_rate(rule, words, untyped):
    with pytest.raises((TypeError, ValueError), match=f"^learning_rate must .*{words}"):
        untyped(fit_regression)(
            new_regression(), REGRESSION, key=jax.random.key(0), learning_rate=rule
        )


def test_bad_input_is_explained():
    plain = optax.sgd(0.1)
    state = jaxrnn.init_state({"w": jnp.zeros(3)}, plain)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"found none; make it by jaxrnn.adjustable"):
        fit_regression(state, REGRESSION, optimizer=plain, key=key, learning_rate=halve)
    with pytest.raises(
        ValueError, match=r"one of \['learning_rate', 'loss'\], got 'val"
    ):
        fit_regression(
            new_regression(),
            REGRESSION,
            key=key,
            learning_rate=jaxrnn.ReduceOnPlateau(),
        )
    twice = optax.chain(ADJUSTABLE, ADJUSTABLE)
    with pytest.raises(ValueError, match=r"found 2 for the groups \[\[\], \[\]\]"):
        fit_regression(
            jaxrnn.init_state({"w": jnp.zeros(3)}, twice),
            REGRESSION,
            optimizer=twice,
            key=key,
            learning_rate=halve,
        )
