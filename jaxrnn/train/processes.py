"""What must the processes of one run agree on? When to keep it, and when to stop.

JAX runs one program in all of them; what they decide by a clock or a signal of their
own must be decided by all alike. Nothing here costs anything where there is one.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

LOST = ("Gloo", "NCCL", "coordination", "heartbeat", "closed by peer")


def first_says(decision: bool) -> bool:
    """What the first process has decided."""
    if jax.process_count() == 1:
        return decision
    from jax.experimental import multihost_utils  # which few runs need

    return bool(multihost_utils.broadcast_one_to_all(np.int32(decision)))


def one_of_them(text: str | None) -> str | None:
    """What one of the processes says, the first of those that say something."""
    return next(filter(None, of_all(text or "")), None)


def of_all(text: str) -> list[str]:
    """What each process says, in their order."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    said = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.process_allgather(np.int32(said.size)).max())
    padded = np.zeros(length + 1, np.uint8)  # not empty
    padded[: said.size] = said
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row).rstrip(b"\0").decode() for row in np.asarray(rows)]


@contextlib.contextmanager
def told_of_lost_ones() -> Iterator[None]:
    """An error that comes of another process that is gone says so.

    Raises:
      RuntimeError: in place of what JAX raised.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        said = str(error)
        if jax.process_count() == 1 or not any(word in said for word in LOST):
            raise
        raise RuntimeError(
            f"process {jax.process_index()} of {jax.process_count()} lost another one "
            f"({' '.join(said.split())[:200]}); start all of them again: with "
            "`checkpoints`, the same call goes on from the newest."
        ) from error
