"""What does a recurrent layer do with arrays? Linen and NNX add parameters and keys."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxrnn.cells.base import (
    Activation,
    Carry,
    Cell,
    Initializer,
    Params,
    ParamSpec,
)
from jaxrnn.cells.gru import gru_cell
from jaxrnn.cells.lstm import lstm_cell
from jaxrnn.cells.noise import dropout_cell, zoneout_cell
from jaxrnn.cells.ops import is_divided
from jaxrnn.cells.simple_rnn import simple_rnn_cell
from jaxrnn.recurrence import check_floating, lengths_to_mask, rnn, rnn_carries
from jaxrnn.solvers.base import Solver, hold


class Ran(NamedTuple):
    """What a layer has after running, time axis first.

    Attributes:
      carry: after the last valid step.
      outputs: (time, *batch, features), in input order.
      last: (*batch, features), the output after the last valid step.
      carries: after every step, where they were asked for.
    """

    carry: Carry
    outputs: Any
    last: Any
    carries: Carry | None = None


@dataclasses.dataclass(eq=False, repr=False)
class RecurrentOptions:
    """The options of every recurrent layer.

    The parameters have Keras' names, shapes, gate order and initial values. See
    `jaxrnn.rnn` for the recurrence itself.

    Attributes:
      features: size of the hidden vector; Keras' `units`.
      kernel_init, recurrent_kernel_init, bias_init: None takes the cell's initial
        values; for SimpleRNN, GRU and LSTM those of Keras: glorot_uniform, orthogonal,
        zeros (ones for the forget gate of an LSTM).
      return_sequences: return the outputs of all steps, not the last one alone.
      return_carry: return the pair (carry, outputs).
      return_all_carries: the same, with the carries after every step, leaves
        (batch, time, features).
      reverse: process from the last step to the first.
      keep_order: whether the outputs of a reversed layer stay in input order; False
        returns them in the order they were made (Keras' `go_backwards`).
      hold_outputs: at masked steps repeat the output before (Keras' convention)
        instead of zeros.
      time_major: arrays are (time, batch, ...) instead of (batch, time, ...).
      dropout: share of the inputs that is dropped while training.
      recurrent_dropout: share of the hidden vector that is dropped where it enters the
        matmul; see `dropout_cell`.
      zoneout: share of the carry that keeps its value; see `zoneout_cell`.
      solver: how the steps become a sequence; None takes the default.
      dtype: of the computation, carry and outputs; None takes what inputs and
        parameters promote to.
      param_dtype: of the parameters.
    """

    features: int
    kernel_init: Initializer | None = None
    recurrent_kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    return_sequences: bool = False
    return_carry: bool = False
    return_all_carries: bool = False
    reverse: bool = False
    keep_order: bool = True
    hold_outputs: bool = False
    time_major: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout: Any = 0.0
    solver: Solver | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def make_cell(self) -> Cell:
        """The cell that this layer runs, without noise."""
        raise NotImplementedError("a layer says which cell it runs")

    @property
    def options(self) -> "RecurrentOptions":
        """Those that say what a call returns; a wrapper has those of what it wraps."""
        return self

    @property
    def has_noise(self) -> bool:
        """Whether training needs a key."""
        return any(
            (self.dropout, self.recurrent_dropout, *jax.tree.leaves(self.zoneout))
        )

    def specs(self, in_features: int) -> dict[str, ParamSpec]:
        """The parameters, with the initial values chosen."""
        chosen = {
            "kernel": self.kernel_init,
            "recurrent_kernel": self.recurrent_kernel_init,
            "bias": self.bias_init,
            "recurrent_bias": self.bias_init,
        }
        return {
            name: spec._replace(init=chosen.get(name) or spec.init)
            for name, spec in self.make_cell()
            .param_specs(in_features, self.features)
            .items()
        }

    def run_with(
        self,
        params: Params,
        inputs: Array,
        mask: Array | None,
        resets: Array | None,
        initial_carry: Carry | None,
        reverse: bool,
        key: PRNGKeyArray | None,
    ) -> Ran:
        """Runs the cell over time, time axis first."""
        cell = self.make_cell()
        if self.dropout or self.recurrent_dropout:
            cell = dropout_cell(
                cell, self.dropout, recurrent_rate=self.recurrent_dropout
            )
        if any(jax.tree.leaves(self.zoneout)):
            cell = zoneout_cell(cell, self.zoneout)
        shared: dict[str, Any] = {
            "mask": mask,
            "resets": resets,
            "initial_carry": initial_carry,
            "reverse": reverse,
            "key": key,
            "dtype": self.dtype,
            "solver": self.solver,
        }
        if not self.return_all_carries:
            carry, outputs = rnn(
                cell, params, inputs, hold_outputs=self.hold_outputs, **shared
            )
            return Ran(carry, outputs, cell.output(carry))
        carry, carries = rnn_carries(cell, params, inputs, **shared)
        outputs = cell.output(carries)
        if not self.hold_outputs:
            outputs = hold(mask, outputs, jnp.zeros_like(outputs))
        return Ran(carry, outputs, cell.output(carry), carries)


@dataclasses.dataclass(eq=False, repr=False)
class CellOptions(RecurrentOptions):
    """Of a layer that runs the cell it is given."""

    cell: Cell | None = None

    def make_cell(self) -> Cell:
        if self.cell is None:
            raise ValueError(
                "Recurrent needs the cell it is to run, got None; write "
                "Recurrent(32, cell=jaxrnn.mgu)."
            )
        return self.cell


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNNOptions(RecurrentOptions):
    """Of the layer of `simple_rnn`; see `simple_rnn_cell`."""

    activation: Activation = jnp.tanh
    use_bias: bool = True

    def make_cell(self) -> Cell:
        return simple_rnn_cell(activation=self.activation, use_bias=self.use_bias)


@dataclasses.dataclass(eq=False, repr=False)
class GRUOptions(RecurrentOptions):
    """Of the layer of `gru`; see `gru_cell`."""

    activation: Activation = jnp.tanh
    recurrent_activation: Activation = jax.nn.sigmoid
    use_bias: bool = True
    reset_after: bool = True

    def make_cell(self) -> Cell:
        return gru_cell(
            activation=self.activation,
            recurrent_activation=self.recurrent_activation,
            use_bias=self.use_bias,
            reset_after=self.reset_after,
        )


@dataclasses.dataclass(eq=False, repr=False)
class LSTMOptions(RecurrentOptions):
    """Of the layer of `lstm`; see `lstm_cell`."""

    activation: Activation = jnp.tanh
    recurrent_activation: Activation = jax.nn.sigmoid
    use_bias: bool = True
    unit_forget_bias: bool = True
    projection_features: int | None = None

    def make_cell(self) -> Cell:
        return lstm_cell(
            activation=self.activation,
            recurrent_activation=self.recurrent_activation,
            use_bias=self.use_bias,
            unit_forget_bias=self.unit_forget_bias,
            projection_features=self.projection_features,
        )


def call_layer(
    layer: Any,
    inputs: Any,
    mask: Any,
    lengths: Any,
    resets: Any,
    initial_carry: Carry | None,
    deterministic: bool,
) -> Any:
    """The way from a call to `layer.run`, which has the time axis first, and back."""
    options = layer.options
    time_axis = 0 if options.time_major else -2
    axes = "(time, *batch, " if options.time_major else "(*batch, time, "
    if inputs.ndim < 2:
        raise ValueError(
            f"inputs must have the axes {axes}in_features), got shape {inputs.shape}; "
            "a sequence of scalars is inputs[:, None]."
        )
    check_floating(inputs)
    mask = _mask(mask, lengths, inputs, time_axis)
    for name, marks in (("mask", mask), ("resets", resets)):
        if marks is not None and marks.shape != inputs.shape[:-1]:
            raise ValueError(
                f"{name} must have the {axes[:-2]}) shape of inputs "
                f"{inputs.shape[:-1]}, got {marks.shape}."
            )
    inputs = jnp.moveaxis(inputs, time_axis, 0)
    mask, resets = jax.tree.map(
        lambda x: jnp.moveaxis(x, 0 if options.time_major else -1, 0), (mask, resets)
    )
    ran = layer.run(inputs, mask, resets, initial_carry, options.reverse, deterministic)
    outputs, carry = ran.last, ran.carry
    if options.return_sequences:
        outputs = ran.outputs
        if options.reverse and not options.keep_order:
            outputs = jax.tree.map(lambda x: jnp.flip(x, axis=0), outputs)
        outputs = _time_to(time_axis, outputs)
    if options.return_all_carries:
        carry = _time_to(time_axis, ran.carries)
    wants_carry = options.return_carry or options.return_all_carries
    return (carry, outputs) if wants_carry else outputs


def _time_to(axis: int, sequences: Any) -> Any:
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, axis), sequences)


def _mask(mask: Any, lengths: Any, inputs: Any, time_axis: int) -> Any:
    if lengths is None:
        return mask
    if mask is not None:
        raise ValueError(
            "a layer takes either mask or lengths, got both; lengths is right padding, "
            "a mask says more."
        )
    time = inputs.shape[time_axis]
    batch_shape = inputs.shape[1:-1] if time_axis == 0 else inputs.shape[:-2]
    if lengths.shape != batch_shape:
        raise ValueError(
            f"lengths must have the batch shape of inputs {batch_shape}, got "
            f"{lengths.shape}."
        )
    mask = lengths_to_mask(lengths, time)
    return mask if time_axis == 0 else jnp.moveaxis(mask, 0, -1)


def concatenate(forward: Array, reverse: Array) -> Array:
    """Puts the outputs of two directions side by side: Keras' `merge_mode="concat"`.

    Example:
      >>> concatenate(jnp.zeros((5, 2)), jnp.ones((5, 2))).shape
      (5, 4)
    """
    return jnp.concatenate([forward, reverse], axis=-1)


Merge = Callable[[Array, Array], Array]


def run_both(
    layer: Any,
    inputs: Array,
    mask: Array | None,
    resets: Array | None,
    initial_carry: Any,
    deterministic: bool,
) -> Ran:
    """`layer.forward` forth and `layer.reverse` back, merged; None leaves pairs."""
    first, second = initial_carry or (None, None)
    forward = layer.forward.run(inputs, mask, resets, first, False, deterministic)
    reverse = layer.reverse.run(inputs, mask, resets, second, True, deterministic)

    def both(one: Any, other: Any) -> Any:
        return (one, other) if layer.merge is None else layer.merge(one, other)

    return Ran(
        carry=(forward.carry, reverse.carry),
        outputs=both(forward.outputs, reverse.outputs),
        last=both(forward.last, reverse.last),
        carries=(forward.carries, reverse.carries),
    )


def run_stack(
    layers: Any,
    inputs: Array,
    mask: Array | None,
    resets: Array | None,
    initial_carry: Any,
    deterministic: bool,
    between: Callable[[Array], Array],
) -> Ran:
    """Layer upon layer; `between` is applied to the outputs of all but the last."""
    if initial_carry is None:
        initial_carry = [None] * len(layers)
    if len(initial_carry) != len(layers):
        raise ValueError(
            f"initial_carry must have one carry for each of the {len(layers)} layers, "
            f"got {len(initial_carry)}."
        )
    ran, all_ran = None, []
    for layer, carry in zip(layers, initial_carry, strict=True):
        if ran is not None:
            inputs = between(ran.outputs)
        ran = layer.run(
            inputs, mask, resets, carry, layer.options.reverse, deterministic
        )
        all_ran.append(ran)
    assert ran is not None  # __post_init__ saw to it
    return ran._replace(
        carry=tuple(ran.carry for ran in all_ran),
        carries=tuple(ran.carries for ran in all_ran),
    )


def step_stack(layers: Any, carries: Any, inputs: Any) -> tuple[Any, Array]:
    """One time step of layer upon layer."""
    if len(carries) != len(layers):
        raise ValueError(
            f"carry must have one carry for each of the {len(layers)} layers, got "
            f"{len(carries)}."
        )
    after, outputs = [], inputs
    for layer, carry in zip(layers, carries, strict=True):
        carry, outputs = layer.step(carry, outputs)
        after.append(carry)
    return tuple(after), outputs


def over_time(function: Callable[[Array], Any], inputs: Array) -> Any:
    """Applies `function` to every time step: time becomes a part of the batch axis.

    The program does not grow with time.

    Args:
      function: takes (batch, ...), such as a Dense or convolution layer.
      inputs: (batch, time, ...).

    Returns:
      What `function` returns, with the axes (batch, time, ...).

    Example:
      >>> over_time(lambda rows: rows.sum(axis=-1), jnp.ones((5, 7, 3))).shape
      (5, 7)
    """
    if inputs.ndim < 3:
        raise ValueError(
            "inputs must have the axes (batch, time, ...) with one feature axis or "
            f"more, got shape {inputs.shape}."
        )
    rows = function(inputs.reshape(-1, *inputs.shape[2:]))
    return jax.tree.map(lambda x: x.reshape(*inputs.shape[:2], *x.shape[1:]), rows)


def uniform_embedding(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Keras' initial values of an embedding: uniform between -0.05 and 0.05."""
    return jax.random.uniform(key, shape, dtype, minval=-0.05, maxval=0.05)


def look_up(
    embedding: Float[Array, "vocab_size features"], ids: Int[Any, "*shape"]
) -> Float[Array, "*shape features"]:
    """The row of every id; NaN where an id lies outside, which no trace can refuse.

    Ids (batch, time) are looked up step by step, as a recurrent layer wants them: the
    transpose here and the one there are none in a compiled program, and with them goes
    a copy of all features, forth and back (1.4 to 1.9 times as fast a training step of
    the tutorials' models on a CPU).

    Raises:
      TypeError: ids that are not integers.
      ValueError: ids outside [0, vocab_size), where they are known.
    """
    by_time = jnp.moveaxis(ids, -1, 0) if ids.ndim > 1 else ids
    shape = (*by_time.shape, embedding.shape[-1])
    if not is_divided(by_time):
        by_time = by_time.reshape(-1)  # else the gradient begins with a copy
    features = embedding.at[by_time].get(
        mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
    )
    features = features.reshape(shape)
    return jnp.moveaxis(features, 0, ids.ndim - 1) if ids.ndim > 1 else features


def nonzero(ids: Int[Any, "*shape"]) -> Bool[Array, "*shape"]:
    """The mask of Keras' `mask_zero`: id 0 is padding."""
    return jnp.asarray(ids) != 0


def check_ids(ids: Any, vocab_size: int) -> None:
    """Raises where ids are no integers, or are known and outside [0, vocab_size)."""
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"ids must be integers, got {ids.dtype}; convert by ids.astype(jnp.int32)."
        )
    if isinstance(ids, jax.core.Tracer) or ids.size == 0:
        return
    known = np.asarray(ids)  # jnp.min would be traced where a trace is running
    low, high = int(known.min()), int(known.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"ids must lie in [0, vocab_size) = [0, {vocab_size}), found {low} to "
            f"{high}; encode the text with the tokenizer the model was made for, or "
            "raise vocab_size."
        )
