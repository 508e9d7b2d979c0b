"""Do the diagnostics say of a recurrence what is known of it by other means?"""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import diagnostics

QUIET = jnp.zeros((60, 3))


@pytest.mark.parametrize("name", ["lstm", "ind_rnn"])  # two leaves; a diagonal
def test_step_jacobians_are_finite_differences(name, x64):
    """With a mask and resets; central differences of 1e-6 are good to 1e-9."""
    cell, _ = helpers.CELLS[name]
    params, inputs, carry = helpers.random_problem(cell, jnp.float64)
    rng = np.random.default_rng(0)
    mask, resets = rng.random((2, *inputs.shape[:2])) < np.reshape(
        [0.7, 0.2], (2, 1, 1)
    )
    marks = {"mask": jnp.asarray(mask), "resets": jnp.asarray(resets)}
    found = diagnostics.step_jacobians(
        cell, params, inputs, initial_carry=carry, **marks
    )

    def packed(carry):
        return np.concatenate(jax.tree.leaves(carry), axis=-1)

    _, carries = jaxrnn.rnn_carries(cell, params, inputs, initial_carry=carry, **marks)
    before = np.concatenate([packed(carry)[None], packed(carries)[:-1]])
    n = before.shape[-1]
    assert found.shape == (*before.shape, n)
    split = np.cumsum([leaf.shape[-1] for leaf in jax.tree.leaves(carry)])[:-1]
    structure = jax.tree.structure(carry)

    def one_step(x):
        """The steps as sequences of one step, time and batch as one axis."""

        def flat(x):
            return x.reshape(-1, *x.shape[2:])

        start = jax.tree.unflatten(structure, np.split(flat(x), split, axis=-1))
        last, _ = jaxrnn.rnn_carries(
            cell,
            params,
            flat(inputs)[None],
            initial_carry=start,
            **{key: flat(value)[None] for key, value in marks.items()},
        )
        return packed(last).reshape(x.shape)

    for j in range(n):
        by = 1e-6 * np.eye(n)[j]
        want = (one_step(before + by) - one_step(before - by)) / 2e-6
        np.testing.assert_allclose(found[..., j], want, atol=1e-8)


@pytest.mark.parametrize("name", ["lstm", "lru"])
def test_output_jacobians_are_those_of_the_recurrence(name, x64):
    """Against JAX through `rnn` from steps 0 and 2; sums in another order: 1e-12."""
    cell, _ = helpers.CELLS[name]
    params, inputs, _ = helpers.random_problem(cell, jnp.float64)
    sequence = inputs[:4, 0]
    found = diagnostics.output_jacobians(cell, params, sequence)
    assert len(found) == 5
    for t in (0, 2):
        carry = cell.initial_carry(params, ())
        if t:
            carry, _ = jaxrnn.rnn(cell, params, sequence[:t])

        def last_output(carry, t=t):
            return jaxrnn.rnn(cell, params, sequence[t:], initial_carry=carry)[1][-1]

        want = jnp.concatenate(jax.tree.leaves(jax.jacrev(last_output)(carry)), axis=1)
        np.testing.assert_allclose(found[t], want, rtol=1e-12, atol=1e-12)
    want = np.eye(helpers.FEATURES, found.shape[-1])  # dh_T / dh_T, and 0 by c_T
    np.testing.assert_allclose(found[4], want)
    largest = np.linalg.svd(found, compute_uv=False)[..., 0]
    norms = diagnostics.gradient_norms(cell, params, sequence)
    np.testing.assert_allclose(norms, largest, rtol=1e-12)


def test_padding_changes_no_norm():
    """Each row of a batch is a sequence by itself, were its padding NaN."""
    cell, _ = helpers.CELLS["gru"]
    params, inputs, carry = helpers.random_problem(cell, jnp.float32)
    mask = jaxrnn.lengths_to_mask(jnp.array([7, 4, 0, 1, 2]), helpers.TIME)
    padded = jnp.where(mask[..., None], inputs, jnp.nan)
    found = diagnostics.gradient_norms(
        cell, params, padded, mask=mask, initial_carry=carry
    )
    want = diagnostics.gradient_norms(
        cell, params, inputs[:4, 1], initial_carry=carry[1]
    )
    np.testing.assert_allclose(found[:5, 1], want, rtol=1e-5)
    np.testing.assert_allclose(found[:, 2], 1)  # a row without a valid step
    assert np.isfinite(found).all()


def orthogonal(n, seed=0):
    return jnp.linalg.qr(jax.random.normal(jax.random.key(seed), (n, n)))[0]


def test_lyapunov_exponents_of_a_scaled_orthogonal_kernel_are_its_logarithm():
    params = jaxrnn.init_params(jaxrnn.simple_rnn, jax.random.key(0), 3, 8)
    params["recurrent_kernel"] = 0.9 * orthogonal(8)
    found = diagnostics.lyapunov_exponents(
        jaxrnn.simple_rnn, params, QUIET, count=8, skip=3
    )
    np.testing.assert_allclose(found, np.log(0.9), atol=1e-6)


def test_lyapunov_exponents_are_those_of_a_numpy_loop(x64):
    """Growth of a vector and of an area, normed at each step: no QR, and a batch."""
    cell = jaxrnn.lstm
    params = jaxrnn.init_params(cell, jax.random.key(0), 3, 4, jnp.float64)
    params["recurrent_kernel"] *= 0.1
    params["bias"] = params["bias"].at[4:8].set(jnp.array([4.0, 1.0, 0.0, -1.0]))
    inputs = jax.random.normal(jax.random.key(1), (400, 2, 3), jnp.float64)
    found = diagnostics.lyapunov_exponents(cell, params, inputs, count=2, skip=100)
    jacobians = np.asarray(diagnostics.step_jacobians(cell, params, inputs))
    rng = np.random.default_rng(0)
    for row in range(2):
        pair = np.linalg.qr(rng.normal(size=(8, 2)))[0]
        lengths, areas = [], []
        for jacobian in jacobians[:, row]:
            u, v = (jacobian @ pair).T
            lengths.append(np.linalg.norm(u))
            u = u / lengths[-1]
            height = v - (v @ u) * u
            areas.append(lengths[-1] * np.linalg.norm(height))
            pair = np.stack([u, height / np.linalg.norm(height)], axis=1)
        first, both = np.log(lengths[100:]).mean(), np.log(areas[100:]).mean()
        # Both loops start elsewhere: after 100 steps they differ by e^(-100 * gap).
        np.testing.assert_allclose(found[row], [first, both - first], atol=1e-6)
        assert found[row, 0] > found[row, 1]


def test_lyapunov_exponents_of_a_diagonal_are_the_largest():
    """Its own axes never mix; the largest of five stands last."""
    cell = jaxrnn.ind_rnn_cell(activation=jaxrnn.linear)
    factors = jnp.array([0.3, 0.2, 0.1, 0.5, 0.95])
    params = jaxrnn.init_params(cell, jax.random.key(0), 3, 5)
    (name,) = set(params) - {"kernel", "bias"}
    params[name] = factors
    found = diagnostics.lyapunov_exponents(cell, params, QUIET, count=2, skip=30)
    np.testing.assert_allclose(found, np.log([0.95, 0.5]), atol=1e-5)


def test_chaos_has_a_positive_exponent():
    params = jaxrnn.init_params(jaxrnn.simple_rnn, jax.random.key(0), 4, 32)
    inputs = jax.random.normal(jax.random.key(1), (500, 4))
    exponents = [
        diagnostics.lyapunov_exponents(
            jaxrnn.simple_rnn,
            params | {"recurrent_kernel": gain * params["recurrent_kernel"]},
            inputs,
        ).item()
        for gain in (1, 3)
    ]
    assert exponents[0] < -0.1
    assert exponents[1] > 0.1


def test_bfloat16_is_measured_in_float32():
    params = jaxrnn.init_params(jaxrnn.gru, jax.random.key(0), 3, 4)
    params = {name: value.astype(jnp.bfloat16) for name, value in params.items()}
    inputs = jnp.ones((5, 2, 3), jnp.bfloat16)
    for function in (
        diagnostics.step_jacobians,
        diagnostics.gradient_norms,
        diagnostics.lyapunov_exponents,
    ):
        found = function(jaxrnn.gru, params, inputs)
        assert found.dtype == jnp.float32
        assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ["gru", "lstm", "ind_rnn"])
def test_fixed_points_stand_still(name, x64):
    """Steps from there lead nowhere, and shrink what NumPy's eigenvalues shrink."""
    cell, _ = helpers.CELLS[name]
    params, inputs, starts = helpers.random_problem(cell, jnp.float64)
    points = diagnostics.fixed_points(
        cell, params, inputs[0, 0], starts, tolerance=1e-12
    )
    assert points.found.all()
    assert jax.tree.structure(points.carry) == jax.tree.structure(starts)
    same = jnp.broadcast_to(inputs[0, 0], (9, *inputs.shape[1:]))
    last, _ = jaxrnn.rnn_carries(cell, params, same, initial_carry=points.carry)
    for found, want in zip(*map(jax.tree.leaves, (last, points.carry)), strict=True):
        np.testing.assert_allclose(found, want, atol=1e-8)
    (jacobians,) = diagnostics.step_jacobians(
        cell, params, same[:1], initial_carry=points.carry
    )
    want = np.sort(np.abs(np.linalg.eigvals(jacobians)), axis=-1)[:, ::-1]
    np.testing.assert_allclose(np.abs(points.eigenvalues), want, atol=1e-9)


def test_fixed_points_of_a_linear_cell_are_the_solution(x64):
    """A step h = h U + b has one, h = b (1 - U)^-1, and the eigenvalues of U."""
    cell = jaxrnn.simple_rnn_cell(activation=jaxrnn.linear)
    u, b = 0.5 * orthogonal(4).astype(float), jnp.arange(4.0, dtype=float)
    params = {"kernel": jnp.zeros((1, 4)), "recurrent_kernel": u, "bias": b}
    starts = 10 * jax.random.normal(jax.random.key(2), (3, 4), float)
    points = diagnostics.fixed_points(cell, params, jnp.zeros(1), starts)
    want = np.linalg.solve((np.eye(4) - u).T, b)
    np.testing.assert_allclose(points.carry, np.tile(want, (3, 1)), atol=1e-9)
    np.testing.assert_allclose(np.abs(points.eigenvalues), 0.5, atol=1e-9)


def test_where_nothing_stands_still_nothing_is_found():
    """A step h' = h + 1 has no fixed point; h' = h has only such, the eigenvalues 1."""
    cell = jaxrnn.simple_rnn_cell(activation=jaxrnn.linear)
    params = {"kernel": jnp.eye(1, 2), "recurrent_kernel": jnp.eye(2)}
    params["bias"] = jnp.zeros(2)
    starts = jnp.array([[3.0, 4.0]])
    drifting, still = (
        diagnostics.fixed_points(cell, params, jnp.array([x]), starts)
        for x in (1.0, 0.0)
    )
    assert drifting.found.tolist() == [False]
    assert drifting.speed.tolist() == [1.0]
    assert still.found.tolist() == [True]
    np.testing.assert_array_equal(still.carry, starts)
    np.testing.assert_allclose(still.eigenvalues, [[1, 1]])


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("lyapunov_exponents", {"count": 0}, "count must be 1 to 4, .* got 0"),
        ("lyapunov_exponents", {"count": 5}, "count must be 1 to 4, .* got 5"),
        ("lyapunov_exponents", {"skip": 60}, "skip must leave a step of 60, .* got 60"),
        ("lyapunov_exponents", {"skip": -1}, "skip must leave a step of 60, .* got -1"),
        ("fixed_points", {"tolerance": 0.0}, "tolerance must be .* above 0, got 0"),
        ("fixed_points", {"iterations": -1}, "iterations must be at least 0, got -1"),
    ],
)
def test_options_that_do_not_fit_are_named(function, options, message):
    params = jaxrnn.init_params(jaxrnn.gru, jax.random.key(0), 3, 4)
    arguments = (
        (QUIET[0], jnp.zeros((2, 4))) if function == "fixed_points" else (QUIET,)
    )
    with pytest.raises(ValueError, match=message):
        getattr(diagnostics, function)(jaxrnn.gru, params, *arguments, **options)


def test_arrays_that_do_not_fit_are_named(untyped):
    params = jaxrnn.init_params(jaxrnn.gru, jax.random.key(0), 3, 4)
    for function in (
        diagnostics.step_jacobians,
        diagnostics.output_jacobians,
        diagnostics.gradient_norms,
        diagnostics.lyapunov_exponents,
    ):
        with pytest.raises(ValueError, match="in_features=2"):
            untyped(function)(jaxrnn.gru, params, QUIET[:, :2])
    fixed_points = untyped(diagnostics.fixed_points)
    with pytest.raises(ValueError, match="must be one vector"):
        fixed_points(jaxrnn.gru, params, QUIET, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="carry must have the shapes"):
        fixed_points(jaxrnn.gru, params, QUIET[0], jnp.zeros((2, 5)))
