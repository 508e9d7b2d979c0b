"""Do losses refuse what would be compared each with each, and take narrow dtypes?

Their numbers are compared with Keras' in test_keras.py and train/test_keras_fit.py.
"""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras_oracle import keras_rules

import jaxrnn


@pytest.mark.parametrize(
    "function",
    [
        jaxrnn.binary_cross_entropy,
        jaxrnn.binary_accuracy,
        jaxrnn.binary_classification_loss,
    ],
)
@pytest.mark.parametrize("labels", [(3, 1), (1,), ()])
def test_predictions_and_targets_must_have_one_shape(function, labels, untyped):
    message = "must have the same shape, got .* which would be compared each with each"
    with pytest.raises(ValueError, match=message):
        untyped(function)(jnp.full(3, 0.5), jnp.ones(labels))
    with pytest.raises(ValueError, match=message):
        untyped(function)(jnp.full(labels, 0.5), jnp.ones(3))


@pytest.mark.parametrize(
    ("loss", "found", "want", "words"),
    [
        (
            "binary_classification_loss",
            (4, 1),
            (4,),
            r"; probabilities\[..., 0\] drops",
        ),
        ("binary_classification_loss", (4,), (4, 1), r"; labels\[..., 0\] drops"),
        (
            "squared_error_loss",
            (3, 12),
            (3, 12, 2),
            "; let the model return one number",
        ),
        ("multi_label_loss", (3, 1), (3, 5), "one number for each of labels"),
        ("classification_loss", (4, 3), (4, 1), r"; labels\[..., 0\] drops"),
        ("classification_loss", (4, 3), (4, 3), r"; labels.argmax\(-1\) makes"),
        ("classification_loss", (4, 3), (4, 7), r"logits \(\*labels.shape, classes\)"),
    ],
)
def test_the_hint_is_for_the_side_that_has_the_axis(loss, found, want, words, untyped):
    kind = int if loss == "classification_loss" else float
    with pytest.raises(ValueError, match=words) as error:
        untyped(getattr(jaxrnn, loss))(jnp.full(found, 0.5), jnp.ones(want, kind))
    assert ("drops" in str(error.value)) == ("drops" in words)


def test_ways_out_of_an_axis_of_one():
    p, labels = jnp.full((4, 1), 0.5), jnp.ones(4)
    want, _ = jaxrnn.binary_classification_loss(p[..., 0], labels)
    np.testing.assert_allclose(want, np.log(2), rtol=1e-6)
    one_hot = jnp.eye(4, 3)
    loss, _ = jaxrnn.classification_loss(one_hot, one_hot.argmax(-1))
    again, _ = jaxrnn.classification_loss(one_hot, one_hot.argmax(-1)[:, None][..., 0])
    assert loss == again


def test_binary_classification_loss_is_keras_with_weights():
    """Keras divides the loss by the rows; the ratio of the two is sum(w) / rows."""
    p = np.array([0.9, 0.2, 0.6, 0.3], np.float32)
    labels = np.array([1, 0, 0, 1], np.float32)
    weight = np.array([1, 2, 0, 0.5], np.float32)
    loss, means = jaxrnn.binary_classification_loss(
        jnp.asarray(p), jnp.asarray(labels), jnp.asarray(weight)
    )
    with keras_rules():
        column = [x[:, None] for x in (labels, p)]  # Keras takes means over rows
        per_row = keras.losses.BinaryCrossentropy()
        want = float(per_row(*column, sample_weight=weight)) * 4 / weight.sum()
        accuracy = keras.metrics.BinaryAccuracy()
        accuracy.update_state(*column, sample_weight=weight)
        want_accuracy = float(accuracy.result())
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(means["loss"].value, want, rtol=1e-6)
    np.testing.assert_allclose(means["accuracy"].value, want_accuracy, rtol=1e-6)
    assert want_accuracy == pytest.approx(3 / 3.5)


def test_a_logit_is_no_probability():
    """Keras clips it, and learns slowly or not at all."""
    p = jnp.array([-0.5, 0.0, 1.0, 1.5])
    found = jaxrnn.binary_cross_entropy(p, jnp.zeros(4))
    assert np.isnan(found).tolist() == [True, False, False, True]


@pytest.mark.parametrize("label", [-1.0, 255.0])
def test_a_label_is_no_other_number(label):
    """Keras takes -1 for a no, and a 255 of bytes for 255 times yes."""
    labels = jnp.array([label, 1.0])
    for loss in (jaxrnn.binary_classification_loss, jaxrnn.multi_label_loss):
        assert np.isnan(loss(jnp.full(2, 0.5), labels)[0])
        kept = loss(jnp.full(2, 0.5), labels, jnp.array([0.0, 1.0]))[0]
        np.testing.assert_allclose(kept, loss(jnp.full(1, 0.5), labels[1:])[0])


def test_masks_and_weights_may_be_lists(untyped):
    losses = jnp.ones((2, 2)), jnp.zeros((2, 2))
    lists = [1.0, 0.5], [[True, False], [True, True]]
    want = jaxrnn.squared_error_loss(*losses, *map(jnp.array, lists))[1]["loss"]
    found = untyped(jaxrnn.squared_error_loss)(*losses, *lists)[1]["loss"]
    assert (found.total, found.weight) == (want.total, want.weight) == (2, 2)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_nan_predicts_nothing(label):
    p = jnp.array([jnp.nan, 0.2, 0.7])
    labels = jnp.full(3, label)
    assert jaxrnn.losses.binary_accuracy(p, labels)[0] == 0
    assert jaxrnn.losses.binary_accuracy(p, labels).sum() == 1


@pytest.mark.parametrize(
    ("dtype", "classes"),
    [(np.uint8, 256), (np.uint8, 300), (np.int8, 128), (np.int16, 300), (np.uint32, 9)],
)
def test_labels_of_any_integers_are_those_of_int32(dtype, classes, untyped):
    """Every label that the dtype holds: a model of bytes has 256 classes."""
    labels = np.arange(min(classes, np.iinfo(dtype).max + 1))
    logits = jax.random.normal(jax.random.key(0), (len(labels), classes))
    logits = logits.at[-1, -1].set(9.0)  # one is right where its class is the last
    want, means = jaxrnn.classification_loss(logits, jnp.asarray(labels, jnp.int32))
    assert np.isfinite(want)
    loss_fn = untyped(jaxrnn.classification_loss)  # of NumPy too
    for narrow in (labels.astype(dtype), jnp.asarray(labels, dtype)):
        assert loss_fn(logits, narrow) == (want, means)
        assert np.isnan(loss_fn(logits[:, :5], narrow)[0])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    """The losses of the very same predictions, the sure and the far ones too."""
    p = jax.nn.sigmoid(jnp.array([7.5, -20.0, 0.3, 20.0], dtype))
    far = jnp.array([300.0, -300.0, 0.5, 60000.0], dtype)
    labels = jnp.array([1.0, 0.0, 1.0, 1.0], dtype)
    cases = [
        (jaxrnn.binary_classification_loss, p, labels),
        (jaxrnn.multi_label_loss, far[:, None], labels[:, None]),
        (jaxrnn.squared_error_loss, far, labels),
        (
            jaxrnn.classification_loss,
            jnp.stack([-far, far], 1),
            jnp.array([1, 0, 1, 0]),
        ),
    ]
    for loss_fn, predictions, targets in cases:
        with_gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, _), gradient = with_gradient(predictions, targets)
        wide = [x.astype(jnp.float32) for x in (predictions, targets)]
        if loss_fn is jaxrnn.classification_loss:
            wide[1] = targets
        assert loss == loss_fn(*wide)[0]
        assert np.isfinite([loss, *gradient.ravel()[:3]]).all()


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
def test_a_label_that_does_not_count_changes_nothing(kind):
    """-1 in a row of weight 0, as some mark what nobody has labelled."""

    def loss(logits, labels, weight):
        if kind == "logits":
            logits, labels = logits[:, None], labels[:, None]
            return jaxrnn.multi_label_loss(logits, labels, weight)[0]
        p = jax.nn.sigmoid(logits)
        return jaxrnn.binary_classification_loss(p, labels, weight)[0]

    logits, labels = jnp.array([0.3, 0.2, -0.1]), jnp.array([1.0, -1.0, 0.0])
    found = jax.value_and_grad(loss)(logits, labels, jnp.array([1.0, 0.0, 1.0]))
    kept = jnp.array([0, 2])
    want = jax.value_and_grad(loss)(logits[kept], labels[kept], jnp.ones(2))
    np.testing.assert_allclose(found[0], want[0], rtol=1e-6)
    np.testing.assert_allclose(found[1][kept], want[1], rtol=1e-6)
    assert found[1][1] == 0
    assert jnp.isnan(loss(logits, labels, jnp.ones(3)))
