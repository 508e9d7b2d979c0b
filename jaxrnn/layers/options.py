"""What can be chosen of a recurrent layer? The same options for Linen and NNX."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.cells.base import Activation, Cell, Initializer, ParamSpec
from jaxrnn.cells.checks import check_cell, check_dtype, check_size
from jaxrnn.cells.gru import gru_cell
from jaxrnn.cells.lstm import lstm_cell, with_unit_forget
from jaxrnn.cells.noise import check_rate, dropout_cell, zoneout_cell
from jaxrnn.cells.simple_rnn import simple_rnn_cell
from jaxrnn.cells.specs import specs_of
from jaxrnn.layers.elsewhere import OF_RECURRENT, NamedElsewhere
from jaxrnn.solvers.base import Solver


def check_flag(name: str, flag: Any) -> None:
    """Raises a TypeError where an option is neither True nor False: any text is true.

    Example:
      >>> check_flag("return_sequences", "False")
      Traceback (most recent call last):
      TypeError: return_sequences must be True or False, got 'False'.
    """
    if not isinstance(flag, bool | np.bool_ | int):
        raise TypeError(f"{name} must be True or False, got {flag!r}.")


def check_init(name: str, init: Any) -> None:
    """Raises a TypeError where initial values are not drawn by a function.

    Args:
      name: of the parameter.
      init: `(key, shape, dtype) -> array`.
    """
    if not callable(init):
        is_array = hasattr(init, "shape")
        found = f"an array of shape {init.shape}" if is_array else repr(init)
        raise TypeError(
            f"the initial values of {name} must be a function (key, shape, dtype) -> "
            f"array, such as jax.nn.initializers.glorot_uniform(), got {found}; an "
            f"array that is there takes the place of the parameter {name}."
        )


class CallOptions(NamedTuple):
    """What a call of a layer returns, and how it lies; see `RecurrentOptions`.

    A Bidirectional has the options of its forward layer, a Stacked those of its last.
    """

    return_sequences: bool
    return_carry: bool
    return_all_carries: bool
    reverse: bool
    keep_order: bool
    time_major: bool

    def changed(
        self,
        *,
        return_carry: bool | None,
        time_major: bool | None,
        reverse: bool | None,
        keep_order: bool | None,
    ) -> "CallOptions":
        """With what one call says; None leaves an option as it is."""
        return self._replace(
            return_carry=self.return_carry if return_carry is None else return_carry,
            time_major=self.time_major if time_major is None else time_major,
            reverse=self.reverse if reverse is None else reverse,
            keep_order=self.keep_order if keep_order is None else keep_order,
        )


@dataclasses.dataclass(eq=False, repr=False)
class RecurrentOptions(NamedElsewhere):
    """The options of every recurrent layer.

    The parameters have Keras' names, shapes, gate order and initial values. See
    `jaxrnn.rnn` for the recurrence itself.

    Attributes:
      features: size of the hidden vector; Keras' `units`.
      kernel_init, recurrent_kernel_init, bias_init: None takes the cell's initial
        values; for SimpleRNN, GRU and LSTM those of Keras: glorot_uniform, orthogonal,
        zeros (see `unit_forget_bias` for the LSTM).
      return_sequences: return the outputs of all steps, not the last one alone.
      return_carry: return the pair (carry, outputs).
      return_all_carries: the same, with the carries after every step, leaves
        (batch, time, features).
      reverse: process from the last step to the first.
      keep_order: whether what a reversed layer returns of all steps stays in input
        order; False returns it in the order it was made (Keras' `go_backwards`).
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

    Raises:
      TypeError: a `dtype` or `param_dtype` that is not floating point, a rate that is
        no number, what is neither True nor False where one of them is asked for; the
        name that an argument has in Keras, PyTorch or Flax.
      ValueError: `features` below 1, a rate outside of [0, 1).
    """

    elsewhere = OF_RECURRENT

    features: int
    _: dataclasses.KW_ONLY
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

    def check(self) -> None:
        """Raises where an option is no size, rate, dtype, or True or False."""
        check_size("features", self.features)
        for field in dataclasses.fields(self):
            if field.type is bool:
                check_flag(field.name, getattr(self, field.name))
        check_rate("dropout", self.dropout)
        check_rate("recurrent_dropout", self.recurrent_dropout)
        for rate in jax.tree.leaves(self.zoneout):
            check_rate("zoneout", rate)
        check_dtype("dtype", self.dtype)
        check_dtype("param_dtype", self.param_dtype)

    def make_cell(self) -> Cell:
        """The cell that this layer runs, without noise."""
        raise NotImplementedError("a layer says which cell it runs")

    def make_noisy_cell(self) -> Cell:
        """The cell with dropout and zoneout, which act where it is given a key."""
        cell = self.make_cell()
        if self.dropout or self.recurrent_dropout:
            cell = dropout_cell(
                cell, self.dropout, recurrent_rate=self.recurrent_dropout
            )
        if any(jax.tree.leaves(self.zoneout)):
            cell = zoneout_cell(cell, self.zoneout)
        return cell

    @property
    def has_noise(self) -> bool:
        """Whether training needs a key."""
        rates = (self.dropout, self.recurrent_dropout, *jax.tree.leaves(self.zoneout))
        return any(rates)

    @property
    def call_options(self) -> CallOptions:
        """What a call returns."""
        return CallOptions(*(getattr(self, name) for name in CallOptions._fields))

    def specs(self, in_features: int) -> dict[str, ParamSpec]:
        """The parameters, with the initial values chosen."""
        check_size("in_features, the last axis of inputs,", in_features)
        chosen = {
            "kernel": self.kernel_init,
            "recurrent_kernel": self.recurrent_kernel_init,
            "bias": self.bias_init,
            "recurrent_bias": self.bias_init,
        }
        for name, init in chosen.items():
            if init is not None:
                check_init(name, init)
        cell = self.make_cell()
        specs = specs_of(cell, in_features, self.features)
        if self.recurrent_kernel_init and "recurrent_kernel" not in specs:
            raise ValueError(
                "recurrent_kernel_init draws a recurrent_kernel, which "
                f"{cell.name} has not; its parameters are {sorted(specs)}."
            )
        return {
            name: spec._replace(init=chosen.get(name) or spec.init)
            for name, spec in specs.items()
        }


@dataclasses.dataclass(eq=False, repr=False)
class CellOptions(RecurrentOptions):
    """The options of a layer that runs the cell it is given.

    Attributes:
      cell: what happens at one time step. `bias_init` takes the place of the cell's
        own initial bias as a whole, an LSTM's forget gate with it.

    Raises:
      TypeError: a `cell` that is none, such as one of Flax.
    """

    _: dataclasses.KW_ONLY
    cell: Cell | None = None

    def check(self) -> None:
        if self.cell is not None:
            check_cell(self.cell)
        super().check()

    @property
    def has_noise(self) -> bool:
        return super().has_noise or bool(self.cell and self.cell.noise)

    def make_cell(self) -> Cell:
        if self.cell is None:
            raise ValueError(
                "Recurrent needs the cell it is to run, got None; write "
                "Recurrent(32, cell=jaxrnn.mgu)."
            )
        return self.cell


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNNOptions(RecurrentOptions):
    """The options of a SimpleRNN; see `simple_rnn_cell` for those of the cell."""

    _: dataclasses.KW_ONLY
    activation: Activation = jnp.tanh
    use_bias: bool = True

    def make_cell(self) -> Cell:
        return simple_rnn_cell(activation=self.activation, use_bias=self.use_bias)


@dataclasses.dataclass(eq=False, repr=False)
class GRUOptions(RecurrentOptions):
    """The options of a GRU; see `gru_cell` for those of the cell."""

    _: dataclasses.KW_ONLY
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
    """The options of an LSTM; see `lstm_cell` for those of the cell.

    Attributes:
      unit_forget_bias: the bias of the forget gate starts at 1, and `bias_init` draws
        that of the other gates (Keras); False leaves all four to `bias_init`.
    """

    _: dataclasses.KW_ONLY
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

    def specs(self, in_features: int) -> dict[str, ParamSpec]:
        specs = super().specs(in_features)
        if self.bias_init and self.unit_forget_bias and self.use_bias:
            bias = specs["bias"]
            specs["bias"] = bias._replace(init=with_unit_forget(bias.init))
        return specs
