"""The reference solver: one `jax.lax.scan`, differentiated by JAX."""

import dataclasses
from typing import Any

import jax

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.solvers.base import hold


@dataclasses.dataclass(frozen=True)
class Scan:
    """Steps through time with `jax.lax.scan` and leaves every derivative to JAX.

    It works for every cell and every transformation, forward mode (`jax.jvp`,
    `jax.jacfwd`, `jax.hessian`) included, and is the oracle of the other solvers.

    Attributes:
      unroll: loop iterations per compiled iteration; the numbers stay the same.

    Example:
      >>> params = init_params(simple_rnn, jax.random.key(0), 2, 3)
      >>> carry, outputs = rnn(simple_rnn, params, jnp.ones((7, 5, 2)), solver=Scan())
      >>> carry.shape, outputs.shape
      ((5, 3), (7, 5, 3))
    """

    unroll: int = 1

    def __call__(
        self, cell: Cell, params: Params, carry: Carry, inputs: Any, mask: Any
    ) -> tuple[Carry, Carry]:
        def body(carry: Carry, step_inputs: Any) -> tuple[Carry, Carry]:
            projected, valid = step_inputs
            carry = hold(valid, cell.step(params, carry, projected), carry)
            return carry, carry

        projected = cell.project(params, inputs)  # every step at once
        return jax.lax.scan(body, carry, (projected, mask), unroll=self.unroll)
