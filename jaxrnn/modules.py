"""Flax Linen layers over `rnn`, batch axes first: Embed, SimpleRNN, GRU, LSTM."""

from typing import Any

import flax.linen as nn
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.cells.base import Activation, AnyArray, Carry, Cell, Initializer
from jaxrnn.cells.gru import gru_cell
from jaxrnn.cells.lstm import lstm_cell
from jaxrnn.cells.simple_rnn import simple_rnn_cell
from jaxrnn.recurrence import check_floating, rnn
from jaxrnn.solvers.base import Solver


def uniform_embedding(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Keras' initial values of an embedding: uniform between -0.05 and 0.05."""
    return jax.random.uniform(key, shape, dtype, minval=-0.05, maxval=0.05)


class Embed(nn.Module):
    """Turns integer ids into rows of a table: Keras' Embedding.

    An id outside [0, vocab_size) raises where its value is known, that is outside of
    `jit`. Inside of `jit`, where nothing can raise, its features are NaN, so that the
    loss is NaN too (`flax.linen.Embed` lets negative ids count from the end).

    Attributes:
      vocab_size: number of ids, padding included; Keras' `input_dim`.
      features: width of a row; Keras' `output_dim`.
      embedding_init: Keras' uniform(-0.05, 0.05); Flax' Embed draws from a normal
        distribution with standard deviation 1/sqrt(features).
      dtype: of the result; None keeps `param_dtype`.
      param_dtype: of the parameter `embedding` (vocab_size, features).

    Example:
      >>> embed = Embed(vocab_size=10, features=4)
      >>> ids = jnp.array([[1, 2, 3]])
      >>> embed.apply(embed.init(jax.random.key(0), ids), ids).shape
      (1, 3, 4)
    """

    vocab_size: int
    features: int
    embedding_init: Initializer = uniform_embedding
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[AnyArray, "*shape"]) -> Float[Array, "*shape features"]:
        """Looks up every id.

        Raises:
          TypeError: ids that are not integers.
          ValueError: ids outside [0, vocab_size), where they are known.
        """
        _check_ids(ids, self.vocab_size)
        embedding = self.param(
            "embedding",
            self.embedding_init,
            (self.vocab_size, self.features),
            self.param_dtype,
        )
        (embedding,) = promote_dtype(embedding, dtype=self.dtype, inexact=False)
        return embedding.at[ids].get(
            mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
        )


class Recurrent(nn.Module):
    """What `SimpleRNN`, `GRU` and `LSTM` have in common: a cell run over batches.

    The parameters have Keras' names, shapes, gate order and initial values; the
    subclasses say which cell. See `jaxrnn.rnn` for the recurrence itself.

    Attributes:
      features: size of the hidden vector; Keras' `units`.
      activation: as the cell's builder takes it.
      use_bias: False leaves the biases out.
      kernel_init, recurrent_kernel_init, bias_init: None takes Keras' initial values:
        glorot_uniform, orthogonal, zeros (ones for the forget gate of an LSTM).
      return_sequences: return the outputs of all steps, not the last one alone.
      return_carry: return the pair (carry, outputs).
      reverse: process from the last step to the first; outputs stay in input order.
      hold_outputs: at masked steps repeat the output before (Keras' convention)
        instead of zeros.
      solver: how the steps become a sequence; None takes the default.
      dtype: the computation's; None takes what inputs and parameters promote to.
      param_dtype: the parameters'.
    """

    features: int
    activation: Activation = jnp.tanh
    use_bias: bool = True
    kernel_init: Initializer | None = None
    recurrent_kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    return_sequences: bool = False
    return_carry: bool = False
    reverse: bool = False
    hold_outputs: bool = False
    solver: Solver | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def make_cell(self) -> Cell:
        """The cell that this layer runs."""
        raise NotImplementedError("a subclass of Recurrent says which cell it runs")

    @nn.compact
    def __call__(
        self,
        inputs: Float[AnyArray, "*batch time in_features"],
        *,
        mask: Bool[AnyArray, "*batch time"] | None = None,
        initial_carry: Carry | None = None,
    ) -> Any:
        """Runs the cell over the time axis.

        Args:
          inputs: (batch, time, in_features); more batch axes, or none, work too.
          mask: True = valid, any pattern; None = every step is valid.
          initial_carry: leaves (batch, features); None = zeros.

        Returns:
          The output after the last valid step (batch, features); with
          `return_sequences` the outputs (batch, time, features); with `return_carry`
          the pair (carry, one of these).

        Raises:
          TypeError, ValueError: as `jaxrnn.rnn`.
        """
        if inputs.ndim < 2:
            raise ValueError(
                "inputs must have the axes (*batch, time, in_features), "
                f"got shape {inputs.shape}; a sequence of scalars is inputs[:, None]."
            )
        if mask is not None and mask.shape != inputs.shape[:-1]:
            raise ValueError(
                f"mask must have the (*batch, time) shape of inputs "
                f"{inputs.shape[:-1]}, got {mask.shape}."
            )
        check_floating(inputs)
        cell = self.make_cell()
        params = self._params(cell, inputs.shape[-1])
        inputs, *values = promote_dtype(inputs, *params.values(), dtype=self.dtype)
        params = dict(zip(params, values, strict=True))

        carry, outputs = rnn(
            cell,
            params,
            jnp.moveaxis(inputs, -2, 0),
            mask=None if mask is None else jnp.moveaxis(mask, -1, 0),
            initial_carry=initial_carry,
            reverse=self.reverse,
            hold_outputs=self.hold_outputs,
            solver=self.solver,
        )
        if self.return_sequences:
            outputs = jnp.moveaxis(outputs, 0, -2)
        else:
            outputs = cell.output(carry)
        return (carry, outputs) if self.return_carry else outputs

    def _params(self, cell: Cell, in_features: int) -> dict[str, Array]:
        chosen = {
            "kernel": self.kernel_init,
            "recurrent_kernel": self.recurrent_kernel_init,
            "bias": self.bias_init,
            "recurrent_bias": self.bias_init,
        }
        return {
            name: self.param(
                name, chosen[name] or spec.init, spec.shape, self.param_dtype
            )
            for name, spec in cell.param_specs(in_features, self.features).items()
        }


class SimpleRNN(Recurrent):
    """The layer of `simple_rnn`: Keras' SimpleRNN, with the same numbers.

        h_t = activation(x_t W + b + h_{t-1} U)

    Attributes: see `Recurrent`.

    Example:
      >>> layer = SimpleRNN(32, return_sequences=True)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> layer.apply(layer.init(jax.random.key(0), inputs), inputs).shape
      (5, 7, 32)
    """

    def make_cell(self) -> Cell:
        return simple_rnn_cell(activation=self.activation, use_bias=self.use_bias)


class GRU(Recurrent):
    """The layer of `gru`: Keras' GRU, with the same numbers.

    Attributes: see `Recurrent`, and
      recurrent_activation: of the gates z and r.
      reset_after: whether the reset gate acts after the recurrent matmul (Keras,
        PyTorch, Flax) or before it (the paper).

    Example:
      >>> layer = GRU(32)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> layer.apply(layer.init(jax.random.key(0), inputs), inputs).shape
      (5, 32)
    """

    recurrent_activation: Activation = jax.nn.sigmoid
    reset_after: bool = True

    def make_cell(self) -> Cell:
        return gru_cell(
            activation=self.activation,
            recurrent_activation=self.recurrent_activation,
            use_bias=self.use_bias,
            reset_after=self.reset_after,
        )


class LSTM(Recurrent):
    """The layer of `lstm`: Keras' LSTM, with the same numbers.

    Attributes: see `Recurrent`, and
      recurrent_activation: of the gates i, f and o.
      unit_forget_bias: the forget gate's bias starts at 1.

    Example:
      >>> layer = LSTM(32, return_carry=True)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> carry, last = layer.apply(layer.init(jax.random.key(0), inputs), inputs)
      >>> carry.memory.shape, last.shape
      ((5, 32), (5, 32))
    """

    recurrent_activation: Activation = jax.nn.sigmoid
    unit_forget_bias: bool = True

    def make_cell(self) -> Cell:
        return lstm_cell(
            activation=self.activation,
            recurrent_activation=self.recurrent_activation,
            use_bias=self.use_bias,
            unit_forget_bias=self.unit_forget_bias,
        )


def _check_ids(ids: Any, vocab_size: int) -> None:
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
