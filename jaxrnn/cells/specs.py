"""Which parameters does a cell declare, and how are they drawn?"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from jaxrnn.cells.base import Cell, ParamSpec
from jaxrnn.cells.checks import check_cell, check_dtype, check_key, check_size


def specs_of(cell: Cell, in_features: int, features: int) -> dict[str, ParamSpec]:
    """The parameters that a cell declares.

    Raises:
      TypeError: where `Cell.param_specs` returns something else than `ParamSpec`s.

    Example:
      >>> specs = specs_of(gru, in_features=2, features=3)
      >>> specs["recurrent_kernel"].shape
      (3, 9)
    """
    specs = cell.param_specs(in_features, features)
    if isinstance(specs, dict):
        wrong = {name: x for name, x in specs.items() if not _is_spec(x)}
        if not wrong:
            return specs
        specs = wrong
    raise TypeError(
        f"Cell.param_specs must return {{name: ParamSpec(shape, init)}}, shape a tuple "
        f"and init a function (key, shape, dtype) -> array, that of {cell.name} "
        f"returned {specs}; write jaxrnn.ParamSpec((in_features, features), "
        "jax.nn.initializers.glorot_uniform())."
    )


def _is_spec(spec: Any) -> bool:
    is_one = isinstance(spec, ParamSpec)
    return is_one and isinstance(spec.shape, tuple) and callable(spec.init)


def some_specs(cell: Cell) -> dict[str, ParamSpec]:
    """The parameters at a size that the cell takes, where no size is known yet."""
    try:
        return specs_of(cell, 2, 2)
    except ValueError:  # it wants a multiple, such as of heads
        return specs_of(cell, 840, 840)  # of 1 to 8


def param_names(cell: Cell) -> set[str]:
    """The names of a cell's parameters, which no size changes.

    Example:
      >>> sorted(param_names(simple_rnn))
      ['bias', 'kernel', 'recurrent_kernel']
    """
    return set(some_specs(cell))


def init_params(
    cell: Cell,
    key: PRNGKeyArray,
    in_features: int,
    features: int,
    dtype: Any = jnp.float32,
) -> dict[str, Array]:
    """Draws the initial parameters of a cell: Keras' initial values, or its paper's.

    Args:
      cell: the cell to draw for.
      key: a `jax.random.key`; every parameter gets a key of its own.
      in_features: size of one input step.
      features: size of the hidden vector.
      dtype: of the parameters.

    Returns:
      `{name: array}` in the order of `cell.param_specs`.

    Raises:
      TypeError: a `cell` that is none, a dtype that is not floating point, a key that
        is none.
      ValueError: `in_features` or `features` below 1, several keys.

    Example:
      >>> params = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> {name: value.shape for name, value in params.items()}
      {'kernel': (2, 12), 'recurrent_kernel': (3, 12), 'bias': (12,)}
    """
    check_cell(cell)
    check_key("key", key)
    check_size("in_features", in_features)
    check_size("features", features)
    check_dtype("dtype", dtype)
    specs = specs_of(cell, in_features, features)
    keys = jax.random.split(key, len(specs))
    return {
        name: spec.init(key, spec.shape, dtype)
        for key, (name, spec) in zip(keys, specs.items(), strict=True)
    }
