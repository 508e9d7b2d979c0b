"""Which Sequential model of Keras is a Linen model of jaxrnn?

Only settings that are not Keras' defaults are written: initial values do not matter to
trained weights.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrnn.cells.activations import keras2_hard_sigmoid, linear
from jaxrnn.cells.base import Params
from jaxrnn.interchange.keras.places import numbered
from jaxrnn.interchange.structure import (
    check_like,
    directions,
    layers,
    recurrent_sizes,
)
from jaxrnn.layers.combine import average, concatenate
from jaxrnn.layers.linen import GRU, LSTM, SimpleRNN
from jaxrnn.layers.linen_wrappers import Bidirectional, Stacked
from jaxrnn.models import FlattenClassifier, Forecaster, TextClassifier, TextTagger

Config = dict[str, Any]

_WAY_OUT = "build the model in Keras and give it the weights with save_keras_weights."

# Functions that agree with Keras' of that name. Not so: jax.nn.gelu, which approximates
# by default, and jax.nn.leaky_relu, which has another slope.
ACTIVATIONS: dict[Callable[..., Any], str] = {
    jnp.tanh: "tanh",
    jax.lax.tanh: "tanh",
    jax.nn.sigmoid: "sigmoid",
    jax.lax.logistic: "sigmoid",
    jax.nn.relu: "relu",
    linear: "linear",
    jax.nn.elu: "elu",
    jax.nn.selu: "selu",
    jax.nn.silu: "silu",
    jax.nn.softplus: "softplus",
    jax.nn.soft_sign: "softsign",
    jax.nn.hard_sigmoid: "hard_sigmoid",
    jax.nn.hard_tanh: "hard_tanh",
    jax.nn.relu6: "relu6",
    jnp.exp: "exponential",
    jax.nn.softmax: "softmax",
}


def keras_config(
    model: nn.Module,
    params: Params,
    *,
    mask_zero: bool,
    head_activation: Callable[..., Any] | None = None,
) -> Config:
    """What config.json says of a model: a Sequential and its layers."""
    paths = layers(params)  # the names are checked before they are read
    dtype = keras_dtype(params)

    def dense(units: int, activation: str) -> Config:
        settings = {"units": units, "activation": activation, "use_bias": True}
        return layer_config("Dense", dtype, **settings)

    if isinstance(model, TextClassifier | TextTagger | FlattenClassifier):
        time = None
        if isinstance(model, FlattenClassifier) and "hidden" in params:
            time = params["hidden"]["kernel"].shape[0] // model.embed_features
        inputs = jnp.zeros((1, time or 1), jnp.int32)
        mask_zero = mask_zero or getattr(model, "mask_zero", False)
        embed = {"input_dim": model.vocab_size, "output_dim": model.embed_features}
        chain = [
            input_config([None, time], "int32"),
            layer_config("Embedding", dtype, mask_zero=mask_zero, **embed),
        ]
    elif isinstance(model, Forecaster):
        if mask_zero:
            raise ValueError(
                "mask_zero is for a model that reads ids, got it for a Forecaster."
            )
        first, *_ = directions(*next(iter(paths.items()))).items()
        in_features = recurrent_sizes(*first).in_features
        inputs = jnp.zeros((1, 1, in_features), jnp.float32)
        chain = [input_config([None, None, in_features], None)]
    else:
        raise TypeError(
            "model must be a TextClassifier, TextTagger, FlattenClassifier, Forecaster "
            f"or Sequential, got {type(model).__name__}; {_WAY_OUT}"
        )
    check_like(params, jax.eval_shape(model.init, jax.random.key(0), inputs)["params"])

    if isinstance(model, FlattenClassifier):
        chain.append(layer_config("Flatten", dtype))
    else:
        sequences = isinstance(model, TextTagger)
        chain += recurrent_layers(model.recurrent, dtype, sequences=sequences)
    if not isinstance(model, TextTagger) and model.hidden_features is not None:
        activation = activation_name(model.hidden_activation)
        chain.append(dense(model.hidden_features, activation))
    shape = model.output_shape if isinstance(model, Forecaster) else ()
    units = getattr(model, "num_classes", None) or math.prod(shape)
    chain.append(dense(units, _head(model, head_activation)))
    if len(shape) > 1:  # else Keras' (batch, 1) or (batch, units) is all there is
        chain.append(layer_config("Reshape", dtype, target_shape=list(shape)))
    return sequential_of(chain)


def _head(model: nn.Module, activation: Callable[..., Any] | None) -> str:
    """What the last Dense layer ends in."""
    if activation is not None:
        return activation_name(activation)
    if isinstance(model, Forecaster):
        return "linear"
    classes = getattr(model, "num_classes", None)
    if classes is not None:
        raise ValueError(
            f"a model of {classes} classes must be saved with what its logits go "
            "through in Keras, got no head_activation; give jax.nn.softmax where one "
            "class is right, jax.nn.sigmoid where each label is for itself, "
            "jaxrnn.linear for the logits."
        )
    return "sigmoid"


def keras_dtype(params: Params) -> str:
    """Keras' policy for the layers.

    Keras cannot draw orthogonal values in 16 bits; mixed, its variables have 32.
    """
    dtype = str(jax.tree.leaves(params)[0].dtype)
    return f"mixed_{dtype}" if dtype in ("bfloat16", "float16") else dtype


def activation_name(activation: Callable[..., Any]) -> str:
    """Keras' name of an activation.

    Raises:
      ValueError: for a function that Keras has no name for.

    Example:
      >>> activation_name(jax.nn.relu)
      'relu'
    """
    name = ACTIVATIONS.get(activation)
    if activation is keras2_hard_sigmoid:
        raise ValueError(
            "an activation must have a name in Keras 3, got keras2_hard_sigmoid, which "
            "it has no longer; interchange.to_hard_sigmoid(model, params) gives a "
            "model with the same predictions that has jax.nn.hard_sigmoid."
        )
    if name is None:
        raise ValueError(
            f"an activation must be among {sorted(set(ACTIVATIONS.values()))}, got "
            f"{activation}; {_WAY_OUT}"
        )
    return name


# Settings of a recurrent layer -> Keras' name of them, where it has one.
_SETTINGS = {
    "features": "units",
    "use_bias": "use_bias",
    "reset_after": "reset_after",
    "unit_forget_bias": "unit_forget_bias",
    "dropout": "dropout",
    "recurrent_dropout": "recurrent_dropout",
}
_ACTIVATIONS = ("activation", "recurrent_activation")
_ELSEWHERE = {  # in the arguments below, or in nothing that a trained layer computes
    *("return_sequences", "reverse", "keep_order", "hold_outputs", "solver"),
    *("kernel_init", "recurrent_kernel_init", "bias_init", "dtype", "param_dtype"),
    *("parent", "name"),
}
MERGES = {
    concatenate: "concat",
    jnp.add: "sum",
    jnp.multiply: "mul",
    average: "ave",
}


def recurrent_layers(layer: nn.Module, dtype: str, *, sequences: bool) -> list[Config]:
    """The Keras layers of a recurrent layer, several of a Stacked.

    Args:
      layer: a SimpleRNN, GRU or LSTM, a Bidirectional or a Stacked of these.
      dtype: Keras' policy.
      sequences: whether the last one returns its outputs at all steps.

    Raises:
      TypeError, ValueError: a layer, or a setting of one, that Keras lacks.
    """
    if isinstance(layer, Stacked):
        *lower, last = layer.layers
        configs = []
        for one in lower:
            configs += recurrent_layers(one, dtype, sequences=True)
            if layer.dropout:
                configs.append(layer_config("Dropout", dtype, rate=layer.dropout))
        return configs + recurrent_layers(last, dtype, sequences=sequences)
    if isinstance(layer, Bidirectional):
        if layer.merge not in MERGES:
            raise ValueError(
                "the merge of a Bidirectional must be concatenate, jnp.add, "
                f"jnp.multiply or average, got {layer.merge}; {_WAY_OUT}"
            )
        return [
            layer_config(
                "Bidirectional",
                dtype,
                merge_mode=MERGES[layer.merge],
                layer=_recurrent(layer.forward, dtype, sequences, reverse=False),
                backward_layer=_recurrent(
                    layer.reverse, dtype, sequences, reverse=True
                ),
            )
        ]
    reverse = getattr(layer, "reverse", False)
    if reverse and sequences and getattr(layer, "keep_order", True):
        raise ValueError(
            "Keras returns the sequence of a reversed layer in the order it was made, "
            "so such a layer must return its last output alone, or have "
            f"keep_order=False, got a reversed {type(layer).__name__} below another "
            f"layer; {_WAY_OUT}"
        )
    return [_recurrent(layer, dtype, sequences, reverse=reverse)]


def _recurrent(
    layer: nn.Module, dtype: str, sequences: bool, *, reverse: bool
) -> Config:
    class_name = type(layer).__name__
    if type(layer) not in (SimpleRNN, GRU, LSTM):
        raise TypeError(
            "a recurrent layer must be a SimpleRNN, GRU or LSTM, or a Bidirectional or "
            f"Stacked of these, got {class_name}; {_WAY_OUT}"
        )
    settings: Config = {"return_sequences": sequences, "go_backwards": reverse}
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if field.name in _SETTINGS:
            settings[_SETTINGS[field.name]] = value
        elif field.name in _ACTIVATIONS:
            settings[field.name] = activation_name(value)
        elif field.name not in _ELSEWHERE and value != field.default:
            raise ValueError(
                f"{class_name} must be saved without {field.name}, which the Keras "
                f"layer lacks, got {value!r}; {_WAY_OUT}"
            )
    return layer_config(class_name, dtype, **settings)


def layer_config(class_name: str, dtype: str | None, **settings: Any) -> Config:
    """What config.json says of a layer."""
    return _keras("keras.layers", class_name, {"dtype": dtype, **settings})


def input_config(batch_shape: list[int | None], dtype: str | None) -> Config:
    """The same of what goes in."""
    return layer_config("InputLayer", dtype, batch_shape=batch_shape)


def sequential_of(chain: list[Config]) -> Config:
    """The same of a Sequential of these layers; who has no name gets Keras' own."""
    taken = {entry["config"].get("name") for entry in chain}
    for entry, name in zip(
        chain, numbered([entry["class_name"] for entry in chain]), strict=True
    ):
        if "name" not in entry["config"]:
            while name in taken:
                name += "_"
            entry["config"]["name"] = name
            taken.add(name)
    return _keras("keras", "Sequential", {"name": "sequential", "layers": chain})


def _keras(module: str, class_name: str, config: Config) -> Config:
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }
