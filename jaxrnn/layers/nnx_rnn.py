"""`RNN`, to be put in the place of `flax.nnx.RNN`: Flax' call, any cell."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrnn.cells.base import Carry, Cell
from jaxrnn.cells.checks import as_array
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


class RNN(nnx.Module):
    """Drives a cell over time with the call of `flax.nnx.RNN`; see `jaxrnn.RNN`.

    The loop is a plain `jax.lax.scan` over the cell's arrays, so gradients with
    respect to the cell's parameters are those of any JAX function. What the cell
    changes in itself (counts of its random streams) goes from step to step.

    Args:
      cell: a `flax.nnx.RNNCellBase`, which brings its parameters, or a jaxrnn `Cell`,
        whose parameters are made here.
      time_major, return_carry, reverse, keep_order, unroll: as in `flax.nnx.RNN`;
        `unroll` and the next two are for Flax cells.
      state_axes: where the loop finds the state of the cell, by filter: an axis (its
        steps lie along it), None (the same at every step) or `nnx.Carry` (from step to
        step). None is None for parameters and `nnx.Carry` for all else.
      broadcast_rngs: the random streams that give every step the same key, a new one in
        every call: the dropout of a recurrent connection.
      in_features, features: of a jaxrnn cell, which does not know its sizes.
      solver: of a jaxrnn cell; None takes the default.
      rngs: for the cell's initial carry, which most cells do not draw: True takes the
        seed 0, False no keys; for the parameters of a jaxrnn cell.

    Raises:
      TypeError: a `cell` that is neither.
      ValueError: a setting that is not for this kind of cell; a jaxrnn cell without
        its sizes or `rngs`, or with sizes below 1.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> rngs = nnx.Rngs(0)
      >>> layer = jaxrnn.nnx.RNN(nnx.GRUCell(2, 4, rngs=rngs), rngs=rngs)
      >>> layer(jnp.ones((5, 7, 2)), seq_lengths=jnp.array([7, 3, 0, 1, 5])).shape
      (5, 7, 4)
      >>> layer = jaxrnn.nnx.RNN(gru, in_features=2, features=4, rngs=rngs)
      >>> layer(jnp.ones((5, 7, 2))).shape
      (5, 7, 4)
    """

    def __init__(
        self,
        cell: Any,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        state_axes: Mapping[Any, Any] | None = None,
        broadcast_rngs: Any = None,
        in_features: int | None = None,
        features: int | None = None,
        solver: Solver | None = None,
        rngs: nnx.Rngs | bool = True,
    ) -> None:
        check_settings(
            cell,
            of_jaxrnn={
                "in_features": in_features is not None,
                "features": features is not None,
                "solver": solver is not None,
            },
            of_flax={
                "unroll": unroll != 1,
                "state_axes": state_axes is not None,
                "broadcast_rngs": broadcast_rngs is not None,
            },
        )
        self.cell = cell
        self.time_major = time_major
        self.return_carry = return_carry
        self.reverse = reverse
        self.keep_order = keep_order
        self.unroll = unroll
        default = {nnx.Param: None, ...: nnx.Carry}
        self.state_axes = nnx.StateAxes(default if state_axes is None else state_axes)
        self.broadcast_rngs = broadcast_rngs
        self.solver = solver
        if isinstance(cell, Cell):
            self._draw_params(in_features, features, rngs)
        elif rngs is not False:
            given = nnx.Rngs(0) if rngs is True else rngs
            self.carry_rngs = given.carry.fork()

    def _draw_params(
        self, in_features: int | None, features: int | None, rngs: Any
    ) -> None:
        sizes_are_known = in_features is not None and features is not None
        if not sizes_are_known or not isinstance(rngs, nnx.Rngs):
            raise ValueError(
                f"the cell {self.cell.name} needs in_features, features and rngs, as "
                f"its parameters are made here, got {in_features}, {features} and "
                f"{rngs}; write RNN(cell, in_features=8, features=32, "
                "rngs=nnx.Rngs(0))."
            )
        assert in_features is not None  # for the type checker
        assert features is not None
        check_sizes(in_features, features)
        specs = specs_of(self.cell, in_features, features)
        self.names = tuple(specs)
        for name, spec in specs.items():
            value = spec.init(rngs.params(), spec.shape, jnp.float32)
            setattr(self, name, nnx.Param(value))

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

    def __call__(
        self,
        inputs: Any,
        *,
        initial_carry: Carry | None = None,
        seq_lengths: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        mask: Any = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Any:
        """Runs the cell; the arguments are those of `jaxrnn.RNN`."""
        inputs = as_array("inputs", inputs)
        options = self.call_options.changed(
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
        )
        loop = self._loop(rngs)
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
        return run_as_layer(
            self._loop(None), steps, initial_carry, reverse=self.reverse != reverse
        )

    def initial_carry(self, batch_shape: tuple[int, ...] = ()) -> Carry:
        """Raises a TypeError: a Flax cell has one of its own."""
        raise TypeError(NO_STEP)

    def step(self, carry: Carry, inputs: Any, *, resets: Any = None) -> Any:
        """Raises a TypeError: a Flax cell is a step by itself."""
        raise TypeError(NO_STEP)

    def _loop(self, rngs: nnx.Rngs | nnx.RngStream | None) -> Loop:
        if isinstance(self.cell, Cell):
            params = {name: getattr(self, name)[...] for name in self.names}
            return loop_of_cell(self.cell, params, self.solver)

        def start(shape: tuple[int, ...]) -> Carry:
            stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
            if stream is None and hasattr(self, "carry_rngs"):
                # A copy, as a count that moves could not be differentiated.
                stream = nnx.clone(self.carry_rngs)
            carry = self.cell.initialize_carry(shape, stream)
            return in_dtype(getattr(self.cell, "dtype", None), carry)

        def run(steps: Steps, carry: Carry) -> Looped:
            first = start(steps.inputs.shape[1:]) if steps.resets is not None else None
            last, (outputs, carries) = self._scan(steps, carry, first)
            return Looped(carry, last, outputs, carries)

        return Loop(self.cell.num_feature_axes, start, run)

    def _scan(self, steps: Steps, carry: Carry, start: Carry) -> Any:
        """A `jax.lax.scan` over the steps and over the state that lies along them."""
        # In every call a broadcast stream moves on once, and all steps have that key.
        backups = nnx.split_rngs(
            self.cell, splits=1, only=self.broadcast_rngs, squeeze=True
        )
        axes = {nnx.All(nnx.RngState, self.broadcast_rngs): None, **self.state_axes}
        graph, *states = nnx.split(self.cell, *axes)
        kinds = dict(enumerate(axes.values()))
        along = {
            i: jax.tree.map(lambda x, axis=axis: jnp.moveaxis(x, axis, 0), states[i])
            for i, axis in kinds.items()
            if isinstance(axis, int)
        }
        handed_on = {i: states[i] for i, kind in kinds.items() if kind is nnx.Carry}

        def body(carried: Any, step: Any) -> Any:
            (carry, handed_on), (step, along) = carried, step
            # Copies that belong to this trace, as the cell may write into them.
            same = jax.tree.map(lambda x: x, dict(enumerate(states)))
            now = same | handed_on | along
            cell = nnx.merge(graph, *now.values())
            carry, results = stepped(cell, carry, step, start)
            after = nnx.split(cell, *axes)[1:]
            handed_on, along = ({i: after[i] for i in x} for x in (handed_on, along))
            return (carry, handed_on), (results, along)

        (last, handed_on), (results, along) = jax.lax.scan(
            body, (carry, handed_on), (steps, along), unroll=self.unroll
        )
        along = {
            i: jax.tree.map(lambda x, axis=kinds[i]: jnp.moveaxis(x, 0, axis), state)
            for i, state in along.items()
        }
        for state in (handed_on | along).values():
            nnx.update(self.cell, state)
        nnx.restore_rngs(backups)
        return last, results
