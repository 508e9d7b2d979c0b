"""Which adjoint has a cell? Its own, written by hand, or one that JAX derives."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Adjoint, Carry, Cell, ElementwiseAdjoint, Params


@functools.lru_cache(maxsize=256)
def adjoint_of(cell: Cell) -> Adjoint:
    """The adjoint of any cell, in the form that a loop over the cotangent takes.

    The same object whenever it is asked for.
    """
    if cell.adjoint is None:
        return derived_adjoint(cell)
    if isinstance(cell.adjoint, ElementwiseAdjoint):
        return elementwise_adjoint(cell, cell.adjoint)
    return cell.adjoint


def elementwise_adjoint(cell: Cell, adjoint: ElementwiseAdjoint) -> Adjoint:
    """The same adjoint, one step at a time: `derivative`, then `pullback`."""

    def forward(params: Params, carry: Array, projected: Array) -> tuple[Array, None]:
        return cell.step(params, carry, projected), None

    def backward_data(
        params: Params, before: Array, after: Array, residuals: None, cotangent: Array
    ) -> tuple[Array, Array]:
        del before, residuals
        delta = cotangent * adjoint.derivative(after)
        return adjoint.pullback(params, delta), delta

    return Adjoint(forward, backward_data, adjoint.backward_weights, adjoint.native)


def derived_adjoint(cell: Cell) -> Adjoint:
    """The adjoint of any cell, by JAX: slower than `Scan`, and frugal with memory.

    Nothing but the carries and the projected inputs is kept. `delta` is the cotangent
    of the carry after each step, and the gradients are those of one call of `step`
    that takes time as one more batch axis.
    """

    def forward(params: Params, carry: Carry, projected: Any) -> tuple[Carry, Any]:
        return cell.step(params, carry, projected), projected

    def backward_data(
        params: Params, before: Carry, after: Carry, residuals: Any, cotangent: Carry
    ) -> tuple[Carry, Carry]:
        del after
        _, pullback = jax.vjp(lambda carry: cell.step(params, carry, residuals), before)
        return pullback(cotangent)[0], cotangent

    def backward_weights(
        params: Params, inputs: Any, before: Carry, residuals: Any, delta: Carry
    ) -> tuple[dict[str, Array], Any]:
        def all_steps(params: Params, projected: Any) -> Carry:
            return cell.step(params, before, projected)

        _, through_steps = jax.vjp(all_steps, dict(params), residuals)
        from_steps, of_projected = through_steps(delta)
        _, through_project = jax.vjp(cell.project, dict(params), inputs)
        from_project, of_inputs = through_project(of_projected)
        return jax.tree.map(jnp.add, from_steps, from_project), of_inputs

    return Adjoint(forward, backward_data, backward_weights)
