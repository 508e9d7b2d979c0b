"""The fastest way on a GPU: one kernel for all of time, made from the cell's step."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.cells.specs import param_names
from jaxrnn.fused import launch
from jaxrnn.fused.blocks import Unsupported
from jaxrnn.fused.emit import (
    Problem,
    Tree,
    backward_kernel,
    forward_kernel,
    traced_backward,
    traced_forward,
)
from jaxrnn.solvers.adjoints import adjoint_of
from jaxrnn.solvers.base import Solver, Steps, check_solver, start_of
from jaxrnn.solvers.derivatives import or_zeros, with_backward, with_derivative_of
from jaxrnn.solvers.hoisted import (
    HoistedScan,
    backward_weights,
    befores_of,
    floating,
    reference_of,
)
from jaxrnn.solvers.primitives import here_or_there
from jaxrnn.solvers.scan import Scan


@dataclasses.dataclass(frozen=True)
class Fused:
    """Steps through time within one GPU kernel, for any cell.

    A `jax.lax.scan` launches kernels at every step, some 10 microseconds of it; here a
    launch takes all steps. No row of the batch needs another one, so a block of threads
    takes one row through time, with the carry and the recurrent weights in registers
    and shared memory: forth for the values, back for delta. Inputs are projected before
    the loop and gradients of parameters taken after it, each in one matmul.

    The kernels are written for the cell at hand, from its own `step` and `Adjoint`, and
    compiled by NVRTC when a program is traced that needs them: a second or less each,
    once for all sizes of time and batch, and kept in the user's cache directory.

    Mask, resets, initial carry, float32, bfloat16 and float64, and the gradient of the
    gradient (by `HoistedScan`) work; under `vmap` models run side by side in one
    launch. So does forward mode (a scan does it). An array that is sharded over devices
    is gathered on each of them, unless the mesh has explicit axes or `jax.shard_map` is
    around. A program that `jax.export` makes holds none of these kernels: it runs
    `HoistedScan`, wherever it is taken.

    In bfloat16 arrays are rounded, and all arithmetic of a step is float32, even after
    a cast to bfloat16. Inside the loop float32 is never TF32;
    `jax.default_matmul_precision` rules the matmuls before and after it.

    Attributes:
      threads_per_feature: threads that share the sums of one feature, a power of two
        up to 32. None takes the fewest whose registers hold the recurrent weights.
      otherwise: the solver that runs where this one cannot; None raises instead.

    Raises:
      TypeError: an `otherwise` that is no solver.
      ValueError: where it cannot run: no NVIDIA GPU; more features than a block of
        threads can hold (about 300 for a simple_rnn, 140 for an lstm); a step with
        something that no CUDA is known for. The message says which.

    Example:
      >>> params = init_params(gru, jax.random.key(0), 2, 3)
      >>> solver = Fused(otherwise=Scan())
      >>> carry, outputs = rnn(gru, params, jnp.ones((7, 5, 2)), solver=solver)
      >>> outputs.shape
      (7, 5, 3)
    """

    threads_per_feature: int | None = None
    otherwise: Solver | None = None

    def __post_init__(self) -> None:
        if self.threads_per_feature not in (None, 1, 2, 4, 8, 16, 32):
            raise ValueError(
                "threads_per_feature must be a power of two up to 32, got "
                f"{self.threads_per_feature}; None chooses."
            )
        if self.otherwise is not None:
            check_solver(self.otherwise)

    def __call__(
        self, cell: Cell, params: Params, carry: Carry, steps: Steps
    ) -> tuple[Carry, Carry]:
        size = steps.time * math.prod(steps.batch_shape)
        if not isinstance(size, int) or size == 0:  # no int is left open by an export
            return HoistedScan(chunk=None)(cell, params, carry, steps)
        reason = refusal(self, cell, params, carry, steps)
        if reason is None:
            start = start_of(cell, params, carry, steps)
            return _run((cell, self), params, start, carry, steps)
        if self.otherwise is not None:
            return self.otherwise(cell, params, carry, steps)
        raise ValueError(
            f"Fused cannot run {cell.name}: {reason}. HoistedScan(chunk=None) runs "
            "everywhere, and Fused(otherwise=HoistedScan(chunk=None)) where it must."
        )


def refusal(
    solver: Fused, cell: Cell, params: Params, carry: Carry, steps: Steps
) -> str | None:
    """Why there are no kernels for this; None where there are."""
    reason = launch.unavailable()
    if reason is not None:
        return reason
    try:
        problem = _problem(cell, solver, params, carry, steps)
        forward_kernel(problem, save=True)
        backward_kernel(problem, (True,) * len(problem.carry.leaves))
    except Unsupported as reason:
        return str(reason)
    return None


# Primals are (params, start, carry, steps), as in `cotangent_run`.


Static = tuple[Cell, Fused]


def _value(static: Static, *primals: Any) -> tuple[Carry, Carry]:
    return _with_derivative(_forward_loop, _forward_reference, (*static, False))(
        *primals
    )[0]


def _forward(static: Static, *primals: Any) -> tuple[Any, Any]:
    run = _with_derivative(_forward_loop, _forward_reference, (*static, True))
    ran, residuals = run(*primals)
    return ran, (ran[1], residuals)


def _backward(
    static: Static, primals: Any, kept: Any, cotangents: Any, varies: Any
) -> Any:
    del varies  # the compiler drops what nobody asks for
    run = _with_derivative(_backward_loop, _backward_reference, static)
    return run(primals, *kept, cotangents)


def _scanned(
    static: Static, params: Params, start: Carry | None, carry: Carry, steps: Steps
) -> tuple[Carry, Carry]:
    return Scan().run_from(start, static[0], params, carry, steps)


_run = with_backward(_value, forward=_forward, backward=_backward, reference=_scanned)


def _with_derivative(
    loop: Callable[..., Any], reference: Callable[..., Any], static: Any
) -> Callable[..., Any]:
    """`loop` on this GPU; `reference` elsewhere, in exported programs, and where the
    loop itself is differentiated.
    """
    here = functools.partial(
        here_or_there, loop, reference, static, platform=launch.PLATFORM
    )
    return with_derivative_of(functools.partial(reference, static), here)


def _forward_loop(static: tuple[Cell, Fused, bool], *primals: Any) -> Any:
    """(The last carry, all carries), and the leaves of the residuals."""
    cell, solver, save = static
    params, start, carry, steps = primals
    projected = cell.project(params, steps.inputs)
    problem = _problem(cell, solver, params, carry, steps)
    kernel = forward_kernel(problem, save=save)
    rows = math.prod(steps.batch_shape)
    arrays = _arrays(problem, params, start, carry, steps)
    xs = _named("x", projected, steps.time, rows)
    found = launch.run(kernel, arrays | xs, time=steps.time, rows=rows)

    number = len(problem.carry.leaves)
    carries = [_whole(found[f"carry{i}"], steps) for i in range(number)]
    carries = jax.tree.unflatten(problem.carry.structure, carries)
    residuals = None
    if save:
        of = jax.tree.leaves(projected)
        aliases = traced_forward(problem)[2]
        residuals = [
            _whole(found[f"residual{i}"], steps) if alias is None else of[alias]
            for i, alias in enumerate(aliases)
        ]
    return (jax.tree.map(lambda x: x[-1], carries), carries), residuals


def _forward_reference(static: tuple[Cell, Fused, bool], *primals: Any) -> Any:
    loop = functools.partial(_forward_loop, static)
    _, residuals = jax.eval_shape(loop, *primals)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), residuals)
    return reference_of(static[0])(*primals), zeros


def _backward_loop(
    static: Static, primals: Any, carries: Carry, residuals: Any, cotangents: Any
) -> Any:
    """The cotangents of the primals."""
    cell, solver = static
    params, start, carry, steps = primals
    last, direct = cotangents
    last = jax.tree.map(or_zeros, carry, last)
    problem = _problem(cell, solver, params, carry, steps)
    leaves = jax.tree.leaves(direct, is_leaf=lambda x: x is None)
    kernel = backward_kernel(problem, tuple(x is not None for x in leaves))
    rows = math.prod(steps.batch_shape)
    arrays = _arrays(problem, params, start, carry, steps)
    arrays |= _named("carry", carries, steps.time, rows)
    arrays |= _named("residual", residuals, steps.time, rows)
    arrays |= _named("direct", leaves, steps.time, rows)
    arrays |= _named("last", last, rows)
    found = launch.run(kernel, arrays, time=steps.time, rows=rows)

    def of_carry(name: str) -> Carry:
        leaves, structure = jax.tree.flatten(carry)
        of = [found[f"{name}{i}"].reshape(x.shape) for i, x in enumerate(leaves)]
        return jax.tree.unflatten(structure, of)

    structure = traced_backward(problem)[1].structure
    number = structure.num_leaves
    delta = [_whole(found[f"delta{i}"], steps) for i in range(number)]
    befores = befores_of(start, carry, steps, carries)
    structure_of_residuals = traced_forward(problem)[1].structure
    gradients, of_inputs = backward_weights(
        cell,
        params,
        steps.inputs,
        befores,
        jax.tree.unflatten(structure_of_residuals, residuals),
        jax.tree.unflatten(structure, delta),
    )
    return (
        gradients,
        None if start is None else of_carry("of_start"),
        of_carry("of_first"),
        Steps(of_inputs),
    )


def _backward_reference(
    static: Static, primals: Any, carries: Carry, residuals: Any, cotangents: Any
) -> Any:
    del carries, residuals  # they follow from the primals
    ran, pullback = jax.vjp(reference_of(static[0]), *primals)
    of_ran = jax.tree.map(or_zeros, ran, cotangents)
    params, start, carry, steps = pullback(of_ran)
    inputs = primals[3].inputs
    return params, start, carry, Steps(jax.tree.map(floating, inputs, steps.inputs))


# Arrays by the names that kernels have for them, with one axis of rows.


def _problem(
    cell: Cell, solver: Fused, params: Params, carry: Carry, steps: Steps
) -> Problem:
    of_batch = len(steps.batch_shape)
    names = param_names(cell)
    of_row = {
        name: jax.ShapeDtypeStruct(
            x.shape if name in names else (x.shape[0], *x.shape[1 + of_batch :]),
            x.dtype,
        )
        for name, x in params.items()
    }
    projected = jax.eval_shape(cell.project, params, steps.inputs)
    return Problem(
        cell,
        adjoint_of(cell),
        Tree.of(of_row),
        Tree.of(carry, of_batch),
        Tree.of(projected, 1 + of_batch),
        mask=steps.mask is not None,
        resets=steps.resets is not None,
        threads_per_feature=solver.threads_per_feature,
        shared_bytes=launch.shared_bytes(),
    )


def _arrays(
    problem: Problem, params: Params, start: Carry | None, carry: Carry, steps: Steps
) -> dict[str, Array]:
    rows = math.prod(steps.batch_shape)
    names = param_names(problem.cell)
    found = {
        problem.param(name): (
            x if name in names else x.reshape(len(x), rows, x.shape[-1])
        )
        for name, x in params.items()
    }
    for name, marks in (("mask", steps.mask), ("resets", steps.resets)):
        if marks is not None:
            found[name] = marks.reshape(steps.time, rows)
    return found | _named("first", carry, rows) | _named("start", start, rows)


def _named(name: str, tree: Any, *leading: int) -> dict[str, Array]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: x is None)
    return {
        f"{name}{i}": x.reshape(*leading, x.shape[-1])
        for i, x in enumerate(leaves)
        if x is not None
    }


def _whole(x: Array, steps: Steps) -> Array:
    """With all axes of the batch again."""
    return x.reshape(steps.time, *steps.batch_shape, *x.shape[2:])
