"""Do the experiments run end to end, small, and land where they say?"""

import json
import os
import pathlib
import re
import subprocess
import sys

import forecast
import numpy as np
import pytest
import report
import reproduce
from PIL import Image  # Matplotlib brings it

from jaxrnn import data, files

ROOT = pathlib.Path(__file__).parent.parent
EXPERIMENTS = ROOT / "experiments"
REVIEWS = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "")) / "imdb_reviews"
real_data = [
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.skipif(
        "TFDS_DATA_DIR" not in os.environ or not REVIEWS.exists(),
        reason="TFDS_DATA_DIR does not hold imdb_reviews",
    ),
]
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # most of the time is compilation


def run(script, *arguments, expect=0, **environment):
    done = subprocess.run(
        [sys.executable, str(EXPERIMENTS / script), *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,  # against hanging
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def assert_picture(path):
    picture = np.asarray(Image.open(path).convert("L"))
    assert (picture < 128).mean() > 0.005


@pytest.mark.parametrize("models", [(), (3,)])
def test_a_history_is_drawn(tmp_path, models):
    rng = np.random.default_rng(0)
    history = {n: rng.random((4, *models)) for n in ("loss", "accuracy", "val_loss")}
    report.plot_history(history, tmp_path / "plot.png", title="a title")
    assert_picture(tmp_path / "plot.png")
    picture = np.asarray(Image.open(tmp_path / "plot.png"))
    assert picture.shape[1] > 2 * picture.shape[0]  # two panels side by side


def test_one_thing_has_one_colour_in_every_picture():
    kinds = {name: report.color_of(name) for name in ("SimpleRNN", "GRU", "LSTM")}
    kinds |= {name: report.color_of(name) for name in ("minGRU", "LRU", "Fused")}
    kinds["ReLU"] = report.color_of("SimpleRNN, ReLU, identity")
    kinds["jaxrnn"] = report.color_of("jaxrnn")
    kinds["native"] = report.color_of("jaxrnn, native")
    kinds["peers"] = report.color_of("flax.linen.RNN")
    assert len({*kinds.values(), report.GREY, report.BLACK}) == len(kinds) + 2
    assert report.color_of("HoistedScan") == kinds["jaxrnn"]  # its default in JAX
    assert report.color_of("Native") == kinds["native"]
    for peer in (
        "flax.nnx",
        "equinox",
        "keras-tensorflow, XLA",
        "pytorch",
        "cuDNN in JAX",
    ):
        assert report.color_of(peer) == kinds["peers"]
    for path in EXPERIMENTS.rglob("*.py"):  # nor does a picture bring its own
        own = re.findall(r"#[0-9A-Fa-f]{6}\b", path.read_text(encoding="utf-8"))
        assert path.name == "report.py" or not own, path


def test_a_table_and_a_spread():
    rows = [{"model": "GRU", "mse": report.mean_and_spread([0.1, 0.2])}, {"model": 1}]
    table = report.markdown_table([rows[0], rows[1] | {"mse": ""}])
    assert table.splitlines()[2:] == ["| GRU | 0.150 ± 0.071 |", "| 1 |  |"]
    assert report.mean_and_spread([0.5], digits=1) == "0.5"


@pytest.mark.slow
def test_sentences_are_told_apart(tmp_path):
    printed = run("sentences.py", "--seeds", 2, "--out", tmp_path, **QUICK)
    records = files.read_json_lines(tmp_path / "sentences.jsonl")
    assert [r["accuracy"] for r in records] == [1.0, 1.0]
    assert {r["parameters"] for r in records} == {30_341}
    assert "| Cats are loyal | new |" in printed
    assert_picture(tmp_path / "sentences.png")


@pytest.mark.slow
def test_sine_lands_where_keras_lands(tmp_path):
    """The tutorial's layout has a test MSE of 0.095 to 0.125, and a dead kernel."""
    printed = run("sine.py", "--seeds", 2, "--out", tmp_path, **QUICK)
    records = files.read_json_lines(tmp_path / "sine.jsonl")
    tutorial = [r for r in records if "(N, 1, 4)" in r["layout"]]
    in_time = [r for r in records if "(N, 4, 1)" in r["layout"]]
    assert 0.095 < np.mean([r["test_mse"] for r in tutorial]) < 0.125
    assert 0.095 < np.mean([r["test_mse"] for r in in_time]) < 0.125
    assert [r["recurrent_kernel_moved"] for r in tutorial] == [0.0, 0.0]
    assert all(r["recurrent_kernel_moved"] > 0.1 for r in in_time)
    assert {r["parameters"] for r in tutorial} == {1_457}
    assert "| the last value |" in printed
    assert_picture(tmp_path / "sine.png")


def test_baselines_of_the_forecast_know_no_future():
    """The value of a day ago, of two days ago beyond that; a regression by hand."""
    series = np.arange(100.0)[:, None]
    found = forecast.earlier(series, 70, 30, 24)
    assert found.shape == (1, 30)
    assert found[0].tolist() == [*range(46, 70), *range(46, 52)]
    rng = np.random.default_rng(0)
    parts = [data.windows(rng.normal(size=40), 3, horizon=2) for _ in range(2)]
    x, y = parts[0].inputs[..., 0], parts[0].targets
    centred = x - x.mean(0)
    weights = np.linalg.solve(centred.T @ centred + 2 * np.eye(3), centred.T @ y)
    want = (parts[1].inputs[..., 0] - x.mean(0)) @ weights + y.mean(0)
    np.testing.assert_allclose(forecast.linear(*parts, 2.0), want, atol=1e-5)


@pytest.mark.slow
def test_a_file_of_hours_is_forecast(tmp_path):
    """Six weeks are enough to do better than the day before; from CSV, by name."""
    pandas = pytest.importorskip("pandas")
    values = forecast.demand(6 * forecast.WEEK, np.random.default_rng(0))
    frame = pandas.DataFrame(
        values, columns=["load", "warmth", "sin", "cos", "weekend"]
    )
    frame["hour"] = pandas.date_range("2024-01-01", periods=len(frame), freq="h")
    frame.to_csv(tmp_path / "hours.csv", index=False)
    columns = ("--time", "hour", "--columns", *frame.columns[:5])
    sizes = ("--seeds", 1, "--epochs", 3, "--width", 24, "--out", tmp_path)
    run("forecast.py", "--csv", tmp_path / "hours.csv", *columns, *sizes, **QUICK)
    records = files.read_json_lines(tmp_path / "forecast.jsonl")
    errors = {record["forecast"]: record["test_mae"] for record in records}
    assert errors.keys() == forecast.COLORS.keys()
    assert errors["ridge regression"] < errors["a day ago"] < errors["the last value"]
    assert errors["GRU"] < errors["the last value"]
    assert {len(record["mae_by_step"]) for record in records} == {24}
    assert_picture(tmp_path / "forecast.png")


@pytest.mark.parametrize(
    ("variant", "parameters", "low", "high"),
    [
        pytest.param("002", 322_113, 0.78, 0.83, marks=real_data),
        pytest.param("004a", 175_425, 0.76, 0.80, marks=real_data),
        pytest.param("004b", 162_657, 0.69, 0.76, marks=real_data),
    ],
)
def test_reviews_land_where_keras_lands(tmp_path, variant, parameters, low, high):
    """The bands that Keras' runs give; one seed, so a point wider on either side."""
    run("imdb.py", variant, "--seeds", 1, "--out", tmp_path)
    (record,) = files.read_json_lines(tmp_path / f"imdb-{variant}.jsonl")
    assert record["parameters"] == parameters
    assert low - 0.01 < record["test_accuracy"] < high + 0.01
    assert len(record["predictions"]) == 5
    assert_picture(tmp_path / f"imdb-{variant}.png")


@pytest.mark.parametrize("layer", [pytest.param("gru", marks=real_data)])
def test_options_of_the_reviews_run(tmp_path, layer):
    options = ("--masked", "--layer", layer, "--max-length", 20)
    arguments = ("--seeds", 1, "--epochs", 3, "--out", tmp_path)
    run("imdb.py", "004b", *arguments, *options)
    (record,) = files.read_json_lines(tmp_path / "imdb-004b.jsonl")
    assert record["test_accuracy"] > 0.6  # better than a coin


def test_unknown_option_is_named():
    printed = run("imdb.py", "002", "--optimizer", "sgd", expect=2)
    assert re.search(r"sgd", printed)
    assert "adam" in printed


# The tables on the pages are what the records say.

PAGES = (
    "README.md",
    "docs/tutorials/index.md",
    "docs/tutorials/002.md",
    "docs/benchmarks.md",
)


def test_tables_are_those_of_the_committed_records(tmp_path):
    (tmp_path / "docs" / "tutorials").mkdir(parents=True)
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
    for page, text in texts.items():
        (tmp_path / page).write_text(text, encoding="utf-8")
    results = EXPERIMENTS / "results"
    run("reproduce.py", "--only-tables", "--out", results, "--pages", tmp_path)
    for page, text in texts.items():
        assert (tmp_path / page).read_text(encoding="utf-8") == text


def first_epochs_of_keras():
    records = files.read_json_lines(EXPERIMENTS / "results" / "keras.jsonl")
    return [r for r in records if r["experiment"] == reproduce.FIRST_EPOCH]


def test_committed_first_epochs_have_the_distribution_of_keras():
    """One p in a thousand is below 0.001 by chance; a wrong loss is far below."""
    path = EXPERIMENTS / "results" / f"{reproduce.FIRST_EPOCH}.jsonl"
    records, keras = files.read_json_lines(path), first_epochs_of_keras()
    assert min(len(records), len(keras)) >= 200
    for key, (*_, p) in reproduce.same_distribution(keras, records).items():
        assert p > 0.001, key
    shifted = [{k: np.ravel(v)[0] + 0.02 for k, v in run.items()} for run in records]
    _, _, p = reproduce.same_distribution(keras, shifted)["val_accuracy"]
    assert p < 0.001  # the test can fail


@pytest.mark.parametrize("seeds", [pytest.param(40, marks=real_data)])
def test_first_epochs_have_the_distribution_of_keras(seeds):
    """The committed records of Keras beside models trained here and now."""
    records = reproduce.run_first_epochs(seeds)
    found = reproduce.same_distribution(first_epochs_of_keras(), records)
    for key, (*_, p) in found.items():
        assert p > 0.001, key


def test_a_page_without_marks_is_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("no marks here", encoding="utf-8")
    with pytest.raises(ValueError, match="must hold the marks <!-- summary -->"):
        reproduce.main(only_tables=True, out=EXPERIMENTS / "results", pages=tmp_path)
    assert readme.read_text(encoding="utf-8") == "no marks here"


def test_committed_records_hold_the_acceptance_figures():
    """Means over at least three seeds, as committed."""

    def mean(name, key, seeds=3):
        lines = (EXPERIMENTS / "results" / f"{name}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert len(records) >= seeds
        values = [max(r[key]) if isinstance(r[key], list) else r[key] for r in records]
        return np.mean(values)

    assert 0.78 <= mean("imdb-002", "test_accuracy") <= 0.83
    assert 0.76 <= mean("imdb-004a", "test_accuracy") <= 0.80
    assert 0.69 <= mean("imdb-004b", "test_accuracy") <= 0.76
    assert 0.74 <= mean("imdb-004b", "val_accuracy") <= 0.80
    assert 0.78 <= mean("imdb-001", "test_accuracy") <= 0.87
