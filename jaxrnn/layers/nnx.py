"""Flax NNX layers that run a cell, and Embed; the options and numbers of Linen."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.cells.base import AnyArray, Carry, Initializer
from jaxrnn.cells.checks import check_size
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


def check_rngs(rngs: Any) -> None:
    """Raises a TypeError where a layer is given no keys for its parameters."""
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"rngs must be flax.nnx.Rngs, got {rngs!r}; write nnx.Rngs(0).")


class Embed(NamedElsewhere, nnx.Module):
    """`jaxrnn.Embed` in NNX.

    Args:
      vocab_size: number of ids, padding included.
      features: width of a row.
      embedding_init: Keras' uniform(-0.05, 0.05).
      mask_zero: return the pair (features, mask), where id 0 is padding.
      dtype: of the result; None keeps `param_dtype`.
      param_dtype: of the parameter `embedding` (vocab_size, features).
      rngs: a key for the parameters.

    Raises:
      TypeError, ValueError: as `jaxrnn.Embed`.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> embed = jaxrnn.nnx.Embed(10, 4, rngs=nnx.Rngs(0))
      >>> embed(jnp.array([[1, 2, 3]])).shape
      (1, 3, 4)
    """

    elsewhere = OF_EMBED

    def __init__(
        self,
        vocab_size: int,
        features: int,
        *,
        embedding_init: Initializer = uniform_embedding,
        mask_zero: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_table(vocab_size, features, embedding_init, dtype, param_dtype)
        check_rngs(rngs)
        self.vocab_size = vocab_size
        self.features = features
        self.mask_zero = mask_zero
        self.dtype = dtype
        shape = (vocab_size, features)
        self.embedding = nnx.Param(embedding_init(rngs.params(), shape, param_dtype))

    def __call__(self, ids: Int[AnyArray, "*shape"]) -> Any:
        """As `jaxrnn.Embed`."""
        ids = checked_ids(ids, self.vocab_size)
        embedding = self.embedding[...]
        (embedding,) = promote_dtype(embedding, dtype=self.dtype, inexact=False)
        features = look_up(embedding, ids)
        return (features, nonzero(ids)) if self.mask_zero else features


class Layer(nnx.Module):
    """What a call of every layer here takes and returns."""

    deterministic: bool = False

    @property
    def call_options(self) -> CallOptions:
        """What a call returns."""
        raise NotImplementedError("a layer says what a call returns")

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
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Any:
        """As the Linen layers, but noise is on by default, as in `nnx.Dropout`.

        The last six arguments are those of `flax.nnx.RNN`, so that a layer can stand in
        `flax.nnx.Bidirectional`.

        Args:
          inputs, mask, lengths, resets, initial_carry: as `jaxrnn.LSTM` takes them.
          deterministic: None takes the attribute, which `model.eval()` sets to True
            and `model.train()` to False.
          return_carry, time_major, reverse, keep_order, seq_lengths: as `jaxrnn.LSTM`
            takes them.
          rngs: ignored, as no carry here is random; noise has the layer's own keys.
        """
        del rngs
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
            deterministic=(
                self.deterministic if deterministic is None else deterministic
            ),
        )
        return to_result(ran, options)

    def set_view(self, deterministic: bool | None = None) -> None:
        """For `nnx.view(model, deterministic=...)`."""
        if deterministic is not None:
            self.deterministic = deterministic


@dataclasses.dataclass(eq=False, repr=False)
class _InFeatures:
    """What an NNX layer must know before its first call; it comes before `features`."""

    in_features: int


@dataclasses.dataclass(eq=False, repr=False)
class _Recurrent(RecurrentOptions, _InFeatures, Layer):
    """The parameters and the key of a layer that runs a cell."""

    _: dataclasses.KW_ONLY
    rngs: dataclasses.InitVar[nnx.Rngs]

    def __post_init__(self, rngs: nnx.Rngs) -> None:
        self.check()
        check_size("in_features", self.in_features)
        check_rngs(rngs)
        for name, spec in self.specs(self.in_features).items():
            value = spec.init(rngs.params(), spec.shape, self.param_dtype)
            setattr(self, name, nnx.Param(value))
        if self.has_noise:
            self.noise = rngs.dropout.fork()

    @property
    def out_features(self) -> int:
        """The width of the outputs."""
        output = jax.eval_shape(
            lambda params: self.make_cell().output(start_cell(self, params, ())),
            self._params(),
        )
        return output.shape[-1]

    def fresh(self, rngs: nnx.Rngs, in_features: int | None = None) -> Any:
        """A layer with the same options, and parameters of its own.

        Args:
          rngs: a key for these.
          in_features: None takes those of this layer.
        """
        return dataclasses.replace(
            self, in_features=in_features or self.in_features, rngs=rngs
        )

    def run(
        self,
        steps: Steps,
        initial_carry: Carry | None = None,
        *,
        reverse: bool = False,
        deterministic: bool = True,
    ) -> Ran:
        key = self.noise() if self.has_noise and not deterministic else None
        return run_cell(
            self, self._params(), steps, initial_carry, reverse=reverse, key=key
        )

    def initial_carry(self, batch_shape: tuple[int, ...] = ()) -> Carry:
        """The carry before the first step."""
        return start_cell(self, self._params(), batch_shape)

    def step(
        self,
        carry: Carry,
        inputs: Float[AnyArray, "*batch in_features"],
        *,
        resets: Bool[AnyArray, "*batch"] | None = None,
    ) -> tuple[Carry, Float[Array, "*batch features"]]:
        """One time step, for serving.

        Args:
          carry: from the step before, or from `initial_carry`.
          inputs: of this step.
          resets: True where the carry restarts before this step.

        Returns:
          The carry after the step, and its output.

        Raises:
          TypeError, ValueError: as `jaxrnn.rnn_step`; a layer with `reverse`.
        """
        return step_cell(self, self._params(), carry, inputs, resets)

    def _params(self) -> dict[str, Array]:
        return {name: getattr(self, name)[...] for name in self.specs(self.in_features)}


@dataclasses.dataclass(eq=False, repr=False)
class Recurrent(CellOptions, _Recurrent):
    """A layer that runs any cell; see `jaxrnn.Recurrent` for its options.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> layer = jaxrnn.nnx.Recurrent(2, 32, cell=mgu, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((5, 7, 2))).shape
      (5, 32)
    """


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNN(SimpleRNNOptions, _Recurrent):
    """A layer that runs `simple_rnn`; see `jaxrnn.SimpleRNN` for its options.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> layer = jaxrnn.nnx.SimpleRNN(2, 32, return_sequences=True, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((5, 7, 2))).shape
      (5, 7, 32)
    """


@dataclasses.dataclass(eq=False, repr=False)
class GRU(GRUOptions, _Recurrent):
    """A layer that runs `gru`; see `jaxrnn.GRU` for its options.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> layer = jaxrnn.nnx.GRU(2, 32, dropout=0.2, rngs=nnx.Rngs(0))
      >>> inputs = jnp.ones((5, 7, 2))
      >>> jnp.array_equal(layer(inputs), layer(inputs)).item()
      False
      >>> layer.eval()
      >>> jnp.array_equal(layer(inputs), layer(inputs)).item()
      True
    """


@dataclasses.dataclass(eq=False, repr=False)
class LSTM(LSTMOptions, _Recurrent):
    """A layer that runs `lstm`; see `jaxrnn.LSTM` for its options.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> layer = jaxrnn.nnx.LSTM(2, 32, return_carry=True, rngs=nnx.Rngs(0))
      >>> carry, last = layer(jnp.ones((5, 7, 2)))
      >>> carry.memory.shape, last.shape
      ((5, 32), (5, 32))
      >>> list(nnx.to_pure_dict(nnx.state(layer, nnx.Param)))
      ['bias', 'kernel', 'recurrent_kernel']
    """
