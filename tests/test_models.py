"""Do classifiers of several classes or labels, and taggers, train as Keras' do?"""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras_oracle import get_weights, keras_rules, to_weights

import jaxrnn
from jaxrnn import data
from jaxrnn.interchange import load_keras_model, save_keras_model

ROWS, TIME, VOCAB, EMBED, UNITS, CLASSES, EPOCHS = 10, 6, 9, 4, 5, 3, 3
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(1, TIME + 1, ROWS)
VALID = np.arange(TIME) < LENGTHS[:, None]
IDS = np.where(VALID, RNG.integers(1, VOCAB, (ROWS, TIME)), 0).astype(np.int32)
SEQUENCES = {"return_sequences": True}


def keras_layers(recurrent, *rest):
    return [
        keras.layers.Embedding(VOCAB, EMBED, mask_zero=True),
        recurrent,
        *rest,
        keras.layers.Dense(CLASSES),
    ]


# A model, its loss, targets; Keras' layers, loss, metric.
CASES = {
    "classes": (
        jaxrnn.TextClassifier(
            VOCAB,
            EMBED,
            jaxrnn.LSTM(UNITS),
            hidden_features=UNITS,
            hidden_activation=jax.nn.relu,
            mask_zero=True,
            num_classes=CLASSES,
        ),
        jaxrnn.classification_loss,
        RNG.integers(0, CLASSES, ROWS).astype(np.int32),
        lambda: keras_layers(
            keras.layers.LSTM(UNITS), keras.layers.Dense(UNITS, activation="relu")
        ),
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        lambda: keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
    ),
    "labels": (
        jaxrnn.TextClassifier(
            VOCAB, EMBED, jaxrnn.GRU(UNITS), mask_zero=True, num_classes=CLASSES
        ),
        jaxrnn.multi_label_loss,
        RNG.integers(0, 2, (ROWS, CLASSES)).astype(np.float32),
        lambda: keras_layers(keras.layers.GRU(UNITS)),
        lambda: keras.losses.BinaryCrossentropy(from_logits=True),
        lambda: keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0),
    ),
    "tags": (
        jaxrnn.TextTagger(
            VOCAB,
            EMBED,
            jaxrnn.Bidirectional(jaxrnn.SimpleRNN(UNITS, **SEQUENCES)),
            num_classes=CLASSES,
            mask_zero=True,
        ),
        jaxrnn.classification_loss,
        RNG.integers(0, CLASSES, (ROWS, TIME)).astype(np.int32),
        lambda: keras_layers(
            keras.layers.Bidirectional(keras.layers.SimpleRNN(UNITS, **SEQUENCES))
        ),
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        lambda: keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
    ),
}


def mask_of(case, inputs):
    """Which steps of a batch count; those of a text as a whole have one target."""
    return inputs != 0 if case == "tags" else None


def trained_by_keras(case, params):
    _, _, targets, layers, loss, metric = CASES[case]
    # Keras' metrics forget the mask: of 60 steps they count all, and weights help.
    weight = VALID.astype(np.float32) if case == "tags" else np.ones(ROWS)
    with keras_rules():
        model = keras.Sequential([keras.Input((TIME,), dtype="int32"), *layers()])
        model.compile(keras.optimizers.Adam(0.05), loss(), weighted_metrics=[metric()])
        model.set_weights(to_keras(params))
        history = model.fit(
            IDS,
            targets,
            sample_weight=weight,
            epochs=EPOCHS,
            batch_size=ROWS,  # else Keras weighs each batch alike, however long
            shuffle=False,
            verbose=0,
        ).history
        return history, get_weights(model)


def to_keras(params):
    recurrent = params["recurrent"]
    if set(recurrent) == {"forward", "reverse"}:
        parts = [params["embed"], recurrent["forward"], recurrent["reverse"]]
        return [w for p in [*parts, params["head"]] for w in to_weights(p)]
    return to_weights(params)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_trains_as_keras(case):
    model, loss, targets, *_ = CASES[case]
    optimizer = jaxrnn.keras_adam(0.05)
    params = model.init(jax.random.key(1), IDS)["params"]
    params = jax.tree.map(lambda leaf: 3 * leaf, params)  # gradients worth comparing
    want, want_weights = trained_by_keras(case, params)

    def loss_fn(params, batch):
        logits = model.apply({"params": params}, batch.inputs)
        mask = mask_of(case, batch.inputs)
        return loss(logits, batch.targets, batch.sample_weight, mask)

    def train(batch_size, dataset):
        return jaxrnn.fit(
            jaxrnn.init_state(jax.tree.map(jnp.copy, params), optimizer),
            dataset,
            loss_fn=loss_fn,
            optimizer=optimizer,
            key=jax.random.key(0),
            epochs=EPOCHS,
            batch_size=batch_size,
            shuffle=False,
        )

    dataset = data.Dataset(IDS, targets)
    state, history = train(ROWS, dataset)
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    for name in ("loss", "accuracy"):  # float32, three updates of 0.05
        np.testing.assert_allclose(history[name], want[name], rtol=1e-5, err_msg=name)
    for found, array in zip(to_keras(state.params), want_weights, strict=True):
        np.testing.assert_allclose(found, array, rtol=0, atol=1e-4)
    # Neither filler rows nor what stands at masked steps counts.
    _, filled = train(ROWS + 6, dataset)
    if case == "tags":
        other = np.where(VALID, targets, -7).astype(np.int32)
        _, filled = train(ROWS + 6, data.Dataset(IDS, other))
    np.testing.assert_allclose(filled["loss"], history["loss"], rtol=1e-5)
    np.testing.assert_allclose(filled["accuracy"], history["accuracy"], rtol=1e-6)


@pytest.mark.parametrize("head", [jax.nn.softmax, jax.nn.sigmoid, jaxrnn.linear])
def test_keras_opens_it(head, tmp_path):
    """Predictions of each model there are those here, with the function said."""
    path = tmp_path / "m.keras"
    for model, *_ in CASES.values():
        params = model.init(jax.random.key(2), IDS)["params"]
        with pytest.raises(ValueError, match=r"of 3 classes must.*give jax.nn.softmax"):
            save_keras_model(path, model, params)
        save_keras_model(path, model, params, head_activation=head)
        with keras_rules():
            want = keras.saving.load_model(path).predict(IDS, verbose=0)
        found = head(model.apply({"params": params}, IDS))
        valid = VALID if found.ndim == 3 else np.ones(ROWS, bool)
        np.testing.assert_allclose(found[valid], want[valid], rtol=0, atol=1e-6)
        again, same = load_keras_model(path)  # and so do we, with no word of ours
        np.testing.assert_allclose(
            again.apply({"params": same}, IDS)[valid], want[valid], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (jaxrnn.TextClassifier(VOCAB, EMBED, jaxrnn.SimpleRNN(UNITS)), IDS),
        (jaxrnn.FlattenClassifier(VOCAB, EMBED, UNITS), IDS),
        (
            jaxrnn.Forecaster(
                jaxrnn.Stacked(jaxrnn.Bidirectional(jaxrnn.GRU(UNITS)), num_layers=2),
                hidden_features=3,
            ),
            RNG.standard_normal((ROWS, TIME, 2)).astype(np.float32),
        ),
    ],
    ids=["text", "flat", "stacked"],
)
def test_what_was_saved_opens_without_the_model(model, inputs, tmp_path):
    params = model.init(jax.random.key(3), inputs)["params"]
    save_keras_model(tmp_path / "m.keras", model, params)
    loaded, same = load_keras_model(tmp_path / "m.keras")
    want = model.apply({"params": params}, inputs)
    is_text = not isinstance(model, jaxrnn.Forecaster)
    found = loaded.apply({"params": same}, inputs)[:, 0]
    np.testing.assert_allclose(
        found, jax.nn.sigmoid(want) if is_text else want, rtol=0, atol=1e-6
    )


def test_flat_classifier_of_several_classes():
    model = jaxrnn.FlattenClassifier(VOCAB, EMBED, UNITS, num_classes=CLASSES)
    logits, variables = model.init_with_output(jax.random.key(0), IDS)
    params = jax.tree.map(np.asarray, variables["params"])
    flat = params["embed"]["embedding"][IDS].reshape(ROWS, -1)
    hidden = flat @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    hidden = 1 / (1 + np.exp(-hidden))
    want = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_of_no_class_is_nan_where_it_counts(label):
    logits = jnp.zeros((2, CLASSES))
    loss, means = jaxrnn.classification_loss(logits, jnp.array([0, label]))
    assert np.isnan(loss)
    assert means["accuracy"].value == 0.5
    left_out = jnp.array([1.0, 0.0])
    loss, _ = jaxrnn.classification_loss(logits, jnp.array([0, label]), left_out)
    np.testing.assert_allclose(loss, np.log(CLASSES), rtol=1e-6)


def test_bad_models_and_targets_are_explained(untyped):
    def model(recurrent, model_class=jaxrnn.TextTagger, num_classes=CLASSES):
        made = model_class(VOCAB, EMBED, recurrent, num_classes=num_classes)
        return untyped(made.init)(jax.random.key(0), IDS)

    with pytest.raises(ValueError, match=r"num_classes must be at least 2, got 1"):
        model(jaxrnn.GRU(2), num_classes=1)
    with pytest.raises(ValueError, match=r"outputs, .*say return_sequences=True"):
        model(jaxrnn.GRU(2))
    with pytest.raises(ValueError, match=r"last output, .*leave out return_sequences"):
        model(jaxrnn.GRU(2, **SEQUENCES), jaxrnn.TextClassifier)

    loss = untyped(jaxrnn.classification_loss)
    logits = jnp.zeros((2, 4, CLASSES))
    labels = jnp.zeros((2, 4), int)
    with pytest.raises(TypeError, match=r"labels must be integers.*multi_label_loss"):
        loss(logits, jax.nn.one_hot(labels, CLASSES))
    with pytest.raises(ValueError, match=r"labels must have the shape of logits"):
        loss(logits, labels[..., None])
    with pytest.raises(ValueError, match=r"sample_weight must be one number per row"):
        loss(logits, labels, jnp.ones((2, 1)), labels == 0)
    with pytest.raises(TypeError, match=r"mask must be of bools.*got int32"):
        loss(logits, labels, None, labels)
    for other in (jaxrnn.multi_label_loss, jaxrnn.squared_error_loss):
        with pytest.raises(ValueError, match="must have the same shape"):
            untyped(other)(logits, logits[..., 0])


def test_squared_error_is_keras():
    found = RNG.standard_normal((5, 4, 2)).astype(np.float32)
    want = RNG.standard_normal((5, 4, 2)).astype(np.float32)
    weight = np.array([1, 2, 0, 0.5, 1], np.float32)
    loss, _ = jaxrnn.squared_error_loss(*map(jnp.asarray, (found, want, weight)))
    with keras_rules():
        each = keras.losses.MeanSquaredError(reduction=None)(want, found)
    each = np.asarray(each) * weight[:, None]
    np.testing.assert_allclose(loss, each.sum() / (4 * weight.sum()), rtol=1e-6)
    mask = jnp.asarray(RNG.random((5, 4)) < 0.5)
    loss, _ = jaxrnn.squared_error_loss(
        *map(jnp.asarray, (found, want, weight)), mask=mask
    )
    kept = each[np.asarray(mask)].sum() / (np.asarray(mask) * weight[:, None]).sum()
    np.testing.assert_allclose(loss, kept, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: jaxrnn.Forecaster(jaxrnn.gru, 3),
            r"Forecaster takes a layer.* got the cell gru",
        ),
        (
            lambda: jaxrnn.TextClassifier(9, 2, jaxrnn.LSTM),
            r"TextClassifier takes a layer.* got <class",
        ),
    ],
)
def test_a_model_takes_a_layer(make, words, untyped):
    with pytest.raises(TypeError, match=words):
        untyped(make)()
