"""How long does one step take at batch 1, and a short sequence, beside other libraries?

Command    make latency   (python experiments/benchmarks/latency.py)
Time       2 minutes on 2 cores that others use too, most of it jax2onnx' start
Expect     in jit, a step as fast as ONNX' own operator, where Flax takes 1.4 times and
           PyTorch 2.3 to 2.8 times as long; `rnn_step` by itself twice as long as in
           jit, a layer's step by itself 24 times, which is Flax' binding of parameters

A service waits for one step: what counts is what a call costs, not what a core can do.
All ways have the same weights and are checked to give the same numbers. They take turns
in one process, some calls in a row, each waited for, so that a slow moment of a machine
that others use too falls on all: read the ratios, which are medians over the turns,
rather than the times. The best turn is what an idle machine would give.
"in jit" is a compiled function that gets parameters, carry and inputs. PyTorch runs
eagerly in inference mode, on one thread as ONNX Runtime does. "operator" is ONNX' own
LSTM or GRU; beside it stands what jax2onnx makes of our step and of our layer. Who is
not installed is left out, and named.

JAX computes in the thread that calls, as a service wants it: on a CPU it would else
hand each call to another thread, which takes longer than a step where cores are busy
(`--asynchronous` shows it). Writes latency.jsonl.
"""

import importlib.metadata
import pathlib
import sys

import jax
import machine
import numpy as np
import timing
import tyro
from latency_peers import PEERS, Problem, Ways
from records import RESULTS, markdown_table, write_json_lines

import jaxrnn

LAYERS = {"lstm": jaxrnn.LSTM, "gru": jaxrnn.GRU}
PACKAGES = ("jax", "flax", "torch", "onnx", "onnxruntime", "jax2onnx")


def main(
    *,
    in_features: int = 64,
    features: int = 128,
    time: int = 100,
    repeats: int = 100,
    calls: int = 20,
    asynchronous: bool = False,
    out: pathlib.Path = RESULTS,
) -> list[dict]:
    """Measures all who are installed; writes latency.jsonl, prints a table.

    Args:
      in_features: of each step.
      features: of the layer.
      time: steps of the sequence.
      repeats: turns of every way.
      calls: of a step in every turn; of a sequence, a quarter of that.
      asynchronous: leave JAX as it is, which hands calls to a thread of its own.
      out: where results go.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", asynchronous)
    records, missing = [], {}
    for cell, kind in LAYERS.items():
        layer = kind(features)
        inputs = jax.random.normal(jax.random.key(1), (1, time, in_features))
        params = layer.init(jax.random.key(0), inputs)["params"]
        problem = Problem(layer, cell, params, inputs)
        steps: Ways = {}
        whole: Ways = {}
        for name, build in PEERS.items():
            try:
                of_steps, of_whole = build(problem)
            except ImportError as error:
                missing[name] = str(error)
                continue
            steps |= of_steps
            whole |= of_whole
        records += measured(f"{cell}, one step", steps, repeats, calls)
        records += measured(f"{cell}, {time} steps", whole, repeats, -(-calls // 4))
    for name, reason in missing.items():
        print(f"{name} is not installed: {reason}", file=sys.stderr)
    about = machine.facts() | {
        "experiment": "latency",
        "batch": 1,
        "in_features": in_features,
        "features": features,
        "repeats": repeats,
        "calls": calls,
        "asynchronous": asynchronous,
        "versions": versions(),
        "not_installed": missing,
    }
    records = [about, *records]
    write_json_lines(out / "latency.jsonl", records)
    print(markdown_table(records[1:]))
    return records


def measured(what: str, ways: Ways, repeats: int, calls: int) -> list[dict]:
    """One record for every way, beside the first of jaxrnn's that is in jit.

    Raises:
      ValueError: a way whose numbers are not those of the others.
    """
    first = next(name for name in ways if name.startswith("jaxrnn") and "jit" in name)
    want = np.asarray(ways[first]()).ravel()
    for name, run in ways.items():
        found = np.asarray(run()).ravel()
        if not np.allclose(found, want, rtol=0, atol=1e-5):
            raise ValueError(
                f"all ways must give the same numbers, {name} is "
                f"{abs(found - want).max()} away from {first}."
            )

    def one_after_another(run):
        def turn():
            for _ in range(calls):
                jax.block_until_ready(run())

        return turn

    turns = {name: one_after_another(run) for name, run in ways.items()}
    milliseconds = timing.interleaved(turns, repeats)
    return [
        {
            "what": what,
            "way": name,
            "median_us": timing.significant(1e3 * float(np.median(ms)) / calls),
            "min_us": timing.significant(1e3 * min(ms) / calls),
            "of_jaxrnn_in_jit": round(timing.median_ratio(ms, milliseconds[first]), 2),
        }
        for name, ms in milliseconds.items()
    ]


def versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    tyro.cli(main)
