"""Along which carries does a recurrence run? What the diagnostics linearize around."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.recurrence import rnn_carries
from jaxrnn.solvers.base import Steps, hold, start_of
from jaxrnn.solvers.jacobians import Packing
from jaxrnn.solvers.trajectory import Problem


def widest(*trees: Any) -> Any:
    """The dtype that all arrays promote to, float32 at least."""
    dtype = jnp.result_type(*jax.tree.leaves(trees))
    return jnp.float32 if dtype in (jnp.bfloat16, jnp.float16) else dtype


def run_along(
    cell: Cell,
    params: Params,
    inputs: Any,
    mask: Any,
    resets: Any,
    initial_carry: Carry | None,
) -> tuple[Packing, Problem, Array]:
    """Runs a cell, checked as by `rnn`.

    Raises:
      ValueError: no step; as `rnn`.

    Returns:
      How its carries are packed, what they follow from, and the carries after every
      step, packed (time, *batch, n), in float32 at least.
    """
    if inputs.ndim and inputs.shape[0] == 0:
        raise ValueError(
            "inputs must have at least one step, where there is something to "
            f"differentiate, got shape {inputs.shape}."
        )
    dtype = widest(inputs, params)
    _, carries = rnn_carries(
        cell,
        params,
        inputs,
        mask=mask,
        resets=resets,
        initial_carry=initial_carry,
        dtype=dtype,
    )
    inputs = hold(mask, inputs, jnp.zeros_like(inputs)).astype(dtype)
    steps = Steps(inputs, mask, resets)
    packing = Packing.of(carries)
    if initial_carry is None:
        initial_carry = cell.initial_carry(params, steps.batch_shape)
    first = packing.pack(initial_carry).astype(dtype)
    start = start_of(cell, params, packing.unpack(first), steps)
    problem = Problem(
        params=params,
        first=first,
        start=None if start is None else packing.pack(start),
        projected=cell.project(params, inputs),
        mask=mask,
        resets=resets,
    )
    return packing, problem, packing.pack(carries)


def identity(like: Array) -> Array:
    """The Jacobian of a packed carry (*any, n) along itself, (*any, n, n)."""
    n = like.shape[-1]
    return jnp.broadcast_to(jnp.eye(n, dtype=like.dtype), (*like.shape, n))
