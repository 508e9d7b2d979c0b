"""A faster gradient: what the backward loop need not do is hoisted out of it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Adjoint, Carry, Cell, Params
from jaxrnn.solvers.base import hold
from jaxrnn.solvers.scan import Scan, choose_projection


@dataclasses.dataclass(frozen=True)
class HoistedScan:
    """Steps through time with `jax.lax.scan`; its backward loop carries the cotangent
    of the carry alone.

    `jax.grad` of a plain scan adds up the gradient of the recurrent kernel inside the
    backward loop, one small matmul a step. Here the loop stores what each step
    contributes and one matmul over all steps and rows follows it:

        dL/dU = sum_t h_{t-1}^T delta_t

    The backward step is the cell's hand-written `Adjoint`. It is the faster way for
    `simple_rnn`; for `gru` and `lstm` `Scan` is as fast or faster on a CPU. A cell
    without an adjoint gets JAX's own derivative of `step` under the same scheme, which
    keeps no more than the carries and computes each step a second time.

    Reverse mode, also of the gradient itself, `jit` and `vmap` work. Forward mode does
    not: `jax.jvp`, `jax.jacfwd` and `jax.hessian` raise JAX's TypeError about a
    custom_vjp function; pass `solver=Scan()` there.

    Attributes:
      unroll: loop iterations per compiled iteration.
      project_first: as in `Scan`.

    Example:
      >>> params = init_params(simple_rnn, jax.random.key(0), 2, 3)
      >>> inputs = jnp.ones((7, 5, 2))
      >>> def loss(params, solver):
      ...     return rnn(simple_rnn, params, inputs, solver=solver)[0].sum()
      >>> hoisted, plain = (jax.grad(loss)(params, s) for s in (HoistedScan(), Scan()))
      >>> all(jnp.allclose(hoisted[name], plain[name], atol=1e-5) for name in params)
      True
    """

    unroll: int = 1
    project_first: bool = False

    def __call__(
        self, cell: Cell, params: Params, carry: Carry, inputs: Any, mask: Any
    ) -> tuple[Carry, Carry]:
        return _run(cell, self, params, carry, inputs, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(
    cell: Cell,
    solver: HoistedScan,
    params: Params,
    carry: Carry,
    inputs: Any,
    mask: Any,
) -> tuple[Carry, Carry]:
    scan = Scan(solver.unroll, solver.project_first)
    return scan(cell, params, carry, inputs, mask)


def _forward(
    cell: Cell,
    solver: HoistedScan,
    params: Params,
    carry: Carry,
    inputs: Any,
    mask: Any,
) -> tuple[tuple[Carry, Carry], Any]:
    adjoint = cell.adjoint or derived_adjoint(cell)
    project, xs = choose_projection(cell, solver.project_first, params, inputs)

    def body(carry: Carry, step_inputs: Any) -> tuple[Carry, Any]:
        inputs, valid = step_inputs
        new, saved = adjoint.forward(params, carry, project(params, inputs))
        carry = hold(valid, new, carry)
        return carry, (carry, saved)

    last, (carries, saved) = jax.lax.scan(body, carry, (xs, mask), unroll=solver.unroll)
    return (last, carries), (params, carry, inputs, mask, carries, saved)


def _backward(cell: Cell, solver: HoistedScan, residuals: Any, cotangents: Any) -> Any:
    adjoint = cell.adjoint or derived_adjoint(cell)
    params, first, inputs, mask, carries, saved = residuals
    cotangent_last, cotangent_carries = cotangents
    before = jax.tree.map(_shift, first, carries)
    zero = jax.tree.map(jnp.zeros_like, first)

    def body(cotangent: Carry, step_inputs: Any) -> tuple[Carry, Any]:
        before, after, saved, valid, direct = step_inputs
        cotangent = jax.tree.map(jnp.add, cotangent, direct)
        stepped = hold(valid, cotangent, zero)  # the part that went through `step`
        passed, delta = adjoint.backward(params, before, after, saved, stepped)
        if valid is not None:
            held = hold(valid, zero, cotangent)
            passed = jax.tree.map(jnp.add, passed, held)
        return passed, delta

    steps = (before, carries, saved, mask, cotangent_carries)
    cotangent_first, delta = jax.lax.scan(
        body, cotangent_last, steps, reverse=True, unroll=solver.unroll
    )
    from_steps, cotangent_projected = adjoint.collect(params, before, saved, delta)
    _, pullback = jax.vjp(cell.project, params, inputs)
    gradients, cotangent_inputs = pullback(cotangent_projected)
    for name, gradient in from_steps.items():
        gradients[name] = gradients[name] + gradient
    return gradients, cotangent_first, cotangent_inputs, None


_run.defvjp(_forward, _backward)


def _shift(first: Array, carries: Array) -> Array:
    """The carry before each step, from the one before the first and those after."""
    return jnp.concatenate([first[None], carries[:-1]])


def derived_adjoint(cell: Cell) -> Adjoint:
    """The adjoint of any cell, by JAX: slower than `Scan`, and frugal with memory.

    Nothing but the carries and the projected inputs is kept; `delta` is the cotangent
    of the carry after each step, and the gradients are those of one call of `step`
    that takes time as one more batch axis.
    """

    def forward(params: Params, carry: Carry, projected: Array) -> tuple[Carry, Array]:
        return cell.step(params, carry, projected), projected

    def backward(
        params: Params, before: Carry, after: Carry, saved: Array, cotangent: Carry
    ) -> tuple[Carry, Carry]:
        del after
        _, pullback = jax.vjp(lambda carry: cell.step(params, carry, saved), before)
        return pullback(cotangent)[0], cotangent

    def collect(
        params: Params, before: Carry, saved: Array, delta: Carry
    ) -> tuple[dict[str, Array], Array]:
        def all_steps(params: Params, projected: Array) -> Carry:
            return cell.step(params, before, projected)

        _, pullback = jax.vjp(all_steps, dict(params), saved)
        return pullback(delta)

    return Adjoint(forward, backward, collect, faster=False)
