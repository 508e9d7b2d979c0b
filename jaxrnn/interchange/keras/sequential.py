"""Which Sequential of Keras is a Sequential of jaxrnn, and what are its names?"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrnn.cells.activations import linear
from jaxrnn.cells.base import Params
from jaxrnn.interchange.keras.config import (
    Config,
    activation_name,
    input_config,
    keras_dtype,
    layer_config,
    recurrent_layers,
    sequential_of,
)
from jaxrnn.interchange.structure import MODEL_ORDER, check_like, layers
from jaxrnn.layers.combine import concatenate
from jaxrnn.layers.linen import GRU, LSTM, Embed, Layer, SimpleRNN
from jaxrnn.layers.linen_wrappers import Bidirectional, Stacked
from jaxrnn.models.sequential import Sequential, flatten


def model_order(model: nn.Module) -> tuple[str, ...]:
    """The names of a model's layers, in the order in which they act."""
    return model.order if isinstance(model, Sequential) else MODEL_ORDER


def renamed(model: nn.Module, params: Params, order: Sequence[str]) -> dict[str, Any]:
    """Parameters of a model of one's own under the names of a model of jaxrnn.

    Raises:
      ValueError: names that are not in `order`, another number of layers.
    """
    own = [name for name in order if name in params]
    if set(own) != set(params):
        layers(params, order)  # which says so
    inputs = [name for name in model_order(model) if _has_params(model, name)]
    if len(own) != len(inputs):
        raise ValueError(
            f"order must name one layer of params for each of {inputs}, the layers of "
            f"the model, got {own}."
        )
    return {name: params[one] for name, one in zip(inputs, own, strict=True)}


def _has_params(model: Any, name: str) -> bool:
    if isinstance(model, Sequential):
        layer = model.layers[list(model.names or ()).index(name)]
        return not isinstance(layer, nn.Dropout)
    has = {
        "embed": hasattr(model, "vocab_size"),
        "recurrent": hasattr(model, "recurrent"),
        "hidden": getattr(model, "hidden_features", None) is not None,
    }
    return has.get(name, True)


def sequential_config(model: Sequential, params: Params, *, mask_zero: bool) -> Config:
    """What config.json says of a Sequential; the arguments are `keras_config`'s."""
    layers(params, model.order)  # the names are checked before they are read
    dtype = keras_dtype(params)
    names = model.names or ()
    chain: list[Config] = []
    shape, width = _input_shape(model, params)
    masked = False
    for number, (name, layer) in enumerate(zip(names, model.layers, strict=True)):
        after = model.layers[number + 1 :]
        if isinstance(layer, Embed):
            masked = mask_zero or layer.mask_zero
            sizes = {"input_dim": layer.vocab_size, "output_dim": layer.features}
            new = [layer_config("Embedding", dtype, mask_zero=masked, **sizes)]
            width = layer.features
        elif isinstance(layer, Layer):
            new = _recurrent(layer, after, dtype, masked=masked)
            masked = masked and layer.call_options.return_sequences
            width = _width(layer)
        elif isinstance(layer, nn.Dense):
            follows = after[0] if after else linear
            is_layer = isinstance(follows, nn.Module) or follows is flatten
            function = linear if is_layer else follows
            units, use_bias = layer.features, layer.use_bias
            activation = activation_name(function)
            options = {"use_bias": use_bias, "activation": activation}
            new = [layer_config("Dense", dtype, units=units, **options)]
            width = layer.features
        elif isinstance(layer, nn.Dropout):
            new = [layer_config(_dropout_class(layer), dtype, rate=layer.rate)]
        elif layer is flatten:
            new = [layer_config("Flatten", dtype)]
            shape = _with_time(shape, names[number + 1 :], params, width)
            masked = False
        elif isinstance(layer, nn.Module):
            raise TypeError(
                "a layer of a Sequential must be an Embed, a recurrent layer, a Dense, "
                f"a Dropout or a function for Keras, got {type(layer).__name__}; "
                "jax.export saves any model."
            )
        elif number and isinstance(model.layers[number - 1], nn.Dense):
            continue  # the activation of that one
        else:
            activation = activation_name(layer)
            new = [layer_config("Activation", dtype, activation=activation)]
        if len(new) == 1:
            new[0]["config"]["name"] = name
        chain += new
    of_ids = isinstance(model.layers[0], Embed)
    if mask_zero and not of_ids:
        raise ValueError("mask_zero is for a model that reads ids, got it for another.")
    _check_params(model, params, shape, of_ids)
    inputs = input_config([None, *shape], "int32" if of_ids else None)
    return sequential_of([inputs, *chain])


def _dropout_class(layer: nn.Dropout) -> str:
    classes = {(): "Dropout", (1,): "SpatialDropout1D"}
    dims = tuple(layer.broadcast_dims)
    if dims not in classes:
        raise ValueError(
            "a Dropout must draw for every number, or once for all steps by "
            f"broadcast_dims=(1,), got {dims}; jax.export saves any model."
        )
    return classes[dims]


def _input_shape(
    model: Sequential, params: Params
) -> tuple[list[int | None], int | None]:
    """Of a row that goes in, and its features, which ids have not."""
    named = zip(model.names or (), model.layers, strict=True)
    name, first = next((n, x) for n, x in named if n in params)
    if isinstance(first, Embed):
        return [None], None
    is_dense = isinstance(first, nn.Dense)
    alone = is_dense and not any(isinstance(x, Layer) for x in model.layers)
    leaf = params[name]
    while "kernel" not in leaf:
        leaf = next(iter(leaf.values()))
    width = leaf["kernel"].shape[0]
    if alone and flatten not in model.layers:
        return [width], width
    return [None, width], width


def _with_time(
    shape: list[int | None], names: Sequence[str], params: Params, width: int | None
) -> list[int | None]:
    """With the number of steps, which the Dense layer behind a Flatten fixes."""
    behind = next((params[name] for name in names if name in params), None)
    if behind is None or "kernel" not in behind or not width:
        return shape
    rows = behind["kernel"].shape[0]
    return [rows // width, *shape[1:]]


def _recurrent(
    layer: Any, after: Sequence[Any], dtype: str, *, masked: bool
) -> list[Config]:
    sequences = layer.call_options.return_sequences
    configs = recurrent_layers(layer, dtype, sequences=sequences)
    if not (masked and sequences):
        return configs
    last = layer.layers[-1] if isinstance(layer, Stacked) else layer
    if isinstance(last, SimpleRNN | GRU | LSTM):
        configs[-1]["config"]["zero_output_for_mask"] = not last.hold_outputs
    elif isinstance(last, Bidirectional) and last.forward.hold_outputs:
        reader = next((x for x in after if not isinstance(x, nn.Dropout)), None)
        if not isinstance(reader, Layer):
            raise ValueError(
                "a Bidirectional has zeros where the mask is False in Keras 3, and is "
                "read by a recurrent layer, which skips these steps, or has no "
                f"hold_outputs, got hold_outputs=True before {type(reader).__name__}; "
                "jax.export saves any model."
            )
    return configs


def _width(layer: Any) -> int | None:
    if isinstance(layer, Stacked):
        return _width(layer.layers[-1])
    if isinstance(layer, Bidirectional):
        one = _width(layer.forward)
        return 2 * one if one and layer.merge is concatenate else one
    return getattr(layer, "features", None)


def _check_params(
    model: Sequential, params: Params, shape: list[int | None], of_ids: bool
) -> None:
    sizes = [size or 1 for size in shape]
    inputs = jnp.zeros((1, *sizes), jnp.int32 if of_ids else jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    check_like(params, shapes["params"])
