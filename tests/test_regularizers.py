"""Do regularisers cost what Keras' cost: functions, models, activities?"""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras_oracle import keras_rules, to_weights

import jaxrnn
from jaxrnn.regularizers import activity_penalty, l1, l1_l2, l2, orthogonal, penalty

RNG = np.random.default_rng(0)
MATRIX = RNG.standard_normal((4, 6)).astype(np.float32)
MATRIX[2] = 0  # what has no direction

# Sums of tens of float32 terms, in another order.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}

PAIRS = {
    "l1": (l1(0.3), keras.regularizers.L1(0.3)),
    "l2": (l2(0.3), keras.regularizers.L2(0.3)),
    "l1_l2": (l1_l2(l1=0.2, l2=0.3), keras.regularizers.L1L2(0.2, 0.3)),
    "rows": (orthogonal(0.3), keras.regularizers.OrthogonalRegularizer(0.3)),
    "columns": (
        lambda matrix: orthogonal(0.3)(matrix.T),
        keras.regularizers.OrthogonalRegularizer(0.3, mode="columns"),
    ),
}


def values_and_gradients(functions):
    """Of all functions in one compilation."""
    return jax.jit(lambda x: [jax.value_and_grad(f)(x) for f in functions])(MATRIX)


def test_regularizers_and_their_gradients():
    ours, theirs = zip(*PAIRS.values(), strict=True)
    found = values_and_gradients(ours)
    with keras_rules():
        wanted = values_and_gradients(theirs)
    for name, (value, gradient), (want, want_gradient) in zip(
        PAIRS, found, wanted, strict=True
    ):
        np.testing.assert_allclose(value, want, **FLOAT32, err_msg=name)
        defined = np.isfinite(want_gradient)  # Keras' is NaN at a row of zeros
        assert defined.all() or (name == "rows" and defined[[0, 1, 3]].all())
        np.testing.assert_allclose(
            gradient[defined], want_gradient[defined], **FLOAT32, err_msg=name
        )
        assert value > 0.01
        assert np.isfinite(gradient).all()


PARAMS = {
    "recurrent": {"kernel": jnp.ones((2, 3)), "recurrent_kernel": jnp.ones((3, 3))},
    "head": {"kernel": jnp.ones((3, 1)), "bias": jnp.ones(1)},
}


@pytest.mark.parametrize(
    ("rules", "want"),
    [
        ({}, 0),
        ({"kernel": l2(1.0)}, 9),  # and not recurrent_kernel
        ({"recurrent/kernel": l2(1.0)}, 6),
        ({"kernel": l2(1.0), "head/kernel": l1(2.0), "bias": l1(1.0)}, 16),
    ],
)
def test_penalty_goes_by_the_end_of_the_path(rules, want):
    assert jax.jit(lambda params: penalty(params, rules))(PARAMS) == want


@pytest.mark.parametrize("rate", [-1e-3, np.nan, np.inf])
@pytest.mark.parametrize("make", [l1, l2, orthogonal])
def test_a_rate_that_is_none(make, rate):
    with pytest.raises(ValueError, match=f"at least 0, got {rate}"):
        make(rate)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 2, 2)])
def test_orthogonal_takes_rows(shape):
    with pytest.raises(ValueError, match="rows of a matrix"):
        orthogonal(0.1)(jnp.ones(shape))


def test_penalty_of_a_model_is_the_sum_of_the_losses_of_keras():
    """Training with it is compared in test_fitting_options.py."""
    shapes = {
        "recurrent": {"kernel": (4, 5), "recurrent_kernel": (5, 5), "bias": (5,)},
        "head": {"kernel": (5, 1), "bias": (1,)},
    }
    params = {
        layer: {n: RNG.standard_normal(s).astype(np.float32) for n, s in names.items()}
        for layer, names in shapes.items()
    }
    rules = {
        "recurrent/kernel": l2(0.02),
        "recurrent_kernel": l1(0.01),
        "recurrent/bias": l1_l2(0.01, 0.02),
        "head/kernel": l2(0.1),
    }
    with keras_rules():
        want = keras.Sequential(
            [
                keras.Input((3, 4)),
                keras.layers.SimpleRNN(
                    5,
                    kernel_regularizer=keras.regularizers.L2(0.02),
                    recurrent_regularizer=keras.regularizers.L1(0.01),
                    bias_regularizer=keras.regularizers.L1L2(0.01, 0.02),
                ),
                keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.1)),
            ]
        )
        want.set_weights(to_weights(params))
        losses = [float(loss) for loss in want.losses]
    assert len(losses) == 4
    assert min(losses) > 1e-3
    np.testing.assert_allclose(penalty(params, rules), sum(losses), rtol=1e-6)


# What Keras adds to the loss of a batch, which it keeps in `losses`.
INPUTS = jnp.asarray(RNG.standard_normal((5, 3, 2)), jnp.float32)


def keras_activity(layer_class):
    with keras_rules():
        layer = layer_class(
            4, return_sequences=True, activity_regularizer=keras.regularizers.L2(0.5)
        )
        outputs = layer(INPUTS)
        return outputs, layer.losses


def test_activity_penalty_is_that_of_keras():
    """Of a batch; and rows that fill one up do not count."""
    outputs, (want,) = keras_activity(keras.layers.LSTM)
    each = activity_penalty(outputs, l2(0.5))
    np.testing.assert_allclose(jaxrnn.Mean.of(each).value, want, rtol=1e-6)
    filled = activity_penalty(jnp.concatenate([outputs, outputs[:2]]), l2(0.5))
    weight = jnp.array([1.0] * 5 + [0.0] * 2)
    np.testing.assert_allclose(jaxrnn.Mean.of(filled, weight).value, want, rtol=1e-6)


def test_keras_simple_rnn_drops_its_activity_regularizer():
    """Keras' SimpleRNN (and its cell) takes `activity_regularizer` and ignores it.

    The argument is not handed on to the base class, as LSTM and GRU do, so a Keras
    model with it trains as without it; ours has a penalty wherever one is asked for.
    """
    outputs, losses = keras_activity(keras.layers.SimpleRNN)
    assert losses == []
    assert activity_penalty(outputs, l2(0.5)).sum() > 0.1


def test_regularizers_of_float64(x64):
    for name in ("l1", "l2", "rows"):
        assert PAIRS[name][0](jnp.asarray(MATRIX, jnp.float64)).dtype == jnp.float64
    double = jax.tree.map(lambda x: x.astype(jnp.float64), PARAMS)
    found = penalty(double, {"kernel": l2(0.1)})
    np.testing.assert_allclose(found, 0.9, rtol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    """Its squares are beyond float16."""
    half = jnp.asarray(MATRIX, dtype) * 300
    for name, (regularizer, _) in PAIRS.items():
        found = regularizer(half)
        assert found == regularizer(half.astype(jnp.float32)), name
        assert np.isfinite(found)
