"""A faster gradient: what the backward loop need not do is hoisted out of it."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Adjoint, Carry, Cell, Params
from jaxrnn.solvers.base import hold, known, or_zeros, restart, start_of
from jaxrnn.solvers.carried_delta import carried_delta_run
from jaxrnn.solvers.scan import Scan, choose_projection


@dataclasses.dataclass(frozen=True)
class HoistedScan:
    """Steps through time with `jax.lax.scan`; its backward loop carries the cotangent
    of the carry alone.

    `jax.grad` of a plain scan adds up the gradient of the recurrent kernel inside the
    backward loop, one small matmul a step. Here the loop stores what each step
    contributes, and one matmul over the rows of some steps follows it:

        dL/dU = sum_t h_{t-1}^T delta_t

    The backward step is the cell's hand-written `Adjoint`. Of the ways that need no
    compiler it is the fastest on a CPU, but for a `gru` that is not large, where `Scan`
    is. In chunks it takes about half the memory: little more than what the cell saves,
    which for `simple_rnn` is the carries. A cell without an adjoint gets JAX's own
    derivative of `step` under the same scheme, which keeps no more than carries and
    projected inputs and computes each step a second time.

    Reverse mode, also of the gradient itself, `jit` and `vmap` work. Forward mode does
    not: `jax.jvp`, `jax.jacfwd` and `jax.hessian` raise JAX's TypeError about a
    custom_vjp function; pass `solver=Scan()` there.

    Attributes:
      unroll: loop iterations per compiled iteration.
      project_first: as in `Scan`; None projects first where that was faster on a CPU:
        for a gradient in one chunk, of a cell whose projected inputs take no more
        memory than its carries.
      chunk: the gradient of the parameters is taken from about as many steps at once
        (a divisor of the time that is near), so that what the backward loop stores is
        small beside the carries; None takes all steps at once, which is faster: for
        `simple_rnn` and `ind_rnn` at any size, for others below a million values.

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
    project_first: bool | None = None
    chunk: int | None = 8

    def __call__(
        self,
        cell: Cell,
        params: Params,
        carry: Carry,
        inputs: Any,
        mask: Any,
        resets: Any,
    ) -> tuple[Carry, Carry]:
        unmarked = mask is None and resets is None
        time = jax.tree.leaves(inputs)[0].shape[0]
        if self.chunk is None and unmarked and time > 0 and _has_halves(cell):
            options = (self.unroll, self.project_first)
            return carried_delta_run(cell, *options, params, carry, inputs)
        start = start_of(cell, params, carry, inputs)
        return hoisted_run(cell, self, params, carry, start, inputs, mask, resets)


def _has_halves(cell: Cell) -> bool:
    return cell.adjoint is not None and cell.adjoint.halves is not None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def hoisted_run(
    cell: Cell,
    solver: HoistedScan,
    params: Params,
    carry: Carry,
    start: Carry,
    inputs: Any,
    mask: Any,
    resets: Any,
) -> tuple[Carry, Carry]:
    """`HoistedScan` on arrays alone: `start` is what a reset restarts from."""
    del start  # Scan makes its own; this one is there to have a gradient
    scan = Scan(solver.unroll, bool(solver.project_first))
    return scan(cell, params, carry, inputs, mask, resets)


def _forward(cell: Cell, solver: HoistedScan, *arguments: Any) -> Any:
    params, carry, start, inputs, mask, resets = jax.tree.map(
        lambda primal: primal.value, arguments
    )
    adjoint = cell.adjoint or derived_adjoint(cell)
    first = solver.project_first
    if first is None:
        first = solver.chunk is None and not _wider(cell, params, carry, inputs)
    project, xs = choose_projection(cell, first, params, inputs)

    def body(carry: Carry, step_inputs: Any) -> tuple[Carry, Any]:
        inputs, valid, reset = step_inputs
        carry = restart(reset, start, carry)
        new, saved = adjoint.forward(params, carry, project(params, inputs))
        carry = hold(valid, new, carry)
        return carry, (carry, saved)

    last, (carries, saved) = jax.lax.scan(
        body, carry, (xs, mask, resets), unroll=solver.unroll
    )
    steps = (inputs, mask, resets, carries, saved)
    return (last, carries), (params, carry, start, steps)


def _wider(cell: Cell, params: Params, carry: Carry, inputs: Any) -> bool:
    """Whether all projected inputs take more memory than all carries."""
    projected = jax.eval_shape(cell.project, params, inputs)
    of_projected, of_carry = (
        sum(x.size for x in jax.tree.leaves(tree)) for tree in (projected, carry)
    )
    return of_projected > of_carry * jax.tree.leaves(inputs)[0].shape[0]


def _backward(cell: Cell, solver: HoistedScan, residuals: Any, cotangents: Any) -> Any:
    """Chunk by chunk from the last to the first; the gradients add up."""
    params, first, start, steps = residuals
    *_, carries, _ = steps
    last, direct = jax.tree.map(known, cotangents)
    cotangent = jax.tree.map(or_zeros, first, last)
    of_start = None if steps[2] is None else jax.tree.map(jnp.zeros_like, start)
    backward = functools.partial(_chunk_backward, cell, solver.unroll, params, start)

    time = jax.tree.leaves(carries)[0].shape[0]
    size = chunk_size(time, solver.chunk)
    if size == time:
        (cotangent, of_start), gradients, of_inputs = backward(
            (cotangent, of_start), first, (steps, direct)
        )
        return gradients, cotangent, of_start, of_inputs, None, None
    rest = time % size  # the first steps, where the size does not divide the time

    def add_chunk(carried: Any, before: Carry, chunk: Any) -> tuple[Any, Any]:
        cotangents, total = carried
        cotangents, gradients, of_inputs = backward(cotangents, before, chunk)
        return (cotangents, jax.tree.map(jnp.add, total, gradients)), of_inputs

    def body(carried: Any, chunk: Any) -> tuple[Any, Any]:
        before, chunk = chunk
        if rest:  # `chunk` is its first step; to cut off the rest would copy all steps
            chunk = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, chunk, size), (steps, direct)
            )
        return add_chunk(carried, before, chunk)

    def before_chunks(first: Array, carries: Array) -> Array:
        head = carries[rest - 1 : rest] if rest else first[None]
        return jnp.concatenate([head, carries[rest + size - 1 : time - 1 : size]])

    chunks = jnp.arange(rest, time, size)
    if not rest:
        chunks = jax.tree.map(
            lambda x: x.reshape(-1, size, *x.shape[1:]), (steps, direct)
        )
    befores = jax.tree.map(before_chunks, first, carries)
    carried = ((cotangent, of_start), jax.tree.map(jnp.zeros_like, params))
    carried, of_inputs = jax.lax.scan(body, carried, (befores, chunks), reverse=True)
    of_inputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), of_inputs)
    if rest:
        head = jax.tree.map(lambda x: x[:rest], (steps, direct))
        carried, of_head = add_chunk(carried, first, head)
        of_inputs = jax.tree.map(lambda *x: jnp.concatenate(x), of_head, of_inputs)
    (cotangent, of_start), gradients = carried
    return gradients, cotangent, of_start, of_inputs, None, None


hoisted_run.defvjp(_forward, _backward, symbolic_zeros=True)


def chunk_size(time: int, near: int | None) -> int:
    """A divisor of `time` from half to twice `near`, or else `near` itself.

    One that is at most a sixteenth of the time goes first: what is stored for a chunk,
    about four times its carries, is then a quarter of all carries.

    Example:
      >>> [chunk_size(time, 8) for time in (500, 100, 30, 7, 101)]
      [10, 5, 6, 7, 8]
    """
    if near is None or time <= near:
        return time
    divisors = (n for n in range(-(-near // 2), 2 * near + 1) if time % n == 0)
    return min(divisors, key=lambda n: (16 * n > time, abs(n - near)), default=near)


def _chunk_backward(
    cell: Cell,
    unroll: int,
    params: Params,
    start: Carry,
    cotangents: tuple[Carry, Carry | None],
    first: Carry,
    chunk: Any,
) -> tuple[tuple[Carry, Carry | None], Params, Any]:
    """One chunk: cotangents of the carry before it and of `start`, and gradients."""
    (inputs, mask, resets, carries, saved), direct = chunk
    adjoint = cell.adjoint or derived_adjoint(cell)
    before = jax.tree.map(_shift, first, carries)
    before = restart(resets, jax.tree.map(lambda x: x[None], start), before)
    zero = jax.tree.map(jnp.zeros_like, first)

    def body(cotangents: Any, step: Any) -> tuple[Any, Any]:
        cotangent, of_start = cotangents
        before, after, saved, valid, reset, direct = step
        cotangent = jax.tree.map(_plus, cotangent, direct)
        stepped = hold(valid, cotangent, zero)  # the part that went through `step`
        passed, delta = adjoint.backward(params, before, after, saved, stepped)
        if valid is not None:
            held = hold(valid, zero, cotangent)
            passed = jax.tree.map(jnp.add, passed, held)
        if reset is not None:
            restarted = hold(reset, passed, zero)
            of_start = jax.tree.map(jnp.add, of_start, restarted)
            passed = hold(reset, zero, passed)
        return (passed, of_start), delta

    xs = (before, carries, saved, mask, resets, direct)
    cotangents, delta = jax.lax.scan(body, cotangents, xs, reverse=True, unroll=unroll)
    gradients, of_inputs = adjoint.collect(params, inputs, before, saved, delta)
    return cotangents, gradients, jax.tree.map(_floating, inputs, of_inputs)


def _shift(first: Array, carries: Array) -> Array:
    """The carry before each step, from the one before the first and those after."""
    return jnp.concatenate([first[None], carries])[:-1]


def _plus(cotangent: Array, direct: Array | None) -> Array:
    return cotangent if direct is None else cotangent + direct


def _floating(x: Array, cotangent: Any) -> Any:
    """None for the cotangent of booleans, which no loop can carry."""
    return cotangent if jnp.issubdtype(x.dtype, jnp.floating) else None


def derived_adjoint(cell: Cell) -> Adjoint:
    """The adjoint of any cell, by JAX: slower than `Scan`, and frugal with memory.

    Nothing but the carries and the projected inputs is kept; `delta` is the cotangent
    of the carry after each step, and the gradients are those of one call of `step`
    that takes time as one more batch axis.
    """

    def forward(params: Params, carry: Carry, projected: Any) -> tuple[Carry, Any]:
        return cell.step(params, carry, projected), projected

    def backward(
        params: Params, before: Carry, after: Carry, saved: Any, cotangent: Carry
    ) -> tuple[Carry, Carry]:
        del after
        _, pullback = jax.vjp(lambda carry: cell.step(params, carry, saved), before)
        return pullback(cotangent)[0], cotangent

    def collect(
        params: Params, inputs: Any, before: Carry, saved: Any, delta: Carry
    ) -> tuple[dict[str, Array], Any]:
        def all_steps(params: Params, projected: Any) -> Carry:
            return cell.step(params, before, projected)

        _, through_steps = jax.vjp(all_steps, dict(params), saved)
        from_steps, of_projected = through_steps(delta)
        _, through_project = jax.vjp(cell.project, dict(params), inputs)
        from_project, of_inputs = through_project(of_projected)
        return jax.tree.map(jnp.add, from_steps, from_project), of_inputs

    return Adjoint(forward, backward, collect, faster_from=math.inf)
