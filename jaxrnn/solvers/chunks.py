"""How are steps cut into chunks, and put together again?"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def check_chunk(chunk: int | None) -> None:
    """Raises where `chunk` is no number of steps."""
    if chunk is None:
        return
    if not isinstance(chunk, int | np.integer):
        raise TypeError(f"chunk must be a whole number of steps, got {chunk!r}.")
    if chunk < 1:
        raise ValueError(
            f"chunk must be at least 1 step, got {chunk}; None stands for the default."
        )


def chunk_size(time: int, about: int) -> int:
    """A divisor of `time` from half to twice `about`, so that no step is left over.

    Without one it is `about` itself.

    Example:
      >>> [chunk_size(time, 8) for time in (500, 100, 30, 27, 101)]
      [5, 5, 6, 9, 8]
    """
    nearby = (*range(about, about // 2, -1), *range(about + 1, 2 * about + 1))
    return next((n for n in nearby if time % n == 0), about)


def cut(xs: PyTree, chunk: int) -> tuple[PyTree, PyTree]:
    """The first steps, which fill no chunk, and all others (chunks, chunk, ...).

    Example:
      >>> rest, chunks = cut(jnp.arange(7), 3)
      >>> rest.tolist(), chunks.tolist()
      ([0], [[1, 2, 3], [4, 5, 6]])
    """
    number, rest = divmod(jax.tree.leaves(xs)[0].shape[0], chunk)
    chunks = jax.tree.map(lambda x: x[rest:].reshape(number, chunk, *x.shape[1:]), xs)
    return jax.tree.map(lambda x: x[:rest], xs), chunks


def joined(of_rest: PyTree | None, of_chunks: PyTree) -> PyTree:
    """All steps, from what was made of the two parts; None = no step was left over."""

    def whole_of(x: Any) -> Any:
        return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    whole = jax.tree.map(whole_of, of_chunks)
    if of_rest is None:
        return whole
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), of_rest, whole)
