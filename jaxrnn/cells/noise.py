"""What is random in a cell while it trains: dropout and zoneout."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxrnn.cells.base import Carry, Cell, Params
from jaxrnn.cells.checks import check_cell
from jaxrnn.cells.specs import param_names, some_specs


def dropout_cell(cell: Cell, rate: float = 0.0, *, recurrent_rate: float = 0.0) -> Cell:
    """`cell` with Keras' dropout of its inputs and of its recurrent connections.

        project(x * m / (1 - rate)),    U sees h * k / (1 - recurrent_rate)

    The masks m (*batch, in_features) and k (*batch, features) of zeros and ones are
    drawn once for all time steps, before the loop, where `rnn` is given a `key`;
    without a key nothing is dropped. As in Keras every gate has a mask k of its own,
    and with `recurrent_rate` above 0 a mask m of its own too. What a gate adds to its
    carry is not dropped (the z * h of a GRU).

    Keras has this for SimpleRNN, GRU and LSTM; PyTorch's `dropout` is the one between
    layers, see `Stacked`.

    Args:
      cell: of this library, or one whose functions read the masks: `affine_project`
        and `recurrent_project` of `jaxrnn.cells.ops` do.
      rate: share of the inputs that is dropped, in [0, 1).
      recurrent_rate: share of the hidden vector that the matmul does not see.

    Returns:
      A `Cell` with the parameters of `cell`; the same object for equal settings. It
      has no hand-written adjoint. A step that is linear in the carry stays so.

    Raises:
      TypeError: a cell that is none, a rate that is no number.
      ValueError: a rate outside [0, 1); a `recurrent_rate` for a cell without a
        recurrent kernel, such as `min_gru`; a mask that the functions of the cell never
        read, so that nothing would be dropped.

    Example:
      >>> cell = dropout_cell(gru, 0.1, recurrent_rate=0.2)
      >>> params = init_params(cell, jax.random.key(0), in_features=2, features=3)
      >>> inputs = jnp.ones((7, 5, 2))
      >>> _, trained = rnn(cell, params, inputs, key=jax.random.key(1))
      >>> _, served = rnn(cell, params, inputs)
      >>> jnp.array_equal(served, rnn(gru, params, inputs)[1]).item()
      True

    Reference: Gal and Ghahramani, A theoretically grounded application of dropout in
    recurrent neural networks, 2016.
    """
    check_cell(cell)
    check_rate("rate", rate)
    check_rate("recurrent_rate", recurrent_rate)
    if recurrent_rate and "recurrent_kernel" not in param_names(cell):
        raise ValueError(
            f"recurrent_rate drops what a recurrent kernel multiplies, and {cell.name} "
            f"has none, got {recurrent_rate}; write rate for the inputs, or "
            "zoneout_cell."
        )
    # NumPy's numbers have a dtype, to which the masks would be promoted.
    return _dropout(cell, float(rate), float(recurrent_rate))


def check_rate(name: str, rate: float) -> None:
    """Raises where a rate is no number, or not in [0, 1)."""
    if isinstance(rate, str | None | list):
        raise TypeError(f"{name} must be a number in [0, 1), got {rate!r}.")
    if not 0 <= rate < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {rate}.")


def dropout_mask(
    key: PRNGKeyArray, rate: float, shape: tuple[int, ...], dtype: Any
) -> Array:
    """Zeros with probability `rate`, else 1 / (1 - rate)."""
    return jax.random.bernoulli(key, 1 - rate, shape).astype(dtype) / (1 - rate)


def _check_is_read(cell: Cell, rate: float, recurrent_rate: float) -> None:
    """Raises where `project` and `step` take no notice of a mask: by their jaxpr."""
    specs = some_specs(cell)
    params = {n: jax.ShapeDtypeStruct(s.shape, jnp.float32) for n, s in specs.items()}
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (1,)), params)
    hidden = jax.eval_shape(cell.output, carry)
    features = jax.tree.leaves(carry)[-1].shape[-1]  # and those of the inputs
    width = params["kernel"].shape[-1] if "kernel" in params else features
    inputs = jnp.zeros((1, features), jnp.float32)
    for mask, name, functions, on, way_out in (
        (rate, "dropout", "project", inputs, "affine_project"),
        (recurrent_rate, "recurrent_dropout", "step", hidden, "recurrent_project"),
    ):
        if not mask:
            continue

        def run(mask: Array, params: Params, carry: Carry, name: str = name) -> Carry:
            read = {**params, name: mask}
            return cell.step(read, carry, cell.project(read, inputs))

        drawn = jax.ShapeDtypeStruct((width // features, *on.shape), jnp.float32)
        jaxpr = jax.make_jaxpr(run)(drawn, params, carry).jaxpr
        if not any(jaxpr.invars[0] is var for eqn in jaxpr.eqns for var in eqn.invars):
            raise ValueError(
                f"the {functions} of {cell.name} must read params[{name!r}] for "
                f"{name} to drop anything, and never does, got a rate of {mask}; "
                f"compute it with jaxrnn.cells.ops.{way_out}, or gated_matmul."
            )


@functools.lru_cache(maxsize=256)
def _dropout(cell: Cell, rate: float, recurrent_rate: float) -> Cell:
    _check_is_read(cell, rate, recurrent_rate)

    def noise(key: PRNGKeyArray, params: Params, inputs: Any) -> tuple[Params, Any]:
        batch_shape, in_features = inputs.shape[1:-1], inputs.shape[-1]
        carry = jax.eval_shape(lambda p: _start(cell, p, inputs), params)
        hidden = jax.eval_shape(cell.output, carry)
        gates = params["kernel"].shape[-1] // jax.tree.leaves(carry)[-1].shape[-1]
        key, recurrent_key, inner_key = jax.random.split(key, 3)
        masks = {}
        if rate:
            shape = (gates if recurrent_rate else 1, *batch_shape, in_features)
            masks["dropout"] = dropout_mask(key, rate, shape, inputs.dtype)
        if recurrent_rate:
            shape = (gates, *batch_shape, hidden.shape[-1])
            masks["recurrent_dropout"] = dropout_mask(
                recurrent_key, recurrent_rate, shape, inputs.dtype
            )
        return _before(cell, inner_key, {**params, **masks}, inputs)

    return cell._replace(name=f"{cell.name} with dropout", adjoint=None, noise=noise)


class Zoned(NamedTuple):
    """The inputs of a cell with zoneout while it trains.

    Attributes:
      inputs: what the cell itself takes.
      keep: a carry of booleans with a leading time axis: which units keep their value.
    """

    inputs: Any
    keep: PyTree


def zoneout_cell(cell: Cell, rate: Any) -> Cell:
    """`cell` with zoneout: at every step some units keep their value.

        carry_t = k_t * carry_{t-1} + (1 - k_t) * step(carry_{t-1})

    While training, which is where `rnn` is given a `key`, k_t is 1 with probability
    `rate`, for each unit and step by itself, drawn for all steps before the loop.
    Without a key k_t is `rate`, its mean.

    Args:
      cell: any cell.
      rate: in [0, 1), one for the whole carry, or a carry of rates such as
        `LSTMCarry(hidden=0.05, memory=0.5)`.

    Returns:
      A `Cell` with the parameters of `cell`; the same object for equal settings. It
      has no hand-written adjoint, and no `linear`: `ParallelScan` runs it as `Scan`.

    Raises:
      TypeError: a cell that is none, a rate that is no number.
      ValueError: a rate outside [0, 1), or rates that do not fit the carry.

    Example:
      >>> cell = zoneout_cell(lstm, LSTMCarry(hidden=0.05, memory=0.5))
      >>> params = init_params(cell, jax.random.key(0), in_features=2, features=3)
      >>> carry, _ = rnn(cell, params, jnp.ones((7, 5, 2)), key=jax.random.key(1))
      >>> carry.memory.shape
      (5, 3)

    Reference: Krueger et al., Zoneout: regularizing RNNs by randomly preserving hidden
    activations, 2017.
    """
    check_cell(cell)
    for one in jax.tree.leaves(rate):
        check_rate("rate", one)
    return _zoneout(cell, jax.tree.map(float, rate))


@functools.lru_cache(maxsize=256, typed=True)  # a pair equals an LSTMCarry
def _zoneout(cell: Cell, rate: Any) -> Cell:
    def rates(carry: Carry) -> Any:
        if jax.tree.structure(rate) == jax.tree.structure(carry):
            return rate
        if isinstance(rate, float):
            return jax.tree.map(lambda leaf: rate, carry)
        raise ValueError(
            f"the rates of zoneout must be one number or have the structure of the "
            f"carry of {cell.name}, {jax.tree.structure(carry)}, got {rate}."
        )

    def noise(key: PRNGKeyArray, params: Params, inputs: Any) -> tuple[Params, Any]:
        key, inner_key = jax.random.split(key)
        carry = jax.eval_shape(lambda p: _start(cell, p, inputs), params)
        leaves, structure = jax.tree.flatten(carry)
        keep = [
            jax.random.bernoulli(key, rate, (inputs.shape[0], *leaf.shape))
            for key, rate, leaf in zip(
                jax.random.split(key, len(leaves)),
                jax.tree.leaves(rates(carry)),
                leaves,
                strict=True,
            )
        ]
        params, inputs = _before(cell, inner_key, params, inputs)
        return params, Zoned(inputs, jax.tree.unflatten(structure, keep))

    def project(params: Params, inputs: Any) -> Any:
        if isinstance(inputs, Zoned):
            return inputs._replace(inputs=cell.project(params, inputs.inputs))
        return cell.project(params, inputs)

    def step(params: Params, carry: Carry, projected: Any) -> Carry:
        if isinstance(projected, Zoned):
            new = cell.step(params, carry, projected.inputs)
            return jax.tree.map(jnp.where, projected.keep, carry, new)
        new = cell.step(params, carry, projected)
        return jax.tree.map(
            lambda k, old, new: k * old + (1 - k) * new, rates(carry), carry, new
        )

    return cell._replace(
        name=f"{cell.name} with zoneout",
        project=project,
        step=step,
        adjoint=None,
        noise=noise,
        linear=None,
    )


def _start(cell: Cell, params: Params, inputs: Array) -> Carry:
    return cell.initial_carry(params, inputs.shape[1:-1])


def _before(
    cell: Cell, key: PRNGKeyArray, params: Params, inputs: Any
) -> tuple[Params, Any]:
    """What the wrapped cell draws by itself."""
    if cell.noise is None:
        return params, inputs
    return cell.noise(key, params, inputs)
