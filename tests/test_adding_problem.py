"""Does the adding problem add, and do its models learn and stop by themselves?"""

import adders
import adding_problem
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image  # Matplotlib brings it

import jaxrnn
from jaxrnn import files


@pytest.mark.parametrize("length", [2, 9])
def test_adding_problem_marks_one_number_in_each_half(length):
    inputs, targets, *_ = adders.adding_problem(jax.random.key(0), 4000, length)
    numbers, marks = np.moveaxis(np.asarray(inputs), -1, 0)
    half = length // 2
    assert set(np.unique(marks)) <= {0, 1}
    assert (marks[:, :half].sum(axis=1) == 1).all()
    assert (marks[:, half:].sum(axis=1) == 1).all()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    sums = [row[mark == 1].sum() for row, mark in zip(numbers, marks, strict=True)]
    np.testing.assert_allclose(targets, sums, atol=1e-6)
    # Five standard errors: of a variance with kurtosis 2.4, and of shares of positions.
    error = np.mean((np.asarray(targets) - 1) ** 2)
    assert abs(error - adders.BASELINE_MSE) < 5 * np.sqrt(1.4 / 4000) / 6
    for part in (marks[:, :half], marks[:, half:]):
        assert abs(part.mean(axis=0) - 1 / part.shape[1]).max() < 5 * 0.5 / 4000**0.5


@pytest.mark.parametrize("over", [jaxrnn.one_by_one, jax.vmap])
def test_each_model_stops_by_itself(over):
    """One knows the answer, one never learns, one is NaN: 1, 3 and 1 epochs of 2."""
    calls = []

    def loss_fn(params, batch):
        jax.debug.callback(lambda w: calls.append(w.item()), params["w"])
        sums = (batch.inputs[..., 0] * batch.inputs[..., 1]).sum(axis=1)
        error = (params["w"] * sums - batch.targets) ** 2
        loss = jaxrnn.Mean.of(error, batch.sample_weight)
        return loss.value, {"loss": loss}

    optimizer, reports = optax.set_to_zero(), []
    keys = jax.random.split(jax.random.key(0), 3)
    w = jnp.array([1.0, 0.0, jnp.nan])
    state, losses = adders.train(
        jax.vmap(lambda w: jaxrnn.init_state({"w": w}, optimizer))(w),
        keys,
        adders.Training(None, loss_fn, optimizer),
        length=4,
        epochs=3,
        updates=2,
        batch_size=8,
        over=over,
        on_epoch=lambda epoch, record, state: reports.append(len(record["loss"])),
    )
    jax.effects_barrier()
    np.testing.assert_array_equal(state.step, [2, 6, 2])
    assert reports == [3, 1, 1]
    if over is jaxrnn.one_by_one:  # who has stopped computes nothing
        assert len(calls) == 10
    targets = [
        adders.adding_problem(jax.random.fold_in(keys[1], epoch), 16, 4).targets
        for epoch in range(3)
    ]
    np.testing.assert_allclose(losses[1], np.mean(np.square(targets), 1), rtol=1e-6)
    assert losses[0] == [0]
    np.testing.assert_array_equal(losses[2], [np.nan])


@pytest.mark.slow
def test_gru_learns_short_sequences(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(adding_problem, "LAYERS", {"GRU": jaxrnn.GRU})
    monkeypatch.setattr(adding_problem, "LINEAR_LAYERS", {})
    options = {"lengths": (4,), "deer_length": 4, "epochs": 6, "features": 16}
    adding_problem.main(seeds=2, **options, out=tmp_path)
    records = files.read_json_lines(tmp_path / "adding_problem.jsonl")
    assert [r["seed"] for r in records] == [0, 1]
    for record in records:
        assert record["test_mse"] < adders.BASELINE_MSE / 3
        assert record["solved_after"] == 100 * len(record["loss"])
        assert record["loss"][-1] < adders.SOLVED_MSE < min(record["loss"][:-1])
    counts = records[0]["deer"]
    assert [c["updates"] for c in counts[:3]] == [0, 100, 200]
    assert all(1 <= c["iterations"] <= 4 for c in counts)  # no more than steps
    assert all(c["one_by_one"] == 0 for c in counts)
    assert records[1]["deer"] == []
    printed = capsys.readouterr().out
    assert "| GRU | 4 | " in printed
    assert "| always 1 | " in printed
    picture = np.asarray(Image.open(tmp_path / "adding_problem.png").convert("L"))
    assert (picture < 128).mean() > 0.005
