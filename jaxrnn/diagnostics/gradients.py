"""How far back does a gradient reach? Jacobians of steps, and their products."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrnn.cells.base import AnyArray, Carry, Cell, Params
from jaxrnn.checks import as_steps, check_params
from jaxrnn.diagnostics.along import identity, run_along
from jaxrnn.solvers.trajectory import next_carries_jacobians


def step_jacobians(
    cell: Cell,
    params: Params,
    inputs: Float[AnyArray, "time *batch in_features"],
    *,
    mask: Bool[AnyArray, "time *batch"] | None = None,
    resets: Bool[AnyArray, "time *batch"] | None = None,
    initial_carry: Carry | None = None,
) -> Float[Array, "time *batch n n"]:
    """How the carry after each step moves with the carry before it.

        J_t[i, j] = d carry_t[i] / d carry_{t-1}[j]

    The leaves of a carry stand side by side, n is the sum of their widths: an LSTM's is
    hidden, then memory. At a masked step J is the identity, at a reset 0. The product
    J_t ... J_{s+1} is what back-propagation multiplies by on its way from step t to
    step s.

    Args:
      cell: any cell; its noise is left out.
      params: of the cell.
      inputs: as in `rnn`.
      mask: as in `rnn`.
      resets: as in `rnn`.
      initial_carry: as in `rnn`.

    Returns:
      (time, *batch, n, n): time * batch * n^2 numbers.

    Raises:
      TypeError, ValueError: as `rnn`.

    Example:
      >>> params = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> step_jacobians(lstm, params, jnp.ones((7, 5, 2))).shape
      (7, 5, 6, 6)
    """
    check_params(params)
    steps = as_steps(inputs, mask, resets)
    return _step_jacobians(dict(params), *steps, initial_carry, cell=cell)


def output_jacobians(
    cell: Cell,
    params: Params,
    inputs: Float[AnyArray, "time *batch in_features"],
    *,
    mask: Bool[AnyArray, "time *batch"] | None = None,
    initial_carry: Carry | None = None,
) -> Float[Array, "steps *batch features n"]:
    """How the last output moves with the carry after every step, the initial one too.

        d output_T / d carry_t = d output_T / d carry_T  J_T  J_{T-1} ...  J_{t+1}

    All that step t tells the future is in its carry. The first `features` columns of an
    LSTM are the derivative by the hidden vector with the memory held fixed.

    Args:
      cell: any cell; its noise is left out.
      params: of the cell.
      inputs: as in `rnn`.
      mask: as in `rnn`; with padding at the end the last output is that of the last
        valid step.
      initial_carry: as in `rnn`.

    Returns:
      (time + 1, *batch, features, n); entry t belongs to the carry after t steps.

    Raises:
      TypeError, ValueError: as `rnn`.

    Example:
      >>> params = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> output_jacobians(lstm, params, jnp.ones((7, 5, 2))).shape
      (8, 5, 3, 6)
    """
    check_params(params)
    inputs, mask, _ = as_steps(inputs, mask)
    return _output_jacobians(dict(params), inputs, mask, initial_carry, cell=cell)


def gradient_norms(
    cell: Cell,
    params: Params,
    inputs: Float[AnyArray, "time *batch in_features"],
    *,
    mask: Bool[AnyArray, "time *batch"] | None = None,
    initial_carry: Carry | None = None,
) -> Float[Array, "steps *batch"]:
    """How far back a gradient reaches: the spectral norm of `output_jacobians`.

        || d output_T / d carry_t ||_2

    That is the most that the last output can move per unit that the carry moves after
    step t, and the most that the length of a gradient is multiplied by on its way back
    to there.

    Args:
      cell: any cell; its noise is left out.
      params: of the cell.
      inputs: as in `rnn`.
      mask: as in `rnn`.
      initial_carry: as in `rnn`.

    Returns:
      (time + 1, *batch); entry t belongs to the carry after t steps.

    Raises:
      TypeError, ValueError: as `rnn`.

    Example:
      >>> params = init_params(gru, jax.random.key(0), in_features=2, features=3)
      >>> norms = gradient_norms(gru, params, jnp.ones((50, 2)))
      >>> norms.shape, bool(norms[0] < 1e-6), norms[50].item()  # it begins forgetful
      ((51,), True, 1.0)

    Reference: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent
    neural networks, 2013.
    """
    check_params(params)
    inputs, mask, _ = as_steps(inputs, mask)
    return _gradient_norms(dict(params), inputs, mask, initial_carry, cell=cell)


@functools.partial(jax.jit, static_argnames="cell")
def _step_jacobians(params: Params, inputs: Any, *options: Any, cell: Cell) -> Array:
    packing, problem, carries = run_along(cell, params, inputs, *options)
    found = next_carries_jacobians(cell, packing, problem, carries)
    if found.ndim == carries.ndim:  # of a cell with `diagonal`, the diagonals
        return found[..., None] * identity(found)
    return found


@functools.partial(jax.jit, static_argnames="cell")
def _output_jacobians(
    params: Params, inputs: Any, mask: Any, initial_carry: Carry | None, *, cell: Cell
) -> Array:
    options = (mask, None, initial_carry)
    packing, problem, carries = run_along(cell, params, inputs, *options)

    def output(packed: Array) -> Array:
        return cell.output(packing.unpack(packed))

    last = jnp.concatenate([problem.first[None], carries])[-1]
    _, push = jax.linearize(output, last)
    of_last = jax.vmap(push, in_axes=-1, out_axes=-1)(identity(last))

    def backward(later: Array, jacobian: Array) -> tuple[Array, Array]:
        earlier = later @ jacobian
        return earlier, earlier

    of_steps = _step_jacobians(params, inputs, *options, cell=cell)
    _, earlier = jax.lax.scan(backward, of_last, of_steps, reverse=True)
    return jnp.concatenate([earlier, of_last[None]])


@functools.partial(jax.jit, static_argnames="cell")
def _gradient_norms(params: Params, inputs: Any, *options: Any, cell: Cell) -> Array:
    found = _output_jacobians(params, inputs, *options, cell=cell)
    return jnp.linalg.norm(found, 2, axis=(-2, -1))
