"""`HoistedScan` for a cell whose cotangents follow from delta: its loop carries delta.

One iteration of the backward loop is then a matmul, and one elementwise pass over what
came out of it:

    delta_{t-1} = (delta_t U^T + dL/dh_{t-1}) * f'(h_{t-1})

It starts from the delta of the last step and reads, as the matmul after it does, the
carry before each step: nothing is shifted, so nothing is copied. On one device the
arrays in both loops are flat, which XLA:CPU vectorizes better than rows of 32.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.flat import flat
from jaxrnn.solvers.base import known, or_zeros
from jaxrnn.solvers.scan import Scan, choose_projection


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def carried_delta_run(
    cell: Cell,
    unroll: int,
    project_first: bool | None,
    params: Params,
    first: Array,
    inputs: Any,
) -> tuple[Carry, Carry]:
    """Runs a cell with `Adjoint.halves` whose carry is one array; no mask, no resets.

    `project_first` None is True where there is a gradient, else False.
    """
    scan = Scan(unroll, bool(project_first))
    return scan(cell, params, first, inputs, None, None)


def _forward(
    cell: Cell, unroll: int, project_first: bool | None, *arguments: Any
) -> Any:
    params, first, inputs = jax.tree.map(lambda primal: primal.value, arguments)
    project, xs = choose_projection(cell, project_first is not False, params, inputs)
    shape = first.shape

    def body(before: Array, inputs: Any) -> tuple[Array, Array]:
        hidden = before.reshape(shape)
        return flat(cell.step(params, hidden, project(params, inputs))), before

    last, befores = jax.lax.scan(body, flat(first), xs, unroll=unroll)
    carries = jnp.concatenate([befores[1:], last[None]]).reshape(-1, *shape)
    last = last.reshape(shape)
    return (last, carries), (params, inputs, befores, last)


def _backward(
    cell: Cell, unroll: int, project_first: bool | None, residuals: Any, given: Any
) -> Any:
    del project_first
    params, inputs, befores, last = residuals
    cotangent, direct = map(known, given)
    cotangent = or_zeros(last, cotangent)
    if direct is not None:
        cotangent = cotangent + direct[-1]
        none = jnp.zeros_like(direct[:1])  # for the carry before the first step
        direct = jnp.concatenate([none, direct[:-1]]).reshape(befores.shape)
    assert cell.adjoint is not None
    assert cell.adjoint.halves is not None
    slope, through = cell.adjoint.halves

    def passed(delta: Array) -> Array:
        return flat(through(params, delta.reshape(last.shape)))

    def body(delta: Array, step: Any) -> tuple[Array, Array]:
        before, direct = step
        cotangent = passed(delta)
        if direct is not None:
            cotangent = cotangent + direct
        return cotangent * slope(before), delta

    delta = flat(cotangent) * slope(flat(last))
    _, deltas = jax.lax.scan(
        body, delta, (befores, direct), reverse=True, unroll=unroll
    )
    befores, all_deltas = (x.reshape(-1, *last.shape) for x in (befores, deltas))
    collect = cell.adjoint.collect
    gradients, of_inputs = collect(params, inputs, befores, None, all_deltas)
    return gradients, passed(deltas[0]).reshape(last.shape), of_inputs


carried_delta_run.defvjp(_forward, _backward, symbolic_zeros=True)
