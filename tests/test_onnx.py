"""Does ONNX Runtime give our numbers? With jax2onnx, in the environment or beside."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import onnx_runtime
import pytest

from jaxrnn import files

FOLDER = pathlib.Path(sys.prefix) / "onnx"
AVAILABLE = FOLDER.is_dir() or importlib.util.find_spec("jax2onnx")


@pytest.mark.slow
@pytest.mark.skipif(not AVAILABLE, reason=f"{FOLDER} is not there; `make onnx` does it")
def test_onnx_runtime_has_our_numbers(tmp_path):
    """In a Python of its own: jax2onnx changes JAX' functions while it traces."""
    path = os.pathsep.join([str(FOLDER), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, onnx_runtime.__file__, "--out", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,  # against hanging
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = files.read_json_lines(tmp_path / "onnx_runtime.jsonl")
    assert [record["program"] for record in records] == [
        "SimpleRNN",
        "SimpleRNN, a step",
        "GRU",
        "GRU, a step",
        "LSTM",
        "LSTM, a step",
        "TextClassifier",
    ]
    for record in records:  # sums of 32 products in float32
        assert record["largest_difference"] < 1e-5, record
    assert (tmp_path / "LSTM_step.onnx").stat().st_size > 0


@pytest.mark.parametrize("package", ["jax2onnx", "onnxruntime"])
def test_what_is_missing_is_named(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    calls = {
        "jax2onnx": lambda: onnx_runtime.convert(jnp.sin, [], tmp_path / "x.onnx"),
        "onnxruntime": lambda: onnx_runtime.load(tmp_path / "x.onnx"),
    }
    with pytest.raises(ImportError, match=r"pip install jaxrnn\[onnx\]"):
        calls[package]()
