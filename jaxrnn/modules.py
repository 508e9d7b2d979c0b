"""Flax Linen layers, batch axes first: recurrent layers and what is put around them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.cells.base import AnyArray, Carry, Initializer
from jaxrnn.layers import (
    CellOptions,
    GRUOptions,
    LSTMOptions,
    Merge,
    Ran,
    RecurrentOptions,
    SimpleRNNOptions,
    call_layer,
    check_ids,
    concatenate,
    look_up,
    nonzero,
    over_time,
    run_both,
    run_stack,
    step_stack,
    uniform_embedding,
)
from jaxrnn.recurrence import rnn_step


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
      mask_zero: return the pair (features, mask), where id 0 is padding. Keras hands
        that mask on unseen; here it is an argument of the next layer.
      dtype: of the result; None keeps `param_dtype`.
      param_dtype: of the parameter `embedding` (vocab_size, features).

    Example:
      >>> embed = Embed(vocab_size=10, features=4, mask_zero=True)
      >>> ids = jnp.array([[1, 2, 0]])
      >>> features, mask = embed.apply(embed.init(jax.random.key(0), ids), ids)
      >>> features.shape, mask.tolist()
      ((1, 3, 4), [[True, True, False]])
    """

    vocab_size: int
    features: int
    embedding_init: Initializer = uniform_embedding
    mask_zero: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[AnyArray, "*shape"]) -> Any:
        """Looks up every id.

        Returns:
          (*shape, features); with `mask_zero` the pair of it and the mask (*shape).

        Raises:
          TypeError: ids that are not integers.
          ValueError: ids outside [0, vocab_size), where they are known.
        """
        check_ids(ids, self.vocab_size)
        embedding = self.param(
            "embedding",
            self.embedding_init,
            (self.vocab_size, self.features),
            self.param_dtype,
        )
        (embedding,) = promote_dtype(embedding, dtype=self.dtype, inexact=False)
        features = look_up(embedding, ids)
        return (features, nonzero(ids)) if self.mask_zero else features


class Layer(nn.Module):
    """What a call of every layer here takes and returns."""

    def __call__(
        self,
        inputs: Float[AnyArray, "*batch time in_features"],
        *,
        mask: Bool[AnyArray, "*batch time"] | None = None,
        lengths: Int[AnyArray, "..."] | None = None,
        resets: Bool[AnyArray, "*batch time"] | None = None,
        initial_carry: Carry | None = None,
        deterministic: bool = True,
    ) -> Any:
        """Runs the layer over the time axis.

        Args:
          inputs: (batch, time, in_features); more batch axes, or none, work too.
          mask: True = valid, any pattern; None = every step is valid.
          lengths: valid steps of each sequence, in place of a mask.
          resets: True at the first step of every episode, where the carry restarts.
          initial_carry: leaves (batch, features); None = zeros. A Bidirectional takes
            a pair, a Stacked one for each layer: what they return as carry.
          deterministic: False draws dropout and zoneout, from the key `dropout`: give
            `apply` also `rngs={"dropout": key}`.

        Returns:
          The output after the last valid step (batch, features); with
          `return_sequences` the outputs (batch, time, features); with `return_carry`
          the pair (carry, one of these).

        Raises:
          TypeError, ValueError: as `jaxrnn.rnn`.
        """
        return call_layer(
            self, inputs, mask, lengths, resets, initial_carry, deterministic
        )


class _Recurrent(Layer):
    """The parameters and the key of a layer that runs a cell."""

    @nn.compact
    def run(
        self: Any,
        inputs: Array,
        mask: Array | None,
        resets: Array | None,
        initial_carry: Carry | None,
        reverse: bool,
        deterministic: bool,
    ) -> Ran:
        """As `Layer.__call__`, time axis first; for layers that contain this one."""
        params = {
            name: self.param(name, spec.init, spec.shape, self.param_dtype)
            for name, spec in self.specs(inputs.shape[-1]).items()
        }
        noisy = self.has_noise and not deterministic
        key = self.make_rng("dropout") if noisy else None
        return self.run_with(params, inputs, mask, resets, initial_carry, reverse, key)

    def initial_carry(self: Any, batch_shape: tuple[int, ...] = ()) -> Carry:
        """The carry before the first step.

        From outside: `layer.apply(variables, batch_shape, method="initial_carry")`.
        """
        return self.make_cell().initial_carry(self.variables["params"], batch_shape)

    def step(
        self: Any, carry: Carry, inputs: Float[AnyArray, "*batch in_features"]
    ) -> tuple[Carry, Float[Array, "*batch features"]]:
        """One time step, for serving.

        From outside: `layer.apply(variables, carry, inputs, method="step")`.

        Returns:
          The carry after the step, and its output.
        """
        return rnn_step(self.make_cell(), self.variables["params"], carry, inputs)


class Recurrent(CellOptions, _Recurrent):
    """The layer of any cell.

    Attributes: see `jaxrnn.layers.RecurrentOptions`, and
      cell: what happens at one time step.

    Example:
      >>> layer = Recurrent(32, cell=mgu, return_sequences=True)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> layer.apply(layer.init(jax.random.key(0), inputs), inputs).shape
      (5, 7, 32)
    """


class SimpleRNN(SimpleRNNOptions, _Recurrent):
    """The layer of `simple_rnn`: Keras' SimpleRNN, with the same numbers.

        h_t = activation(x_t W + b + h_{t-1} U)

    Attributes: see `jaxrnn.layers.RecurrentOptions` and `simple_rnn_cell`.

    Example:
      >>> layer = SimpleRNN(32, return_sequences=True)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> layer.apply(layer.init(jax.random.key(0), inputs), inputs).shape
      (5, 7, 32)
    """


class GRU(GRUOptions, _Recurrent):
    """The layer of `gru`: Keras' GRU, with the same numbers.

    Attributes: see `jaxrnn.layers.RecurrentOptions` and `gru_cell`.

    Example:
      >>> layer = GRU(32, dropout=0.2, recurrent_dropout=0.2)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> variables = layer.init(jax.random.key(0), inputs)
      >>> rngs = {"dropout": jax.random.key(1)}
      >>> layer.apply(variables, inputs, deterministic=False, rngs=rngs).shape
      (5, 32)
    """


class LSTM(LSTMOptions, _Recurrent):
    """The layer of `lstm`: Keras' LSTM, with the same numbers.

    Attributes: see `jaxrnn.layers.RecurrentOptions` and `lstm_cell`.

    Example:
      >>> layer = LSTM(32, return_carry=True)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> carry, last = layer.apply(layer.init(jax.random.key(0), inputs), inputs)
      >>> carry.memory.shape, last.shape
      ((5, 32), (5, 32))
    """


class Bidirectional(Layer):
    """Runs one layer forth and another one back, and merges what they return.

    Without `return_sequences` it merges the last output of each direction: that of the
    last step and that of the first (Keras). What it returns follows the options of
    `forward`; a carry is the pair of both carries.

    Attributes:
      forward: a recurrent layer.
      reverse: the layer that runs back; None takes one with the settings of `forward`.
      merge: `(forward, reverse) -> merged`: `jaxrnn.concatenate`, `jnp.add`,
        `jnp.multiply` and so on, for Keras' concat, sum, mul; None returns the pair.

    Raises:
      ValueError: a `forward` that is itself reversed.

    Example:
      >>> layer = Bidirectional(LSTM(32), merge=jnp.add)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> variables = layer.init(jax.random.key(0), inputs)
      >>> list(variables["params"]), layer.apply(variables, inputs).shape
      (['forward', 'reverse'], (5, 32))

    Reference: Schuster and Paliwal, Bidirectional recurrent neural networks, 1997.
    """

    forward: Any
    reverse: Any = None
    merge: Merge | None = concatenate

    def __post_init__(self) -> None:
        if self.forward.options.reverse:
            raise ValueError(
                "forward must run forth, got a layer with reverse=True; give it as "
                "reverse=, or leave reverse out."
            )
        if self.reverse is None:
            self.reverse = fresh(self.forward)
        super().__post_init__()

    @property
    def options(self) -> RecurrentOptions:
        """Those of `forward`."""
        return self.forward.options

    def run(
        self,
        inputs: Array,
        mask: Array | None,
        resets: Array | None,
        initial_carry: Any,
        reverse: bool,
        deterministic: bool,
    ) -> Ran:
        """As `Layer.__call__`, time axis first; for layers that contain this one."""
        del reverse
        return run_both(self, inputs, mask, resets, initial_carry, deterministic)


class Stacked(Layer):
    """Layer upon layer: each reads the outputs of the one below at all steps.

    What it returns follows the options of the last layer; a carry is a tuple with one
    carry per layer.

    Attributes:
      layers: recurrent layers, `Bidirectional` ones too, from the first to the last;
        or one of them, to be repeated.
      num_layers: how often one layer is repeated.
      dropout: share of the outputs between two layers that is dropped while training,
        at every step anew (PyTorch's `dropout`).

    Raises:
      ValueError: no layer at all, or a sequence of layers and `num_layers`.

    Example:
      >>> layer = Stacked(Bidirectional(GRU(8)), num_layers=2, dropout=0.1)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> variables = layer.init(jax.random.key(0), inputs)
      >>> list(variables["params"]), layer.apply(variables, inputs).shape
      (['layers_0', 'layers_1'], (5, 16))
    """

    layers: Any
    num_layers: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self.layers = stack_of(self.layers, self.num_layers)
        self.num_layers = None  # a clone has its layers already
        super().__post_init__()

    @property
    def options(self) -> RecurrentOptions:
        """Those of the last layer."""
        return self.layers[-1].options

    @nn.compact
    def run(
        self,
        inputs: Array,
        mask: Array | None,
        resets: Array | None,
        initial_carry: Any,
        reverse: bool,
        deterministic: bool,
    ) -> Ran:
        """As `Layer.__call__`, time axis first; for layers that contain this one."""
        del reverse
        drop = nn.Dropout(self.dropout, deterministic=deterministic)
        return run_stack(
            self.layers, inputs, mask, resets, initial_carry, deterministic, drop
        )

    def step(
        self, carry: Any, inputs: Float[AnyArray, "*batch in_features"]
    ) -> tuple[Any, Float[Array, "*batch features"]]:
        """One time step of every layer; `carry` has one carry per layer.

        Returns:
          The carries after the step, and the output of the last layer.
        """
        return step_stack(self.layers, carry, inputs)


def stack_of(layers: Any, num_layers: int | None) -> tuple[Any, ...]:
    """The layers of a `Stacked`, one by one."""
    if isinstance(layers, Sequence):
        if num_layers is not None or not layers:
            raise ValueError(
                "layers must be one layer and num_layers, or a sequence of at least "
                f"one layer, got {len(layers)} layers and num_layers={num_layers}."
            )
        return tuple(layers)
    if num_layers is None or num_layers < 1:
        raise ValueError(
            f"one layer is repeated num_layers times, 1 or more, got {num_layers}."
        )
    return tuple(fresh(layers) for _ in range(num_layers))


def fresh(layer: Any) -> Any:
    """A copy that shares no parameters, nor do the layers inside it (as in `clone`)."""
    inside = {
        field.name: fresh(getattr(layer, field.name))
        for field in dataclasses.fields(layer)
        if field.name != "parent" and isinstance(getattr(layer, field.name), nn.Module)
    }
    return layer.clone(**inside)


class TimeDistributed(nn.Module):
    """Applies a layer to every time step: Keras' TimeDistributed.

    Time becomes a part of the batch axis, so that one call serves all steps and the
    program does not grow with time. A `Dense` layer needs no such help.

    Attributes:
      layer: any module that takes (batch, ...).

    Example:
      >>> layer = TimeDistributed(nn.Conv(4, kernel_size=(3,)))
      >>> frames = jnp.ones((5, 7, 16, 2))
      >>> layer.apply(layer.init(jax.random.key(0), frames), frames).shape
      (5, 7, 16, 4)
    """

    layer: nn.Module

    def __call__(self, inputs: Any) -> Any:
        """Takes (batch, time, ...) and returns (batch, time, ...)."""
        return over_time(self.layer, inputs)
