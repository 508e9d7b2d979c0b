"""How does a solver run where devices share a batch? Each on its own rows."""

import math
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrnn.cells.base import AnyArray, Carry, Cell, Params
from jaxrnn.cells.ops import as_varying
from jaxrnn.cells.specs import param_names
from jaxrnn.solvers.base import Solver, Steps


def run_by_device(
    solver: Solver, cell: Cell, params: Params, carry: Carry, steps: Steps
) -> tuple[Carry, Carry]:
    """`solver(cell, params, carry, steps)`, on each device for the rows that it has.

    No row of a batch needs another one. So where the types of the arrays say which
    device has which rows (a mesh with explicit axes), the solver runs within
    `jax.shard_map`, and any solver will do. Where the compiler decides (automatic
    axes), it divides the loop as it sees fit.
    """

    def run(params: Params, carry: Carry, steps: Steps) -> tuple[Carry, Carry]:
        arrays = params, carry, steps
        return solver(cell, *as_varying(arrays, like=arrays))

    axes = batch_axes(params, steps)
    if axes is None:
        return run(params, carry, steps)

    mesh = _mesh(steps)

    def of_rows(tree: Any, *leading: None) -> Any:
        """With its rows where those of the inputs are."""
        sharding = NamedSharding(mesh, PartitionSpec(*leading, *axes))
        return jax.tree.map(lambda x: jax.sharding.reshard(x, sharding), tree)

    shared = param_names(cell)  # others are the noise of each row
    params = {n: x if n in shared else of_rows(x, None) for n, x in params.items()}
    by_device = jax.shard_map(
        run, mesh=mesh, out_specs=(PartitionSpec(*axes), PartitionSpec(None, *axes))
    )
    return by_device(params, of_rows(carry), of_rows(steps, None))


def batch_axes(params: Params, steps: Steps) -> tuple[Any, ...] | None:
    """The mesh axes of each batch axis, where explicit ones divide nothing else.

    What stands beside the inputs, the noise of a cell, may be whole on every device.
    """
    first, *others = map(_spec, jax.tree.leaves(steps.inputs))
    time, *batch, features = first
    kernels = [axis for name in params for axis in _spec(params[name])[-2:]]
    if not any(batch) or any([time, features, *kernels]):
        return None
    fits = all(spec == first or not any(spec) for spec in others)
    return tuple(batch) if fits else None


def devices_of(steps: Steps, axes: tuple[Any, ...]) -> int:
    """Over how many devices `axes` divide the batch."""
    mesh = _mesh(steps)
    return math.prod(mesh.shape[name] for name in jax.tree.leaves(axes))


def _mesh(steps: Steps) -> Any:
    return jax.typeof(jax.tree.leaves(steps.inputs)[0]).sharding.mesh


def _spec(array: AnyArray) -> tuple[Any, ...]:
    """The explicit mesh axes of every axis of an array; None where there is none."""
    sharding = jax.typeof(array).sharding
    explicit = {
        name
        for name, kind in zip(
            sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True
        )
        if kind == AxisType.Explicit and sharding.mesh.shape[name] > 1
    }
    return tuple(
        axis if explicit & set(jax.tree.leaves(axis)) else None
        for axis in sharding.spec
    )
