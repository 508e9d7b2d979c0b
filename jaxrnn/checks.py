"""Do a cell's functions, its parameters, the inputs and the carry fit together?"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.cells.checks import as_array, check_cell
from jaxrnn.cells.specs import param_names, specs_of
from jaxrnn.solvers.base import Steps


def as_steps(inputs: Any, mask: Any = None, resets: Any = None) -> Steps:
    """The steps that a caller gives, nested lists as arrays."""
    return Steps(
        as_array("inputs", inputs),
        None if mask is None else as_array("mask", mask),
        None if resets is None else as_array("resets", resets),
    )


def checked(
    check: Any, cell: Cell, params: Params, steps: Steps, carry: Carry | None
) -> tuple[Carry | None, int]:
    """The carry in the structure of the cell's own, if all else fits; its features.

    To check is to trace what the cell does, which takes longer than a step. So what
    fits is known by its shapes and dtypes from then on.

    Args:
      check: `check_rnn` or `check_step`.
      cell, params, steps, carry: as `rnn` takes them.
    """
    check_cell(cell)
    check_params(params)
    if not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(carry)):
        named = functools.partial(as_array, "a carry")
        carry = jax.tree.map(named, carry, is_leaf=_is_nested_list)
    arrays, structure = jax.tree.flatten((dict(params), steps, carry))
    kinds = tuple([(array.shape, array.dtype) for array in arrays])
    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        # No key: open sizes of two programs cannot be compared.
        of_carry, features = _check.__wrapped__(check, cell, structure, kinds)
    else:
        of_carry, features = _check(check, cell, structure, kinds)
    if carry is not None:
        carry = jax.tree.unflatten(of_carry, jax.tree.leaves(carry))
    return carry, features


def check_params(params: Any) -> None:
    """Raises a TypeError where parameters are no dict of arrays."""
    found: Any = type(params).__name__
    if isinstance(params, Mapping):
        items = params.items()
        found = {n: type(x).__name__ for n, x in items if not hasattr(x, "dtype")}
    if found:
        raise TypeError(
            f"params must be a dict {{name: array}}, got {found}; init_params(cell, "
            'key, ...) makes them, and those of a layer are its variables["params"].'
        )


def _is_nested_list(carry: Any) -> bool:
    """Whether this is a list of numbers, and no list of arrays."""
    leaves = jax.tree.leaves(carry)
    return isinstance(carry, list) and not any(hasattr(x, "dtype") for x in leaves)


@functools.lru_cache(maxsize=256)
def _check(check: Any, cell: Cell, structure: Any, kinds: Any) -> tuple[Any, int]:
    """What `check` says of arrays of these shapes and dtypes."""
    arrays = [jax.ShapeDtypeStruct(*kind) for kind in kinds]
    return check(cell, *jax.tree.unflatten(structure, arrays))


def check_rnn(
    cell: Cell, params: Params, steps: Steps, carry: Carry | None
) -> tuple[Any, int]:
    """Of inputs (time, *batch, in_features)."""
    inputs = steps.inputs
    if inputs.ndim < 2:
        raise ValueError(
            "inputs must have the axes (time, *batch, in_features), "
            f"got shape {inputs.shape}; give a sequence of scalars as inputs[:, None]."
        )
    check_floating(inputs)
    features = _check_params(cell, params, inputs.shape[-1])
    check_marks("mask", "valid", steps.mask, inputs)
    check_marks("resets", "a new episode", steps.resets, inputs)
    if carry is None:
        return None, features
    name, batch_shape = "initial_carry", steps.batch_shape
    return _check_carry(name, cell, params, carry, batch_shape), features


def check_step(
    cell: Cell, params: Params, steps: Steps, carry: Carry
) -> tuple[Any, int]:
    """Of inputs (*batch, in_features): one step."""
    inputs = steps.inputs
    if inputs.ndim < 1:
        raise ValueError(
            "inputs must have the axes (*batch, in_features), got shape ()."
        )
    check_floating(inputs)
    features = _check_params(cell, params, inputs.shape[-1])
    check_marks("resets", "a new episode", steps.resets, inputs, axes="(*batch,)")
    batch_shape = inputs.shape[:-1]
    return _check_carry("carry", cell, params, carry, batch_shape), features


def check_floating(inputs: Any) -> None:
    """Raises a TypeError where the inputs are not floating point."""
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(
            f"inputs must be floating point, got {inputs.dtype}; embed token ids first "
            "(jaxrnn.Embed), or convert numbers with inputs.astype(jnp.float32)."
        )


def _check_params(cell: Cell, params: Params, in_features: int) -> int:
    """The features of the cell's carry, if the parameters fit."""
    names = param_names(cell)
    if set(params) != names:
        raise ValueError(
            f"{cell.name} takes the parameters {sorted(names)}, got {sorted(params)}; "
            "init_params(cell, ...) makes them for a cell with the same settings."
        )
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, ()), params)
    leaves = jax.tree.leaves(carry)
    if not leaves or not leaves[-1].ndim:
        raise TypeError(
            "Cell.initial_carry must return arrays (*batch, features), of which the "
            f"last is features wide, that of {cell.name} returned {_written(carry)} "
            "without batch axes; write jnp.zeros((*batch_shape, features)), with "
            "features read off the parameters, such as params['kernel'].shape[-1]."
        )
    features = leaves[-1].shape[-1]
    for name, spec in specs_of(cell, in_features, features).items():
        if params[name].shape != spec.shape:
            raise ValueError(
                f"{cell.name} with in_features={in_features} (the last axis of inputs) "
                f"and features={features} takes {name} of shape "
                f"{spec.shape}, got {params[name].shape}."
            )
    return features


def check_marks(
    name: str, true: str, marks: Any, inputs: Any, axes: str = "(time, *batch)"
) -> None:
    """Raises where a mask or resets have another shape than the steps, or no bools."""
    if marks is None:
        return
    if marks.shape != inputs.shape[:-1]:
        raise ValueError(
            f"{name} must have the {axes} shape of inputs {inputs.shape[:-1]}, got "
            f"{marks.shape}; layers take (batch, time), rnn takes (time, *batch)."
        )
    if marks.dtype != jnp.bool_:
        raise TypeError(
            f"{name} must be boolean with True = {true}, got {marks.dtype}; write "
            f"{name} != 0 ({name} == 0 where 1 marks the opposite)."
        )


def _check_carry(
    name: str, cell: Cell, params: Params, carry: Carry, batch_shape: tuple[int, ...]
) -> Any:
    """The structure of the cell's own carry; a plain tuple may stand for one."""
    expected = jax.eval_shape(lambda p: cell.initial_carry(p, batch_shape), params)
    structure = jax.tree.structure(expected)
    if isinstance(carry, tuple | list) and len(carry) == structure.num_leaves > 1:
        carry = jax.tree.unflatten(structure, list(carry))
    found = jax.tree.map(np.shape, carry)
    wanted = jax.tree.map(np.shape, expected)
    if found != wanted:
        raise ValueError(
            f"{name} must have the shapes {wanted} for {cell.name}, got {found}; "
            "cell.initial_carry(params, batch_shape) makes one of zeros."
        )
    for leaf in jax.tree.leaves(carry):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{name} must be floating point, got {leaf.dtype}; convert numbers "
                "with carry.astype(jnp.float32)."
            )
    return structure


def check_functions(
    cell: Cell, params: Params, shape: tuple[int, ...], dtype: Any, *, output: bool
) -> None:
    """Raises where a step returns another carry than it took, or the output is none.

    A scan says so too, in words of its own, and not what a cell may do about it.

    Args:
      cell: whose functions are traced.
      params: as `rnn` takes them.
      shape: of the inputs at one step, (*batch, in_features).
      dtype: of the computation.
      output: whether `Cell.output` will be called.
    """
    kinds = tuple([(name, p.shape, p.dtype) for name, p in params.items()])
    if all(isinstance(size, int) for size in shape):
        _check_functions(cell, kinds, shape, dtype, output)
    else:  # no key: open sizes of two programs cannot be compared
        _check_functions.__wrapped__(cell, kinds, shape, dtype, output)


@functools.lru_cache(maxsize=256)
def _check_functions(
    cell: Cell, kinds: Any, shape: tuple[int, ...], dtype: Any, of_output: bool
) -> None:
    params = {name: jax.ShapeDtypeStruct(size, of) for name, size, of in kinds}
    inputs = jax.ShapeDtypeStruct(shape, dtype)
    before = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, dtype),
        jax.eval_shape(lambda p: cell.initial_carry(p, shape[:-1]), params),
    )

    def step(params: Params, carry: Carry, inputs: Array) -> Carry:
        return cell.step(params, carry, cell.project(params, inputs))

    after = jax.eval_shape(step, params, before, inputs)
    if jax.tree.structure(after) != jax.tree.structure(before):
        raise TypeError(
            f"Cell.step must return the carry alone, {_written(before)}; that of "
            f"{cell.name} returned {_written(after)}. {_way_back(before, after)}"
        )
    if _written(after) != _written(before):
        raise TypeError(
            f"Cell.step must return the carry with the shapes and dtypes that it took, "
            f"{_written(before)}; that of {cell.name} returned {_written(after)}. "
            "jaxrnn.cells.ops.matmul, add_row and as_row compute in the dtype of the "
            "carry, whatever that of the parameters is."
        )
    if not of_output:
        return
    output = jax.eval_shape(cell.output, before)
    fits = hasattr(output, "shape") and output.shape[:-1] == shape[:-1]
    if not fits or output.ndim != len(shape) or output.dtype != dtype:
        raise TypeError(
            "Cell.output must return one array (*batch, features) in the dtype of the "
            f"carry, {dtype}; that of {cell.name} returned {_written(output)} for the "
            f"carry {_written(before)}. Compute it from the carry alone."
        )


def _way_back(before: Carry, after: Carry) -> str:
    """How a step that returned `after` returns a carry as the one it took."""
    structure_of = jax.tree.structure
    parts = [*after] if isinstance(after, tuple | list) else []
    if isinstance(before, tuple | list) and structure_of([*before]) == structure_of(
        parts
    ):
        name, fields = type(before).__name__, getattr(before, "_fields", ["..."])
        return f"Write return {name}({', '.join(fields)})."
    if parts and structure_of(parts[0]) == structure_of(before):
        return (
            "An output is not returned beside it, as in Flax and Keras, but read off "
            "it by Cell.output."
        )
    return "Return it in the structure in which Cell.initial_carry makes it."


def _written(arrays: Any) -> str:
    """A pytree with shapes and dtypes in place of its arrays: `(float32[3], ...)`."""
    return str(jax.tree.map(_Written, arrays))


class _Written:
    """One array, by its shape and dtype."""

    def __init__(self, array: Any) -> None:
        self.text = f"{array.dtype}[{','.join(map(str, array.shape))}]"

    def __repr__(self) -> str:
        return self.text


def check_lengths(lengths: Any, time: int) -> None:
    """Raises where lengths are no integers, or are known and outside of [0, time]."""
    lengths = as_array("lengths", lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(
            f"lengths must be integers, got {lengths.dtype}; a mask of bools is given "
            "as mask."
        )
    if isinstance(lengths, jax.core.Tracer) or lengths.size == 0:
        return
    known = np.asarray(lengths)
    if known.min() < 0 or known.max() > time:
        raise ValueError(
            f"lengths must lie between 0 and the number of steps, {time}, got "
            f"{known.min()} to {known.max()}."
        )
