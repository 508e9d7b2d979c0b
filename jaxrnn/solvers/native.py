"""The fastest way on a CPU: loops in C++ that share the batch out over threads."""

import dataclasses
import functools
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrnn import native
from jaxrnn.cells.base import Carry, Cell, Params, affine_project
from jaxrnn.solvers.base import known, or_zeros, start_of
from jaxrnn.solvers.hoisted import HoistedScan, hoisted_run

KINDS = ("simple_rnn_tanh", "simple_rnn_relu", "gru", "lstm")  # as `Kind` in native.cc


@dataclasses.dataclass(frozen=True)
class Native:
    """Steps through time in C++: `simple_rnn`, `gru` and `lstm` in float32 or float64.

    No row of a batch needs another one. So every thread takes some rows through all of
    time by itself, forth and back, with the carry and the kernels in its cache: the
    projection of the inputs and the gradients of the parameters too, some steps at a
    time. The numbers are those of the other solvers but for rounding.

    The loops are compiled on first use, by g++ or clang++, and kept in the user's cache
    directory; `python -m jaxrnn.native` does it ahead of time, and then they are the
    default on a CPU. Without a compiler a warning says so, and `HoistedScan` runs
    instead. It also runs, without a word, what the loops do not know: other cells and
    activations, other dtypes, other platforms.

    The gradient of the gradient works (`HoistedScan` computes it); forward mode does
    not, as there. `vmap` runs one element after the other. An array that is sharded
    over devices is gathered on each of them. The carries of all steps are written, also
    where the last one alone is asked for; `Checkpointed(Native())` keeps fewer for the
    gradient. `jax.export` refuses programs with calls into other libraries: export with
    another solver.

    Example:
      >>> params = init_params(gru, jax.random.key(0), 2, 3)
      >>> inputs = jnp.ones((7, 5, 2))
      >>> carry, outputs = rnn(gru, params, inputs, solver=Native())
      >>> jnp.allclose(outputs, rnn(gru, params, inputs, solver=Scan())[1]).item()
      True
    """

    def __call__(
        self,
        cell: Cell,
        params: Params,
        carry: Carry,
        inputs: Any,
        mask: Any,
        resets: Any,
    ) -> tuple[Carry, Carry]:
        arrays = (*params.values(), *jax.tree.leaves((carry, inputs)))
        dtypes = {array.dtype for array in arrays}
        if not knows(cell, *dtypes) or inputs.size == 0 or not _loaded():
            instead = HoistedScan(chunk=None)
            return instead(cell, params, carry, inputs, mask, resets)
        start = start_of(cell, params, carry, inputs)
        return _run(cell, params, carry, start, inputs, mask, resets)


def knows(cell: Cell, *dtypes: Any) -> bool:
    """Whether there is a loop for `cell` in the one dtype given, on this platform."""
    return (
        cell.adjoint is not None
        and cell.adjoint.native is not None
        and cell.project is affine_project
        and len(dtypes) == 1
        and np.dtype(dtypes[0]) in (np.float32, np.float64)
        and jax.default_backend() == "cpu"
    )


@functools.cache
def _loaded() -> bool:
    try:
        native.load()
    except RuntimeError as error:
        warnings.warn(f"jaxrnn.Native runs as HoistedScan: {error}", stacklevel=2)
        return False
    return True


# Primals are (params, carry, start, inputs, mask, resets), as in `hoisted_run`.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(cell: Cell, *primals: Any) -> tuple[Carry, Carry]:
    ran, _ = _forth(cell, False, *primals)
    return ran


def _run_forward(cell: Cell, *given: Any) -> Any:
    wanted = any(leaf.perturbed for leaf in jax.tree.leaves(given[3]))
    primals: Any = jax.tree.map(lambda primal: primal.value, given)
    ran, saved = _forth(cell, True, *primals)
    return ran, (_Static(wanted), primals, ran[1], saved)


def _run_backward(cell: Cell, residuals: Any, cotangents: Any) -> Any:
    wanted, *residuals = residuals
    return _back(cell, wanted.value, *residuals, jax.tree.map(known, cotangents))


_run.defvjp(_run_forward, _run_backward, symbolic_zeros=True)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    """What the program knows when it is compiled, on its way from forth to back."""

    value: bool


def _loop_forth(cell: Cell, save: bool, *primals: Any) -> tuple[Any, Array]:
    """((last carry, all carries), what the way back wants to find again)."""
    params, carry, *_, inputs, _, _ = primals
    features, width = params["recurrent_kernel"].shape
    time, *batch = inputs.shape[:-1]
    steps = (time, math.prod(batch), features)
    hidden, memory, saved = _call(
        "jaxrnn_forward",
        cell,
        _operands(primals),
        [
            steps,
            steps if isinstance(carry, tuple) else NOTHING,
            (*steps[:2], 4 * features) if save and width > features else NOTHING,
        ],
    )
    carries = _like(carry, hidden, memory, (time, *batch, features))
    return (jax.tree.map(lambda x: x[-1], carries), carries), saved


def _loop_back(
    cell: Cell,
    wanted: bool,
    primals: Any,
    carries: Carry,
    saved: Array,
    cotangents: Any,
) -> Any:
    """The cotangents of the primals; of the inputs only where that is wanted."""
    params, carry, start, inputs, _, resets = primals
    last, direct = cotangents
    last = jax.tree.map(or_zeros, carry, last)
    features = params["recurrent_kernel"].shape[0]
    time, *batch, in_features = inputs.shape
    rows = math.prod(batch)
    row, steps = (rows, features), (time, rows, features)
    pair = [row, row if isinstance(carry, tuple) else NOTHING]
    of_inputs, *rest = _call(
        "jaxrnn_backward",
        cell,
        [
            *_operands(primals),
            *_pair(carries, steps),
            saved,
            *_pair(direct, steps),
            *_pair(last, row),
        ],
        [
            (time, rows, in_features) if wanted else NOTHING,
            *(params[name].shape if name in params else NOTHING for name in PARAMS),
            *pair,
            *(pair if resets is not None else [NOTHING, NOTHING]),
        ],
    )
    gradients = dict(zip(PARAMS, rest[:4], strict=True))
    shape = (*batch, features)
    return (
        {name: gradients[name] for name in params},
        _like(carry, rest[4], rest[5], shape),
        _like(start, rest[6], rest[7], shape) if resets is not None else None,
        of_inputs.reshape(inputs.shape) if wanted else None,
        *(None, None),
    )


# The two loops have no derivative of their own. A second derivative is that of
# HoistedScan, from the primals: all that the loops hand over follows from them.


def _hoisted(cell: Cell, *primals: Any) -> tuple[Carry, Carry]:
    return hoisted_run(cell, HoistedScan(chunk=None), *primals)


def _forth_forward(cell: Cell, save: bool, *primals: Any) -> Any:
    return _forth(cell, save, *primals), primals


def _forth_backward(cell: Cell, save: bool, primals: Any, cotangents: Any) -> Any:
    del save
    _, pullback = jax.vjp(functools.partial(_hoisted, cell), *primals)
    return pullback(cotangents[0])


_forth: Any = jax.custom_vjp(_loop_forth, nondiff_argnums=(0, 1))
_forth.defvjp(_forth_forward, _forth_backward)


def _back_forward(cell: Cell, wanted: bool, *arguments: Any) -> Any:
    return _back(cell, wanted, *arguments), arguments


def _back_backward(cell: Cell, wanted: bool, arguments: Any, cotangents: Any) -> Any:
    primals, carries, saved, outer = arguments

    def again(primals: Any, outer: Any) -> Any:
        ran, pullback = jax.vjp(functools.partial(_hoisted, cell), *primals)
        given = jax.tree.map(or_zeros, ran, outer)
        params, carry, start, inputs, _, _ = pullback(given)
        resets = primals[-1]
        start = None if resets is None else start
        return params, carry, start, inputs if wanted else None, None, None

    _, pullback = jax.vjp(again, primals, outer)
    of_primals, of_outer = pullback(cotangents)
    zeros = jax.tree.map(jnp.zeros_like, (carries, saved))
    return of_primals, *zeros, of_outer


_back: Any = jax.custom_vjp(_loop_back, nondiff_argnums=(0, 1))
_back.defvjp(_back_forward, _back_backward)


# The call itself: (time, rows, features) for any batch axes, no elements for None.

NOTHING = (0,)
PARAMS = ("kernel", "bias", "recurrent_kernel", "recurrent_bias")


def _operands(primals: Any) -> list[Array | None]:
    """What both loops take, in the order of `Problem` in native.cc."""
    params, carry, start, inputs, mask, resets = primals
    time, *batch, in_features = inputs.shape
    rows = math.prod(batch)
    row = (rows, params["recurrent_kernel"].shape[0])
    return [
        inputs.reshape(time, rows, in_features),
        *(params.get(name) for name in PARAMS),
        *_pair(carry, row),
        *_pair(None if resets is None else start, row),
        *(None if x is None else x.reshape(time, rows) for x in (mask, resets)),
    ]


def _call(
    target: str,
    cell: Cell,
    operands: list[Array | None],
    shapes: list[tuple[int, ...]],
) -> list[Array]:
    assert cell.adjoint is not None
    assert cell.adjoint.native is not None
    assert operands[0] is not None
    dtype = operands[0].dtype
    call = jax.ffi.ffi_call(
        target,
        [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes],
        vmap_method="sequential",
    )
    given = [jnp.zeros(NOTHING, dtype) if x is None else x for x in operands]
    return list(call(*given, kind=np.int32(KINDS.index(cell.adjoint.native))))


def _pair(carry: Any, shape: tuple[int, ...]) -> list[Array | None]:
    """The hidden vector, and the memory where the cell has one."""
    pair = tuple(carry) if isinstance(carry, tuple) else (carry, None)
    return [None if part is None else part.reshape(shape) for part in pair]


def _like(carry: Carry, hidden: Array, memory: Array, shape: tuple[int, ...]) -> Carry:
    leaves = (hidden, memory)[: len(jax.tree.leaves(carry))]
    leaves = [leaf.reshape(shape) for leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(carry), leaves)
