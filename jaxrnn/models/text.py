"""Which class is a text of, or each of its words? Embed -> SimpleRNN -> Dense."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.cells.activations import check_activation
from jaxrnn.cells.base import Activation, AnyArray
from jaxrnn.cells.checks import check_size
from jaxrnn.layers.embed import nonzero
from jaxrnn.layers.linen import Embed
from jaxrnn.layers.linen_wrappers import adopted
from jaxrnn.models.parts import (
    as_features,
    as_sequence,
    check_classes,
    check_sizes,
    dense,
    given,
    head,
    ranked,
)


class TextClassifier(nn.Module):
    """Embed -> a recurrent layer -> Dense: which class is a text of?

    Attributes:
      vocab_size: number of ids, padding included.
      embed_features: width of the embedding.
      recurrent: a layer that returns its last output, such as `SimpleRNN(32)` or
        `Stacked(Bidirectional(LSTM(32)), num_layers=2)`.
      mask_zero: id 0 is padding, as in Keras' `Embedding(mask_zero=True)`.
      hidden_features: width of a Dense layer before the last one; None = no such layer.
      hidden_activation: of that layer.
      num_classes: how many classes or labels there are. None = two classes and one
        logit, as in the tutorials.

    Example:
      >>> model = TextClassifier(10_000, embed_features=32, recurrent=SimpleRNN(32))
      >>> ids = jnp.zeros((2, 100), int)
      >>> variables = model.init(jax.random.key(0), ids)
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
      322113
      >>> jax.nn.sigmoid(model.apply(variables, ids)).shape
      (2,)
    """

    vocab_size: int
    embed_features: int
    recurrent: nn.Module
    hidden_features: int | None = None
    hidden_activation: Activation = jax.nn.sigmoid
    mask_zero: bool = False
    num_classes: int | None = None

    def __post_init__(self) -> None:
        check_activation("hidden_activation", self.hidden_activation)
        check_classes(self.num_classes)
        check_sizes(self, "vocab_size", "embed_features", "hidden_features")
        self.recurrent = adopted(self.recurrent, by=self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        ids: Int[AnyArray, "batch time"],
        *,
        mask: Bool[AnyArray, "batch time"] | None = None,
        deterministic: bool | None = None,
    ) -> Float[Array, "batch *classes"]:
        """Returns the logits, (batch,) of two classes, else (batch, num_classes).

        Probabilities are their `jax.nn.sigmoid` where there are two classes, or labels
        each for itself; `jax.nn.softmax` where one class of several is right.

        Args:
          ids: padded rows of ids.
          mask: True = valid. None, as in the tutorials, reads padding as a word, but
            for `mask_zero`.
          deterministic: as the call of `recurrent` takes it: False draws its dropout
            from the key `dropout`.

        Raises:
          TypeError, ValueError: wrong dtype, rank or mask shape, ids out of range.
        """
        features = as_features(_read(self, ids, mask, deterministic))
        if self.hidden_features is not None:
            hidden = dense(self.hidden_features, name="hidden")(features)
            features = self.hidden_activation(hidden)
        logits = head(self.num_classes)(features)
        return logits[:, 0] if self.num_classes is None else logits


class TextTagger(nn.Module):
    """Embed -> a recurrent layer -> Dense at every step: which class is each word of?

    The loss of a tagger counts the words and not the padding, see
    `classification_loss(…, mask=)`.

    Attributes:
      vocab_size: number of ids, padding included.
      embed_features: width of the embedding.
      recurrent: a layer that returns all of its outputs, such as
        `Bidirectional(LSTM(32, return_sequences=True))`.
      num_classes: how many classes or labels a word can have.
      mask_zero: id 0 is padding, as in Keras' `Embedding(mask_zero=True)`.

    Example:
      >>> layer = Bidirectional(LSTM(32, return_sequences=True))
      >>> model = TextTagger(10_000, 32, layer, num_classes=17, mask_zero=True)
      >>> ids = jnp.array([[5, 9, 0], [4, 0, 0]])
      >>> variables = model.init(jax.random.key(0), ids)
      >>> logits = model.apply(variables, ids)
      >>> logits.shape
      (2, 3, 17)
      >>> labels = jnp.array([[1, 16, 0], [3, 0, 0]])
      >>> loss, means = classification_loss(logits, labels, mask=ids != 0)
      >>> means["loss"].weight.item()
      3.0
    """

    vocab_size: int
    embed_features: int
    recurrent: nn.Module
    num_classes: int
    mask_zero: bool = False

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        check_sizes(self, "vocab_size", "embed_features")
        self.recurrent = adopted(self.recurrent, by=self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        ids: Int[AnyArray, "batch time"],
        *,
        mask: Bool[AnyArray, "batch time"] | None = None,
        deterministic: bool | None = None,
    ) -> Float[Array, "batch time classes"]:
        """Returns the logits of every step; those of a masked one are to be left out.

        Args:
          ids: padded rows of ids.
          mask: True = valid. None reads padding as a word, but for `mask_zero`.
          deterministic: as the call of `recurrent` takes it: False draws its dropout
            from the key `dropout`.

        Raises:
          TypeError, ValueError: wrong dtype, rank or mask shape, ids out of range.
        """
        features = as_sequence(_read(self, ids, mask, deterministic))
        return head(self.num_classes)(features)


class FlattenClassifier(nn.Module):
    """Embed -> flatten -> Dense -> Dense: the tutorials' model without recurrence.

    The number of time steps is fixed by the first call, as the width of `hidden`.

    Attributes:
      vocab_size: number of ids, padding included.
      embed_features: width of the embedding.
      hidden_features: width of the hidden Dense layer.
      hidden_activation: of that layer.
      num_classes: as of a `TextClassifier`.

    Example:
      >>> model = FlattenClassifier(10_000, embed_features=16, hidden_features=32)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((2, 30), int))
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
      175425
    """

    vocab_size: int
    embed_features: int
    hidden_features: int
    hidden_activation: Activation = jax.nn.sigmoid
    num_classes: int | None = None

    def __post_init__(self) -> None:
        check_activation("hidden_activation", self.hidden_activation)
        check_classes(self.num_classes)
        check_sizes(self, "vocab_size", "embed_features", "hidden_features")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, ids: Int[AnyArray, "batch time"]
    ) -> Float[Array, "batch *classes"]:
        """Returns the logits, as a `TextClassifier` does.

        Raises:
          TypeError, ValueError: wrong dtype or rank, no time steps, ids out of range.
        """
        ids = ranked("ids", ids, ("batch", "time"))
        features = Embed(self.vocab_size, self.embed_features, name="embed")(ids)
        check_size("time, the last axis of ids,", ids.shape[1])
        width = ids.shape[1] * self.embed_features
        features = features.reshape(features.shape[0], width)
        hidden = dense(self.hidden_features, name="hidden")(features)
        logits = head(self.num_classes)(self.hidden_activation(hidden))
        return logits[:, 0] if self.num_classes is None else logits


def _read(
    model: TextClassifier | TextTagger, ids: Any, mask: Any, deterministic: bool | None
) -> Any:
    """What the recurrent layer makes of a text, within the call of the model."""
    ids = ranked("ids", ids, ("batch", "time"))
    features = Embed(model.vocab_size, model.embed_features, name="embed")(ids)
    if mask is None and model.mask_zero:
        mask = nonzero(ids)
    return model.recurrent(features, mask=mask, **given(deterministic))
