"""The reference solver: one `jax.lax.scan`, differentiated by JAX."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.solvers.base import Steps, hold, restart, start_of


@dataclasses.dataclass(frozen=True)
class Scan:
    """Steps through time with `jax.lax.scan` and leaves every derivative to JAX.

    It works for every cell and every transformation, is the oracle of the other
    solvers, and computes their forward mode (`jax.jvp`, `jax.jacfwd`, `jax.hessian`).

    Attributes:
      unroll: loop iterations per compiled iteration.
      project_first: project the inputs of all steps in one matmul before the loop,
        instead of each in its step. That takes memory for (time, *batch, gates *
        features) values.

    Example:
      >>> params = init_params(simple_rnn, jax.random.key(0), 2, 3)
      >>> carry, outputs = rnn(simple_rnn, params, jnp.ones((7, 5, 2)), solver=Scan())
      >>> carry.shape, outputs.shape
      ((5, 3), (7, 5, 3))
    """

    unroll: int = 1
    project_first: bool = False

    def __call__(
        self, cell: Cell, params: Params, carry: Carry, steps: Steps
    ) -> tuple[Carry, Carry]:
        start = start_of(cell, params, carry, steps)
        return self.run_from(start, cell, params, carry, steps)

    def run_from(
        self,
        start: Carry | None,
        cell: Cell,
        params: Params,
        carry: Carry,
        steps: Steps,
    ) -> tuple[Carry, Carry]:
        """The same, for a `start` that is given: what a reset restarts from."""
        project, inputs = choose_projection(
            cell, params, steps.inputs, first=self.project_first
        )

        def body(carry: Carry, step: Steps) -> tuple[Carry, Carry]:
            carry = restart(step.resets, start, carry)
            new = cell.step(params, carry, project(params, step.inputs))
            carry = hold(step.mask, new, carry)
            return carry, carry

        xs = steps._replace(inputs=inputs)
        return jax.lax.scan(body, carry, xs, unroll=self.unroll)


def choose_projection(
    cell: Cell, params: Params, inputs: Any, *, first: bool
) -> tuple[Callable[[Params, Any], Any], Any]:
    """What is left to do in a step to project, and the inputs of that."""
    if not first:
        return cell.project, inputs
    return lambda params, projected: projected, cell.project(params, inputs)
