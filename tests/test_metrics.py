"""Do means weigh what they say, add up exactly, and leave out what weighs nothing?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import metrics


def test_means_of_unequal_batches_add_up():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(10).astype(np.float32)
    weight = rng.random(10).astype(np.float32)
    batches = [slice(0, 4), slice(4, 8), slice(8, 10)]
    means = [
        jaxrnn.Mean.of(jnp.asarray(values[b]), jnp.asarray(weight[b])) for b in batches
    ]
    total = means[0].add(means[1]).add(means[2])
    np.testing.assert_allclose(
        total.value, np.average(values, weights=weight), rtol=1e-6
    )


def test_values_keep_one_number_per_model():
    mean = jaxrnn.Mean(jnp.array([1.0, 4.0]), jnp.array([2.0, 2.0]))
    np.testing.assert_array_equal(metrics.values({"loss": mean})["loss"], [0.5, 2.0])


@pytest.mark.parametrize(
    ("shape", "axes"), [((4,), 1), ((4, 1), 1), ((4, 3), 1), ((4, 3), 2), ((4, 3), 0)]
)
def test_a_weight_belongs_to_the_leading_axes(shape, axes):
    """The oracle: NumPy's average, of the weight repeated along the other axes."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(shape).astype(np.float32)
    weight = rng.random(shape[:axes]).astype(np.float32)
    each = np.asarray(weight).reshape(*shape[:axes], *[1] * (len(shape) - axes))
    want = np.average(values, weights=np.broadcast_to(each, shape))
    mean = jaxrnn.Mean.of(jnp.asarray(values), jnp.asarray(weight))
    np.testing.assert_allclose(mean.value, want, rtol=1e-5)
    np.testing.assert_allclose(mean.weight, np.broadcast_to(each, shape).sum())


def test_lists_are_numbers():
    mean = jaxrnn.Mean.of(jnp.arange(16.0).reshape(4, 4), [1, 0, 0, 0])
    assert mean.value == 1.5
    assert jaxrnn.Mean.of([1, 2], [0.25, 0.75]).value == 1.75
    assert jaxrnn.Mean.of([[1, 2], [3, 6]]).value == 3


@pytest.mark.parametrize(
    ("values", "weight"),
    [((4,), (4, 1)), ((4, 4), (4, 1)), ((4, 3), (3,)), ((4,), (3,)), ((4,), (1,))],
)
def test_a_weight_that_does_not_fit_is_refused(values, weight):
    with pytest.raises(ValueError, match=r"leading axes, got weight .* for values"):
        jaxrnn.Mean.of(jnp.ones(values), jnp.ones(weight))


def test_a_weight_of_zero_leaves_out_whatever_is_there():
    """Value and gradient are those of the other rows alone."""
    values = jnp.array([1.0, jnp.nan, 3.0, jnp.inf, -jnp.inf])
    weight = jnp.array([1.0, 0.0, 3.0, 0.0, 0.0])
    value, gradient = jax.value_and_grad(
        lambda values: jaxrnn.Mean.of(values, weight).value
    )(values)
    assert value == 2.5
    np.testing.assert_array_equal(gradient, [0.25, 0, 0.75, 0, 0])


def test_a_batch_without_weight_is_nothing():
    """It adds nothing, its gradient is zero, and its mean is not a number."""
    nothing = jaxrnn.Mean.of(jnp.array([jnp.nan, 1.0]), jnp.zeros(2))
    assert nothing == (0, 0)
    assert jaxrnn.Mean.of(jnp.array([2.0, 4.0])).add(nothing).value == 3
    value, gradient = jax.value_and_grad(
        lambda values: jaxrnn.Mean.of(values, jnp.zeros(2)).value
    )(jnp.array([jnp.nan, 1.0]))
    assert np.isnan(value)
    np.testing.assert_array_equal(gradient, [0, 0])
    models = jaxrnn.Mean(jnp.array([0.0, 3.0]), jnp.array([0.0, 2.0]))
    np.testing.assert_array_equal(
        metrics.values({"loss": models})["loss"], [np.nan, 1.5]
    )


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.float16, jnp.bfloat16])
def test_sums_are_wide_whatever_the_values(dtype):
    """A thousand rows of 100, of weight 2: neither sum fits into such a dtype."""
    values, weight = jnp.full(1000, 100, dtype), jnp.full(1000, 2, dtype)
    for mean in (jaxrnn.Mean.of(values), jaxrnn.Mean.of(values, weight)):
        assert mean.total.dtype == mean.weight.dtype == jnp.float32
        assert mean.value == np.mean(np.asarray(values, np.float64))
    assert jaxrnn.Mean.of(values).weight == 1000


def test_weight_0_of_a_nan_has_a_gradient_of_its_own():
    values = jnp.array([1.0, jnp.nan, 2.0])
    gradient = jax.grad(lambda w: jaxrnn.Mean.of(values, w).value)(
        jnp.array([1.0, 0.0, 1.0])
    )
    assert np.isfinite(gradient).all()


def test_integers_of_numpy_are_not_cut_to_32_bits():
    values, weight = np.array([2**40, 3, 0]), np.array([1, 1, 2**33])
    np.testing.assert_allclose(jaxrnn.Mean.of(values).value, values.mean(), rtol=1e-6)
    want = np.average(values, weights=weight)
    np.testing.assert_allclose(jaxrnn.Mean.of(values, weight).value, want, rtol=1e-6)
