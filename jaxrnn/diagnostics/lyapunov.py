"""Is a recurrence chaotic? Its Lyapunov exponents."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrnn.cells.base import AnyArray, Carry, Cell, Params
from jaxrnn.cells.checks import as_array, check_cell
from jaxrnn.checks import check_params
from jaxrnn.diagnostics.along import run_along
from jaxrnn.solvers.jacobians import packed_step
from jaxrnn.solvers.trajectory import befores_of


def lyapunov_exponents(
    cell: Cell,
    params: Params,
    inputs: Float[AnyArray, "time *batch in_features"],
    *,
    count: int = 1,
    skip: int = 0,
    initial_carry: Carry | None = None,
) -> Float[Array, "*batch count"]:
    """How fast carries that are close to one another part, or meet, along the inputs.

        Q_t R_t = J_t Q_{t-1},    exponent_i = mean over t of log |R_t[i, i]|

    by a QR decomposition after every step. The first exponent is the growth per step of
    a small distance: below 0 the network forgets where it began, above 0 it is chaotic.
    The sum of the first k is that of a volume of k dimensions. They come in falling
    order once the sequence is long. Q starts from directions drawn at random, always
    the same ones: no cell keeps them to itself, as one with `Cell.diagonal` would keep
    the axes.

    Args:
      cell: any cell; its noise is left out.
      params: of the cell.
      inputs: as in `rnn`, a long sequence.
      count: exponents to find, at most n, the width of the carry.
      skip: steps at the start that turn Q, but enter no mean.
      initial_carry: as in `rnn`.

    Returns:
      (*batch, count), in nats per step; -inf where a step forgets all.

    Raises:
      TypeError, ValueError: as `rnn`.
      ValueError: a `count` that is not 1 to n, a `skip` that leaves no step.

    Example:
      >>> params = init_params(simple_rnn, jax.random.key(0), in_features=2, features=8)
      >>> params["recurrent_kernel"] *= 0.9  # 0.9 times an orthogonal matrix
      >>> quiet = jnp.zeros((100, 2))  # where the slope of tanh is 1
      >>> found = lyapunov_exponents(simple_rnn, params, quiet, count=2)
      >>> np.allclose(found, np.log(0.9), atol=1e-5)
      True

    Reference: Benettin et al., Lyapunov characteristic exponents for smooth dynamical
    systems, 1980; Vogt et al., On Lyapunov exponents for RNNs, 2022, arXiv 2006.14123.
    """
    check_cell(cell)
    check_params(params)
    inputs = as_array("inputs", inputs)
    for name, number in (("count", count), ("skip", skip)):
        if not hasattr(number, "__index__"):
            raise TypeError(f"{name} must be a whole number, got {number!r}.")
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, ()), dict(params))
    n = sum(leaf.shape[-1] for leaf in jax.tree.leaves(carry))
    if not 1 <= count <= n:
        raise ValueError(
            f"count must be 1 to {n}, the width of the carry of {cell.name}, got "
            f"{count}."
        )
    if not 0 <= skip < len(inputs):
        raise ValueError(
            f"skip must leave a step of {len(inputs)}, be 0 to {len(inputs) - 1}, got "
            f"{skip}; give longer inputs."
        )
    return _lyapunov_exponents(
        dict(params), inputs, initial_carry, cell=cell, count=count, skip=skip
    )


@functools.partial(jax.jit, static_argnames=("cell", "count", "skip"))
def _lyapunov_exponents(
    params: Params,
    inputs: Any,
    initial_carry: Carry | None,
    *,
    cell: Cell,
    count: int,
    skip: int,
) -> Array:
    options = (None, None, initial_carry)
    packing, problem, carries = run_along(cell, params, inputs, *options)
    step = functools.partial(packed_step, cell, packing, problem.params)

    def body(directions: Array, step_inputs: Any) -> tuple[Array, Array]:
        before, projected = step_inputs
        _, push = jax.linearize(lambda x: step(x, projected), before)
        pushed = jax.vmap(push, in_axes=-1, out_axes=-1)(directions)
        directions, r = jnp.linalg.qr(pushed)
        return directions, jnp.log(jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1)))

    shape = (*carries.shape[1:], count)
    directions = jax.random.normal(jax.random.key(0), shape, carries.dtype)
    directions, _ = jnp.linalg.qr(directions)
    steps = (befores_of(problem, carries), problem.projected)
    _, growth = jax.lax.scan(body, directions, steps)
    return growth[skip:].mean(axis=0)
