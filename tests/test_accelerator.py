"""Does the benchmark of accelerators stop for nothing, and say what it found?"""

import importlib.util
import json
import os
import subprocess
import sys
import time

import accelerator
import accelerator_exact
import accelerator_report
import accelerator_shapes
import accelerator_solvers
import accelerator_tests
import jax.numpy as jnp
import numpy as np
import pytest
from accelerator_part import Part, reason
from PIL import Image  # Matplotlib brings it

import jaxrnn
from jaxrnn import files

WRITES = 'import sys; open(sys.argv[2], \'a\').write(\'{"part": "x", "found": 1}\\n\')'


@pytest.fixture
def programs(tmp_path):
    """Parts by name, of Python code."""

    def make(**codes):
        found = {}
        for name, code in codes.items():
            path = tmp_path / f"{name}.py"
            path.write_text(code)
            found[name] = accelerator.Program(path, weight=1)
        return found

    return make


def part(path, seconds=60.0):
    return Part("part", path, time.monotonic() + seconds, quick=True, seed=0)


@pytest.mark.slow
def test_a_part_that_fails_or_hangs_stops_no_other(programs, tmp_path, capsys):
    """And what it wrote stays; what it started is ended with it."""
    child = (
        "import subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    torn = "open(sys.argv[2], 'a').write('{\"pa')"
    parts = programs(
        hangs=f"{WRITES}\n{child}", fails=f"{WRITES}\n{torn}\n1 / 0", works=WRITES
    )
    accelerator.run_all(parts, tmp_path, seconds=9)
    lines = (tmp_path / "fails.jsonl").read_text().splitlines()
    assert lines[1] == '{"pa'  # and the status on a line of its own
    (tmp_path / "fails.jsonl").write_text("\n".join(lines[::2]))
    ends = {}
    for name in parts:
        found, end = files.read_json_lines(tmp_path / f"{name}.jsonl")
        assert found == {"part": "x", "found": 1}
        ends[name] = end["status"]
    assert ends["hangs"].startswith("timed out")
    assert ends["fails"] == "failed, exit status 1"
    assert ends["works"] == "ended"
    assert "ZeroDivisionError" in (tmp_path / "fails.log").read_text()
    assert "works: ended" in capsys.readouterr().out
    assert not is_running(int((tmp_path / "child").read_text()))


def is_running(pid):
    """A process that has ended may still wait for its parent to notice."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_time_that_is_left_is_shared_by_weight(monkeypatch, tmp_path):
    limits = {}
    parts = {
        name: accelerator.Program(tmp_path, weight)
        for name, weight in {"a": 1, "b": 2, "c": 1}.items()
    }
    monkeypatch.setattr(
        accelerator, "run_part", lambda name, *_: limits.update({name: _[2]})
    )
    accelerator.run_all(parts, tmp_path, seconds=400)
    found = [round(limits[name]) for name in parts]
    assert found == [100, 267, 400]  # nobody took any: all of it is left


def test_variables_of_a_part(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    found = accelerator.environment({"JAX_DEFAULT_MATMUL_PRECISION": ""})
    assert "JAX_DEFAULT_MATMUL_PRECISION" not in found
    assert found["JAXRNN_NATIVE"] == "0"
    assert found["PYTHONPATH"] == f"{accelerator.ROOT}{os.pathsep}elsewhere"


def test_names_of_parts_are_checked(capsys):
    with pytest.raises(SystemExit):
        accelerator.main(["--parts", "exact,other"])
    assert "parts must be among machine,exact" in capsys.readouterr().err


def test_programs_of_parts_are_there():
    for program in accelerator.PARTS.values():
        assert program.file.exists()
    timed = {
        name
        for name, program in accelerator.PARTS.items()
        if program.file.name == "accelerator_solvers.py"
    }
    assert timed == set(accelerator_solvers.PLANS)


def test_a_part_names_what_it_had_no_time_for(tmp_path):
    path = tmp_path / "part.jsonl"
    assert list(part(path).while_time("ab")) == ["a", "b"]
    assert not path.exists()
    assert list(part(path, seconds=-1).while_time("ab")) == []
    assert files.read_json_lines(path) == [{"part": "part", "left_out": ["a", "b"]}]


def test_tests_that_did_not_run_are_no_success(tmp_path, monkeypatch):
    records = tmp_path / "tests.jsonl"
    with pytest.raises(SystemExit, match="pytest ran no test, and ended with 4"):
        accelerator_tests.run(part(records), "tests/nowhere.py")
    assert json.loads(records.read_text())["counts"] == {}
    monkeypatch.setattr(
        accelerator_tests, "part_of_command_line", lambda _: part(records)
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    accelerator_tests.main()
    *_, last = records.read_text().splitlines()
    assert json.loads(last)["left_out"][0] == "everything: pytest is not installed"


def test_refusals_are_told_from_failures():
    assert reason(NotImplementedError("no"))["refused"] == "NotImplementedError: no"
    assert reason(ZeroDivisionError("no"))["failed"] == "ZeroDivisionError: no"


# Exactness


class Wrong:
    """A solver that is off by a little, and one that cannot."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, cell, params, carry, steps):
        if self.factor is None:
            raise NotImplementedError("too many features")
        last, carries = jaxrnn.Scan()(cell, params, carry, steps)
        return last, carries * self.factor


def test_a_wrong_solver_is_found(monkeypatch, tmp_path):
    case = accelerator_exact.Case("simple_rnn", 3, (2,), 2, 4, ("mask", "carry"))
    for name, factor in {"right": 1.0, "wrong": 1.0001, "refuses": None}.items():
        monkeypatch.setitem(accelerator_exact.SOLVERS, name, Wrong(factor))
        accelerator_exact.check(part(tmp_path / "x.jsonl"), case, 0, name)
    right, wrong, refuses = files.read_json_lines(tmp_path / "x.jsonl")
    assert right["passed"] is True
    assert set(right["errors"]) == {
        "last carry",
        "outputs",
        "gradient of params",
        "gradient of inputs",
        "gradient of carry",
    }
    assert wrong["passed"] is False
    assert wrong["errors"]["outputs"] == pytest.approx(1e-4, rel=0.01)
    assert refuses["passed"] is None
    assert "too many features" in refuses["refused"]


def test_cases_are_those_of_the_seed():
    drawn = [accelerator_exact.fused_cases(np.random.default_rng(s)) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {case.cell for case in drawn[0]} == set(accelerator_exact.CELLS)
    assert {case.features for case in drawn[0]} >= set(accelerator_exact.FEATURES)


# Timings


def test_competitors_are_timed_and_compared(tmp_path):
    """A solver's error is that of its own numbers; Flax has other parameters."""
    plan = accelerator_solvers.Plan(
        [],
        accelerator_solvers.of_solvers("Scan", "HoistedScan, one chunk"),
        (accelerator_solvers.FLAX,),
        jnp.float32,
        ("gradient",),
    )
    work = accelerator_shapes.TINY[0]
    accelerator_solvers.measure(part(tmp_path / "x.jsonl"), plan, work, repeats=1)
    scan, hoisted, flax = files.read_json_lines(tmp_path / "x.jsonl")
    assert scan["error_to_scan"] == 0 < scan["median_ms"]
    assert hoisted["error_to_scan"] < 1e-5
    assert "error_to_scan" not in flax
    for record in (scan, hoisted, flax):
        assert record["us_per_step"] == pytest.approx(200 * record["median_ms"], 1e-3)


# The report


def timing(competitor, us, part="solvers", **others):
    record = {
        "part": part,
        "cell": "lstm",
        "time": 100,
        "batch": 128,
        "features": 32,
        "in_features": 32,
        "run": "gradient",
        "dtype": "float32",
        "precision": "highest",
        "competitor": competitor,
        "us_per_step": us,
    }
    return record | others


RECORDS = [
    {"part": "machine", "card": "A card", "versions": {"jax": "1.2"}},
    {"part": "machine", "status": "ended", "seconds": 3.0},
    timing("Fused", 0.5),
    timing("Scan", 20.0),
    timing("PyTorch", 1.25, part="torch"),
    timing("Scan", 11.0, part="tf32", precision="default"),
    timing("Fused, threads 4", 0.75, part="threads"),
    {"part": "solvers", "left_out": ["gru 1x2x3x4"]},
    {"part": "solvers", "status": "timed out after 9 s", "seconds": 9.1},
    {"part": "tests", "failing": "tests/test_solvers.py::test_one[a]"},
    {"part": "tests", "counts": {"passed": 5, "failed": 1}, "timed_out": False},
    {"part": "training", "model": "sine", "models": 64, "competitor": "Fused"}
    | {"us_per_update_of_one": 2.0},
]


def test_report_of_given_records(tmp_path):
    for record in RECORDS:
        with (tmp_path / f"{record['part']}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    with (tmp_path / "torch.jsonl").open("a") as file:
        file.write('{"part": "torch", "cut sho')
    done = subprocess.run(
        [sys.executable, accelerator_report.__file__, tmp_path],
        capture_output=True,
        text=True,
        env=accelerator.environment({"JAX_PLATFORMS": "cpu"}),
        timeout=600,  # against hanging
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert len(said) < 12_000
    assert "solvers: timed out after 9 s, 9.1 s, 1 left out (gru 1x2x3x4" in said
    assert "card A card, jax 1.2" in said
    assert "tests/test_solvers.py::test_one[a]" in said
    assert "64 x sine" in said
    head, row = said.splitlines()[-2:]
    want = {
        "cell": "lstm",
        "TxBxH": "100x128x32",
        "run": "grad",
        "Fused": "0.5",
        "Scan": "20",
        "PyTorch": "1.25",
        "Scan/F": "40",
        "PyTorch/F": "2.5",
    }
    assert dict(zip(head.split(), row.split(), strict=True)) == want
    assert (
        "| lstm | 100x128x32 | grad | 0.5 | 20 |" in (tmp_path / "table.md").read_text()
    )
    picture = np.asarray(Image.open(tmp_path / "speed.png").convert("L"))
    assert (picture < 128).mean() > 0.005


def test_report_of_nothing(tmp_path):
    assert accelerator_report.report(accelerator_report.read(tmp_path)) == ""


def test_report_says_what_was_wrong():
    case = accelerator_exact.Case("lstm", 3, (2,), 2, 4)._asdict()
    case |= {"part": "exact", "solver": "Fused"}
    text = accelerator_report.report(
        [
            case | {"passed": True, "error": 1e-7, "worst": "outputs"},
            case | {"passed": False, "error": 0.5, "worst": "gradient of params"},
            case | {"passed": False, "failed": "RuntimeError: a line\nand more"},
            case | {"passed": None, "refused": "ValueError: too wide"},
        ]
    )
    assert "Fused, gradient: 1 of 4 passed, 1 refused, largest error 0.5" in text
    assert "WRONG Fused lstm gradient T3 B2 F2 H4 : 0.5 of gradient of params" in text
    assert "Fused: ValueError: too wide (1: exact lstm 4)" in text
