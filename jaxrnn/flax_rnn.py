"""`RNN`, to be put in the place of `flax.linen.RNN`: Flax' call, any cell."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.recurrent import flip_sequences
from jaxtyping import Array

from jaxrnn.cells.base import Carry, Cell
from jaxrnn.recurrence import rnn_carries
from jaxrnn.solvers.base import Solver, hold

# (inputs time-major, initial carry or None) -> carry, outputs, carries after each step
Run = Callable[[Array, Carry | None], tuple[Carry, Any, Carry]]


def chosen(given: bool | None, attribute: bool) -> bool:
    """What the call says, or else the module."""
    return attribute if given is None else given


def time_axis_of(inputs: Any, feature_axes: int, time_major: bool) -> int:
    """Where Flax has the time axis: first, or before the features."""
    return 0 if time_major else inputs.ndim - (feature_axes + 1)


def step_shape(inputs: Any, feature_axes: int, time_major: bool) -> tuple[int, ...]:
    """The shape of one time step."""
    time_axis = time_axis_of(inputs, feature_axes, time_major)
    return inputs.shape[:time_axis] + inputs.shape[time_axis + 1 :]


def call_as_flax(
    run: Run,
    inputs: Array,
    initial_carry: Carry,
    seq_lengths: Array | None,
    *,
    feature_axes: int,
    return_carry: bool,
    time_major: bool,
    reverse: bool,
    keep_order: bool,
) -> Any:
    """Flax' rules of order, padding and axes around a run over the leading axis."""
    time_axis = time_axis_of(inputs, feature_axes, time_major)
    batch_axes = inputs.ndim - (feature_axes + 1)

    def flip(sequences: Any) -> Any:
        return jax.tree.map(
            lambda x: flip_sequences(x, seq_lengths, batch_axes, time_major=True),
            sequences,
        )

    inputs = jnp.moveaxis(inputs, time_axis, 0)
    carry, outputs, carries = run(flip(inputs) if reverse else inputs, initial_carry)
    if reverse and keep_order:
        outputs = flip(outputs)
    outputs = jax.tree.map(lambda x: jnp.moveaxis(x, 0, time_axis), outputs)
    if not return_carry:
        return outputs
    if seq_lengths is not None:
        carry = _last_valid(carries, initial_carry, jnp.asarray(seq_lengths))
    return carry, outputs


def _last_valid(carries: Carry, initial: Carry, lengths: Array) -> Carry:
    """The carry after the last valid step; the initial one where there is none."""

    def pick(steps: Array, before: Array) -> Array:
        index = jnp.maximum(lengths - 1, 0)[None]
        index = jnp.expand_dims(index, tuple(range(index.ndim, steps.ndim)))
        last = jnp.take_along_axis(steps, index, axis=0)[0]
        return hold(lengths > 0, last, jnp.broadcast_to(before, last.shape))

    return jax.tree.map(pick, carries, initial)


class RNN(nn.Module):
    """Drives a cell over time with the call of `flax.linen.RNN`, and its numbers.

    `cell` is a Flax cell or one of jaxrnn. In new code the layers (`LSTM`, ...) say
    more: masks of any pattern, resets, dropout; this one is for code that has
    `flax.linen.RNN` in it. As there, outputs beyond `seq_lengths` are what the cell
    gives for the padding.

    Two things differ, where Flax is wrong: a row of length 0 returns its initial
    carry (Flax: the carry of the last step), and the carry has the cell's `dtype`
    from the first step on (Flax: float32, or an error from its loop).

    Attributes:
      cell: a `flax.linen.RNNCellBase`, or a jaxrnn `Cell`.
      time_major, return_carry, reverse, keep_order, unroll, variable_axes,
        variable_broadcast, variable_carry, split_rngs: as in `flax.linen.RNN`. The
        last five concern Flax cells.
      features: of a jaxrnn cell, which does not know its size.
      solver: of a jaxrnn cell; None takes the default.

    Example:
      >>> import flax.linen as nn
      >>> inputs, lengths = jnp.ones((5, 7, 2)), jnp.array([7, 3, 0, 1, 5])
      >>> for layer in (RNN(nn.LSTMCell(4)), RNN(lstm, features=4)):
      ...     variables = layer.init(jax.random.key(0), inputs)
      ...     carry, outputs = layer.apply(
      ...         variables, inputs, seq_lengths=lengths, return_carry=True
      ...     )
      ...     print(outputs.shape, carry[0].shape)
      (5, 7, 4) (5, 4)
      (5, 7, 4) (5, 4)
    """

    cell: Any
    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False
    unroll: int = 1
    variable_axes: Mapping[Any, Any] = nn.FrozenDict()
    variable_broadcast: Any = "params"
    variable_carry: Any = False
    split_rngs: Mapping[Any, bool] = nn.FrozenDict({"params": False})
    features: int | None = None
    solver: Solver | None = None

    @nn.compact
    def __call__(
        self,
        inputs: Any,
        *,
        initial_carry: Carry | None = None,
        init_key: Any = None,
        seq_lengths: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Runs the cell; the arguments given here go before the attributes.

        Args:
          inputs: (*batch, time, features), or time first with `time_major`.
          initial_carry: None asks the cell for one.
          init_key: for that; most cells ignore it.
          seq_lengths: (*batch,), valid steps of each row.
          return_carry: return the pair (carry, outputs).
          time_major: the time axis is the first one.
          reverse: process from the last valid step to the first.
          keep_order: return the outputs of a reversed run in input order.

        Raises:
          ValueError: a jaxrnn cell without `features`.
        """
        if isinstance(self.cell, Cell):
            carry, run, feature_axes = self._jaxrnn_cell(inputs.shape[-1])
        else:
            carry, run = self._initialize_flax_carry, self._run_flax_cell
            feature_axes = self.cell.num_feature_axes
        time_major = chosen(time_major, self.time_major)
        if initial_carry is None:
            shape = step_shape(inputs, feature_axes, time_major)
            initial_carry = carry(init_key, shape)
        return call_as_flax(
            run,
            inputs,
            initial_carry,
            seq_lengths,
            feature_axes=feature_axes,
            return_carry=chosen(return_carry, self.return_carry),
            time_major=time_major,
            reverse=chosen(reverse, self.reverse),
            keep_order=chosen(keep_order, self.keep_order),
        )

    def _jaxrnn_cell(self, in_features: int) -> tuple[Any, Run, int]:
        if self.features is None:
            raise ValueError(
                f"the cell {self.cell.name} needs features, the size of its hidden "
                "vector; write RNN(cell, features=32)."
            )
        params = {
            name: self.param(name, spec.init, spec.shape, jnp.float32)
            for name, spec in self.cell.param_specs(in_features, self.features).items()
        }

        def initial_carry(key: Any, shape: tuple[int, ...]) -> Carry:
            del key
            return self.cell.initial_carry(params, shape[:-1])

        def run(inputs: Array, carry: Carry) -> tuple[Carry, Any, Carry]:
            last, carries = rnn_carries(
                self.cell, params, inputs, initial_carry=carry, solver=self.solver
            )
            return last, self.cell.output(carries), carries

        return initial_carry, run, 1

    def _initialize_flax_carry(self, key: Any, shape: tuple[int, ...]) -> Carry:
        key = jax.random.key(0) if key is None else key
        carry = self.cell.initialize_carry(key, shape)
        return in_dtype(getattr(self.cell, "dtype", None), carry)

    def _run_flax_cell(self, inputs: Array, carry: Carry) -> tuple[Carry, Any, Carry]:
        def body(cell: Any, carry: Carry, step_inputs: Any) -> tuple[Carry, Any]:
            new, outputs = cell(carry, step_inputs)
            new = jax.tree.map(lambda x, like: x.astype(like.dtype), new, carry)
            return new, (outputs, new)

        scan = nn.scan(
            body,
            in_axes=0,
            out_axes=0,
            unroll=self.unroll,
            variable_axes=self.variable_axes,
            variable_broadcast=self.variable_broadcast,
            variable_carry=self.variable_carry,
            split_rngs=self.split_rngs,
        )
        last, (outputs, carries) = scan(self.cell, carry, inputs)
        return last, outputs, carries


def in_dtype(dtype: Any, carry: Carry) -> Carry:
    """A carry in the dtype of the computation; None leaves it."""
    return carry if dtype is None else jax.tree.map(lambda x: x.astype(dtype), carry)
