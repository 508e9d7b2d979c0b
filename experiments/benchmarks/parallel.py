"""Where do solvers without a sequence of steps win over those that have one?

Command    python experiments/benchmarks/parallel.py   (--quick: 2 minutes)
Time       about 8 minutes on 2 cores
Expect     on a CPU, that they do not: `ParallelScan` takes 0.7 to 3.5 times as long as
           `HoistedScan`; `Deer` 6 to 36 times as long as `Scan` for values, for
           gradients as long with one row and 3 to 5 times with 16, but 1.4 to 20 times
           as long as `HoistedScan`. On a GPU, where steps are launched one by one, the
           opposite for few rows

Random data, fresh cells. Every figure is the median of runs that take turns in one
process, after a warm-up, to the end of their computation, compile time apart
(`timing.py`). `error` is the largest difference from `Scan` in float32. A case of
`Deer` whose Jacobians take more than `limit_mib` is left out. Writes parallel.jsonl.
"""

import functools
import itertools
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import machine
import tyro
from records import RESULTS, markdown_table, write_json_lines
from timing import compiled, interleaved, summary

import jaxrnn

CELLS = {
    cell.name: cell
    for cell in (jaxrnn.simple_rnn, jaxrnn.gru, jaxrnn.min_gru, jaxrnn.lru)
}
IN_FEATURES = 4


def main(
    *,
    cells: Sequence[str] = tuple(CELLS),
    features: int = 32,
    of_deer: int = 8,
    times: Sequence[int] = (1_000, 10_000, 100_000),
    batches: Sequence[int] = (1, 16),
    repeats: int = 10,
    limit_mib: float = 1_024,
    quick: bool = False,
    out: pathlib.Path = RESULTS,
) -> list[dict]:
    """Times values and gradients, solver by solver; prints a table.

    Args:
      cells: names in `CELLS`.
      features: of cells that are linear in the carry, an even number.
      of_deer: features of all others.
      times: numbers of steps.
      batches: numbers of rows.
      repeats: of every timed run.
      limit_mib: of the Jacobians of a case, three arrays of them.
      quick: 3 repeats of 1,000 steps.
      out: where results go.
    """
    if quick:
        times, repeats = (1_000,), 3
    rows = [
        {"cell": name, "features": width, "time": time, "batch": batch} | row
        for name, time, batch in itertools.product(cells, times, batches)
        for width in [of_deer if CELLS[name].linear is None else features]
        for row in case(CELLS[name], width, time, batch, repeats, limit_mib)
    ]
    about = machine.facts() | {"dtype": "float32"}
    write_json_lines(out / "parallel.jsonl", [row | about for row in rows])
    print(markdown_table(rows))
    return rows


def case(
    cell: jaxrnn.Cell,
    features: int,
    time: int,
    batch: int,
    repeats: int,
    limit_mib: float,
) -> list[dict]:
    """Values and gradients of one cell and shape by every solver that has a case."""
    notes = []

    def note(iterations: jax.Array, repaired_from: jax.Array) -> None:
        notes.append((int(iterations), int(repaired_from)))

    parallel = jaxrnn.ParallelScan() if cell.linear else jaxrnn.Deer(report=note)
    solvers = [jaxrnn.Scan(), jaxrnn.HoistedScan(chunk=None)]
    jacobians_mib = 0 if cell.linear else 12 * time * batch * features**2 / 2**20
    if jacobians_mib <= limit_mib:
        solvers.append(parallel)

    params = jaxrnn.init_params(cell, jax.random.key(0), IN_FEATURES, features)
    inputs = jax.random.normal(jax.random.key(1), (time, batch, IN_FEATURES))
    rows, runs, results = [], {}, {}
    for solver in solvers:
        for what, function in (("values", values), ("gradient", gradient)):
            run = functools.partial(function, cell, solver)
            compile_s, program = compiled(run, params, inputs)
            result = program(params, inputs)
            reference = results.setdefault(what, result)
            runs[len(rows)] = functools.partial(program, params, inputs)
            rows.append(
                {
                    "solver": type(solver).__name__,
                    "what": what,
                    "compile_s": round(compile_s, 2),
                    "temp_mib": round(
                        program.memory_analysis().temp_size_in_bytes / 2**20, 2
                    ),
                    "error": difference(result, reference),
                }
            )
    jax.effects_barrier()
    for at, milliseconds in interleaved(runs, repeats).items():
        rows[at] |= summary(milliseconds)
        if rows[at]["solver"] == "Deer":
            rows[at] |= {"iterations": notes[0][0], "repaired_from": notes[0][1]}
    return rows


def values(
    cell: jaxrnn.Cell, solver: jaxrnn.Solver, params: dict, inputs: jax.Array
) -> jax.Array:
    """All outputs."""
    return jaxrnn.rnn(cell, params, inputs, solver=solver)[1]


def gradient(
    cell: jaxrnn.Cell, solver: jaxrnn.Solver, params: dict, inputs: jax.Array
) -> dict:
    """Of the mean of squares of all outputs, by the parameters."""

    def loss(params: dict) -> jax.Array:
        return jnp.mean(values(cell, solver, params, inputs) ** 2)

    return jax.grad(loss)(params)


def difference(found: jax.Array | dict, want: jax.Array | dict) -> float:
    """The largest, in numbers as they are."""
    leaves = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), found, want)
    return float(max(jax.tree.leaves(leaves)))


if __name__ == "__main__":
    tyro.cli(main)
