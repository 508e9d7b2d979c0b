"""Does every solver give on this device the numbers of `Scan` in float64 on the host?

A part of `accelerator.py`, under these names:

exact        `Fused`, its most basic cases first
exact-loops  the other solvers, on fewer cases

A case is a cell at random sizes, with or without a mask, resets, an initial carry, and
in either direction. Compared are the outputs, the last carry, and the gradients of a
scalar that all of them enter unevenly, each by the norm of the error over its own norm.

Float32 rounds to 6e-8. A step adds up some hundred products and takes an approximate
tanh, which costs some roundings; those of different steps add up as a random walk, for
the recurrent kernels here let nothing grow: 3e-6 times the root of the steps leaves
them a factor of ten. Bfloat16 rounds to 4e-3, over seven steps: 2e-2; or twice the
error of `Scan` in bfloat16 itself, where that is more.
"""

import functools
import math
import os
from collections.abc import Callable
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from accelerator_part import Part, part_of_command_line, reason
from accelerator_solvers import SOLVERS
from timing import significant

import jaxrnn

CELLS = {
    "simple_rnn": jaxrnn.simple_rnn,
    "lstm": jaxrnn.lstm,
    "gru": jaxrnn.gru,
    "simple_rnn relu": jaxrnn.simple_rnn_cell(activation=jax.nn.relu),
    "simple_rnn linear": jaxrnn.simple_rnn_cell(activation=jaxrnn.linear),
    "gru reset-before": jaxrnn.gru_cell(reset_after=False),
    "ind_rnn": jaxrnn.ind_rnn,
    "mgu": jaxrnn.mgu,
    "layer_norm_gru": jaxrnn.layer_norm_gru,
    "layer_norm_lstm": jaxrnn.layer_norm_lstm,
}
THREE = tuple(CELLS)[:3]
FEATURES = (32, 5, 64, 100, 128, 256)


class Case(NamedTuple):
    """What is compared.

    Attributes:
      cell: a name in `CELLS`.
      time, batch, in_features, features: the sizes; `batch` may have any axes.
      marks: some of "mask", "resets", "carry" (an initial one), "reverse".
      kind: "gradient" of one model, "three models" by vmap, "second" derivatives, or
        "bfloat16" inputs and carries with float32 parameters.
    """

    cell: str
    time: int
    batch: tuple[int, ...]
    in_features: int
    features: int
    marks: tuple[str, ...] = ()
    kind: str = "gradient"


def fused_cases(rng: np.random.Generator) -> list[Case]:
    """From the most basic to the rare ones."""
    basic = [Case(cell, 7, (5,), 3, 32) for cell in CELLS]
    sizes = [random_case(rng, cell, n) for n in FEATURES for cell in THREE]
    kinds = [
        Case(cell, 7, (5,), 3, 32, kind=kind)
        for kind, cells in {
            "three models": (*THREE, "mgu"),
            "second": ("simple_rnn", "lstm"),
            "bfloat16": THREE,
        }.items()
        for cell in cells
    ]
    odd = [
        Case("simple_rnn", 7, (300,), 3, 32),  # more rows than multiprocessors
        Case("lstm", 300, (2,), 3, 32, ("mask",)),
        Case("gru", 1, (3,), 4, 32),
        Case("simple_rnn", 6, (), 4, 32, ("resets",)),
        Case("lstm", 6, (2, 3), 4, 32, ("mask", "carry")),
    ]
    others = [
        random_case(rng, cell, n)
        for n in FEATURES
        for cell in CELLS
        if cell not in THREE
    ]
    low = [Case(cell, 7, (5,), 3, 64, kind="bfloat16") for cell in CELLS]
    return basic + sizes + kinds + odd + others + low


def loop_cases(rng: np.random.Generator) -> list[Case]:
    basic = [random_case(rng, cell, 32) for cell in CELLS]
    return basic + [random_case(rng, cell, n) for n in (100, 256) for cell in THREE]


def random_case(rng: np.random.Generator, cell: str, features: int) -> Case:
    time, batch, in_features = (int(n) for n in rng.integers(1, (25, 17, 49)))
    marks = ("mask", "resets", "carry", "reverse")
    given = tuple(mark for mark in marks if rng.random() < 0.6)
    return Case(cell, time, (batch,), in_features, features, given)


class Problem(NamedTuple):
    """Arrays of the host: what a gradient is taken of, and what only shapes it."""

    variables: tuple[Any, Any, Any]  # params, inputs, initial carry
    mask: Any
    resets: Any
    weights: Any  # of the outputs in the scalar


def problem_of(case: Case, seed: int) -> Problem:
    """Random numbers in float32, so that float64 begins with the same."""
    rng = np.random.default_rng(seed)
    cell = CELLS[case.cell]
    shape = (case.time, *case.batch)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 2:  # the spectral radius of a recurrent kernel is 0.7
            return normal(*shape) * np.float32(0.7 / math.sqrt(shape[0]))
        return np.float32(name.endswith("scale")) + np.float32(0.2) * normal(*shape)

    def params() -> dict[str, np.ndarray]:
        specs = cell.param_specs(case.in_features, case.features)
        return {name: parameter(name, spec.shape) for name, spec in specs.items()}

    one = params()
    if case.kind == "three models":
        several = jax.tree.map(lambda *x: np.stack(x), one, params(), params())
    carry = jax.eval_shape(lambda: cell.initial_carry(one, case.batch))
    return Problem(
        (
            several if case.kind == "three models" else one,
            normal(*shape, case.in_features),
            jax.tree.map(lambda leaf: 0.5 * normal(*leaf.shape), carry),
        ),
        rng.random(shape) < 0.7 if "mask" in case.marks else None,
        rng.random(shape) < 0.2 if "resets" in case.marks else None,
        normal(*shape, case.features),
    )


def compared(case: Case, solver: jaxrnn.Solver, dtype: Any) -> Callable:
    """A function of a `Problem` to named trees: values and gradients."""

    def scalar(variables: Any, problem: Problem) -> tuple[jax.Array, Any]:
        params, inputs, carry = variables
        last, outputs = jaxrnn.rnn(
            CELLS[case.cell],
            params,
            inputs.astype(dtype),
            mask=problem.mask,
            resets=problem.resets,
            initial_carry=carry if "carry" in case.marks else None,
            reverse="reverse" in case.marks,
            dtype=dtype,
            solver=solver,
        )
        of_last = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(last))
        weights = problem.weights.astype(dtype)
        return jnp.sum(weights * outputs) + of_last, (last, outputs)

    gradient = jax.value_and_grad(scalar, has_aux=True)

    def first(variables: Any, problem: Problem) -> dict[str, Any]:
        (_, (last, outputs)), gradients = gradient(variables, problem)
        names = ("gradient of params", "gradient of inputs", "gradient of carry")
        if "carry" not in case.marks:
            names = names[:2]
        values = {"last carry": last, "outputs": outputs}
        return values | dict(zip(names, gradients, strict=False))

    def second(variables: Any, problem: Problem) -> dict[str, Any]:
        def squares(variables: Any) -> jax.Array:
            gradients = gradient(variables, problem)[1][:2]
            return sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients))

        of_params, of_inputs, _ = jax.grad(squares)(variables)
        return {"second, params": of_params, "second, inputs": of_inputs}

    if case.kind == "second":
        return lambda problem: second(problem.variables, problem)
    if case.kind == "three models":

        def of_three(problem: Problem) -> dict[str, Any]:
            params, inputs, carry = problem.variables
            return jax.vmap(lambda params: first((params, inputs, carry), problem))(
                params
            )

        return of_three
    return lambda problem: first(problem.variables, problem)


@functools.lru_cache(maxsize=64)
def reference(case: Case, seed: int) -> dict[str, Any]:
    """`Scan` in float64 on the host."""
    with jax.enable_x64(True):
        on_host = jax.device_put(as_float64(problem_of(case, seed)), HOST)
        run = compared(case, jaxrnn.Scan(), jnp.float64)
        found = jax.jit(run, compiler_options=COMPILED_QUICKLY)(on_host)
        return jax.tree.map(np.asarray, found)


HOST = jax.devices("cpu")[0]
COMPILED_QUICKLY = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def as_float64(tree: Any) -> Any:
    def wider(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float64) if x.dtype == np.float32 else x

    return jax.tree.map(wider, tree)


def relative_error(found: Any, want: Any) -> float:
    """The norm of the error of a tree over its norm; over 1 where that is 0."""
    found, want = (
        np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(tree)])
        for tree in (found, want)
    )
    return float(np.linalg.norm(found - want) / (np.linalg.norm(want) or 1.0))


def tolerances(case: Case, seed: int, want: dict[str, Any]) -> dict[str, float]:
    """By the name of what is compared; see above."""
    if case.kind != "bfloat16":
        return dict.fromkeys(want, 3e-6 * math.sqrt(max(case.time, 4)))
    run = jax.jit(compared(case, jaxrnn.Scan(), jnp.bfloat16))
    found = run(problem_of(case, seed))
    return {key: max(2e-2, 2 * relative_error(found[key], want[key])) for key in want}


def check(part: Part, case: Case, seed: int, name: str) -> None:
    """Runs one solver on one case and records every error."""
    record = {"solver": name, "kind": case.kind, "seed": seed, **case._asdict()}
    if part.seconds_left() < 6:
        part.write(left_out=[f"{name} {case}"])
        return
    try:
        dtype = jnp.bfloat16 if case.kind == "bfloat16" else jnp.float32
        run = jax.jit(compared(case, SOLVERS[name], dtype))
        found = jax.block_until_ready(run(problem_of(case, seed)))
        want = reference(case, seed)
        allowed = tolerances(case, seed, want)
    except Exception as error:
        # What a solver cannot do, or fails at, is a result and stops no other case.
        why = reason(error)
        part.write(**record, passed=None if "refused" in why else False, **why)
        return
    errors = {key: relative_error(found[key], want[key]) for key in want}
    worst = max(errors, key=lambda key: errors[key] / allowed[key])
    part.write(
        **record,
        passed=all(errors[key] <= allowed[key] for key in want),  # NaN does not
        error=significant(errors[worst], 3),
        tolerance=significant(allowed[worst], 3),
        worst=worst,
        errors={key: significant(value, 3) for key, value in errors.items()},
    )


def main() -> None:
    part = part_of_command_line(__doc__)
    rng = np.random.default_rng(part.seed)
    names, cases = ["Fused"], fused_cases(rng)
    if part.name == "exact-loops":
        names, cases = list(set(SOLVERS) - {"Fused", "Scan"}), loop_cases(rng)
        names += ["Scan"]  # in float32, on this device
    if part.quick:
        cases = list({case.kind: case for case in reversed(cases)}.values())
    print(f"seed {part.seed}, {len(cases)} cases for {', '.join(names)}", flush=True)
    pool = futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    tasks = [
        pool.submit(check, part, case, part.seed + i, name)
        for i, case in enumerate(cases)
        for name in names
    ]
    for task in tasks:
        task.result()


if __name__ == "__main__":
    main()
