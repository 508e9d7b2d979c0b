"""The fastest way on a CPU: loops in C++ that share the batch out over threads."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrnn import native
from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.cells.ops import affine_project, as_varying
from jaxrnn.solvers.base import Steps, start_of
from jaxrnn.solvers.derivatives import or_zeros, with_backward, with_derivative_of
from jaxrnn.solvers.hoisted import HoistedScan, reference_of
from jaxrnn.solvers.primitives import here_or_there
from jaxrnn.solvers.scan import Scan

KINDS = ("simple_rnn_tanh", "simple_rnn_relu", "gru", "lstm")  # as `Kind` in native.cc


@dataclasses.dataclass(frozen=True)
class Native:
    """Steps through time in C++: `simple_rnn`, `gru` and `lstm` in float32 or float64.

    No row of a batch needs another one. So every thread takes some rows through all of
    time, with the carry and the kernels in its cache: from the first step to the last
    for the values, back again for the gradients. The numbers are those of the other
    solvers but for rounding.

    The loops are compiled on first use, by g++ or clang++, and kept in the user's cache
    directory; `python -m jaxrnn.native` does it ahead of time, and then they are the
    default on a CPU. Without a compiler a warning says so, and `HoistedScan` runs
    instead. `HoistedScan` also runs, without a warning, what the loops do not know:
    other cells and activations, other dtypes, other platforms.

    The gradient of the gradient works (`HoistedScan` computes it), and forward mode (a
    scan does). A program that `jax.export` makes holds none of these loops: it runs
    `HoistedScan`, wherever it is taken. `vmap` runs one element after the other. An
    array that is sharded over devices is gathered on each of them, unless the mesh has
    explicit axes or `jax.shard_map` is around. The carries of all steps are written,
    also where only the last one is asked for; `Checkpointed(Native())` keeps fewer for
    the gradient.

    Example:
      >>> params = init_params(gru, jax.random.key(0), 2, 3)
      >>> inputs = jnp.ones((7, 5, 2))
      >>> carry, outputs = rnn(gru, params, inputs, solver=Native())
      >>> jnp.allclose(outputs, rnn(gru, params, inputs, solver=Scan())[1]).item()
      True
    """

    def __call__(
        self, cell: Cell, params: Params, carry: Carry, steps: Steps
    ) -> tuple[Carry, Carry]:
        arrays = (*params.values(), *jax.tree.leaves((carry, steps.inputs)))
        dtypes = {array.dtype for array in arrays}
        size = steps.inputs.size
        some = isinstance(size, int) and size > 0  # no int is left open by an export
        if not some or not knows(cell, *dtypes) or not _loaded():
            return HoistedScan(chunk=None)(cell, params, carry, steps)
        return _run(cell, params, start_of(cell, params, carry, steps), carry, steps)


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


# Primals are (params, start, carry, steps), as in `cotangent_run`.


def _value(cell: Cell, *primals: Any) -> tuple[Carry, Carry]:
    return _forward_loop(cell, primals, save=False)[0]


def _forward(cell: Cell, *primals: Any) -> tuple[Any, tuple[Carry, Array]]:
    ran, saved = _forward_loop(cell, primals, save=True)
    return ran, (ran[1], saved)


def _backward(cell: Cell, primals: Any, kept: Any, cotangents: Any, varies: Any) -> Any:
    """The cotangents of the primals; of the inputs only where they are asked for."""
    static = (cell, any(jax.tree.leaves(varies[3].inputs)))
    found = with_derivative_of(
        functools.partial(_backward_reference, static),
        _here(_backward_loop, _backward_reference, static),
    )
    return found(primals, *kept, cotangents)


def _scanned(
    cell: Cell, params: Params, start: Carry | None, carry: Carry, steps: Steps
) -> tuple[Carry, Carry]:
    return Scan().run_from(start, cell, params, carry, steps)


_run = with_backward(_value, forward=_forward, backward=_backward, reference=_scanned)


# The two loops, and what an exported program has in their place.


def _here(loop: Callable[..., Any], reference: Callable[..., Any], static: Any) -> Any:
    return functools.partial(here_or_there, loop, reference, static, platform="cpu")


def _forward_loop(
    cell: Cell, primals: Any, *, save: bool
) -> tuple[tuple[Carry, Carry], Array]:
    """(The last carry, all carries), and what the backward loop wants to find again."""
    static = (cell, save)
    run = with_derivative_of(
        functools.partial(_forward_reference, static),
        _here(_forward_call, _forward_reference, static),
    )
    return run(*primals)


def _forward_call(
    static: tuple[Cell, bool], *primals: Any
) -> tuple[tuple[Carry, Carry], Array]:
    cell, save = static
    params, _, carry, steps = primals
    features, width = params["recurrent_kernel"].shape
    of_steps = (steps.time, math.prod(steps.batch_shape), features)
    hidden, memory, saved = _call(
        "jaxrnn_forward",
        cell,
        Problem.of(*primals),
        [
            of_steps,
            of_steps if _has_memory(carry) else NOTHING,
            (*of_steps[:2], 4 * features) if save and width > features else NOTHING,
        ],
    )
    shape = (steps.time, *steps.batch_shape, features)
    carries = _like(carry, hidden, memory, shape)
    return (jax.tree.map(lambda x: x[-1], carries), carries), saved


def _forward_reference(
    static: tuple[Cell, bool], *primals: Any
) -> tuple[tuple[Carry, Carry], Array]:
    _, saved = jax.eval_shape(functools.partial(_forward_call, static), *primals)
    return reference_of(static[0])(*primals), jnp.zeros(saved.shape, saved.dtype)


def _backward_loop(
    static: tuple[Cell, bool],
    primals: Any,
    carries: Carry,
    saved: Array,
    cotangents: Any,
) -> Any:
    cell, of_inputs = static
    params, start, carry, steps = primals
    last, direct = cotangents
    last = jax.tree.map(or_zeros, carry, last)
    features = params["recurrent_kernel"].shape[0]
    rows = math.prod(steps.batch_shape)
    row, of_steps = (rows, features), (steps.time, rows, features)
    pair = [row, row if _has_memory(carry) else NOTHING]
    inputs, *weights, hidden, memory, start_hidden, start_memory = _call(
        "jaxrnn_backward",
        cell,
        [
            *Problem.of(*primals),
            *_pair(carries, of_steps),
            saved,
            *_pair(direct, of_steps),
            *_pair(last, row),
        ],
        [
            (*of_steps[:2], steps.inputs.shape[-1]) if of_inputs else NOTHING,
            *(params[name].shape if name in params else NOTHING for name in PARAMS),
            *pair,
            *([NOTHING, NOTHING] if start is None else pair),
        ],
    )
    gradients = dict(zip(PARAMS, weights, strict=True))
    shape = (*steps.batch_shape, features)
    return (
        {name: gradients[name] for name in params},
        None if start is None else _like(start, start_hidden, start_memory, shape),
        _like(carry, hidden, memory, shape),
        Steps(inputs.reshape(steps.inputs.shape) if of_inputs else None),
    )


def _backward_reference(
    static: tuple[Cell, bool],
    primals: Any,
    carries: Carry,
    saved: Array,
    cotangents: Any,
) -> Any:
    del carries, saved  # they follow from the primals
    cell, of_inputs = static
    ran, pullback = jax.vjp(reference_of(cell), *primals)
    params, start, carry, steps = pullback(jax.tree.map(or_zeros, ran, cotangents))
    return params, start, carry, Steps(steps.inputs if of_inputs else None)


# The call itself: (time, rows, features) for any batch axes, no elements for None.

NOTHING = (0,)
PARAMS = ("kernel", "bias", "recurrent_kernel", "recurrent_bias")


class Problem(NamedTuple):
    """What both loops take: `Problem` in native.cc, in its order."""

    inputs: Array
    kernel: Array
    bias: Array | None
    recurrent_kernel: Array
    recurrent_bias: Array | None
    first_hidden: Array | None
    first_memory: Array | None
    start_hidden: Array | None
    start_memory: Array | None
    mask: Array | None
    resets: Array | None

    @classmethod
    def of(
        cls, params: Params, start: Carry | None, carry: Carry, steps: Steps
    ) -> "Problem":
        """With all batch axes merged to one of rows."""
        rows = (math.prod(steps.batch_shape),)
        row = (*rows, params["recurrent_kernel"].shape[0])

        def by_time(x: Any, *features: int) -> Any:
            return _reshaped(x, (steps.time, *rows, *features))

        first_hidden, first_memory = _pair(carry, row)
        start_hidden, start_memory = _pair(start, row)
        return cls(
            inputs=by_time(steps.inputs, steps.inputs.shape[-1]),
            kernel=params["kernel"],
            bias=params.get("bias"),
            recurrent_kernel=params["recurrent_kernel"],
            recurrent_bias=params.get("recurrent_bias"),
            first_hidden=first_hidden,
            first_memory=first_memory,
            start_hidden=start_hidden,
            start_memory=start_memory,
            mask=by_time(steps.mask),
            resets=by_time(steps.resets),
        )


def _call(
    target: str,
    cell: Cell,
    operands: Sequence[Array | None],
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
    made = call(*given, kind=np.int32(KINDS.index(cell.adjoint.native)))
    return as_varying(list(made), like=given)


def _has_memory(carry: Carry) -> bool:
    return isinstance(carry, tuple)


def _pair(carry: Any, shape: tuple[int, ...]) -> tuple[Array | None, Array | None]:
    """The hidden vector, and the memory where the cell has one."""
    hidden, memory = carry if _has_memory(carry) else (carry, None)
    return _reshaped(hidden, shape), _reshaped(memory, shape)


def _reshaped(x: Array | None, shape: tuple[int, ...]) -> Array | None:
    return None if x is None else x.reshape(shape)


def _like(carry: Carry, hidden: Array, memory: Array, shape: tuple[int, ...]) -> Carry:
    leaves = (hidden, memory) if _has_memory(carry) else (hidden,)
    leaves = [leaf.reshape(shape) for leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(carry), leaves)
