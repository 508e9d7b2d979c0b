"""A gradient in the memory of the square root of time: chunks are computed twice."""

import dataclasses
import math

import jax

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.solvers.base import Solver, Steps, check_solver
from jaxrnn.solvers.chunks import check_chunk, chunk_size, cut, joined
from jaxrnn.solvers.scan import Scan


@dataclasses.dataclass(frozen=True)
class Checkpointed:
    """Runs another solver chunk by chunk and keeps only the carries between chunks.

    The backward pass computes the steps of one chunk a second time when it gets there.
    With chunks of sqrt(time) steps, what the gradient keeps grows with sqrt(time), and
    it takes about a third longer. (Outputs that are asked for are kept all the same.)

    Attributes:
      solver: runs each chunk.
      chunk: about as many steps are a chunk; None = sqrt(time).

    Raises:
      TypeError: a solver that is none.
      ValueError: a chunk below 1.

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

    def __post_init__(self) -> None:
        check_solver(self.solver)
        check_chunk(self.chunk)

    def __call__(
        self, cell: Cell, params: Params, carry: Carry, steps: Steps
    ) -> tuple[Carry, Carry]:
        def run(carry: Carry, steps: Steps) -> tuple[Carry, Carry]:
            return self.solver(cell, params, carry, steps)

        if not isinstance(steps.time, int):  # left open by `jax.export`
            return jax.checkpoint(run)(carry, steps)
        chunk = self.chunk or math.isqrt(steps.time)
        if chunk == 0 or steps.time <= chunk:  # one chunk: nothing lies between chunks
            return run(carry, steps)
        run = jax.checkpoint(run)
        rest, chunks = cut(steps, chunk_size(steps.time, chunk))
        of_rest = None
        if rest.time:
            carry, of_rest = run(carry, rest)
        carry, carries = jax.lax.scan(run, carry, chunks)
        return carry, joined(of_rest, carries)
