"""Do the benchmarks time what they say, and does every way compute the same?"""

import datetime
import functools
import pathlib
import subprocess
import sys
import time

import host
import jax
import latency
import machine
import numpy as np
import parallel
import pytest
import speed
import speed_cases
import timing
from PIL import Image  # Matplotlib brings it

import jaxrnn
from jaxrnn import files

BENCHMARKS = pathlib.Path(speed.__file__).parent
COMMANDS = (
    "accelerator",
    "checkpoints",
    "host",
    "install_peers",
    "latency",
    "parallel",
    "peers",
    "speed",
    "startup",
)


def test_benchmarks_find_all_they_need_from_their_own_folder():
    """So that each can be run as a script, wherever one stands."""
    code = f"import sys; sys.path[0] = {str(BENCHMARKS)!r}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import {', '.join(COMMANDS)}"],
        capture_output=True,
        text=True,
        timeout=600,  # against hanging
        check=False,
    )
    assert done.returncode == 0, done.stderr


# What they share.


def test_runs_take_turns_after_a_warm_up():
    calls = []

    def run(name):
        return lambda: calls.append(name)

    milliseconds = timing.interleaved({"a": run("a"), "b": run("b")}, repeats=3)
    assert calls == ["a", "b"] * 4
    assert [len(ms) for ms in milliseconds.values()] == [3, 3]


def test_a_timed_run_is_waited_for():
    class Result:
        ready = False

        def block_until_ready(self):
            time.sleep(0.01)
            self.ready = True

    seconds, results = timing.timed(lambda: {"loss": Result()})
    assert results["loss"].ready
    assert seconds >= 0.01


def test_summary_is_quartiles_to_four_digits():
    assert timing.summary([1.23456, 4.0, 2.0, 3.0, 5.0]) == {
        "median_ms": 3.0,
        "q1_ms": 2.0,
        "q3_ms": 4.0,
        "min_ms": 1.235,
    }


def test_ratio_is_by_round():
    """A round in which the machine was ten times slower changes nothing."""
    assert timing.median_ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2


def test_machine_says_what_it_is():
    facts = machine.facts()
    assert datetime.date.fromisoformat(facts["measured"]).year >= 2026
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert facts["platform"] == jax.default_backend()
    assert facts["jax"] == jax.__version__


def test_a_burst_is_waited_for_once():
    calls, waited = [], []

    def run(name):
        return lambda: calls.append(name) or name

    milliseconds = timing.bursts(
        {"a": run("a"), "b": run("b")}, repeats=2, burst_s=0, wait=waited.append
    )
    assert [len(ms) for ms in milliseconds.values()] == [2, 2]
    assert calls[-4:] == ["a", "b"] * 2  # in turns, of one call each
    assert waited == calls


# speed and host


@pytest.fixture
def small(monkeypatch):
    """One solver, and one size that grows."""
    for name in set(speed_cases.SOLVERS) - {"Scan"}:
        monkeypatch.delitem(speed_cases.SOLVERS, name)
    for size in set(speed_cases.SCALES) - {"batch"}:
        monkeypatch.delitem(speed_cases.SCALES, size)
    monkeypatch.setitem(speed_cases.SCALES, "batch", (3,))
    ceilings = functools.partial(machine.ceilings, size=64)
    monkeypatch.setattr(machine, "ceilings", ceilings)


@pytest.mark.slow
def test_speed_measures_updates_gradients_and_growth(small, tmp_path):
    del small
    speed.main(repeats=1, shapes=("tiny",), layers=("simple_rnn",), out=tmp_path)
    records = files.read_json_lines(tmp_path / "speed.jsonl")
    updates = [r for r in records if "updates" in r]
    assert [r["solver"] for r in updates] == ["Scan", "default", "default"]
    assert [r["over"] for r in updates] == ["", "one_by_one", "vmap"]
    assert [r["updates"] for r in updates] == 3 * [2850]
    assert [r["compilations"] for r in updates] == 3 * [1]
    gradients = [(r["solver"], r["run"]) for r in records if "shape" in r]
    assert gradients == [
        (solver, run)
        for solver in ("Scan", "flax.linen.RNN")
        for run in ("forward", "forward + backward")
    ]
    growth = [(r["grows"], r["size"], r["solver"]) for r in records if "grows" in r]
    assert growth == [("batch", 3, "HoistedScan"), ("batch", 3, "flax.linen.RNN")]
    for record in records[3:]:
        assert 0 < record["min_ms"] <= record["q1_ms"] <= record["median_ms"]
    for record in records:
        assert record["matmul_gflops"] > 0
        assert record["bandwidth_gb_s"] > 0
    picture = np.asarray(Image.open(tmp_path / "scaling.png").convert("L"))
    assert (picture < 128).mean() > 0.005


@pytest.mark.slow
def test_parallel_times_what_fits(tmp_path):
    options = {"features": 4, "of_deer": 3, "times": (20,), "batches": (2,)}
    cells = ("gru", "min_gru")
    parallel.main(cells=cells, repeats=1, limit_mib=0.001, out=tmp_path, **options)
    records = files.read_json_lines(tmp_path / "parallel.jsonl")
    assert [(r["cell"], r["solver"], r["what"]) for r in records] == [
        (cell, solver, what)
        for cell, solvers in (
            ("gru", ("Scan", "HoistedScan")),  # of Deer the Jacobians are too large
            ("min_gru", ("Scan", "HoistedScan", "ParallelScan")),
        )
        for solver in solvers
        for what in ("values", "gradient")
    ]
    assert all(0 < r["min_ms"] <= r["median_ms"] for r in records)
    assert all(r["error"] < 1e-6 for r in records)  # float32, of numbers below 1


def test_figures_of_the_page_are_those_of_the_record():
    """Ratios of medians, by what the sentences are about."""
    records = files.read_json_lines(parallel.RESULTS / "parallel.jsonl")
    medians = {
        (r["cell"], r["time"], r["batch"], r["what"], r["solver"]): r["median_ms"]
        for r in records
    }
    iterations = {
        (r["cell"], r["time"], r["batch"]): r["iterations"]
        for r in records
        if r["solver"] == "Deer" and r["what"] == "values"
    }

    def ratios(solver, over, what, *, cell=None, batch=None):
        return [
            value / medians[*case, over]
            for (*case, by), value in medians.items()
            if by == solver and case[3] == what
            if cell in (None, case[0]) and batch in (None, case[2])
        ]

    def between(found, digits=1):
        return f"{min(found):.{digits}f} to {max(found):.{digits}f}"

    over_hoisted = functools.partial(ratios, "ParallelScan", "HoistedScan")
    deer = functools.partial(ratios, "Deer", "Scan")
    deer_over_hoisted = functools.partial(ratios, "Deer", "HoistedScan", "gradient")
    an_iteration = [
        medians[*case, "values", "Deer"] / medians[*case, "values", "Scan"] / number
        for case, number in iterations.items()
    ]
    hoisted, at_once, plain = (
        f"{medians['min_gru', 100_000, 1, 'gradient', solver]:.0f}"
        for solver in ("HoistedScan", "ParallelScan", "Scan")
    )
    page = BENCHMARKS.parent.parent / "docs" / "parallel_in_time.md"
    text = " ".join(page.read_text("utf-8").split())
    for words in (
        f"{hoisted} ms by `HoistedScan`, {at_once} by `ParallelScan`, {plain} by",
        f"{between(over_hoisted('values'))} times as long as `HoistedScan` for values",
        f"{between(over_hoisted('gradient'))} times for gradients",
        f"{between(iterations.values(), 0)} iterations",
        f"of {between(an_iteration)} times what all steps take by `Scan`",
        f"take {between(deer('values'), 0)} times as long as by `Scan`. Gradients",
        f"take {between(deer('gradient', batch=1))} times as long as by `Scan`, of 16",
        f"of 16 rows {between(deer('gradient', batch=16))} times. Against",
        f"{between(deer_over_hoisted(cell='simple_rnn', batch=1))} times as long for a",
        f"{between(deer_over_hoisted(cell='gru', batch=1))} times for a GRU",
        f"{between(deer_over_hoisted(cell='simple_rnn', batch=16))} and",
        f"and {between(deer_over_hoisted(cell='gru', batch=16))} times. Cases",
    ):
        assert words in text, words
    left_out = {(time, batch) for _, time, batch, *_ in medians} - {
        (time, batch) for _, time, batch in iterations
    }
    assert left_out == {(100_000, 16)}
    counts = [
        [count["iterations"] for count in record["deer"]]
        for record in files.read_json_lines(parallel.RESULTS / "adding_problem.jsonl")
        if record["deer"]
    ]
    fresh = [*iterations.values(), *(first for first, *_ in counts)]
    text = " ".join(str(jaxrnn.Deer.__doc__).split())
    for words in (
        f"{between(an_iteration, 0)} times what all steps take by `Scan`",
        f"Fresh cells have taken {between(fresh, 0)} iterations",
        f"trained on the adding problem up to {max(map(max, counts))}",
    ):
        assert words in text, words


def test_host_and_device_train_alike(monkeypatch):
    """Three batches of 4 and one of 2; losses of one and the same epoch, in float32."""
    monkeypatch.setattr(host, "SIZES", {"small": (4, 5, jaxrnn.keras_adam)})
    rows = host.epochs("small", repeats=1, reviews=14)
    assert [row["updates"] for row in rows] == [4, 4, 4]
    np.testing.assert_allclose([r["loss"] for r in rows], rows[0]["loss"], rtol=1e-5)
    assert rows[0]["ratio"] == rows[0]["ratio_of_min"] == 1


# The latency of a step.


def test_latency_is_measured_of_all_who_are_installed(tmp_path, monkeypatch, capsys):
    def nobody(problem):
        raise ImportError("needs nothing that there is")

    peers = {n: latency.PEERS[n] for n in ("jaxrnn", "flax.linen")}
    monkeypatch.setattr(latency, "PEERS", {"nobody": nobody} | peers)
    monkeypatch.setattr(latency, "LAYERS", {"lstm": jaxrnn.LSTM})
    found = latency.main(in_features=2, features=3, time=4, repeats=2, out=tmp_path)
    about, *records = files.read_json_lines(tmp_path / "latency.jsonl")
    assert [about, *records] == found
    assert about["not_installed"] == {"nobody": "needs nothing that there is"}
    assert "nobody is not installed: needs nothing" in capsys.readouterr().err
    ways = [(record["what"], record["way"]) for record in records]
    assert ways == [
        ("lstm, one step", "jaxrnn, rnn_step"),
        ("lstm, one step", "jaxrnn, layer's step"),
        ("lstm, one step", "jaxrnn, rnn_step in jit"),
        ("lstm, one step", "jaxrnn, layer's step in jit"),
        ("lstm, one step", "flax.linen, in jit"),
        ("lstm, 4 steps", "jaxrnn, in jit"),
        ("lstm, 4 steps", "flax.linen, in jit"),
    ]
    assert records[2]["of_jaxrnn_in_jit"] == records[5]["of_jaxrnn_in_jit"] == 1


def test_ways_with_other_numbers_are_refused():
    ways = {"jaxrnn, in jit": lambda: np.ones(2), "other": lambda: np.zeros(2)}
    with pytest.raises(ValueError, match=r"the same numbers, other is 1\.0 away"):
        latency.measured("a step", ways, 1, 1)
