"""What is put around Flax Linen layers: two directions, stacks, time as batch."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float

from jaxrnn.cells.base import AnyArray, Carry, Cell
from jaxrnn.cells.noise import check_rate
from jaxrnn.layers.combine import (
    NO_STEP,
    Merge,
    check_both,
    check_layers,
    check_separate,
    check_stack,
    concatenate,
    dropped,
    listed,
    over_time,
    run_both,
    run_stack,
    step_stack,
)
from jaxrnn.layers.linen import Layer
from jaxrnn.layers.options import CallOptions
from jaxrnn.layers.run import Ran
from jaxrnn.solvers.base import Steps


def adopted(layer: Any, by: nn.Module) -> Any:
    """A layer to be named by the module that holds it.

    Flax gives a module that is made inside a compact method to that method, and a name
    there with it. A copy is free of both. The clone that `nn.remat(Bidirectional)` and
    other lifted classes make of themselves holds what they hold, in its scope.
    """
    if not isinstance(layer, nn.Module):
        found = f"the cell {layer.name}" if isinstance(layer, Cell) else f"{layer!r}"
        raise TypeError(
            f"{type(by).__name__} takes a layer, such as jaxrnn.LSTM(32), got {found}; "
            "a cell runs in jaxrnn.Recurrent(32, cell=...)."
        )
    lifted = isinstance(layer.parent, type(by)) and type(layer.parent) is not type(by)
    free = (by.parent is None and lifted) or not isinstance(layer.parent, nn.Module)
    return layer if free else layer.copy(parent=None)


def ids_of_modules(module: nn.Module) -> set[int]:
    """Of a module and all modules inside of it."""
    fields = (field.name for field in dataclasses.fields(module))
    attributes = [getattr(module, name) for name in fields if name != "parent"]
    leaves = jax.tree.leaves(attributes, is_leaf=lambda x: isinstance(x, nn.Module))
    inside = (ids_of_modules(leaf) for leaf in leaves if isinstance(leaf, nn.Module))
    return {id(module)}.union(*inside)


class Bidirectional(Layer):
    """Runs one layer forward and another in reverse, and merges what they return.

    Without `return_sequences` it merges the last output of each direction: that of the
    last step and that of the first (Keras). A carry is the pair of both carries.

    Any layer here can be run in reverse: a `Stacked` is, layer by layer, and a
    `Bidirectional` swaps its directions. The parameters stand under `forward` and
    `reverse`, wherever the layers were written: one made inside a compact or setup
    method is copied, and shares no parameters with its original.

    Attributes:
      forward: a recurrent layer.
      reverse: the layer for the other direction, with or without `reverse=True`; None
        takes one with the settings of `forward`, and parameters of its own.
      merge: `(forward, reverse) -> merged`: `jaxrnn.concatenate`, `jnp.add`,
        `jnp.multiply` and so on, for Keras' concat, sum, mul; None returns the pair.

    Raises:
      TypeError: a `merge` that is no function.
      ValueError: a `forward` that is itself reversed, two layers that return
        different things, the same layer twice.

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
    _: dataclasses.KW_ONLY
    merge: Merge | None = concatenate

    def __post_init__(self) -> None:
        check_layers([self.forward, self.reverse or self.forward], nn.Module)
        if self.reverse is None:
            self.reverse = self.forward.copy(parent=None)
        check_separate([ids_of_modules(x) for x in (self.forward, self.reverse)])
        check_both(self.forward, self.reverse, self.merge)
        self.forward = adopted(self.forward, by=self)
        self.reverse = adopted(self.reverse, by=self)
        super().__post_init__()

    @property
    def call_options(self) -> CallOptions:
        return self.forward.call_options

    @property
    def has_noise(self) -> bool:
        return self.forward.has_noise or self.reverse.has_noise

    def run(
        self,
        steps: Steps,
        initial_carry: Any = None,
        *,
        reverse: bool = False,
        deterministic: bool = True,
    ) -> Ran:
        return run_both(
            self, steps, initial_carry, reverse=reverse, deterministic=deterministic
        )

    def initial_carry(self, batch_shape: tuple[int, ...] = ()) -> tuple[Carry, Carry]:
        """The carries of both directions before their first steps."""
        forward = self.forward.initial_carry(batch_shape)
        return forward, self.reverse.initial_carry(batch_shape)

    def step(self, carry: Any, inputs: Any, *, resets: Any = None) -> Any:
        """Raises a ValueError: the second direction begins at the end."""
        raise ValueError(NO_STEP)


class Stacked(Layer):
    """Layer upon layer: each reads the outputs of the one below at all steps.

    What it returns follows the options of the last layer; a carry is a tuple with one
    carry per layer. The parameters stand under `layers_0` and so on, wherever the
    layers were written: one made inside a compact or setup method is copied, and
    shares no parameters with its original.

    Attributes:
      layers: recurrent layers, `Bidirectional` ones too, from the first to the last;
        or one of them, to be repeated.
      num_layers: how often one layer is repeated, each time with parameters of its own.
      dropout: share of the outputs between two layers that is dropped while training,
        at every step anew (PyTorch's `dropout`).

    Raises:
      ValueError: no layer at all, or a sequence of layers and `num_layers`; the same
        layer twice; layers that do not fit upon one another.

    Example:
      >>> layer = Stacked(Bidirectional(GRU(8)), num_layers=2, dropout=0.1)
      >>> inputs = jnp.ones((5, 7, 2))
      >>> variables = layer.init(jax.random.key(0), inputs)
      >>> list(variables["params"]), layer.apply(variables, inputs).shape
      (['layers_0', 'layers_1'], (5, 16))
    """

    layers: Any
    num_layers: int | None = None
    _: dataclasses.KW_ONLY
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_rate("dropout", self.dropout)
        self.dropout = float(self.dropout)  # NumPy's would be an array's dtype
        layers = listed(self.layers, self.num_layers)
        check_layers(layers, nn.Module)
        layers += [
            layers[0].copy(parent=None) for _ in range((self.num_layers or 1) - 1)
        ]
        check_separate([ids_of_modules(layer) for layer in layers])
        check_stack(layers)
        self.layers = tuple(adopted(layer, by=self) for layer in layers)
        self.num_layers = None  # a clone has its layers already
        super().__post_init__()

    @property
    def call_options(self) -> CallOptions:
        return self.layers[-1].call_options

    @property
    def has_noise(self) -> bool:
        return bool(self.dropout) or any(layer.has_noise for layer in self.layers)

    @nn.compact
    def run(
        self,
        steps: Steps,
        initial_carry: Any = None,
        *,
        reverse: bool = False,
        deterministic: bool = True,
    ) -> Ran:
        drop = nn.Dropout(self.dropout, deterministic=deterministic)
        return run_stack(
            self.layers,
            steps,
            initial_carry,
            reverse=reverse,
            deterministic=deterministic,
            between=lambda outputs: dropped(drop, outputs),
        )

    def initial_carry(self, batch_shape: tuple[int, ...] = ()) -> tuple[Carry, ...]:
        """The carry of every layer before the first step."""
        return tuple(layer.initial_carry(batch_shape) for layer in self.layers)

    def step(
        self,
        carry: Any,
        inputs: Float[AnyArray, "*batch in_features"],
        *,
        resets: Bool[AnyArray, "*batch"] | None = None,
    ) -> tuple[Any, Float[Array, "*batch features"]]:
        """One time step of every layer; `carry` has one carry per layer.

        Returns:
          The carries after the step, and the output of the last layer.
        """
        return step_stack(self.layers, carry, inputs, resets)


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

    layer: Any

    def __post_init__(self) -> None:
        self.layer = adopted(self.layer, by=self)
        super().__post_init__()

    def __call__(
        self,
        inputs: Any,
        *,
        mask: Bool[AnyArray, "batch time ..."] | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Takes (batch, time, ...) and returns (batch, time, ...).

        Args:
          inputs: (batch, time, ...).
          mask: for a layer that takes one, (batch, time, ...): with an LSTM over the
            words of every sentence (batch, sentences, words). As in Keras, any other
            layer acts on all steps, valid or not, and its outputs are not masked.
          deterministic: for a layer that takes it.
        """
        return over_time(self.layer, inputs, mask=mask, deterministic=deterministic)
