"""How does the carry after a step depend on the one before it? Its Jacobians."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.cells.ops import as_varying


@dataclasses.dataclass(frozen=True)
class Packing:
    """The leaves of a carry side by side in one array (*batch, n), and back.

    Attributes:
      structure: of the carry, a pytree.
      widths: of its leaves.

    Example:
      >>> carry = LSTMCarry(hidden=jnp.ones((5, 2)), memory=jnp.zeros((5, 3)))
      >>> packing = Packing.of(carry)
      >>> packing.pack(carry).shape
      (5, 5)
      >>> packing.unpack(packing.pack(carry)).memory.shape
      (5, 3)
    """

    structure: Any
    widths: tuple[int, ...]

    @classmethod
    def of(cls, carry: Carry) -> "Packing":
        """The packing of carries like this one."""
        leaves, structure = jax.tree.flatten(carry)
        return cls(structure, tuple(leaf.shape[-1] for leaf in leaves))

    def pack(self, carry: Carry) -> Array:
        """From leaves (*any, width) to (*any, n)."""
        return jnp.concatenate(jax.tree.leaves(carry), axis=-1)

    def unpack(self, packed: Array) -> Carry:
        """From (*any, n) to leaves (*any, width)."""
        ends = list(itertools.accumulate(self.widths))
        leaves = jnp.split(packed, ends[:-1], axis=-1)
        return jax.tree.unflatten(self.structure, leaves)


def packed_step(
    cell: Cell, packing: Packing, params: Params, before: Array, projected: Any
) -> Array:
    """`cell.step` from one packed carry to the next."""
    return packing.pack(cell.step(params, packing.unpack(before), projected))


def step_jacobians(
    cell: Cell, packing: Packing, params: Params, before: Array, projected: Any
) -> Array:
    """D carry_t[i] / d carry_{t-1}[j] of every step by itself, at the carries `before`.

    Taken column by column, in forward mode. The columns of the identity are the same at
    every step, so what multiplies a carry in the cell multiplies them once for all of
    time. Rows of the batch must not see one another.

    Args:
      cell: any cell.
      packing: of its carry.
      params: of the cell.
      before: (time, *batch, n), the packed carry before every step.
      projected: as from `cell.project`, with the same leading axes.

    Returns:
      (time, *batch, n, n); of a cell with `diagonal`, that diagonal (time, *batch, n).

    Example:
      >>> params = {"recurrent_kernel": jnp.array([[0.0, 1.0], [3.0, 0.0]])}
      >>> before = zeros = jnp.zeros((1, 2))  # where the slope of tanh is 1
      >>> step_jacobians(simple_rnn, Packing.of(before), params, before, zeros).tolist()
      [[[0.0, 3.0], [1.0, 0.0]]]
    """
    shape, dtype = before.shape[1:], before.dtype

    def of_step(before: Array, projected: Any) -> Array:
        def along(tangent: Array) -> Array:
            def step(x: Array) -> Array:
                return packed_step(cell, packing, params, x, projected)

            return jax.jvp(step, (before,), (tangent,))[1]

        if cell.diagonal:
            return along(jnp.ones_like(before))
        n = shape[-1]
        columns = jnp.eye(n, dtype=dtype).reshape(n, *[1] * (len(shape) - 1), n)
        columns = as_varying(columns, like=before)
        return jax.vmap(along)(jnp.broadcast_to(columns, (n, *shape)))

    found = jax.vmap(of_step)(before, projected)
    return found if cell.diagonal else jnp.moveaxis(found, 1, -1)
