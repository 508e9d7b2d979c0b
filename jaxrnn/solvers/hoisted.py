"""A faster gradient: what the backward loop need not do is hoisted out of it."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Carry, Cell, ElementwiseAdjoint, Params
from jaxrnn.cells.ops import is_divided
from jaxrnn.solvers.adjoints import adjoint_of
from jaxrnn.solvers.base import Steps, hold, restart, start_of
from jaxrnn.solvers.chunks import check_chunk, chunk_size, cut, joined
from jaxrnn.solvers.derivatives import or_zeros, with_backward
from jaxrnn.solvers.scan import Scan, choose_projection
from jaxrnn.solvers.tuned import tuned


@dataclasses.dataclass(frozen=True)
class HoistedScan:
    """Steps through time with `jax.lax.scan`; its backward loop carries the cotangent
    of the carry alone.

    `jax.grad` of a plain scan adds up the gradient of the recurrent kernel inside the
    backward loop, one small matmul a step. Here the loop stores what each step
    contributes, and one matmul over the rows of some steps follows it:

        dL/dU = sum_t h_{t-1}^T delta_t

    The backward step is the cell's hand-written `Adjoint`. A cell without one gets
    JAX's own derivative of `step` under the same scheme, which keeps no more than
    carries and projected inputs and computes each step a second time.

    Both modes work, also of the gradient itself, `jit` and `vmap`. Forward mode
    (`jax.jvp`, `jax.jacfwd`, `jax.hessian`) is JAX's own derivative of `Scan`.

    Attributes:
      unroll: loop iterations per compiled iteration.
      project_first: as in `Scan`; None projects first where that takes no memory worth
        speaking of: for a gradient in one chunk, of a cell whose projected inputs are
        no larger than its carries.
      chunk: the gradient of the parameters is taken from about so many steps at once,
        so that what the backward loop stores is small beside the carries; None takes
        all steps at once, which is as fast or faster and takes up to four times the
        memory. So does a number of steps that `jax.export` leaves open.

    Raises:
      ValueError: a chunk below 1.

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

    def __post_init__(self) -> None:
        check_chunk(self.chunk)

    def __call__(
        self, cell: Cell, params: Params, carry: Carry, steps: Steps
    ) -> tuple[Carry, Carry]:
        unmarked = steps.mask is None and steps.resets is None
        elementwise = isinstance(cell.adjoint, ElementwiseAdjoint)
        some = (
            isinstance(steps.time, int) and steps.time > 0
        )  # no open size of an export
        if self.chunk is None and elementwise and unmarked and some:
            return delta_run((cell, self), params, carry, steps.inputs)
        start = start_of(cell, params, carry, steps)
        return cotangent_run((cell, self), params, start, carry, steps)


# The loop for any cell, mask and resets: it carries the cotangent of the carry.


Static = tuple[Cell, HoistedScan]


def _run(
    static: Static, params: Params, start: Carry | None, carry: Carry, steps: Steps
) -> tuple[Carry, Carry]:
    cell, solver = static
    scan = Scan(solver.unroll, bool(solver.project_first))
    return scan.run_from(start, cell, params, carry, steps)


class _Kept(NamedTuple):
    """What a backward loop reads, step by step."""

    steps: Steps
    carries: Carry
    residuals: Any  # those of `Adjoint.forward`
    direct: Carry | None  # the cotangent of the carries


def _forward(
    static: Static, params: Params, start: Carry | None, first: Carry, steps: Steps
) -> Any:
    cell, solver = static
    adjoint = adjoint_of(cell)
    project, inputs = _projection(cell, solver, params, first, steps)

    def body(carry: Carry, step: Steps) -> tuple[Carry, Any]:
        carry = restart(step.resets, start, carry)
        new, residuals = adjoint.forward(params, carry, project(params, step.inputs))
        carry = hold(step.mask, new, carry)
        return carry, (carry, residuals)

    xs = steps._replace(inputs=inputs)
    last, (carries, residuals) = jax.lax.scan(body, first, xs, unroll=solver.unroll)
    return (last, carries), (carries, residuals)


def _backward(
    static: Static, primals: Any, kept: Any, cotangents: Any, varies: Any
) -> Any:
    """Chunk by chunk from the last to the first; the gradients add up."""
    del varies  # the compiler drops what nobody asks for
    cell, solver = static
    params, start, first, steps = primals
    last, direct = cotangents
    carries, residuals = kept
    kept = _Kept(steps, carries, residuals, direct)
    of_carry = jax.tree.map(or_zeros, first, last)
    of_start = jax.tree.map(jnp.zeros_like, start)
    backward = functools.partial(_backward_chunk, cell, solver.unroll, params, start)

    time = kept.steps.time
    if solver.chunk is None or not isinstance(time, int) or time <= solver.chunk:
        (of_carry, of_start), gradients, of_inputs = backward(
            (of_carry, of_start), first, kept
        )
        return gradients, of_start, of_carry, Steps(of_inputs)

    size = chunk_size(time, solver.chunk)
    rest = time % size

    def add_chunk(carried: Any, before: Carry, chunk: _Kept) -> tuple[Any, Any]:
        cotangents, total = carried
        cotangents, gradients, of_inputs = backward(cotangents, before, chunk)
        return (cotangents, jax.tree.map(jnp.add, total, gradients)), of_inputs

    def add_whole(carried: Any, chunk: Any) -> tuple[Any, Any]:
        before, chunk = chunk
        if rest:  # `chunk` is its first step: to cut off the rest would copy all others
            chunk = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, chunk, size), kept
            )
        return add_chunk(carried, before, chunk)

    def before_chunks(first: Array, carries: Array) -> Array:
        before_first = carries[rest - 1] if rest else first
        others = carries[rest + size - 1 : time - 1 : size]
        return jnp.concatenate([before_first[None], others])

    chunks = jnp.arange(rest, time, size) if rest else cut(kept, size)[1]
    befores = jax.tree.map(before_chunks, first, kept.carries)
    carried = ((of_carry, of_start), jax.tree.map(jnp.zeros_like, params))
    carried, of_inputs = jax.lax.scan(
        add_whole, carried, (befores, chunks), reverse=True
    )
    of_rest = None
    if rest:
        head = jax.tree.map(lambda x: x[:rest], kept)
        carried, of_rest = add_chunk(carried, first, head)
    (of_carry, of_start), gradients = carried
    return gradients, of_start, of_carry, Steps(joined(of_rest, of_inputs))


def _backward_chunk(
    cell: Cell,
    unroll: int,
    params: Params,
    start: Carry | None,
    cotangents: tuple[Carry, Carry | None],
    first: Carry,
    kept: _Kept,
) -> tuple[tuple[Carry, Carry | None], Params, Any]:
    """The cotangents of the carry before the chunk and of `start`, and gradients."""
    steps, carries, residuals, direct = kept
    adjoint = adjoint_of(cell)
    befores = befores_of(start, first, steps, carries)
    zero = jax.tree.map(jnp.zeros_like, first)

    def body(cotangents: Any, xs: Any) -> tuple[Any, Any]:
        cotangent, of_start = cotangents
        before, after, residuals, valid, reset, direct = xs
        cotangent = jax.tree.map(_plus, cotangent, direct)
        stepped = hold(valid, cotangent, zero)  # the part that went through `step`
        passed, delta = adjoint.backward_data(params, before, after, residuals, stepped)
        if valid is not None:
            held = hold(valid, zero, cotangent)
            passed = jax.tree.map(jnp.add, passed, held)
        if reset is not None:
            restarted = hold(reset, passed, zero)
            of_start = jax.tree.map(jnp.add, of_start, restarted)
            passed = hold(reset, zero, passed)
        return (passed, of_start), delta

    xs = (befores, carries, residuals, steps.mask, steps.resets, direct)
    cotangents, delta = jax.lax.scan(body, cotangents, xs, reverse=True, unroll=unroll)
    gradients, of_inputs = backward_weights(
        cell, params, steps.inputs, befores, residuals, delta
    )
    return cotangents, gradients, of_inputs


# `HoistedScan` on arrays alone; `start` is what a reset restarts from.
cotangent_run = with_backward(
    _run, forward=_forward, backward=_backward, reference=_run
)


def reference_of(cell: Cell) -> Callable[..., tuple[Carry, Carry]]:
    """What loops in other languages compute, in JAX: `cotangent_run` in one chunk."""
    return functools.partial(cotangent_run, (cell, HoistedScan(chunk=None)))


# The loop for an `ElementwiseAdjoint` without marks: it carries delta. An iteration is
# one matmul, and one elementwise pass over what came out of it:
#
#     delta_{t-1} = (delta_t U^T + dL/dh_{t-1}) * f'(h_{t-1})
#
# It starts from the delta of the last step and reads, as the matmul after it does, the
# carry before each step: nothing is shifted, so nothing is copied.


def _delta_run(
    static: Static, params: Params, first: Array, inputs: Array
) -> tuple[Carry, Carry]:
    return _run(static, params, None, first, Steps(inputs))


def _delta_forward(static: Static, params: Params, first: Array, inputs: Array) -> Any:
    cell, solver = static
    project, xs = _projection(cell, solver, params, first, Steps(inputs))
    in_loop = _shape_in_loop(params, first, inputs)

    def body(before: Array, inputs: Any) -> tuple[Array, Array]:
        hidden = before.reshape(first.shape)
        after = cell.step(params, hidden, project(params, inputs))
        return after.reshape(in_loop), before

    last, befores = jax.lax.scan(body, first.reshape(in_loop), xs, unroll=solver.unroll)
    carries = jnp.concatenate([befores[1:], last[None]])
    carries = carries.reshape(befores.shape[0], *first.shape)
    last = last.reshape(first.shape)
    return (last, carries), (befores, last)


def _shape_in_loop(params: Params, hidden: Array, inputs: Array) -> tuple[int, ...]:
    """One axis, which is computed fastest, where no mesh divides what stands on it."""
    divided = is_divided(*params.values(), hidden, inputs)
    return hidden.shape if divided else (hidden.size,)


def _delta_backward(
    static: Static, primals: Any, kept: Any, cotangents: Any, varies: Any
) -> Any:
    del varies  # the compiler drops what nobody asks for
    cell, solver = static
    params, _, inputs = primals
    befores, last = kept
    assert isinstance(cell.adjoint, ElementwiseAdjoint)
    derivative, pullback, *_ = cell.adjoint
    cotangent, direct = cotangents
    cotangent = or_zeros(last, cotangent)
    if direct is not None:
        cotangent = cotangent + direct[-1]
        none = jnp.zeros_like(direct[:1])  # for the carry before the first step
        direct = jnp.concatenate([none, direct[:-1]]).reshape(befores.shape)
    in_loop = befores.shape[1:]

    def passed(delta: Array) -> Array:
        return pullback(params, delta.reshape(last.shape)).reshape(in_loop)

    def body(delta: Array, xs: Any) -> tuple[Array, Array]:
        before, direct = xs
        return _plus(passed(delta), direct) * derivative(before), delta

    cotangent, after_last = cotangent.reshape(in_loop), last.reshape(in_loop)
    delta = cotangent * derivative(after_last)
    _, deltas = jax.lax.scan(
        body, delta, (befores, direct), reverse=True, unroll=solver.unroll
    )
    of_first = passed(deltas[0]).reshape(last.shape)
    shape = (befores.shape[0], *last.shape)
    befores, deltas = (x.reshape(shape) for x in (befores, deltas))
    gradients, of_inputs = backward_weights(cell, params, inputs, befores, None, deltas)
    return gradients, of_first, of_inputs


# `HoistedScan` on all steps, of a cell with an `ElementwiseAdjoint`, unmarked.
delta_run = with_backward(
    _delta_run, forward=_delta_forward, backward=_delta_backward, reference=_delta_run
)


# What both loops share.


def _projection(
    cell: Cell, solver: HoistedScan, params: Params, carry: Carry, steps: Steps
) -> tuple[Any, Any]:
    first = solver.project_first
    if first is None:
        first = solver.chunk is None and not _wider(cell, params, carry, steps)
    return choose_projection(cell, params, steps.inputs, first=first)


def _wider(cell: Cell, params: Params, carry: Carry, steps: Steps) -> bool:
    """Whether all projected inputs take more memory than all carries."""
    projected = jax.eval_shape(cell.project, params, steps.inputs)
    of_projected, of_carry = (
        sum(x.size for x in jax.tree.leaves(tree)) for tree in (projected, carry)
    )
    return of_projected > of_carry * steps.time


def backward_weights(
    cell: Cell, params: Params, inputs: Any, before: Carry, residuals: Any, delta: Any
) -> tuple[Params, Any]:
    """`Adjoint.backward_weights`; where that is faster time and batch are one axis."""
    of_rows = adjoint_of(cell).backward_weights
    arrays = (inputs, before, residuals, delta)
    if cell.adjoint is None or not _merges_rows(arrays):
        gradients, of_inputs = of_rows(params, *arrays)
        return gradients, jax.tree.map(floating, inputs, of_inputs)
    rows = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), arrays)
    gradients, of_inputs = of_rows(params, *rows)
    return gradients, of_inputs.reshape(inputs.shape)


def _merges_rows(arrays: Any) -> bool:
    leaves = jax.tree.leaves(arrays)
    rows = math.prod(leaves[0].shape[:-1])
    many = isinstance(rows, int) and rows >= tuned().merge_rows_from
    return many and not is_divided(*leaves)


def befores_of(
    start: Carry | None, first: Carry, steps: Steps, carries: Carry
) -> Carry:
    """The carry before each step, from the one before the first and those after."""
    befores = jax.tree.map(
        lambda x, after: jnp.concatenate([x[None], after])[:-1], first, carries
    )
    again = jax.tree.map(lambda x: x[None], start)
    return restart(steps.resets, again, befores)


def _plus(cotangent: Array, direct: Array | None) -> Array:
    return cotangent if direct is None else cotangent + direct


def floating(x: Array, cotangent: Any) -> Any:
    """None for the cotangent of booleans, which no loop can carry."""
    return cotangent if jnp.issubdtype(x.dtype, jnp.floating) else None
