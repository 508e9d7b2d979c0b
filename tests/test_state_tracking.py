"""Do the tasks of tracking and copying ask what they say, and do their models learn?"""

import functools
import itertools

import jax
import labelers
import numpy as np
import pytest
import selective_copying
import state_tracking
from PIL import Image  # Matplotlib brings it

import jaxrnn
from jaxrnn import files


def assert_picture(path):
    picture = np.asarray(Image.open(path).convert("L"))
    assert (picture < 128).mean() > 0.005


@pytest.mark.parametrize("name", state_tracking.TABLES)
def test_labels_are_running_products_of_each_episode(name):
    """Sums by NumPy; permutations as matrices, which the table has never seen."""
    table = state_tracking.TABLES[name]
    inputs, resets, labels, counts = state_tracking.draw(
        jax.random.key(0), 5, 6, table=table, time=20
    )
    elements = np.asarray(inputs).argmax(-1)
    assert set(np.unique(elements)) == set(range(len(table)))
    assert counts.all()
    for row, found in zip(elements, np.asarray(labels), strict=True):
        for start in range(0, 20, 5):
            episode = row[start : start + 5]
            if name == "S3":
                matrices = [
                    np.eye(3, dtype=int)[list(p)]
                    for p in itertools.permutations(range(3))
                ]
                products = itertools.accumulate(
                    (matrices[e] for e in episode), lambda done, new: done @ new
                )
                want = [
                    next(i for i, m in enumerate(matrices) if (m == product).all())
                    for product in products
                ]
            else:
                want = np.cumsum(episode) % len(table)
            np.testing.assert_array_equal(found[start : start + 5], want)
    np.testing.assert_array_equal(np.flatnonzero(resets[0]), [0, 5, 10, 15])


def test_signed_cell_is_linear_with_factors_of_both_signs():
    """All steps at once are the steps one by one; parity is then a = 1 - 2 x, b = x."""
    params = jaxrnn.init_params(state_tracking.signed, jax.random.key(0), 1, 1)
    params["kernel"] = np.float32([[-20, 1]])
    params["bias"] = np.float32([10, 0])  # tanh: 1 at x = 0, -1 at x = 1
    bits = np.float32(np.random.default_rng(0).integers(0, 2, (50, 1)))
    for solver in (jaxrnn.Scan(), jaxrnn.ParallelScan()):
        _, outputs = jaxrnn.rnn(state_tracking.signed, params, bits, solver=solver)
        np.testing.assert_allclose(outputs, np.cumsum(bits, axis=0) % 2, atol=1e-5)


def test_copying_asks_for_the_tokens_in_their_order():
    inputs, resets, labels, counts = selective_copying.draw(
        jax.random.key(0), 0, 50, length=9, tokens=3, kinds=4
    )
    assert resets is None
    shown, asked = np.split(np.asarray(inputs).argmax(-1), [9], axis=1)
    assert (asked == 5).all()
    np.testing.assert_array_equal(counts, np.tile([False] * 9 + [True] * 3, (50, 1)))
    for row, answers in zip(shown, np.asarray(labels)[:, 9:], strict=True):
        assert row[row != 4].tolist() == answers.tolist()
    assert ((shown != 4).mean(axis=0) > 0).all()  # at every place


def test_levels_follow_one_another():
    """Graduated, out of time, solved: at an accuracy that is given, not learned."""
    accuracies = iter([0.5, 0.99, 0.5, 0.5, 0.5, 0.9, 0.9995, 1])
    seen = []

    def epoch(state, key, level):
        seen.append(int(level))
        accuracy = next(accuracies)
        return state, {"accuracy": np.float32(accuracy), "loss": np.float32(0)}

    model = labelers.Labeler(labelers.layers(jaxrnn.gru, 2), 2)
    task = labelers.Task(functools.partial(print), in_features=2, labels=2)
    _, history, solved = labelers.train(
        model,
        task,
        0,
        epoch,
        labelers.make_optimizer(0.1),
        levels=(2, 4, 8),
        epochs=9,
        on_epoch=lambda number, figures: None,
    )
    assert seen == [2, 2, 4, 4, 4, 8, 8]  # 4: three of nine epochs are its share
    assert [figures["level"] for figures in history] == seen
    assert solved


@pytest.mark.slow
def test_lstm_tracks_parity(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(state_tracking, "LEVELS", (2, 5))
    state_tracking.main(
        seeds=1,
        cells=("LSTM",),
        tasks=("parity",),
        test_lengths=(5, 20),
        epochs=8,
        features=16,
        learning_rate=0.01,
        out=tmp_path,
    )
    (record,) = files.read_json_lines(tmp_path / "state_tracking.jsonl")
    assert record["training_accuracy"] > 0.9
    assert record["accuracy"]["5"] > 0.9
    assert set(record["accuracy"]) == {"5", "20"}
    assert "| parity | LSTM | " in capsys.readouterr().out
    assert_picture(tmp_path / "state_tracking.png")


@pytest.mark.slow
def test_gru_copies(tmp_path, capsys):
    selective_copying.main(
        models=("GRU",),
        length=6,
        tokens=1,
        kinds=3,
        epochs=8,
        features=16,
        learning_rate=0.01,
        out=tmp_path,
    )
    (record,) = files.read_json_lines(tmp_path / "selective_copying.jsonl")
    assert record["test_accuracy"] > 0.9
    assert record["test_sequences_right"] == record["test_accuracy"]  # of one token
    assert "| GRU | " in capsys.readouterr().out
    assert_picture(tmp_path / "selective_copying.png")
