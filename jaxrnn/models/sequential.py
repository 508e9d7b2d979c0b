"""What does a chain of layers compute that was written as a Keras Sequential?"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Bool

from jaxrnn.cells.base import AnyArray
from jaxrnn.layers.linen import Embed, Layer
from jaxrnn.layers.linen_wrappers import adopted


def flatten(values: Array) -> Array:
    """Joins all axes but the batch: Keras' Flatten.

    Example:
      >>> flatten(jnp.zeros((5, 7, 2))).shape
      (5, 14)
    """
    return values.reshape(values.shape[0], -1)


def is_reserved(name: str) -> bool:
    """Whether a name has a meaning of its own in Flax or in trees of parameters.

    Example:
      >>> is_reserved("layers_0"), is_reserved("lstm_1")
      (True, False)
    """
    taken = ("params", "forward", "reverse", "layers", "names")
    return name in taken or re.fullmatch(r"layers_\d+", name) is not None


class Sequential(nn.Module):
    """Layer after layer, with the mask handed on as Keras does: its Sequential.

    An `Embed` with `mask_zero` makes a mask. Recurrent layers skip the steps that it
    marks, and hand it on if they return sequences; whatever keeps the time axis hands
    it on too. As in Keras, the mask of a layer with `keep_order=False` is not reversed
    with its outputs.

    The parameters of a layer stand under its `name`, or under `layer_0`, `layer_1` and
    so on. Functions are layers without parameters: leave out the last one,
    `Sequential(model.layers[:-1])`, to get logits with the same parameters.

    Attributes:
      layers: `Embed`, recurrent layers of jaxrnn, `flax.linen.Dense`, `Dropout` and
        other modules of one argument, and functions such as `jax.nn.relu` or
        `jaxrnn.models.flatten`.
      names: of the layers; None takes the names that they have.

    Raises:
      TypeError: a layer that is neither a module nor a function.
      ValueError: no layer; a name that stands for something else in a tree of
        parameters, such as "forward" or "layers_0"; a recurrent layer that returns
        more than its outputs, or in other axes.

    Example:
      >>> embed = Embed(10, 4, mask_zero=True, name="embedding")
      >>> layers = [embed, LSTM(3), nn.Dense(2, name="dense"), jax.nn.softmax]
      >>> model = Sequential(layers)
      >>> ids = jnp.array([[1, 2, 0]])
      >>> variables = model.init(jax.random.key(0), ids)
      >>> list(variables["params"]), model.apply(variables, ids).shape
      (['embedding', 'layer_1', 'dense'], (1, 2))
    """

    layers: Sequence[Any]
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Sequence) or not self.layers:
            raise ValueError(
                "layers must be a list of at least one layer, got "
                f"{self.layers!r}; write Sequential([layer, ...])."
            )
        for layer in self.layers:
            _check_layer(layer)
        if self.names is None:  # Flax forgets the names of what stands in a list
            self.names = tuple(
                getattr(layer, "name", None) or f"layer_{number}"
                for number, layer in enumerate(self.layers)
            )
        for name in filter(is_reserved, self.names):
            raise ValueError(
                "a layer must have a name that means nothing else in parameters, got "
                f"{name!r}; name it {name + '_'!r}."
            )
        self.layers = tuple(
            adopted(layer) if isinstance(layer, nn.Module) else layer
            for layer in self.layers
        )
        super().__post_init__()

    @property
    def order(self) -> tuple[str, ...]:
        """The names of the layers in the order in which they act, functions left out.

        It is `order` of the functions of `jaxrnn.interchange`.
        """
        pairs = zip(self.names or (), self.layers, strict=True)
        return tuple(name for name, layer in pairs if isinstance(layer, nn.Module))

    @nn.compact
    def __call__(
        self,
        inputs: AnyArray,
        *,
        mask: Bool[AnyArray, "batch time"] | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Returns what the last layer returns.

        Args:
          inputs: what the first layer takes, (batch, time) ids or (batch, time,
            features).
          mask: True = valid; None = every step is, or what `mask_zero` says.
          deterministic: False draws dropout, from the key `dropout`; None is True, but
            an error where there is noise and such a key.

        Raises:
          TypeError, ValueError: as the layers do; a recurrent layer after one that
            returned its last output alone, whose batch it would take for time.
        """
        values, last_only, axes = inputs, None, 0
        for name, layer in zip(self.names or (), self.layers, strict=True):
            if isinstance(layer, nn.Module) and layer.name != name:
                layer = layer.clone(parent=self, name=name)
            if isinstance(layer, Embed):
                values, own = layer(values), None
                if layer.mask_zero:
                    values, own = values
                mask = own if mask is None else mask
            elif isinstance(layer, Layer):
                if last_only is not None and values.ndim <= axes:
                    raise ValueError(
                        f"a recurrent layer takes every step, and {last_only!r} before "
                        f"{name!r} returns its last output alone, of shape "
                        f"{values.shape}; give it return_sequences=True (Stacked does "
                        "so by itself)."
                    )
                before = values.ndim
                values = layer(values, mask=mask, deterministic=deterministic)
                if values.ndim < before:
                    last_only, axes = name, values.ndim
            elif isinstance(layer, nn.Dropout):
                values = layer(values, deterministic=self._is_silent(deterministic))
            else:
                values = layer(values)
            mask = mask if values.ndim > 2 else None
        return values

    def _is_silent(self, deterministic: bool | None) -> bool:
        has_key = self.has_rng("dropout") and not self.is_initializing()
        if deterministic is None and has_key:
            raise ValueError(
                "a model with Dropout must be told what a key for it is to do, got "
                "rngs with dropout and no deterministic; say deterministic=False to "
                "train, deterministic=True to serve."
            )
        return True if deterministic is None else deterministic


def _check_layer(layer: Any) -> None:
    if isinstance(layer, type) or not isinstance(layer, nn.Module | Callable):
        raise TypeError(
            "a layer must be a module, such as jaxrnn.LSTM(32) or flax.linen.Dense(2), "
            f"or a function such as jax.nn.relu, got {layer!r}."
        )
    if isinstance(layer, Layer):
        options = layer.call_options
        if options.return_carry or options.return_all_carries or options.time_major:
            raise ValueError(
                "a recurrent layer of a Sequential returns its outputs alone, batch "
                f"first, got {options}; leave out return_carry, return_all_carries and "
                "time_major."
            )
