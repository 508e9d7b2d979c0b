"""Do means add up exactly, and do records reach a file, a table and a picture?"""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image  # Matplotlib brings it

import jaxrnn
from jaxrnn import metrics, report


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


def test_records_come_back_from_the_file(tmp_path):
    records = [
        {"loss": np.float32(0.5), "by_epoch": np.arange(3), "key": jnp.array(2)},
        {"text": "±"},
    ]
    report.write_records(tmp_path / "new" / "records.jsonl", records)
    assert report.read_records(tmp_path / "new" / "records.jsonl") == [
        {"loss": 0.5, "by_epoch": [0, 1, 2], "key": 2},
        {"text": "±"},
    ]


@pytest.mark.parametrize("models", [(), (3,)])
def test_plot_history_draws_something(tmp_path, models):
    rng = np.random.default_rng(0)
    history = {n: rng.random((4, *models)) for n in ("loss", "accuracy", "val_loss")}
    report.plot_history(history, tmp_path / "plot.png", title="a title")
    picture = np.asarray(Image.open(tmp_path / "plot.png").convert("L"))
    assert picture.shape[1] > 2 * picture.shape[0]  # two panels side by side
    assert (picture < 128).mean() > 0.005  # ink


def test_progress_keeps_the_time():
    with report.progress_bar(3, "three epochs") as progress:
        for epoch in range(3):
            progress(epoch, {"loss": np.array([0.5, 0.7])})
    assert len(progress.ended) == 4
    assert progress.epoch_s == np.median(np.diff(progress.ended)[1:])


@pytest.mark.parametrize(
    ("use", "package", "extra"),
    [
        (lambda: report.new_figure(1), "matplotlib", "plots"),
        (lambda: report.progress_bar(1, "").__enter__(), "tqdm", "experiments"),
    ],
)
def test_missing_package_is_named(monkeypatch, use, package, extra):
    def no_package(name, *args):
        if name.startswith(package):
            raise ModuleNotFoundError(name=name)
        return importlib_import(name, *args)

    importlib_import = report.importlib.import_module
    monkeypatch.setattr(report.importlib, "import_module", no_package)
    with pytest.raises(ImportError, match=rf"{package}.*jaxrnn\[{extra}\]"):
        use()
