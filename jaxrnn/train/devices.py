"""Where do the rows of a batch lie? On the devices of a mesh, each with its own part.

`sharding` says so everywhere: `NamedSharding(mesh, PartitionSpec("batch"))`, of the
first axis of a batch. All else is the same on every device.
"""

import math
import zlib
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxrnn.train.processes import of_all


def check_sharding(
    sharding: NamedSharding | None, batch_size: int | None = None
) -> None:
    """Raises where a sharding does not divide the rows of a batch.

    Args:
      sharding: None passes.
      batch_size: rows of one batch; None where they are not known yet.

    Raises:
      TypeError: what is no `NamedSharding`.
      ValueError: one that divides another axis than the first, or a batch whose rows
        cannot be shared out equally.
    """
    if sharding is None:
        return
    if not isinstance(sharding, NamedSharding):
        raise TypeError(
            "sharding must be a jax.sharding.NamedSharding of the rows of a batch, got "
            f'{type(sharding).__name__}; NamedSharding(mesh, PartitionSpec("batch")) '
            "divides them over the axis of that name."
        )
    if len(sharding.spec) != 1 or not sharding.spec[0]:
        raise ValueError(
            "sharding must divide one axis, the rows of a batch, got "
            f'{sharding.spec}; write PartitionSpec("batch"), or '
            'PartitionSpec(("hosts", "devices")) for several axes of the mesh.'
        )
    parts = devices_of(sharding)
    if batch_size is not None and batch_size % parts:
        raise ValueError(
            f"batch_size must be a multiple of the {parts} devices that share it, got "
            f"{batch_size}; take {shared_size(sharding, batch_size)}."
        )


def shared_size(sharding: NamedSharding | None, batch_size: int) -> int:
    """The next batch size that all devices can share equally."""
    if sharding is None:
        return batch_size
    parts = devices_of(sharding)
    return -(-batch_size // parts) * parts


def devices_of(sharding: NamedSharding) -> int:
    """Into how many parts the rows are divided."""
    return math.prod(sharding.mesh.shape[n] for n in jax.tree.leaves(sharding.spec[0]))


def everywhere(sharding: NamedSharding | None, tree: PyTree) -> PyTree:
    """The same on every device of the mesh; what lies on it stays as it lies.

    With several processes each has the same values, and gives them to its own devices.

    Raises:
      ValueError: values that are not the same in all processes.
    """
    if sharding is not None and jax.process_count() > 1:
        _check_alike(sharding, tree)
    return on_mesh(sharding, tree, PartitionSpec())


def _check_alike(sharding: NamedSharding, tree: PyTree) -> None:
    """Else each process would train another model, and none would say so."""
    said = 0
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.core.Tracer) or _is_on(sharding.mesh, leaf):
            continue
        if jnp.issubdtype(getattr(leaf, "dtype", float), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        said = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), said)
    checksums = of_all(str(said))
    if len(set(checksums)) > 1:
        others = [i for i, one in enumerate(checksums) if one != checksums[0]]
        raise ValueError(
            "state, keys, datasets and orders must be the same in all processes, got "
            f"others in the processes {others} than in the first; draw them from the "
            "same seed, and give each its own rows by a function that makes batches."
        )


def sent(sharding: NamedSharding | None, tree: PyTree) -> PyTree:
    """`everywhere`, and on the device without a sharding: sent once, read often."""
    return jax.device_put(tree) if sharding is None else everywhere(sharding, tree)


def by_rows(sharding: NamedSharding | None, tree: PyTree, *leading: None) -> PyTree:
    """Arrays divided by their rows; what lies on the mesh stays as it lies.

    With several processes each gives the rows of its own devices.

    Args:
      sharding: None leaves all as it is.
      tree: arrays with their rows first.
      *leading: a None for each axis that comes before the rows.
    """
    if sharding is None:
        return tree
    return on_mesh(sharding, tree, PartitionSpec(*leading, *sharding.spec))


def on_mesh(sharding: NamedSharding | None, tree: PyTree, spec: Any) -> PyTree:
    """Arrays laid out by `spec` on the mesh of `sharding`, where they are not on it."""
    if sharding is None:
        return tree
    mesh = sharding.mesh

    def placed(x: Any) -> Any:
        if isinstance(x, jax.core.Tracer) or _is_on(mesh, x):
            return x
        x = x if isinstance(x, jax.Array) else np.asarray(x)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = placed(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        target = NamedSharding(mesh, spec)
        if jax.process_count() == 1:
            return jax.device_put(x, target)
        return jax.make_array_from_process_local_data(target, np.asarray(x))

    return jax.tree.map(placed, tree)


def _is_on(mesh: Any, x: Any) -> bool:
    found = getattr(x, "sharding", None)
    return isinstance(found, NamedSharding) and found.mesh == mesh


# Inside of a program.


def take(sharding: NamedSharding | None, tree: PyTree, rows: Any) -> PyTree:
    """`x[rows]` of every array; each device takes those rows that are its own."""
    if sharding is None:
        return jax.tree.map(lambda x: x[rows], tree)
    rows = divided(sharding, rows)

    def taken(x: Any) -> Any:
        if _is_explicit(sharding):
            return x.at[rows].get(out_sharding=_of_rank(sharding, x.ndim))
        return divided(sharding, x[rows])

    return jax.tree.map(taken, tree)


def divided(sharding: NamedSharding | None, tree: PyTree) -> PyTree:
    """Arrays whose rows come first, each device with its own."""
    if sharding is None:
        return tree
    return jax.tree.map(lambda x: _put(x, _of_rank(sharding, x.ndim)), tree)


def gathered(sharding: NamedSharding | None, tree: PyTree) -> PyTree:
    """Arrays that every device has whole."""
    if sharding is None:
        return tree
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.tree.map(lambda x: _put(x, whole), tree)


def _put(x: Any, sharding: NamedSharding) -> Any:
    if _is_explicit(sharding):
        return jax.sharding.reshard(x, sharding)
    return jax.lax.with_sharding_constraint(x, sharding)


def _is_explicit(sharding: NamedSharding) -> bool:
    return AxisType.Explicit in sharding.mesh.axis_types


def _of_rank(sharding: NamedSharding, rank: int) -> NamedSharding:
    spec = PartitionSpec(*sharding.spec, *[None] * (rank - 1))
    return NamedSharding(sharding.mesh, spec)
