"""What is put around Flax NNX layers: two directions, stacks, time as batch."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxrnn.cells.base import AnyArray, Carry
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
from jaxrnn.layers.nnx import Layer
from jaxrnn.layers.options import CallOptions
from jaxrnn.layers.run import Ran
from jaxrnn.solvers.base import Steps


def another(
    layer: Any, rngs: nnx.Rngs | None, by_hand: str, in_features: int | None = None
) -> Any:
    """A layer like the given one, with parameters of its own."""
    if rngs is None:
        raise ValueError(
            "an NNX layer has its parameters from the start, so a second one needs "
            f"rngs, got None; give rngs=nnx.Rngs(0), or both layers: {by_hand}."
        )
    if not hasattr(layer, "fresh"):
        raise ValueError(
            f"a second {type(layer).__name__} cannot be made of the first; give both: "
            f"{by_hand}."
        )
    return layer.fresh(rngs, in_features)


def width_of(layer: Any) -> int:
    """The width of what a layer hands on to the next one."""
    if not hasattr(type(layer), "out_features"):
        raise TypeError(
            f"this {type(layer).__name__} does not say how wide its outputs are, as "
            "no cell of Flax does; give all layers: Stacked([first, second])."
        )
    return layer.out_features


def ids_of_params(layer: nnx.Module) -> set[int]:
    """Of a layer and all parameters inside of it."""
    found = (value for _, value in nnx.iter_graph(layer))
    return {id(layer)} | {id(x) for x in found if isinstance(x, nnx.Param)}


class Bidirectional(Layer):
    """Runs one layer forward and another in reverse; see `jaxrnn.Bidirectional`.

    Args:
      forward: a recurrent layer.
      reverse: the layer for the other direction, with or without `reverse=True`; None
        makes one with the settings of `forward`, and parameters of its own.
      merge: `(forward, reverse) -> merged`; None returns the pair.
      rngs: a key for these parameters, where `reverse` is None.

    Raises:
      TypeError: a `merge` that is no function.
      ValueError: neither `reverse` nor `rngs`; a `forward` that is itself reversed, two
        layers that return different things, the same layer twice.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> rngs = nnx.Rngs(0)
      >>> layer = jaxrnn.nnx.Bidirectional(jaxrnn.nnx.LSTM(2, 32, rngs=rngs), rngs=rngs)
      >>> layer(jnp.ones((5, 7, 2))).shape
      (5, 64)
    """

    def __init__(
        self,
        forward: Any,
        reverse: Any = None,
        *,
        merge: Merge | None = concatenate,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        check_layers([forward, reverse or forward], nnx.Module)
        if reverse is None:
            reverse = another(forward, rngs, "Bidirectional(forward, reverse)")
        check_separate([ids_of_params(layer) for layer in (forward, reverse)])
        check_both(forward, reverse, merge)
        self.forward = forward
        self.reverse = reverse
        self.merge = merge

    @property
    def call_options(self) -> CallOptions:
        return self.forward.call_options

    @property
    def out_features(self) -> int:
        """The width of the outputs; `merge` decides."""
        if self.merge is None:
            raise ValueError(
                "a Bidirectional with merge=None returns a pair, which has no width; "
                "give it a function."
            )
        widths = width_of(self.forward), width_of(self.reverse)
        rows = [jax.ShapeDtypeStruct((width,), jnp.float32) for width in widths]
        return jax.eval_shape(self.merge, *rows).shape[-1]

    def fresh(self, rngs: nnx.Rngs, in_features: int | None = None) -> "Bidirectional":
        """A layer with the same options, and parameters of its own."""
        by_hand = "Bidirectional(forward, reverse)"
        return Bidirectional(
            another(self.forward, rngs, by_hand, in_features),
            another(self.reverse, rngs, by_hand, in_features),
            merge=self.merge,
        )

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
    """Layer upon layer; see `jaxrnn.Stacked`.

    Args:
      layers: recurrent layers, from the first to the last; or the first one, to be
        repeated.
      num_layers: how often one layer is repeated, each time with parameters of its own
        and as wide an input as the layer below has outputs.
      dropout: share of the outputs between two layers that is dropped while training.
      rngs: a key for that dropout, and for the parameters of layers that are repeated.

    Raises:
      ValueError: no layer at all, or a sequence of layers and `num_layers`; the same
        layer twice; layers that do not fit upon one another.

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
        self,
        layers: Any,
        num_layers: int | None = None,
        *,
        dropout: float = 0.0,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        check_rate("dropout", dropout)
        stack = listed(layers, num_layers)
        check_layers(stack, nnx.Module)
        while len(stack) < (num_layers or 0):
            width = width_of(stack[0])
            stack.append(another(stack[0], rngs, "Stacked([first, second])", width))
        check_separate([ids_of_params(layer) for layer in stack])
        check_stack(stack)
        for index, layer in enumerate(stack):
            setattr(self, f"layers_{index}", layer)
        self.num_layers = len(stack)
        self.drop = nnx.Dropout(float(dropout), rngs=rngs)

    @property
    def layers(self) -> list[Any]:
        """From the first to the last."""
        return [getattr(self, f"layers_{i}") for i in range(self.num_layers)]

    @property
    def call_options(self) -> CallOptions:
        return self.layers[-1].call_options

    @property
    def out_features(self) -> int:
        """The width of the outputs."""
        return width_of(self.layers[-1])

    def fresh(self, rngs: nnx.Rngs, in_features: int | None = None) -> "Stacked":
        """A layer with the same options, and parameters of its own."""
        first, *rest = self.layers
        by_hand = "Stacked([first, second])"
        layers = [another(first, rngs, by_hand, in_features)]
        layers += [another(layer, rngs, by_hand) for layer in rest]
        return Stacked(
            layers,
            dropout=self.drop.rate,
            rngs=rngs,
        )

    def run(
        self,
        steps: Steps,
        initial_carry: Any = None,
        *,
        reverse: bool = False,
        deterministic: bool = True,
    ) -> Ran:
        def drop(outputs: Array) -> Array:
            return self.drop(outputs, deterministic=deterministic)

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


class TimeDistributed(nnx.Module):
    """Applies a layer to every time step; see `jaxrnn.TimeDistributed`.

    Args:
      layer: any module of NNX, or function, that takes (batch, ...).

    Raises:
      TypeError: a `layer` that is none, or one of Linen.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> layer = jaxrnn.nnx.TimeDistributed(nnx.Linear(2, 4, rngs=nnx.Rngs(0)))
      >>> layer(jnp.ones((5, 7, 2))).shape
      (5, 7, 4)
    """

    def __init__(self, layer: Any) -> None:
        of_linen = hasattr(layer, "apply")
        if isinstance(layer, type) or not callable(layer) or of_linen:
            raise TypeError(
                "TimeDistributed takes a module of NNX, such as flax.nnx.Linear(8, 2, "
                f"rngs=rngs), or a function, got {layer!r}."
            )
        self.layer = layer

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
          mask, deterministic: handed on to a layer that takes them.
        """
        return over_time(self.layer, inputs, mask=mask, deterministic=deterministic)
