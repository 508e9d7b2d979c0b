"""How long does a layer take forward, and with its gradient, solver by solver?

A part of `accelerator.py`, under these names:

solvers    every solver, Flax' loop, and cuDNN's LSTM as JAX has it; float32, highest
threads    `Fused` with 1, 2, 4, 8 threads a feature
long       the gradient over 10,000 and 100,000 steps
graph      the solvers of JAX, where XLA puts a whole loop into one CUDA graph
tf32       a selection, as XLA computes float32 where nothing is asked for
bf16       the same, everything in bfloat16

"forward" computes the outputs of all steps, where no gradient is wanted; "gradient" the
value and the gradient of the mean of their squares with respect to all parameters and
the inputs. Inputs are time-major (cuDNN's are batch-major) and lie on the device.
Programs are compiled some at once, before anything is timed.
"""

import functools
import os
from collections.abc import Callable
from concurrent import futures
from typing import Any, NamedTuple

import accelerator_shapes as shapes
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from accelerator_part import Part, part_of_command_line, reason
from accelerator_shapes import Shape, Work
from jax.experimental import rnn as cudnn
from timing import bursts, compiled, significant, summary

import jaxrnn

SOLVERS: dict[str, jaxrnn.Solver] = {
    "Fused": jaxrnn.Fused(),
    "Scan": jaxrnn.Scan(),
    "Scan, project first": jaxrnn.Scan(project_first=True),
    "HoistedScan, one chunk": jaxrnn.HoistedScan(1, True, None),
    "HoistedScan, chunk 64": jaxrnn.HoistedScan(1, True, 64),
}
THREADS = {
    "Fused": jaxrnn.Fused(),
    **{
        f"Fused, threads {n}": jaxrnn.Fused(threads_per_feature=n) for n in (1, 2, 4, 8)
    },
}
CELLS = {
    "simple_rnn": (jaxrnn.simple_rnn, nn.SimpleCell),
    "gru": (jaxrnn.gru, nn.GRUCell),
    "lstm": (jaxrnn.lstm, nn.OptimizedLSTMCell),
}
FLAX, CUDNN = "flax.linen.RNN", "cuDNN in JAX"


class Plan(NamedTuple):
    """What one part times."""

    works: list[Work]
    solvers: dict[str, jaxrnn.Solver]
    peers: tuple[str, ...] = ()
    dtype: Any = jnp.float32
    runs: tuple[str, ...] = ("forward", "gradient")


def of_solvers(*names: str) -> dict[str, jaxrnn.Solver]:
    return {name: SOLVERS[name] for name in names}


LOOPS = of_solvers("Scan, project first", "HoistedScan, one chunk")
FUSED_AND_LOOPS = of_solvers("Fused") | LOOPS
PLANS = {
    "solvers": Plan(shapes.EVERYTHING, SOLVERS, (FLAX, CUDNN)),
    "threads": Plan(shapes.FEW_FEATURES, THREADS),
    "long": Plan(shapes.LONG, SOLVERS, runs=("gradient",)),
    "graph": Plan(shapes.LOOPS, LOOPS),
    "tf32": Plan(shapes.SELECTION, FUSED_AND_LOOPS, (FLAX, CUDNN)),
    "bf16": Plan(shapes.SELECTION, FUSED_AND_LOOPS, (FLAX,), jnp.bfloat16),
}


class Layer(NamedTuple):
    """A function of parameters and inputs to outputs, and both of its arguments."""

    apply: Callable[[Any, Any], Any]
    params: Any
    inputs: Any


def layers(plan: Plan, work: Work) -> dict[str, Layer]:
    """Every competitor; cuDNN has an LSTM alone."""
    shape = work.shape
    key = jax.random.key(0)
    inputs = jax.random.normal(key, (shape.time, shape.batch, shape.in_features))
    inputs = inputs.astype(plan.dtype)
    cell, flax_cell = CELLS[work.cell]
    params = jaxrnn.init_params(cell, key, shape.in_features, shape.features)
    params = jax.tree.map(lambda x: x.astype(plan.dtype), params)

    def outputs(solver, params, inputs):
        return jaxrnn.rnn(cell, params, inputs, solver=solver)[1]

    found = {
        name: Layer(functools.partial(outputs, solver), params, inputs)
        for name, solver in plan.solvers.items()
    }
    if FLAX in plan.peers:
        float32 = nn.RNN(flax_cell(shape.features), time_major=True)
        dtypes = {"dtype": plan.dtype, "param_dtype": plan.dtype}  # that of the carry
        module = nn.RNN(flax_cell(shape.features, **dtypes), time_major=True)
        variables = jax.jit(float32.init)(key, inputs[:1].astype(jnp.float32))
        variables = jax.tree.map(lambda x: x.astype(plan.dtype), variables)
        found[FLAX] = Layer(module.apply, variables, inputs)
    if CUDNN in plan.peers and work.cell == "lstm":
        found[CUDNN] = cudnn_lstm(shape, inputs)
    return found


def cudnn_lstm(shape: Shape, inputs: jax.Array) -> Layer:
    """One layer of `jax.experimental.rnn.lstm`, on full rows."""
    sizes = (shape.in_features, shape.features, 1)
    weights = cudnn.init_lstm_weight(jax.random.key(0), *sizes, bidirectional=False)
    zeros = jnp.zeros((1, shape.batch, shape.features))
    lengths = jnp.full(shape.batch, shape.time, jnp.int32)

    def outputs(weights, inputs):
        return cudnn.lstm(inputs, zeros, zeros, weights, lengths, *sizes, 0.0, False)[0]

    return Layer(outputs, weights, jnp.swapaxes(inputs, 0, 1))


def passes(layer: Layer) -> dict[str, Callable]:
    """The two functions that are timed."""

    def loss(params, inputs):
        return jnp.mean(jnp.square(layer.apply(params, inputs)))

    gradient = jax.value_and_grad(loss, argnums=(0, 1))
    return {"forward": layer.apply, "gradient": gradient}


def measure(part: Part, plan: Plan, work: Work, repeats: int) -> None:
    """Compiles all competitors, then times them in turns; a record for each."""
    found = layers(plan, work)
    about = {
        "cell": work.cell,
        **work.shape._asdict(),
        "dtype": jnp.dtype(plan.dtype).name,
        "precision": jax.config.jax_default_matmul_precision or "default",
    }

    def program(name: str, run: str) -> Callable:
        layer = found[name]
        seconds, program = compiled(passes(layer)[run], layer.params, layer.inputs)
        call = functools.partial(program, layer.params, layer.inputs)
        kept = program.memory_analysis()
        facts = {
            "compile_s": round(seconds, 2),
            "temp_mib": round(kept.temp_size_in_bytes / 2**20, 2) if kept else None,
        }
        return call, facts, jax.block_until_ready(call())

    pool = futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    started = {
        (name, run): pool.submit(program, name, run)
        for run in plan.runs
        for name in found
    }
    programs = {}
    for (name, run), future in started.items():
        try:
            programs[name, run] = future.result()
        except Exception as error:
            # One that cannot do it, or fails, is a result and stops no other.
            part.write(**about, competitor=name, run=run, **reason(error))
    pool.shutdown()
    calls = {key: call for key, (call, _, _) in programs.items()}
    for (name, run), ms in bursts(calls, repeats).items():
        _, facts, result = programs[name, run]
        oracle = programs.get(("Scan", run)) if name in SOLVERS else None
        if oracle is not None:
            error = float(relative_error(result, oracle[2]))
            facts["error_to_scan"] = significant(error, 2)
        facts["us_per_step"] = significant(1e3 * float(np.median(ms)) / work.shape.time)
        part.write(**about, competitor=name, run=run, **summary(ms), **facts)


@jax.jit
def relative_error(found: Any, want: Any) -> jax.Array:
    """The norm of the difference of two trees over the norm of the second."""

    def norm(tree: Any) -> jax.Array:
        squares = jax.tree.map(lambda x: jnp.sum(jnp.square(x)), tree)
        return jnp.sqrt(sum(jax.tree.leaves(squares)))

    found, want = (
        jax.tree.map(lambda x: x.astype(jnp.float32), tree) for tree in (found, want)
    )
    return norm(jax.tree.map(jnp.subtract, found, want)) / norm(want)


def main() -> None:
    part = part_of_command_line(__doc__)
    plan = PLANS[part.name]
    works = shapes.TINY if part.quick else plan.works
    repeats = 2 if part.quick or part.name == "long" else 7
    for work in part.while_time(works, needs_s=4):
        print(work, flush=True)
        measure(part, plan, work, repeats)


if __name__ == "__main__":
    main()
