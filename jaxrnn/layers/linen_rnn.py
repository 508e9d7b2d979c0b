"""`RNN`, to be put in the place of `flax.linen.RNN`: Flax' call, any cell."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from jaxrnn.cells.base import Carry, Cell
from jaxrnn.cells.checks import as_array, check_size
from jaxrnn.cells.specs import specs_of
from jaxrnn.layers.flax_rnn import (
    NO_STEP,
    Loop,
    Looped,
    call_as_flax,
    check_settings,
    check_sizes,
    in_dtype,
    loop_of_cell,
    run_as_layer,
    stepped,
)
from jaxrnn.layers.options import CallOptions
from jaxrnn.layers.run import Ran
from jaxrnn.solvers.base import Solver, Steps


class RNN(nn.Module):
    """Drives a cell over time with the call of `flax.linen.RNN`, and its numbers.

    `cell` is a Flax cell or one of jaxrnn. In new code the layers (`LSTM`, ...) say
    more: masks of any pattern, resets, dropout; this one is for code that has
    `flax.linen.RNN` in it. As there, outputs beyond `seq_lengths` are what the cell
    gives for the padding. With a `mask`, or inside of a `Bidirectional` or `Stacked`,
    it follows our own rules: any mask, resets, zeros at masked steps.

    Two things differ, where Flax is wrong: a row of length 0 returns its initial
    carry (Flax: the carry of the last step), and the carry has the cell's `dtype`
    from the first step on (Flax: float32, or an error from its loop).

    Attributes:
      cell: a `flax.linen.RNNCellBase`, or a jaxrnn `Cell`.
      time_major, return_carry, reverse, keep_order: as in `flax.linen.RNN`.
      unroll, variable_axes, variable_broadcast, variable_carry, split_rngs: as there,
        for Flax cells.
      features: of a jaxrnn cell, which does not know its size.
      solver: of a jaxrnn cell; None takes the default.

    Raises:
      TypeError: a `cell` that is neither.
      ValueError: a setting that is not for this kind of cell; a jaxrnn cell without
        `features`, or with less than 1.

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

    def __post_init__(self) -> None:
        check_settings(
            self.cell,
            of_jaxrnn={
                "features": self.features is not None,
                "solver": self.solver is not None,
            },
            of_flax={
                "unroll": self.unroll != 1,
                "variable_axes": bool(self.variable_axes),
                "variable_broadcast": self.variable_broadcast != "params",
                "variable_carry": bool(self.variable_carry),
                "split_rngs": dict(self.split_rngs) != {"params": False},
            },
        )
        if isinstance(self.cell, Cell) and self.features is None:
            raise ValueError(
                f"the cell {self.cell.name} needs features, the size of its hidden "
                "vector; write RNN(cell, features=32)."
            )
        if self.features is not None:
            check_size("features", self.features)
        super().__post_init__()

    @property
    def call_options(self) -> CallOptions:
        """What a call returns."""
        return CallOptions(
            return_sequences=True,
            return_carry=self.return_carry,
            return_all_carries=False,
            reverse=self.reverse,
            keep_order=self.keep_order,
            time_major=self.time_major,
        )

    @property
    def has_noise(self) -> bool:
        """Whether `deterministic` matters: a Flax cell has a setting of its own."""
        return False

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
        mask: Any = None,
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
          mask: (*batch, time), True = valid, any pattern, in place of seq_lengths; the
            rules are then those of `jaxrnn.LSTM`: the carry is held at masked steps,
            and outputs are zeros.

        Raises:
          TypeError: seq_lengths that are not integers; an initial carry whose dtype the
            cell does not keep.
          ValueError: seq_lengths of another shape than (*batch,), or outside of
            [0, time] where they are known; a mask that does not fit, or beside
            seq_lengths.
        """
        inputs = as_array("inputs", inputs)
        options = self.call_options.changed(
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
        )
        loop = self._loop(inputs.shape[-1], init_key)
        return call_as_flax(loop, inputs, initial_carry, seq_lengths, options, mask)

    def run(
        self,
        steps: Steps,
        initial_carry: Carry | None = None,
        *,
        reverse: bool = False,
        deterministic: bool = True,
    ) -> Ran:
        """Runs over time, time axis first, for layers around this one; see `Runs`."""
        del deterministic
        loop = self._loop(steps.inputs.shape[-1], None)
        return run_as_layer(loop, steps, initial_carry, reverse=self.reverse != reverse)

    def initial_carry(self, batch_shape: tuple[int, ...] = ()) -> Carry:
        """Raises a TypeError: a Flax cell has one of its own."""
        raise TypeError(NO_STEP)

    def step(self, carry: Carry, inputs: Any, *, resets: Any = None) -> Any:
        """Raises a TypeError: a Flax cell is a step by itself."""
        raise TypeError(NO_STEP)

    @nn.compact
    def _loop(self, in_features: int, init_key: Any) -> Loop:
        if isinstance(self.cell, Cell):
            assert self.features is not None  # __post_init__ saw to it
            check_sizes(in_features, self.features)
            specs = specs_of(self.cell, in_features, self.features)
            params = {
                name: self.param(name, spec.init, spec.shape, jax.numpy.float32)
                for name, spec in specs.items()
            }
            return loop_of_cell(self.cell, params, self.solver)

        def start(shape: tuple[int, ...]) -> Carry:
            key = jax.random.key(0) if init_key is None else init_key
            carry = self.cell.initialize_carry(key, shape)
            return in_dtype(getattr(self.cell, "dtype", None), carry)

        def run(steps: Steps, carry: Carry) -> Looped:
            scan = nn.scan(
                lambda cell, carry, step: stepped(cell, carry, step, first),
                in_axes=0,
                out_axes=0,
                unroll=self.unroll,
                variable_axes=self.variable_axes,
                variable_broadcast=self.variable_broadcast,
                variable_carry=self.variable_carry,
                split_rngs=self.split_rngs,
            )
            first = start(steps.inputs.shape[1:]) if steps.resets is not None else None
            last, (outputs, carries) = scan(self.cell, carry, steps)
            return Looped(carry, last, outputs, carries)

        return Loop(self.cell.num_feature_axes, start, run)
