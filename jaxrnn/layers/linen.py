"""Flax Linen layers that run a cell, and Embed; batch axes first."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxrnn.cells.base import AnyArray, Carry, Initializer
from jaxrnn.layers.elsewhere import OF_EMBED, NamedElsewhere
from jaxrnn.layers.embed import (
    check_table,
    checked_ids,
    look_up,
    nonzero,
    uniform_embedding,
)
from jaxrnn.layers.options import (
    CallOptions,
    CellOptions,
    GRUOptions,
    LSTMOptions,
    RecurrentOptions,
    SimpleRNNOptions,
)
from jaxrnn.layers.run import (
    Ran,
    run_cell,
    start_cell,
    step_cell,
    to_result,
    to_steps,
)
from jaxrnn.solvers.base import Steps


class Embed(NamedElsewhere, nn.Module):
    """Turns integer ids into rows of a table: Keras' Embedding.

    An id outside [0, vocab_size) raises where its value is known, that is outside of
    `jit`. Inside of `jit`, where nothing can raise, its features are NaN, so that the
    loss is NaN too (`flax.linen.Embed` lets negative ids count from the end). What
    `jit` itself is given as 64-bit integers of NumPy has lost its upper bits there;
    `jaxrnn.data` and the functions that train refuse what would wrap around.

    Attributes:
      vocab_size: number of ids, padding included; Keras' `input_dim`.
      features: width of a row; Keras' `output_dim`.
      embedding_init: Keras' uniform(-0.05, 0.05); Flax' Embed draws from a normal
        distribution with standard deviation 1/sqrt(features).
      mask_zero: return the pair (features, mask), where id 0 is padding. Keras hands
        that mask on unseen; here it is an argument of the next layer.
      dtype: of the result; None keeps `param_dtype`.
      param_dtype: of the parameter `embedding` (vocab_size, features).

    Raises:
      TypeError: a `dtype` or `param_dtype` that is not floating point, an
        `embedding_init` that is no function.
      ValueError: `vocab_size` or `features` below 1.

    Example:
      >>> embed = Embed(vocab_size=10, features=4, mask_zero=True)
      >>> ids = jnp.array([[1, 2, 0]])
      >>> features, mask = embed.apply(embed.init(jax.random.key(0), ids), ids)
      >>> features.shape, mask.tolist()
      ((1, 3, 4), [[True, True, False]])
    """

    elsewhere = OF_EMBED

    vocab_size: int
    features: int
    _: dataclasses.KW_ONLY
    embedding_init: Initializer = uniform_embedding
    mask_zero: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        dtypes = self.dtype, self.param_dtype
        check_table(self.vocab_size, self.features, self.embedding_init, *dtypes)
        super().__post_init__()

    @nn.compact
    def __call__(self, ids: Int[AnyArray, "*shape"]) -> Any:
        """Looks up every id.

        Returns:
          (*shape, features); with `mask_zero` the pair of it and the mask (*shape).

        Raises:
          TypeError: ids that are not integers.
          ValueError: ids outside [0, vocab_size), where they are known.
        """
        ids = checked_ids(ids, self.vocab_size)
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

    @property
    def call_options(self) -> CallOptions:
        """What a call returns."""
        raise NotImplementedError("a layer says what a call returns")

    @property
    def has_noise(self) -> bool:
        """Whether training needs a key."""
        raise NotImplementedError("a layer says whether it has noise")

    def run(
        self,
        steps: Steps,
        initial_carry: Carry | None = None,
        *,
        reverse: bool = False,
        deterministic: bool = True,
    ) -> Ran:
        """As `__call__`, time axis first, for layers around this one; see `Runs`."""
        raise NotImplementedError("a layer says how it runs")

    def __call__(
        self,
        inputs: Float[AnyArray, "*batch time in_features"],
        *,
        mask: Bool[AnyArray, "*batch time"] | None = None,
        lengths: Int[AnyArray, "..."] | Sequence[int] | int | None = None,
        resets: Bool[AnyArray, "*batch time"] | None = None,
        initial_carry: Carry | None = None,
        deterministic: bool | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        seq_lengths: Int[AnyArray, "..."] | None = None,
        init_key: PRNGKeyArray | None = None,
    ) -> Any:
        """Runs the layer over the time axis.

        The last six arguments are those of `flax.linen.RNN`, so that a layer can stand
        in `flax.linen.Bidirectional`.

        Args:
          inputs: (batch, time, in_features); more batch axes, or none, work too.
          mask: True = valid, any pattern; None = every step is valid.
          lengths: valid steps of each sequence, in place of a mask.
          resets: True at the first step of every episode, where the carry restarts.
          initial_carry: leaves (batch, features); None = zeros. An LSTM takes an
            `LSTMCarry` or any tuple (hidden, memory), in the order of Keras and PyTorch
            (Flax has memory first); a Bidirectional a pair, a Stacked one for each
            layer: what they return as carry.
          deterministic: False draws dropout and zoneout, from the key `dropout`: give
            `apply` also `rngs={"dropout": key}`. True draws nothing. None is True, but
            an error where there is noise and such a key.
          return_carry, time_major, reverse, keep_order: in place of the attributes;
            None takes these.
          seq_lengths: another name of `lengths`.
          init_key: ignored, as no carry here is random.

        Returns:
          The output after the last valid step (batch, features); with
          `return_sequences` the outputs (batch, time, features); with `return_carry`
          the pair (carry, one of these).

        Raises:
          TypeError, ValueError: as `jaxrnn.rnn`.
        """
        del init_key
        options = self.call_options.changed(
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
        )
        steps = to_steps(
            inputs,
            mask=mask,
            lengths=lengths,
            seq_lengths=seq_lengths,
            resets=resets,
            time_major=options.time_major,
        )
        ran = self.run(
            steps,
            initial_carry,
            reverse=options.reverse != self.call_options.reverse,
            deterministic=self._is_deterministic(deterministic),
        )
        return to_result(ran, options)

    def _is_deterministic(self, given: bool | None) -> bool:
        if given is not None:
            return given
        # `make_rng` takes the key of another stream where there is none for dropout.
        has_key = self.has_rng("dropout") or self.has_rng("params")
        if self.has_noise and has_key and not self.is_initializing():
            raise ValueError(
                "a layer with dropout or zoneout must be told what a key for them is "
                "to do, got rngs with dropout and no deterministic; say "
                "deterministic=False to train, deterministic=True to serve."
            )
        return True


class _Recurrent(RecurrentOptions, Layer):
    """The parameters and the key of a layer that runs a cell."""

    def __post_init__(self) -> None:
        self.check()
        super().__post_init__()

    @nn.compact
    def run(
        self,
        steps: Steps,
        initial_carry: Carry | None = None,
        *,
        reverse: bool = False,
        deterministic: bool = True,
    ) -> Ran:
        params = {
            name: self.param(name, spec.init, spec.shape, self.param_dtype)
            for name, spec in self.specs(steps.inputs.shape[-1]).items()
        }
        noisy = self.has_noise and not deterministic
        key = self.make_rng("dropout") if noisy else None
        return run_cell(self, params, steps, initial_carry, reverse=reverse, key=key)

    def initial_carry(self, batch_shape: tuple[int, ...] = ()) -> Carry:
        """The carry before the first step.

        From outside: `layer.apply(variables, batch_shape, method="initial_carry")`.
        """
        return start_cell(self, self.variables["params"], batch_shape)

    def step(
        self,
        carry: Carry,
        inputs: Float[AnyArray, "*batch in_features"],
        *,
        resets: Bool[AnyArray, "*batch"] | None = None,
    ) -> tuple[Carry, Float[Array, "*batch features"]]:
        """One time step, for serving.

        From outside: `layer.apply(variables, carry, inputs, method="step")`.

        Args:
          carry: from the step before, or from `initial_carry`.
          inputs: of this step.
          resets: True where the carry restarts before this step.

        Returns:
          The carry after the step, and its output.

        Raises:
          TypeError, ValueError: as `jaxrnn.rnn_step`; a layer with `reverse`.
        """
        return step_cell(self, self.variables["params"], carry, inputs, resets)


class Recurrent(CellOptions, _Recurrent, kw_only=True):
    """A layer that runs any cell.

    It has the options of `jaxrnn.layers.options.RecurrentOptions`, and one more.

    Attributes:
      cell: what happens at one time step.

    Example:
      >>> layer = Recurrent(32, cell=mgu, return_sequences=True)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> layer.apply(layer.init(jax.random.key(0), inputs), inputs).shape
      (5, 7, 32)
    """


class SimpleRNN(SimpleRNNOptions, _Recurrent, kw_only=True):
    """A layer that runs `simple_rnn`: Keras' SimpleRNN, with the same numbers.

        h_t = activation(x_t W + b + h_{t-1} U)

    Attributes: see `jaxrnn.layers.options.RecurrentOptions` and `simple_rnn_cell`.

    Example:
      >>> layer = SimpleRNN(32, return_sequences=True)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> layer.apply(layer.init(jax.random.key(0), inputs), inputs).shape
      (5, 7, 32)
    """


class GRU(GRUOptions, _Recurrent, kw_only=True):
    """A layer that runs `gru`: Keras' GRU, with the same numbers.

    Attributes: see `jaxrnn.layers.options.RecurrentOptions` and `gru_cell`.

    Example:
      >>> layer = GRU(32, dropout=0.2, recurrent_dropout=0.2)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> variables = layer.init(jax.random.key(0), inputs)
      >>> rngs = {"dropout": jax.random.key(1)}
      >>> layer.apply(variables, inputs, deterministic=False, rngs=rngs).shape
      (5, 32)
    """


class LSTM(LSTMOptions, _Recurrent, kw_only=True):
    """A layer that runs `lstm`: Keras' LSTM, with the same numbers.

    Attributes: see `jaxrnn.layers.options.RecurrentOptions` and `lstm_cell`.

    Example:
      >>> layer = LSTM(32, return_carry=True)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> carry, last = layer.apply(layer.init(jax.random.key(0), inputs), inputs)
      >>> carry.memory.shape, last.shape
      ((5, 32), (5, 32))
    """
