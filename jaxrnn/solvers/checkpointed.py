"""A gradient in the memory of the square root of time: chunks are computed twice."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.solvers.base import Solver
from jaxrnn.solvers.scan import Scan


@dataclasses.dataclass(frozen=True)
class Checkpointed:
    """Runs another solver chunk by chunk and keeps only the carries between chunks.

    The backward pass computes the steps of one chunk a second time when it gets there.
    With chunks of sqrt(time) steps, what the gradient keeps grows with sqrt(time), and
    it takes about a third longer. (Outputs that are asked for are kept all the same.)

    Attributes:
      solver: runs each chunk; forward mode works where it works there.
      chunk: steps per chunk; None = about sqrt(time).

    Example:
      >>> params = init_params(lstm, jax.random.key(0), 2, 3)
      >>> inputs = jnp.ones((100, 5, 2))
      >>> def loss(params, solver):
      ...     return rnn(lstm, params, inputs, solver=solver)[0].hidden.sum()
      >>> frugal, plain = (jax.grad(loss)(params, s) for s in (Checkpointed(), Scan()))
      >>> all(jnp.allclose(frugal[name], plain[name], atol=1e-5) for name in params)
      True

    Reference: Chen et al., Training deep nets with sublinear memory cost, 2016.
    """

    solver: Solver = dataclasses.field(default_factory=Scan)
    chunk: int | None = None

    def __call__(
        self,
        cell: Cell,
        params: Params,
        carry: Carry,
        inputs: Any,
        mask: Any,
        resets: Any,
    ) -> tuple[Carry, Carry]:
        steps = (inputs, mask, resets)
        time = jax.tree.leaves(inputs)[0].shape[0]
        size = min(self.chunk or math.isqrt(time), time)
        if size in (0, time):
            return self.solver(cell, params, carry, *steps)
        rest = time % size

        @jax.checkpoint
        def run(carry: Carry, chunk: Any) -> tuple[Carry, Carry]:
            return self.solver(cell, params, carry, *chunk)

        head = jax.tree.map(lambda x: x[:rest], steps)
        chunks = jax.tree.map(lambda x: x[rest:].reshape(-1, size, *x.shape[1:]), steps)
        carry, of_head = run(carry, head) if rest else (carry, None)
        carry, carries = jax.lax.scan(run, carry, chunks)
        carries = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), carries)
        if rest:
            carries = jax.tree.map(lambda *x: jnp.concatenate(x), of_head, carries)
        return carry, carries
