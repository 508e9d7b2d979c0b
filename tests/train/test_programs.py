"""Do programs go with the functions that they were made of, and stay as long?"""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import data

DATASET = data.Dataset(np.ones((4, 2), np.float32), np.ones(4, np.float32))
OPTIMIZER = optax.sgd(0.1)
LAYER = jaxrnn.SimpleRNN(3)


def new_state(optimizer=OPTIMIZER):
    return jaxrnn.init_state({"w": jnp.zeros(2)}, optimizer)


def new_loss():
    """One that holds on to an array of its own."""
    own = jnp.zeros(1000)

    def loss_fn(params, batch, *more):
        error = (batch.inputs @ params["w"] - batch.targets) ** 2 + own[0]
        loss = jaxrnn.Mean.of(error, batch.sample_weight)
        return loss.value, {"loss": loss}

    return loss_fn


def new_stream_loss():
    own = jnp.zeros(1000)

    def loss_fn(params, carry, batch):
        error = (batch.inputs @ params["w"] - batch.targets) ** 2 + own[0]
        loss = jaxrnn.Mean.of(error)
        return loss.value, (carry, {"loss": loss})

    return loss_fn


def new_predictor():
    own = jnp.zeros(1000)
    return lambda params, inputs: LAYER.apply(params, inputs) + own[0]


def new_init():
    own = jnp.zeros(1000)
    return lambda key: {"w": jax.random.normal(key, (2,)) + own[0]}


STREAM = data.Dataset(jnp.ones((2, 6, 2)), jnp.ones((2, 6)))
TRAINED = {"optimizer": OPTIMIZER}
ENTRIES = {
    "train_step": (
        new_loss,
        lambda f: jaxrnn.train_step(
            new_state(), next(data.batches(DATASET, 4)), loss_fn=f, **TRAINED
        ),
    ),
    "train_epoch": (
        new_loss,
        lambda f: jaxrnn.train_epoch(
            new_state(), DATASET, np.arange(4), loss_fn=f, batch_size=2, **TRAINED
        ),
    ),
    "train_batches": (
        new_loss,
        lambda f: jaxrnn.train_batches(
            new_state(), data.batches(DATASET, 2), loss_fn=f, **TRAINED
        ),
    ),
    "train_stream": (
        new_stream_loss,
        lambda f: jaxrnn.train_stream(
            new_state(), jnp.zeros(2), STREAM, loss_fn=f, chunk=3, **TRAINED
        ),
    ),
    "fit": (
        new_loss,
        lambda f: jaxrnn.fit(
            new_state(),
            DATASET,
            loss_fn=f,
            key=jax.random.key(0),
            epochs=1,
            validation=DATASET,
            **TRAINED,
        ),
    ),
    "evaluate": (
        new_loss,
        lambda f: jaxrnn.evaluate(new_state().params, DATASET, loss_fn=f),
    ),
    "evaluate_stream": (
        new_stream_loss,
        lambda f: jaxrnn.evaluate_stream(
            new_state().params, jnp.zeros(2), STREAM, loss_fn=f, chunk=3
        ),
    ),
    "predict": (
        new_predictor,
        lambda f: jaxrnn.predict(
            LAYER.init(jax.random.key(0), jnp.ones((1, 4, 2))),
            jnp.ones((3, 4, 2)),
            apply_fn=f,
        ),
    ),
    "create_train_state": (
        new_init,
        lambda f: jaxrnn.create_train_state(f, OPTIMIZER, jax.random.key(0)),
    ),
}


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.slow
def test_a_function_of_the_users_is_let_go_with_all_it_holds(name):
    new, call = ENTRIES[name]
    call(new())
    gc.collect()
    before = len(jax.live_arrays())
    for _ in range(2):
        function = new()
        call(function)
        gone = weakref.ref(function)
        del function
        gc.collect()
        assert gone() is None
    assert len(jax.live_arrays()) == before


def test_an_optimizer_is_let_go():
    optimizer = optax.sgd(0.1)
    loss_fn = new_loss()
    order = np.arange(4)
    jaxrnn.train_epoch(
        new_state(optimizer),
        DATASET,
        order,
        loss_fn=loss_fn,
        optimizer=optimizer,
        batch_size=2,
    )
    gone = weakref.ref(optimizer.update)
    del optimizer
    gc.collect()
    assert gone() is None


def test_what_stays_is_compiled_once():
    loss_fn, traced = new_loss(), []

    def counted(params, batch):
        traced.append(batch)
        return loss_fn(params, batch)

    for _ in range(3):
        optimizer = jaxrnn.adjustable(jaxrnn.keras_adam, 0.01)
        jaxrnn.train_epoch(
            new_state(optimizer),
            DATASET,
            np.arange(4),
            loss_fn=counted,
            optimizer=optimizer,
            batch_size=2,
        )
    assert len(traced) == 1


class Model:
    """Whose loss is a method, another object at every look."""

    traced = 0

    def loss(self, params, batch):
        Model.traced += 1
        return new_loss()(params, batch)


def test_a_method_is_compiled_once():
    model = Model()
    for _ in range(3):
        jaxrnn.evaluate(new_state().params, DATASET, loss_fn=model.loss)
    assert Model.traced == 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: jaxrnn.keras_adam(0.01),
        lambda: jaxrnn.keras_rmsprop(0.01, rho=0.8),
        lambda: jaxrnn.clip_by_norm(1.0),
        lambda: jaxrnn.adjustable(jaxrnn.keras_adam, 0.01),
        lambda: jaxrnn.dropout_cell(jaxrnn.gru, rate=0.1),
    ],
)
def test_equal_settings_give_the_same_object(build):
    assert build() is build()


def test_a_rate_without_a_hash_will_do():
    rate = jnp.float32(0.1)
    updates, _ = jaxrnn.keras_rmsprop(rate).update(
        jnp.ones(2), jaxrnn.keras_rmsprop(rate).init(jnp.ones(2))
    )
    assert updates.shape == (2,)
