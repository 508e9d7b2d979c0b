"""How does a solver run some steps at a time? An outer scan over chunks of steps."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.solvers.base import Solver, Steps
from jaxrnn.solvers.scan import Scan


def in_chunks(
    run: Callable[[Carry, Steps], tuple[Carry, Carry]],
    carry: Carry,
    steps: Steps,
    chunk: int,
) -> tuple[Carry, Carry]:
    """Runs about `chunk` steps at a time, in an outer scan.

    What the derivative of `run` keeps is kept for every chunk, and the gradients of the
    chunks add up.

    Args:
      run: `(carry, steps) -> (carry, carries)`, a solver with its cell and parameters.
      carry: before the first step.
      steps: all of them.
      chunk: steps in a chunk, at least 1; see `chunk_size`.

    Returns:
      The carry after the last step, and the carries after every step.
    """
    if steps.time <= chunk:
        return run(carry, steps)
    chunk = chunk_size(steps.time, chunk)
    rest = steps.time % chunk  # the first steps, and a copy of all others

    def cut(x: Any) -> Any:
        return x[rest:].reshape(-1, chunk, *x.shape[1:])

    def joined(x: Any) -> Any:
        return x.reshape(-1, *x.shape[2:])

    if not rest:
        carry, carries = jax.lax.scan(run, carry, jax.tree.map(cut, steps))
        return carry, jax.tree.map(joined, carries)
    carry, of_rest = run(carry, jax.tree.map(lambda x: x[:rest], steps))
    carry, carries = jax.lax.scan(run, carry, jax.tree.map(cut, steps))
    carries = jax.tree.map(
        lambda x, y: jnp.concatenate([x, joined(y)]), of_rest, carries
    )
    return carry, carries


def chunk_size(time: int, about: int) -> int:
    """A divisor of `time` from half to twice `about`, so that no step is left over.

    Without one it is `about` itself.

    Example:
      >>> [chunk_size(time, 8) for time in (500, 100, 30, 27, 101)]
      [5, 5, 6, 9, 8]
    """
    nearby = (*range(about, about // 2, -1), *range(about + 1, 2 * about + 1))
    return next((n for n in nearby if time % n == 0), about)


def check_chunk(chunk: int | None) -> None:
    """Raises a ValueError where `chunk` is no number of steps."""
    if chunk is not None and chunk < 1:
        raise ValueError(
            f"chunk must be at least 1 step, got {chunk}; None stands for the default."
        )


@dataclasses.dataclass(frozen=True)
class Checkpointed:
    """Runs another solver chunk by chunk and keeps only the carries between chunks.

    The backward pass computes the steps of one chunk a second time when it gets there.
    With chunks of sqrt(time) steps, what the gradient keeps grows with sqrt(time), and
    it takes about a third longer. (Outputs that are asked for are kept all the same.)

    Attributes:
      solver: runs each chunk; forward mode works where it works there.
      chunk: about as many steps are a chunk; None = sqrt(time).

    Raises:
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
        check_chunk(self.chunk)

    def __call__(
        self, cell: Cell, params: Params, carry: Carry, steps: Steps
    ) -> tuple[Carry, Carry]:
        def run(carry: Carry, steps: Steps) -> tuple[Carry, Carry]:
            return self.solver(cell, params, carry, steps)

        chunk = self.chunk or math.isqrt(steps.time)
        if chunk == 0 or steps.time <= chunk:  # one chunk: nothing lies between chunks
            return run(carry, steps)
        return in_chunks(jax.checkpoint(run), carry, steps, chunk)
