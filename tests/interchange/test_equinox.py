"""Do the weights of Equinox' cells compute the same here, and ours there?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.interchange import from_equinox, to_equinox

IN_FEATURES, FEATURES = 4, 4  # equal: a matrix that is not transposed fits too
INPUTS = jax.random.normal(jax.random.key(0), (5, IN_FEATURES))
FLOAT32 = {"rtol": 0, "atol": 1e-6}  # a few roundings of numbers below one


def draw_ours(name, **options):
    rng = np.random.default_rng(0)
    cell = getattr(jaxrnn, f"{name}_cell")(**options)
    specs = cell.param_specs(IN_FEATURES, FEATURES)
    return cell, {
        n: rng.uniform(-0.5, 0.5, s.shape).astype(np.float32) for n, s in specs.items()
    }


def make_cell(equinox, name, use_bias):
    cell_class = {"gru": equinox.nn.GRUCell, "lstm": equinox.nn.LSTMCell}[name]
    return cell_class(IN_FEATURES, FEATURES, use_bias, key=jax.random.key(1))


def run_equinox(cell, name):
    """All outputs from a state of zeros."""
    state = jnp.zeros(FEATURES)
    state, outputs = (state, state) if name == "lstm" else state, []
    for x in INPUTS:
        state = cell(x, state)
        outputs.append(state[0] if name == "lstm" else state)
    return jnp.stack(outputs)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_both_ways(name, use_bias):
    equinox = pytest.importorskip("equinox")
    theirs = make_cell(equinox, name, use_bias)
    cell, ours = draw_ours(name, use_bias=use_bias)
    loaded = from_equinox(vars(theirs))
    _, found = jaxrnn.rnn(cell, loaded, INPUTS)
    np.testing.assert_allclose(found, run_equinox(theirs, name), **FLOAT32)
    for field, value in to_equinox(loaded).items():
        if value is not None:
            np.testing.assert_array_equal(value, getattr(theirs, field))
        else:
            assert getattr(theirs, field) is None

    fields = to_equinox(ours)  # as the docstring of to_equinox does it
    names = [name for name, value in fields.items() if value is not None]
    theirs = equinox.tree_at(
        lambda cell: [getattr(cell, name) for name in names],
        theirs,
        [jnp.asarray(fields[name]) for name in names],
    )
    _, want = jaxrnn.rnn(cell, ours, INPUTS)
    np.testing.assert_allclose(run_equinox(theirs, name), want, **FLOAT32)


def test_errors_are_explained():
    for name, options in {
        "simple_rnn": {},
        "gru": {"reset_after": False},
        "lstm": {"projection_features": 2},
    }.items():
        with pytest.raises(ValueError, match="Equinox has a GRU that resets after"):
            to_equinox(draw_ours(name, **options)[1])
    with pytest.raises(ValueError, match=r"found \['weight'\]; take vars\(cell\)"):
        from_equinox({"weight": np.ones((3, 3))})
    with pytest.raises(ValueError, match="with 1, 3 or 4 gates, found"):
        from_equinox(
            {"weight_ih": np.ones((6, 2)), "weight_hh": np.ones((6, 3)), "bias": None}
        )
