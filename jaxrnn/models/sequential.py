"""What does a chain of layers compute that was written as a Keras Sequential?"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Bool

from jaxrnn.cells.base import AnyArray
from jaxrnn.cells.checks import as_array
from jaxrnn.layers.combine import check_separate
from jaxrnn.layers.linen import Embed, Layer
from jaxrnn.layers.linen_rnn import RNN
from jaxrnn.layers.linen_wrappers import TimeDistributed, adopted, ids_of_modules


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


class Handed(NamedTuple):
    """What one layer hands on to the next.

    Attributes:
      values: what it returned.
      mask: (batch, time), True = a step of `values` that is valid.
      last_only: the layer that returned its last output alone, if one did.
      axes: how many these values had: with no more, there are no steps to read.
    """

    values: Any
    mask: Any
    last_only: str | None = None
    axes: int = 0


class Sequential(nn.Module):
    """Layer after layer, with the mask handed on as Keras does: its Sequential.

    An `Embed` with `mask_zero` makes a mask. Recurrent layers skip the steps that it
    marks, and hand it on if they return sequences; whatever keeps the time axis hands
    it on too, an inner `Sequential` and a `TimeDistributed` as well: above one that
    reads the words of every sentence, (batch, sentences, words), a sentence is valid
    where any of its words is. As in Keras, the mask of a layer with `keep_order=False`
    is not reversed with its outputs.

    The parameters of a layer stand under its `name`, or under `layer_0`, `layer_1` and
    so on. Functions are layers without parameters: leave out the last one,
    `Sequential(model.layers[:-1])`, to get logits with the same parameters.

    Attributes:
      layers: `Embed`, recurrent layers of jaxrnn, `RNN`, `TimeDistributed`, another
        `Sequential`, `flax.linen.Dense`, `Dropout` and other modules of one argument,
        and functions such as `jax.nn.relu` or `jaxrnn.models.flatten`.
      names: of the layers; None takes the names that they have.

    Raises:
      TypeError: a layer that is neither a module of Linen nor a function.
      ValueError: no layer, or one twice (Keras and `flax.linen.Sequential` share its
        parameters); a name that stands for something else in a tree of
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
        modules = [layer for layer in self.layers if isinstance(layer, nn.Module)]
        check_separate([ids_of_modules(module) for module in modules])
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
            adopted(layer, by=self) if isinstance(layer, nn.Module) else layer
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

    def __call__(
        self,
        inputs: AnyArray,
        *,
        mask: Bool[AnyArray, "batch time ..."] | None = None,
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
            returned its last output alone, whose batch it would take for time, or
            after a `Bidirectional` that returned a pair; a layer of Flax that reads
            the steps and takes no mask, where there is one.
        """
        if not any(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(inputs)):
            inputs = as_array("inputs", inputs)
        mask = None if mask is None else as_array("mask", mask)
        return self._run(Handed(inputs, mask), deterministic).values

    @nn.compact
    def _run(self, handed: Handed, deterministic: bool | None) -> Handed:
        for name, layer in zip(self.names or (), self.layers, strict=True):
            if isinstance(layer, nn.Module) and layer.name != name:
                layer = layer.copy(parent=self, name=name)
            path = "/".join(layer.path) if isinstance(layer, nn.Module) else name
            handed = self._apply(path, layer, handed, deterministic)
            handed = handed._replace(mask=_mask_of(handed))
        return handed

    def _apply(
        self, name: str, layer: Any, handed: Handed, deterministic: bool | None
    ) -> Handed:
        """What one layer hands on, with the mask that it had."""
        values, mask, *_ = handed
        if isinstance(layer, Embed):
            values, own = layer(values), None
            if layer.mask_zero:
                values, own = values
            return handed._replace(values=values, mask=own if mask is None else mask)
        if isinstance(layer, Sequential):
            return layer._run(handed, deterministic)
        if isinstance(layer, Layer | RNN):
            _check_steps(name, handed)
            before = values.ndim
            if isinstance(layer, RNN):
                values = layer(values, mask=mask)
            else:
                values = layer(values, mask=mask, deterministic=deterministic)
            after = _axes(values)
            if after < before:
                return Handed(values, mask, last_only=name, axes=after)
        elif isinstance(layer, TimeDistributed):
            # Keras hands on mask[:, i]; without more axes that says nothing of steps.
            has_inner = mask is not None and mask.ndim > 2
            inner = mask if has_inner and _reads_steps(layer.layer) else None
            if isinstance(layer.layer, nn.Dropout):
                deterministic = self._is_silent(deterministic)
            elif not isinstance(layer.layer, nn.Sequential):
                _check_takes_mask(name, layer.layer, inner)
            values = layer(values, mask=inner, deterministic=deterministic)
        elif isinstance(layer, nn.Dropout):
            values = layer(values, deterministic=self._is_silent(deterministic))
        else:
            _check_takes_mask(name, layer, mask)
            values = layer(values)
        return handed._replace(values=values)

    def _is_silent(self, deterministic: bool | None) -> bool:
        has_key = self.has_rng("dropout") and not self.is_initializing()
        if deterministic is None and has_key:
            raise ValueError(
                "a model with Dropout must be told what a key for it is to do, got "
                "rngs with dropout and no deterministic; say deterministic=False to "
                "train, deterministic=True to serve."
            )
        return True if deterministic is None else deterministic


def _axes(values: Any) -> int:
    """How many axes values have; of a pair or more, the fewest."""
    return min(leaf.ndim for leaf in jax.tree.leaves(values))


def _mask_of(handed: Handed) -> Any:
    """The mask for the steps that are left: none, or those with any valid one inside.

    So does Keras, whose recurrent layers skip a step where all of its mask is False.
    """
    mask, axes = handed.mask, _axes(handed.values) - 1
    if mask is None or axes < min(mask.ndim, 2):
        return None
    inside = tuple(range(axes, mask.ndim))
    return mask.any(axis=inside) if inside else mask


def _check_steps(name: str, handed: Handed) -> None:
    """Raises where a recurrent layer would read something else than steps."""
    values, _, last_only, axes = handed
    if isinstance(values, tuple):
        raise ValueError(
            f"a recurrent layer takes one array, and {name!r} was handed a pair, as of "
            "a Bidirectional with merge=None; give that a function."
        )
    if last_only is not None and values.ndim <= axes:
        raise ValueError(
            f"a recurrent layer takes every step, and {last_only!r} before {name!r} "
            f"returns its last output alone, of shape {values.shape}; give it "
            "return_sequences=True (Stacked does so by itself)."
        )


OF_JAXRNN = Layer | RNN | TimeDistributed | Sequential


def _reads_steps(layer: Any) -> bool:
    """Whether a mask of steps is of account to a module."""
    if isinstance(layer, nn.Sequential):
        return any(map(_reads_steps, layer.layers))
    return isinstance(layer, OF_JAXRNN | nn.RNN | nn.Bidirectional)


def _check_takes_mask(name: str, layer: Any, mask: Any) -> None:
    """Raises where a module of Flax would read the steps that are masked."""
    if mask is not None and _reads_steps(layer) and not isinstance(layer, OF_JAXRNN):
        raise ValueError(
            f"{name!r} must take a mask, and a {type(layer).__name__} of Flax has no "
            "argument for one; write jaxrnn.RNN, jaxrnn.Bidirectional or "
            "jaxrnn.Sequential in its place."
        )


def _check_layer(layer: Any) -> None:
    if any(kind.__module__.startswith("flax.nnx") for kind in type(layer).__mro__):
        raise TypeError(
            "a layer must be a module of Linen, got one of NNX, whose parameters would "
            f"not be those of the model: {type(layer).__name__}; write that of jaxrnn "
            "or flax.linen."
        )
    if isinstance(layer, type) or not isinstance(layer, nn.Module | Callable):
        raise TypeError(
            "a layer must be a module, such as jaxrnn.LSTM(32) or flax.linen.Dense(2), "
            f"or a function such as jax.nn.relu, got {layer!r}."
        )
    if isinstance(layer, Layer | RNN):
        options = layer.call_options
        if options.return_carry or options.return_all_carries or options.time_major:
            raise ValueError(
                "a recurrent layer of a Sequential returns its outputs alone, batch "
                f"first, got {options}; leave out return_carry, return_all_carries and "
                "time_major."
            )
