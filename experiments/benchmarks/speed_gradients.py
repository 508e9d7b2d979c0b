"""How long do the last output of a layer and its gradient take?"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from speed_cases import FLAX, LAYERS, SCALES, SOLVERS
from timing import compiled, interleaved, median_ratio, summary

import jaxrnn
from jaxrnn.solvers.default import default_scan


def gradient(
    layer: str,
    sizes: tuple[int, int, int, int],
    repeats: int,
    solvers: Mapping[str, Any] = SOLVERS,
) -> list[dict]:
    """Times the last output and its gradient, for every solver and for Flax' RNN.

    Args:
      layer: one of `LAYERS`.
      sizes: (batch, time, in_features, features).
      repeats: of every timed run.
      solvers: by name.
    """
    batch, steps, in_features, features = sizes
    inputs = jax.random.normal(jax.random.key(0), (batch, steps, in_features))
    ours, flax_cell, gates = LAYERS[layer]
    rivals = {name: ours(features, solver=solver) for name, solver in solvers.items()}
    rivals[FLAX] = nn.RNN(flax_cell(features))
    runs, rows = {}, {}
    for name, module in rivals.items():
        params = jax.jit(module.init)(jax.random.key(1), inputs)["params"]
        for kind, function in passes(module).items():
            compile_s, program = compiled(function, params, inputs)
            temp_bytes = program.memory_analysis().temp_size_in_bytes
            runs[name, kind] = functools.partial(program, params, inputs)
            rows[name, kind] = {
                "layer": layer,
                "run": kind,
                "solver": name,
                "values": batch * steps * features,
                "compile_s": round(compile_s, 2),
                "temp_mib": round(temp_bytes / 2**20, 2),
            }
    timed = interleaved(runs, repeats)
    # 2 a multiplication and addition; at least inputs and outputs move. On the way back
    # each of the two matmuls of a step is two, and the cotangents move too.
    flops = 2 * batch * steps * gates * features * (in_features + features)
    moved = 4 * batch * steps * (in_features + features)
    for (name, kind), row in rows.items():
        ms = timed[name, kind]
        times = 1 if kind == "forward" else 3
        seconds = float(np.median(ms)) / 1e3
        row |= summary(ms)
        row["gflops"] = round(times * flops / seconds / 1e9, 1)
        row["gb_per_s"] = round(times * moved / seconds / 1e9, 2)
        row["steps_per_s"] = round(batch * steps / seconds)
        row["times_as_fast_as_flax"] = round(median_ratio(timed[FLAX, kind], ms), 2)
    return list(rows.values())


def passes(module: nn.Module) -> dict[str, Callable]:
    """Two functions of parameters and inputs: the last output, and its gradient."""

    def last_output(params, inputs):
        outputs = module.apply({"params": params}, inputs)
        return outputs[:, -1] if outputs.ndim == 3 else outputs

    def loss(params, inputs):
        return jnp.sum(last_output(params, inputs) ** 2)

    both = jax.value_and_grad(loss, argnums=(0, 1))
    return {"forward": last_output, "forward + backward": both}


def growing(repeats: int) -> list[dict]:
    """The gradient of a SimpleRNN while one size grows: its default and Native."""
    records = []
    for size, values in SCALES.items():
        for value in values:
            sizes = {"batch": 32, "time": 100, "features": 64} | {size: value}
            batch, steps, features = sizes["batch"], sizes["time"], sizes["features"]
            solver = default_scan(jaxrnn.simple_rnn, batch * steps * features)
            chosen = {"HoistedScan": solver}
            if "Native" in SOLVERS:
                chosen["Native"] = SOLVERS["Native"]
            rows = gradient(
                "simple_rnn",
                (batch, steps, features, features),
                max(repeats // 2, 3),
                chosen,
            )
            records += [
                {"grows": size, "size": value} | row
                for row in rows
                if row["run"] != "forward"
            ]
    return records
