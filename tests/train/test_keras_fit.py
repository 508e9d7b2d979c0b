"""Do weights and penalties give the losses, metrics and parameters of Keras' `fit`?"""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras_oracle import get_weights, keras_rules

import jaxrnn
from jaxrnn import data, regularizers

RNG = np.random.default_rng(0)

EXAMPLES, BATCH_SIZE, EPOCHS = 20, 8, 2  # two batches of 8, one of 4
INPUTS = RNG.standard_normal((EXAMPLES, 3)).astype(np.float32)
LABELS = RNG.integers(0, 2, EXAMPLES).astype(np.float32)
# Zeros too: Keras counts these rows, and they are not what fills up a batch.
WEIGHT = RNG.choice([0.0, 0.5, 4.0], EXAMPLES).astype(np.float32)
RULES = {"kernel": regularizers.l2(0.1), "bias": regularizers.l1(0.05)}
OPTIMIZER = jaxrnn.keras_adam(0.01)
PARAMS = {"kernel": jnp.array([[0.5], [-1.0], [2.0]]), "bias": jnp.array([0.25])}


def keras_loss_fn(params, batch):
    """The recipe of `class_weights` and `penalty`: every number as Keras has it."""
    logits = batch.inputs @ params["kernel"][:, 0] + params["bias"][0]
    p = jax.nn.sigmoid(logits)
    losses = jaxrnn.binary_cross_entropy(p, batch.targets) * batch.sample_weight
    hits = jaxrnn.binary_accuracy(p, batch.targets)
    loss = jaxrnn.Mean.of(losses + regularizers.penalty(params, RULES), batch.valid)
    return loss.value, {
        "accuracy": jaxrnn.Mean.of(hits, batch.valid),
        "weighted": jaxrnn.Mean.of(hits, batch.sample_weight),
        "loss": loss,
    }


@pytest.fixture(scope="module")
def keras_fit():
    """Keras' `fit` on the data above, from PARAMS, as a function of its weights."""
    with keras_rules():
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(
                    1,
                    activation="sigmoid",
                    kernel_regularizer=keras.regularizers.L2(0.1),
                    bias_regularizer=keras.regularizers.L1(0.05),
                ),
            ]
        )
        model.compile(
            keras.optimizers.Adam(0.01),
            "binary_crossentropy",
            metrics=["accuracy"],
            weighted_metrics=[keras.metrics.BinaryAccuracy(name="weighted")],
        )

    def fit(**weights):
        with keras_rules():
            model.set_weights(
                [np.asarray(PARAMS["kernel"]), np.asarray(PARAMS["bias"])]
            )
            for variable in model.optimizer.variables:
                if "learning_rate" not in variable.path:
                    variable.assign(np.zeros_like(variable.value))
            options = {"batch_size": BATCH_SIZE, "epochs": EPOCHS, "shuffle": False}
            history = model.fit(INPUTS, LABELS, verbose=0, **options, **weights).history
            return history, get_weights(model)

    return fit


@pytest.mark.parametrize("kind", ["sample_weight", "class_weight"])
@pytest.mark.parametrize("from_host", [False, True])
def test_weights_and_penalties_of_keras(keras_fit, kind, from_host):
    by_class = {1: 3.0}  # a class without a weight weighs 1
    classes = jaxrnn.class_weights(LABELS, by_class)
    weight = WEIGHT if kind == "sample_weight" else classes
    dataset = data.Dataset(INPUTS, LABELS, sample_weight=weight)
    state, history = jaxrnn.fit(
        jaxrnn.init_state(PARAMS, OPTIMIZER),
        (lambda epoch: data.batches(dataset, BATCH_SIZE)) if from_host else dataset,
        loss_fn=keras_loss_fn,
        optimizer=OPTIMIZER,
        key=jax.random.key(0),
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        shuffle=False,
        validation=dataset,
    )
    want, (kernel, bias) = keras_fit(
        **{kind: weight if kind == "sample_weight" else by_class}
    )
    for name, values in want.items():  # sums of 20 float32 terms, in another order
        np.testing.assert_allclose(history[name], values, rtol=2e-6, err_msg=name)
    np.testing.assert_allclose(state.params["kernel"], kernel, rtol=0, atol=1e-6)
    np.testing.assert_allclose(state.params["bias"], bias, rtol=0, atol=1e-6)
    assert set(history) == set(want) | {f"val_{name}" for name in want}
    assert abs(history["accuracy"][0] - history["weighted"][0]) > 0.01

    p = 1 / (1 + np.exp(-(INPUTS @ kernel[:, 0] + bias)))  # all of it, by NumPy
    losses = -np.log(np.where(LABELS == 1, p, 1 - p))
    penalty = 0.1 * (kernel**2).sum() + 0.05 * abs(bias).sum()
    want_loss = (weight * losses).mean() + penalty
    np.testing.assert_allclose(history["val_loss"][-1], want_loss, rtol=1e-5)


@pytest.mark.parametrize(
    "weights",
    ["balanced", [1.0, 2.0], {"pos": 2.0}, {1: None}, {1: -1.0}, {1: float("nan")}],
)
def test_class_weights_are_numbers_by_number(weights, untyped):
    """A name met no label, and all weighed 1; the way out is the balanced weight."""
    labels = np.array([0, 0, 0, 1])
    with pytest.raises(ValueError, match=r"must be {label: weight}, .*balanced weight"):
        untyped(jaxrnn.class_weights)(labels, weights)
    found = {
        label: len(labels) / (2 * (labels == label).sum()).item() for label in (0, 1)
    }
    weighed = jaxrnn.class_weights(labels, found)
    assert weighed[labels == 0].sum() == weighed[labels == 1].sum() == 2
    with pytest.raises(ValueError, match="one whole number per example, got <U"):
        untyped(jaxrnn.class_weights)(np.array(["pos", "neg"]), {1: 2.0})


def test_class_weights_of_labels(untyped):
    found = jaxrnn.class_weights(np.array([2, 0, 1, 2]), {2: 5.0, 0: 0.0})
    assert found.tolist() == [5, 0, 1, 5]
    for labels in (np.array([0.0, 0.5]), np.eye(2)):
        with pytest.raises(ValueError, match="one whole number per example"):
            untyped(jaxrnn.class_weights)(labels, {1: 2.0})
