"""How does a run survive? What it needs to go on lies on disk, written by Orbax."""

import contextlib
import dataclasses
import os
import pathlib
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxrnn.data.batches import check_count, check_number
from jaxrnn.files import Path


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where a run is kept, how often and how much of it; for `checkpoints` of `fit`.

    A run that was stopped, by whatever, goes on by the same call again: `fit` finds the
    newest checkpoint that can be read, goes on from there, and returns the bits that it
    would have returned without the stop. Orbax writes in the background, whole or not
    at all; what an interrupted write left is cleaned up.

    Attributes:
      folder: of one run; made where it is missing.
      epochs: a checkpoint after so many epochs.
      updates: and within an epoch after so many updates; None = at its end only. An
        epoch is then that many programs more: a part each.
      seconds: but not before so much time has passed since the last one, so that short
        epochs are not spent on writing; 0 = every time. What ended is always kept.
      keep: how many of the newest are kept.

    Raises:
      TypeError: a folder that is no path, what is no number.
      ValueError: a number below 1 (seconds below 0).

    Example:
      >>> Checkpoints("runs/reviews", updates=1000, seconds=600).keep
      2

    A loop of one's own, such as one over the segments of a stream, keeps what it likes:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with Checkpoints(folder).opened() as kept:
      ...         kept.save({"carry": jnp.ones(2)}, {"segment": 3})
      ...     with Checkpoints(folder).opened() as kept:  # after a stop, say
      ...         arrays, facts = kept.newest(lambda facts: {"carry": jnp.zeros(2)})
      >>> arrays["carry"].tolist(), facts
      ([1.0, 1.0], {'segment': 3})
    """

    folder: Path
    epochs: int = 1
    updates: int | None = None
    seconds: float | int = 10
    keep: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.folder, str | os.PathLike):
            raise TypeError(
                f"folder must be a path, of one run, got {self.folder!r}; write "
                'Checkpoints("runs/first"), say.'
            )
        for name in ("epochs", "updates", "keep"):
            value = getattr(self, name)
            if name != "updates" or value is not None:
                check_count(name, value)
        check_number("seconds", self.seconds)

    @contextlib.contextmanager
    def opened(self) -> Iterator["Kept"]:
        """The folder, for reading and writing; at the end all writes are done."""
        import orbax.checkpoint as ocp  # half a second

        options = ocp.CheckpointManagerOptions(
            max_to_keep=self.keep, cleanup_tmp_directories=True
        )
        folder = pathlib.Path(self.folder).absolute()
        with ocp.CheckpointManager(folder, options=options) as manager:
            yield Kept(self, manager)


class Kept:
    """The open checkpoints of a run, numbered in their order."""

    def __init__(self, rule: Checkpoints, manager: Any) -> None:
        self._rule, self._manager, self._saved = rule, manager, time.monotonic()
        self._last = max(manager.all_steps(), default=0)

    @property
    def due(self) -> bool:
        """Whether `seconds` have passed since the last one."""
        return time.monotonic() - self._saved >= self._rule.seconds

    def save(self, arrays: PyTree, facts: Mapping[str, Any]) -> None:
        """Writes one checkpoint, in the background.

        Args:
          arrays: a pytree of arrays.
          facts: what JSON can hold.
        """
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays), facts=ocp.args.JsonSave(dict(facts))
        )
        self._last += 1
        self._manager.save(self._last, args=items, force=True)
        self._saved = time.monotonic()

    def newest(self, like: Any) -> tuple[PyTree, dict[str, Any]] | None:
        """The newest checkpoint that can be read; a warning tells of those that cannot.

        Args:
          like: `facts -> arrays`: arrays or `jax.ShapeDtypeStruct` of the shapes,
            dtypes and sharding to read; what it raises is raised.

        Returns:
          (arrays, facts); None where there is no checkpoint.

        Raises:
          ValueError: there are some, and none can be read.
        """
        import orbax.checkpoint as ocp

        broken = []
        for number in sorted(self._manager.all_steps(), reverse=True):
            try:
                items = ocp.args.Composite(facts=ocp.args.JsonRestore())
                facts = self._manager.restore(number, args=items)["facts"]
            except Exception as error:  # whatever a damaged file leads to
                broken.append(_told(number, error))
                continue
            wanted = like(facts)
            try:
                items = ocp.args.Composite(arrays=ocp.args.StandardRestore(wanted))
                arrays = self._manager.restore(number, args=items)["arrays"]
            except Exception as error:
                broken.append(_told(number, error))
                continue
            for line in broken:
                warnings.warn(f"{line}; an older one is taken.", stacklevel=3)
            return arrays, facts
        if broken:
            raise ValueError(
                f"no checkpoint in {self._rule.folder} can be read: {broken}; choose "
                "another folder, or delete this one to begin anew."
            )
        return None


def _told(number: int, error: Exception) -> str:
    said = " ".join(str(error).split())[:200]
    return f"checkpoint {number} cannot be read ({type(error).__name__}: {said})"


def shapes_of(tree: PyTree) -> list[list[Any]]:
    """[path, shape, dtype] of every leaf, for JSON.

    Example:
      >>> shapes_of({"w": jnp.zeros((2, 3)), "x": 0.5})
      [["['w']", [2, 3], 'float32'], ["['x']", [], 'float']]
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        [
            jax.tree_util.keystr(path),
            list(np.shape(leaf)),
            str(getattr(leaf, "dtype", type(leaf).__name__)),
        ]
        for path, leaf in leaves
    ]


def to_json(array: Any) -> dict[str, Any]:
    """An array as JSON keeps it, to the bit.

    Example:
      >>> from_json(to_json(np.float32([0.1, np.nan]))).dtype.name
      'float32'
    """
    array = np.asarray(array)
    return {"dtype": array.dtype.name, "values": array.tolist()}


def from_json(kept: Mapping[str, Any]) -> np.ndarray:
    """What `to_json` was given."""
    return np.asarray(kept["values"], kept["dtype"])
