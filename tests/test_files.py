"""Are files written whole, caches found, and missing packages named?"""

import importlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import report  # of the experiments

from jaxrnn import files, interchange, logs


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "jaxrnn"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert files.cache_folder() == Path("/home/someone/.cache/jaxrnn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == Path("/home/someone/.cache/jaxrnn")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "words.txt"
    with files.replacing(path) as unfinished:
        unfinished.write_text("old")
        assert not path.exists()

    def fail_half_way():
        with files.replacing(path) as unfinished:
            unfinished.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_records_come_back_from_the_file(tmp_path):
    path = tmp_path / "new" / "records.jsonl"
    files.write_json_lines(path, [{"old": 0}] * 9)
    records = [
        {"loss": np.float32(0.5), "by_epoch": np.arange(3), "key": jnp.array(2)},
        {"text": "±"},
    ]
    files.write_json_lines(path, records)
    assert files.read_json_lines(path) == [
        {"loss": 0.5, "by_epoch": [0, 1, 2], "key": 2},
        {"text": "±"},
    ]
    with pytest.raises(TypeError, match="numbers, text, lists, dicts and arrays, got"):
        files.write_json_lines(path, [{"path": tmp_path}])
    assert len(files.read_json_lines(path)) == 2  # the older file stays


@pytest.mark.parametrize(
    ("use", "package", "extra"),
    [
        (lambda: report.new_figure(1), "matplotlib", "plots"),
        (lambda: logs.progress_bar(1, "").__enter__(), "tqdm", "experiments"),
        (lambda: logs.tensorboard("runs").__enter__(), "tensorboardX", "tensorboard"),
        (lambda: interchange.load("weights"), "safetensors", "interchange"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, use, package, extra):
    def no_package(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", no_package)
    with pytest.raises(ImportError, match=rf"{package}.*jaxrnn\[{extra}\]"):
        use()
