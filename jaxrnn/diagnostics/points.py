"""Where does a recurrence come to rest? Its fixed points, and whether they attract."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from jaxrnn.cells.base import AnyArray, Carry, Cell, Params
from jaxrnn.cells.checks import as_array
from jaxrnn.checks import check_params
from jaxrnn.diagnostics.along import identity, widest
from jaxrnn.recurrence import rnn_step
from jaxrnn.solvers.jacobians import Packing, packed_step, step_jacobians

TRIES = 8  # of steps that are 1, 1/2, ... 1/128 of Newton's


class FixedPoints(NamedTuple):
    """Where `fixed_points` arrived from every start.

    Attributes:
      carry: as the starts, leaves (*batch, features).
      found: (*batch,), True where the speed is within the tolerance.
      speed: (*batch,), how far one step moves the carry, its Euclidean norm.
      eigenvalues: (*batch, n), of the Jacobian of a step there, complex, the largest
        modulus first. All below 1 in modulus: the point attracts. One near 1: there is
        a direction in which nothing moves, a memory.
    """

    carry: Carry
    found: Bool[Array, "*batch"]
    speed: Float[Array, "*batch"]
    eigenvalues: Complex[Array, "*batch n"]


def fixed_points(
    cell: Cell,
    params: Params,
    inputs: Float[AnyArray, " in_features"],
    starts: Carry,
    *,
    tolerance: float = 1e-5,
    iterations: int = 100,
) -> FixedPoints:
    """Where a cell stands still while its inputs do: carry = step(carry).

    Newton's method, from every start by itself,

        x += s (I - J(x))^+ (step(x) - x),    s one of 1, 1/2, 1/4, ... 1/128

    with the s that leaves the lowest speed, for as long as the speed falls. The
    pseudo-inverse serves where fixed points form a line, and I - J has no inverse.
    Where no fixed point is near it ends at a slow point, with `found` False. Several
    starts may arrive at one point; carries that the cell visits are good starts.

    Args:
      cell: any cell; its noise is left out.
      params: of the cell.
      inputs: of every step, one constant vector.
      starts: carries, leaves (*batch, features), as from `rnn_carries`.
      tolerance: the speed up to which a point counts as fixed.
      iterations: at most.

    Returns:
      A `FixedPoints`, one for each start. Its eigenvalues need a backend that has
      `jnp.linalg.eigvals`; a CPU has.

    Raises:
      TypeError, ValueError: as `rnn_step`.
      ValueError: inputs with more than one axis, a `tolerance` not above 0,
        `iterations` below 0.

    Example:
      >>> params = {"kernel": jnp.zeros((1, 1)), "recurrent_kernel": 2 * jnp.eye(1),
      ...           "bias": jnp.zeros(1)}  # h = tanh(2 h): at 0, and at 0.9575, -0.9575
      >>> starts = jnp.array([[-0.5], [0.1], [2.0]])
      >>> points = fixed_points(simple_rnn, params, jnp.zeros(1), starts)
      >>> np.allclose(points.carry[:, 0], [-0.9575, 0, 0.9575], atol=1e-4)
      True
      >>> attracting = abs(points.eigenvalues[:, 0]) < 1
      >>> points.found.tolist(), attracting.tolist()
      ([True, True, True], [True, False, True])

    Reference: Sussillo and Barak, Opening the black box: low-dimensional dynamics in
    high-dimensional recurrent neural networks, 2013.
    """
    check_params(params)
    inputs = as_array("inputs", inputs)
    if not jax.tree.leaves(starts):
        raise TypeError(
            "starts must be carries, leaves (*batch, features), as from rnn_carries, "
            f"got {starts!r}."
        )
    if inputs.ndim != 1:
        raise ValueError(
            "inputs must be one vector (in_features,), the same at every step, got "
            f"shape {inputs.shape}; jax.vmap takes several."
        )
    for name, number in (("tolerance", tolerance), ("iterations", iterations)):
        if not isinstance(number, int | float | np.number):
            raise TypeError(f"{name} must be a number, got {number!r}.")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be a speed above 0, got {tolerance}.")
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, got {iterations}.")
    return _fixed_points(
        dict(params),
        inputs,
        starts,
        cell=cell,
        tolerance=tolerance,
        iterations=iterations,
    )


@functools.partial(jax.jit, static_argnames=("cell", "iterations"))
def _fixed_points(
    params: Params,
    inputs: Any,
    starts: Carry,
    *,
    cell: Cell,
    tolerance: Any,
    iterations: int,
) -> FixedPoints:
    dtype = widest(inputs, params)
    batch_shape = jax.tree.leaves(starts)[0].shape[:-1]
    inputs = jnp.broadcast_to(inputs.astype(dtype), (*batch_shape, len(inputs)))
    step_once = functools.partial(rnn_step, cell, params)
    carry, _ = jax.eval_shape(step_once, starts, inputs)  # its checks are ours
    packing = Packing.of(carry)
    projected = cell.project(params, inputs)

    def movement(x: Array) -> Array:
        return packed_step(cell, packing, params, x, projected) - x

    def speed(x: Array) -> Array:
        return jnp.linalg.norm(movement(x), axis=-1)

    def jacobian(x: Array) -> Array:
        one_step = jax.tree.map(lambda leaf: leaf[None], (x, projected))
        found = step_jacobians(cell, packing, params, *one_step)[0]
        return found[..., None] * identity(x) if cell.diagonal else found

    def go_on(state: tuple[Array, Array, Array]) -> Array:
        x, falls, count = state
        return (falls & (speed(x) > tolerance)).any() & (count < iterations)

    def body(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, falls, count = state
        inverse = jnp.linalg.pinv(identity(x) - jacobian(x))
        newton = (inverse @ movement(x)[..., None])[..., 0]
        sizes = jnp.asarray([0.5**i for i in range(TRIES)], x.dtype)
        tries = jax.vmap(lambda size: x + size * newton)(sizes)
        speeds = jax.vmap(speed)(tries)
        speeds = jnp.where(jnp.isnan(speeds), jnp.inf, speeds)
        best = jnp.argmin(speeds, axis=0)[None, ..., None]
        best = jnp.take_along_axis(tries, best, axis=0)[0]
        falls = falls & (speeds.min(axis=0) < speed(x))
        return jnp.where(falls[..., None], best, x), falls, count + 1

    first = packing.pack(starts).astype(dtype)
    falls = jnp.ones(batch_shape, bool)
    x, _, _ = jax.lax.while_loop(go_on, body, (first, falls, jnp.asarray(0)))
    eigenvalues = jnp.linalg.eigvals(jacobian(x))
    order = jnp.argsort(-jnp.abs(eigenvalues), axis=-1)
    return FixedPoints(
        carry=packing.unpack(x),
        found=speed(x) <= tolerance,
        speed=speed(x),
        eigenvalues=jnp.take_along_axis(eigenvalues, order, axis=-1),
    )
