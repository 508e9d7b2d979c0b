"""Flax NNX layers: the options, parameters and numbers of the Linen ones.

This module is imported by itself (`import jaxrnn.nnx`), as it brings in `flax.nnx`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.cells.base import AnyArray, Carry, Initializer
from jaxrnn.flax_rnn import call_as_flax, chosen, in_dtype, step_shape
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


class Embed(nnx.Module):
    """`jaxrnn.Embed` in NNX.

    Args:
      vocab_size: number of ids, padding included.
      features: width of a row.
      embedding_init: Keras' uniform(-0.05, 0.05).
      mask_zero: return the pair (features, mask), where id 0 is padding.
      dtype: of the result; None keeps `param_dtype`.
      param_dtype: of the parameter `embedding` (vocab_size, features).
      rngs: a key for the parameters.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> embed = jaxrnn.nnx.Embed(10, 4, rngs=nnx.Rngs(0))
      >>> embed(jnp.array([[1, 2, 3]])).shape
      (1, 3, 4)
    """

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
        self.vocab_size = vocab_size
        self.features = features
        self.mask_zero = mask_zero
        self.dtype = dtype
        shape = (vocab_size, features)
        self.embedding = nnx.Param(embedding_init(rngs.params(), shape, param_dtype))

    def __call__(self, ids: Int[AnyArray, "*shape"]) -> Any:
        """As `jaxrnn.Embed`."""
        check_ids(ids, self.vocab_size)
        embedding = self.embedding[...]
        (embedding,) = promote_dtype(embedding, dtype=self.dtype, inexact=False)
        features = look_up(embedding, ids)
        return (features, nonzero(ids)) if self.mask_zero else features


class Layer(nnx.Module):
    """What a call of every layer here takes and returns."""

    deterministic: bool = False

    def __call__(
        self,
        inputs: Float[AnyArray, "*batch time in_features"],
        *,
        mask: Bool[AnyArray, "*batch time"] | None = None,
        lengths: Int[AnyArray, "..."] | None = None,
        resets: Bool[AnyArray, "*batch time"] | None = None,
        initial_carry: Carry | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """As the Linen layers, but noise is on by default, as in `nnx.Dropout`.

        Args:
          inputs, mask, lengths, resets, initial_carry: as `jaxrnn.LSTM` takes them.
          deterministic: None takes the attribute, which `model.eval()` sets to True
            and `model.train()` to False.
        """
        if deterministic is None:
            deterministic = self.deterministic
        return call_layer(
            self, inputs, mask, lengths, resets, initial_carry, deterministic
        )

    def set_view(self, deterministic: bool | None = None) -> None:
        """For `nnx.view(model, deterministic=...)`."""
        if deterministic is not None:
            self.deterministic = deterministic


class _Recurrent(Layer):
    """The parameters and the key of a layer that runs a cell."""

    def __init__(
        self: Any, in_features: int, features: int, *, rngs: nnx.Rngs, **options: Any
    ) -> None:
        super().__init__(features, **options)  # pyright: ignore[reportCallIssue]
        self.in_features = in_features
        for name, spec in self.specs(in_features).items():
            value = spec.init(rngs.params(), spec.shape, self.param_dtype)
            setattr(self, name, nnx.Param(value))
        if self.has_noise:
            self.rngs = rngs.dropout.fork()

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
        noisy = self.has_noise and not deterministic
        key = self.rngs() if noisy else None
        return self.run_with(
            self._params(), inputs, mask, resets, initial_carry, reverse, key
        )

    def _params(self: Any) -> dict[str, Array]:
        return {name: getattr(self, name)[...] for name in self.specs(self.in_features)}

    def initial_carry(self: Any, batch_shape: tuple[int, ...] = ()) -> Carry:
        """The carry before the first step."""
        return self.make_cell().initial_carry(self._params(), batch_shape)

    def step(
        self: Any, carry: Carry, inputs: Float[AnyArray, "*batch in_features"]
    ) -> tuple[Carry, Float[Array, "*batch features"]]:
        """One time step, for serving.

        Returns:
          The carry after the step, and its output.
        """
        return rnn_step(self.make_cell(), self._params(), carry, inputs)


class Recurrent(_Recurrent, CellOptions):
    """The layer of any cell; see `jaxrnn.Recurrent` for its options.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> layer = jaxrnn.nnx.Recurrent(2, 32, cell=mgu, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((5, 7, 2))).shape
      (5, 32)
    """


class SimpleRNN(_Recurrent, SimpleRNNOptions):
    """The layer of `simple_rnn`; see `jaxrnn.SimpleRNN` for its options.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> layer = jaxrnn.nnx.SimpleRNN(2, 32, return_sequences=True, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((5, 7, 2))).shape
      (5, 7, 32)
    """


class GRU(_Recurrent, GRUOptions):
    """The layer of `gru`; see `jaxrnn.GRU` for its options.

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


class LSTM(_Recurrent, LSTMOptions):
    """The layer of `lstm`; see `jaxrnn.LSTM` for its options.

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


class Bidirectional(Layer):
    """Two layers, one forth and one back; see `jaxrnn.Bidirectional`.

    Args:
      forward: a recurrent layer.
      reverse: the layer that runs back. It is given here, as an NNX layer has its
        parameters from the start.
      merge: `(forward, reverse) -> merged`; None returns the pair.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> rngs = nnx.Rngs(0)
      >>> layer = jaxrnn.nnx.Bidirectional(
      ...     jaxrnn.nnx.LSTM(2, 32, rngs=rngs), jaxrnn.nnx.LSTM(2, 32, rngs=rngs)
      ... )
      >>> layer(jnp.ones((5, 7, 2))).shape
      (5, 64)
    """

    def __init__(
        self, forward: Any, reverse: Any, *, merge: Merge | None = concatenate
    ) -> None:
        if forward.options.reverse:
            raise ValueError(
                "forward must run forth, got a layer with reverse=True; give it as "
                "reverse instead."
            )
        if forward is reverse:
            raise ValueError(
                "forward and reverse must be two layers, got the same object twice; "
                "they would share their parameters."
            )
        self.forward = forward
        self.reverse = reverse
        self.merge = merge

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
    """Layer upon layer; see `jaxrnn.Stacked`.

    Args:
      layers: recurrent layers, from the first to the last.
      dropout: share of the outputs between two layers that is dropped while training.
      rngs: a key for that dropout.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> rngs = nnx.Rngs(0)
      >>> layer = jaxrnn.nnx.Stacked(
      ...     [jaxrnn.nnx.LSTM(2, 32, rngs=rngs), jaxrnn.nnx.GRU(32, 8, rngs=rngs)]
      ... )
      >>> layer(jnp.ones((5, 7, 2))).shape
      (5, 8)
    """

    def __init__(
        self, layers: Any, *, dropout: float = 0.0, rngs: nnx.Rngs | None = None
    ) -> None:
        if not layers:
            raise ValueError("layers must hold at least one layer, got none.")
        for index, layer in enumerate(layers):
            setattr(self, f"layers_{index}", layer)
        self.num_layers = len(layers)
        self.drop = nnx.Dropout(dropout, rngs=rngs)

    @property
    def layers(self) -> list[Any]:
        """From the first to the last."""
        return [getattr(self, f"layers_{i}") for i in range(self.num_layers)]

    @property
    def options(self) -> RecurrentOptions:
        """Those of the last layer."""
        return self.layers[-1].options

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

        def drop(outputs: Array) -> Array:
            return self.drop(outputs, deterministic=deterministic)

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


class TimeDistributed(nnx.Module):
    """Applies a layer to every time step; see `jaxrnn.TimeDistributed`.

    Args:
      layer: any module that takes (batch, ...).

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> layer = jaxrnn.nnx.TimeDistributed(nnx.Linear(2, 4, rngs=nnx.Rngs(0)))
      >>> layer(jnp.ones((5, 7, 2))).shape
      (5, 7, 4)
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, inputs: Any) -> Any:
        """Takes (batch, time, ...) and returns (batch, time, ...)."""
        return over_time(self.layer, inputs)


class RNN(nnx.Module):
    """Drives an NNX cell over time with the call of `flax.nnx.RNN`; see `jaxrnn.RNN`.

    The loop is a plain `jax.lax.scan` over the cell's arrays, so gradients with
    respect to the cell's parameters are those of any JAX function. What the cell
    changes in itself (counts of its random streams) goes from step to step.

    Args:
      cell: a `flax.nnx.RNNCellBase`, which brings its parameters.
      time_major, return_carry, reverse, keep_order, unroll: as in `flax.nnx.RNN`.
      rngs: for the cell's initial carry; most cells ignore it.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> rngs = nnx.Rngs(0)
      >>> layer = jaxrnn.nnx.RNN(nnx.GRUCell(2, 4, rngs=rngs), rngs=rngs)
      >>> layer(jnp.ones((5, 7, 2)), seq_lengths=jnp.array([7, 3, 0, 1, 5])).shape
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
        rngs: nnx.Rngs | None = None,
    ) -> None:
        self.cell = cell
        self.time_major = time_major
        self.return_carry = return_carry
        self.reverse = reverse
        self.keep_order = keep_order
        self.unroll = unroll
        self.rngs = nnx.Rngs(0).carry.fork() if rngs is None else rngs.carry.fork()

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
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Any:
        """Runs the cell; the arguments are those of `jaxrnn.RNN`."""
        time_major = chosen(time_major, self.time_major)
        feature_axes = self.cell.num_feature_axes
        if initial_carry is None:
            stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
            if stream is None:  # a copy: a count that moves could not be differentiated
                stream = nnx.clone(self.rngs)
            initial_carry = self.cell.initialize_carry(
                step_shape(inputs, feature_axes, time_major), stream
            )
            initial_carry = in_dtype(getattr(self.cell, "dtype", None), initial_carry)
        return call_as_flax(
            self._run,
            inputs,
            initial_carry,
            seq_lengths,
            feature_axes=feature_axes,
            return_carry=chosen(return_carry, self.return_carry),
            time_major=time_major,
            reverse=chosen(reverse, self.reverse),
            keep_order=chosen(keep_order, self.keep_order),
        )

    def _run(self, inputs: Array, carry: Carry) -> tuple[Carry, Any, Carry]:
        graph, params, rest = nnx.split(self.cell, nnx.Param, ...)

        def body(carried: Any, step_inputs: Any) -> tuple[Any, Any]:
            carry, rest = carried
            cell = nnx.merge(graph, params, rest)
            new, outputs = cell(carry, step_inputs)
            new = jax.tree.map(lambda x, like: x.astype(like.dtype), new, carry)
            return (new, nnx.split(cell, nnx.Param, ...)[2]), (outputs, new)

        (last, rest), (outputs, carries) = jax.lax.scan(
            body, (carry, rest), inputs, unroll=self.unroll
        )
        nnx.update(self.cell, rest)
        return last, outputs, carries
