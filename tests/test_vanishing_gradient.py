"""Are the norms of the vanishing gradient those of the recurrence?"""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vanishing_gradient
from PIL import Image  # Matplotlib brings it

import jaxrnn
from jaxrnn import diagnostics, files


def test_norms_are_medians_of_the_largest_singular_value():
    cell, _ = helpers.CELLS["lstm"]
    params, inputs, _ = helpers.random_problem(cell, jnp.float32)
    sequences = jnp.moveaxis(inputs, 0, 1)[:3]
    by_carry, by_hidden = vanishing_gradient.median_norms(params, sequences, cell)
    jacobians = jax.vmap(
        lambda inputs: diagnostics.output_jacobians(cell, params, inputs)
    )(sequences)
    for found, js in ((by_carry, jacobians), (by_hidden, jacobians[..., :4])):
        largest = np.linalg.svd(js, compute_uv=False)[..., 0]
        np.testing.assert_allclose(found, np.median(largest, axis=0), rtol=1e-5)


@pytest.mark.slow
def test_norms_are_of_each_model_before_and_after(tmp_path, monkeypatch, capsys):
    layers = {"GRU": jaxrnn.GRU, "LSTM": jaxrnn.LSTM}
    monkeypatch.setattr(vanishing_gradient, "LAYERS", layers)
    vanishing_gradient.main(
        seeds=2, length=4, epochs=1, updates=20, features=3, sequences=2, out=tmp_path
    )
    records = files.read_json_lines(tmp_path / "vanishing_gradient.jsonl")
    assert [(r["model"], r["seed"], r["when"]) for r in records] == [
        (name, seed, when)
        for name in layers
        for seed in (0, 1)
        for when in ("at the start", "trained")
    ]
    assert {len(r["by_carry"]) for r in records} == {5}
    assert len({r["by_carry"][0] for r in records}) == 8  # each model its own
    for record in records:
        alike = np.isclose(record["by_carry"][:4], record["by_hidden"][:4], rtol=1e-4)
        assert alike.all() == (record["model"] == "GRU")  # whose carry is h alone
    assert "| GRU | trained | " in capsys.readouterr().out
    picture = np.asarray(Image.open(tmp_path / "vanishing_gradient.png").convert("L"))
    assert (picture < 128).mean() > 0.005
