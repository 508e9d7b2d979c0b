"""Which layer of jaxrnn is a layer of Keras, by its configuration?

Every setting that a prediction depends on is read, or refused by name; what acts on
training alone, such as initial values and regularizers, is passed over.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrnn.cells.activations import keras2_hard_sigmoid, linear
from jaxrnn.interchange.keras.config import ACTIVATIONS, MERGES
from jaxrnn.layers.linen import GRU, LSTM, Embed, SimpleRNN
from jaxrnn.layers.linen_wrappers import Bidirectional
from jaxrnn.models.sequential import flatten, is_reserved

Config = Mapping[str, Any]

CLASSES = (
    *("Embedding", "SimpleRNN", "GRU", "LSTM", "CuDNNGRU", "CuDNNLSTM"),
    *("Bidirectional", "TimeDistributed", "Dense", "Activation", "Flatten"),
    *("Dropout", "SpatialDropout1D"),
)
_RECURRENT = {"SimpleRNN": SimpleRNN, "GRU": GRU, "LSTM": LSTM}
_FUNCTIONS = {name: function for function, name in reversed(ACTIVATIONS.items())}
_TRAINING_ALONE = {  # or said of the inputs, or of how the same is computed
    *("name", "trainable", "dtype", "seed", "unroll", "implementation", "sparse"),
    *("batch_input_shape", "batch_shape", "input_length", "unit_forget_bias"),
    *(
        f"{weight}_{what}"
        for weight in ("kernel", "recurrent", "bias", "embeddings", "activity")
        for what in ("initializer", "regularizer", "constraint")
    ),
}


class Version(NamedTuple):
    """What a version of Keras means by words that have changed."""

    hard_sigmoid: Callable[..., Any]
    both_hold: bool  # a Bidirectional repeats its output where the mask is False


def read_version(word: str) -> Version:
    """What a file of this version of Keras means.

    hard_sigmoid has been another function since Keras 3. The Keras inside of TensorFlow
    has zeros where the mask of a Bidirectional is False, since TensorFlow 1.13.

    Example:
      >>> read_version("2.2.4").both_hold, read_version("2.2.4-tf").both_hold
      (True, False)
    """
    found = re.match(r"(\d{1,4})\.(\d{1,4})\.?(\d{1,4})?", word)
    if found is None or not 2 <= int(found[1]) <= 3:
        raise ValueError(f"a keras_version of {word!r}, which is neither 2 nor 3")
    numbers = tuple(int(number or 0) for number in found.groups())
    inside = word.endswith("-tf") and numbers >= (2, 2, 4)
    return Version(
        hard_sigmoid=jax.nn.hard_sigmoid if numbers >= (3,) else keras2_hard_sigmoid,
        both_hold=not (inside or numbers >= (2, 4)),
    )


def own_name(name: str) -> str:
    """The name in a Sequential of jaxrnn, where some names are taken."""
    return f"{name}_" if is_reserved(name) else name


def class_of(entry: Config) -> str:
    """Keras' name of a class; one that somebody registered is known by another name."""
    registered = entry.get("registered_name")
    name = entry["class_name"]
    if registered not in (None, name) or not isinstance(name, str):
        raise ValueError(f"a class of its own, {registered or name!r}")
    return name


def read_layer(class_name: str, config: Config, version: Version) -> tuple[Any, ...]:
    """A module with the name of the layer, a function, one after the other, or nothing.

    Raises:
      ValueError: a class that is not among `CLASSES`, or a setting that jaxrnn lacks;
        KeyError, TypeError: no configuration of Keras.
    """
    name = own_name(config["name"])
    if class_name != "Embedding" or config.get("dtype") != "int32":
        _check_dtype(config)  # Keras 2.0 says there which ids go in
    match class_name:
        case "Embedding":
            _check_known(config, "input_dim", "output_dim", "mask_zero")
            sizes = config["input_dim"], config["output_dim"]
            return (Embed(*sizes, mask_zero=_bool(config, "mask_zero"), name=name),)
        case "Dense":
            _check_known(config, "units", "use_bias", "activation")
            use_bias = _bool(config, "use_bias")
            dense = nn.Dense(_size(config["units"]), use_bias=use_bias, name=name)
            return (dense, *_activation_layers(config, version))
        case "Activation":
            _check_known(config, "activation")
            return _activation_layers(config, version)
        case "Flatten":
            _check_known(config, "data_format")
            if config.get("data_format", "channels_last") != "channels_last":
                raise ValueError(f"data_format {config['data_format']!r}")
            return (flatten,)
        case "Dropout" | "SpatialDropout1D":
            _check_known(config, "rate")
            time = (1,) if class_name == "SpatialDropout1D" else ()
            return (nn.Dropout(config["rate"], broadcast_dims=time, name=name),)
        case "TimeDistributed":
            _check_known(config, "layer")
            inner = config["layer"]
            if class_of(inner) not in ("Dense", "Activation"):
                raise ValueError(f"{class_of(inner)} inside of it")
            renamed = {**inner["config"], "name": name}
            return read_layer(class_of(inner), renamed, version)
        case "Bidirectional":
            return (_bidirectional(config, version),)
    return (_recurrent(class_name, config, version),)


def _bidirectional(config: Config, version: Version) -> Bidirectional:
    _check_known(config, "layer", "backward_layer", "merge_mode")
    forward = config["layer"]
    backward = config.get("backward_layer")
    merges = {name: function for function, name in MERGES.items()}
    if config["merge_mode"] not in merges:
        raise ValueError(f"merge_mode {config['merge_mode']!r}")
    turned = {**forward["config"], "go_backwards": True}
    pair = [(forward, False), (backward or {**forward, "config": turned}, True)]
    for entry, reverse in pair:
        if _bool(entry["config"], "go_backwards") != reverse:
            raise ValueError("two layers that run in the same direction")
        _check_dtype(entry["config"])
    layers = [
        _recurrent(class_of(entry), entry["config"], version, both=True)
        for entry, _ in pair
    ]
    merge = merges[config["merge_mode"]]
    return Bidirectional(*layers, merge=merge, name=own_name(config["name"]))


def _recurrent(
    class_name: str, config: Config, version: Version, *, both: bool = False
) -> nn.Module:
    kind = class_name.removeprefix("CuDNN")
    if kind not in _RECURRENT or class_name == "CuDNNSimpleRNN":
        raise ValueError(f"a class of layers that is not among {', '.join(CLASSES)}")
    of_cudnn = kind != class_name
    known = ["units", "return_sequences", "go_backwards", "zero_output_for_mask"]
    settings: dict[str, Any] = {}
    if of_cudnn:
        settings |= {"reset_after": True} if kind == "GRU" else {}
    else:
        known += ["use_bias", "activation", "dropout", "recurrent_dropout"]
        settings |= {
            "use_bias": _bool(config, "use_bias"),
            "activation": _activation(config["activation"], version),
            "dropout": config["dropout"],
            "recurrent_dropout": config["recurrent_dropout"],
        }
        if kind != "SimpleRNN":
            known.append("recurrent_activation")
            gate = config["recurrent_activation"]
            settings["recurrent_activation"] = _activation(gate, version)
        if kind == "GRU":  # which Keras has had since 2.1
            known.append("reset_after")
            after = "reset_after" in config and _bool(config, "reset_after")
            settings["reset_after"] = after
    if kind == "LSTM":
        settings["unit_forget_bias"] = _bool(config, "unit_forget_bias")
    _check_known(config, *known)
    sequences, reverse = (
        _bool(config, "return_sequences"),
        _bool(config, "go_backwards"),
    )
    zeros = bool(config.get("zero_output_for_mask"))
    if zeros and not sequences:
        raise ValueError("zero_output_for_mask=True without return_sequences")
    holds = version.both_hold if both else not zeros
    return _RECURRENT[kind](
        _size(config["units"]),
        return_sequences=sequences,
        reverse=reverse,
        keep_order=both or not (reverse and sequences),
        hold_outputs=holds and sequences,
        name=None if both else own_name(config["name"]),
        **settings,
    )


def _activation_layers(config: Config, version: Version) -> tuple[Any, ...]:
    function = _activation(config["activation"], version)
    return () if function is linear else (function,)


def _activation(name: Any, version: Version) -> Callable[..., Any]:
    if name is None:
        return linear
    if name == "hard_sigmoid":
        return version.hard_sigmoid
    known = {**_FUNCTIONS, "swish": jax.nn.silu}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"the activation {name!r}")
    return known[name]


def _bool(config: Config, name: str) -> bool:
    if not isinstance(config[name], bool):
        raise ValueError(f"{name} {config[name]!r}, which is neither true nor false")
    return config[name]


def _size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"a size {value!r}")
    return value


def _check_dtype(config: Config) -> None:
    dtype = config.get("dtype")
    name = dtype["config"]["name"] if isinstance(dtype, Mapping) else dtype
    if name not in (None, "float32", "float64"):
        raise ValueError(f"the dtype {name!r}")


def _check_known(config: Config, *names: str) -> None:
    """Raises where a setting says something that is not known here."""
    for name, value in config.items():
        if name not in _TRAINING_ALONE and name not in names and value:
            raise ValueError(f"the setting {name}={value!r}")


def layer_shapes(layer: Any, in_features: int) -> dict[str, Any]:
    """The parameters of a layer as shapes, as `jax.eval_shape` of `init` gives them."""
    if isinstance(layer, Bidirectional):
        return {
            "forward": layer_shapes(layer.forward, in_features),
            "reverse": layer_shapes(layer.reverse, in_features),
        }
    shapes: dict[str, Sequence[int]]
    if isinstance(layer, Embed):
        shapes = {"embedding": (layer.vocab_size, layer.features)}
    elif isinstance(layer, nn.Dense):
        shapes = {"kernel": (in_features, layer.features)}
        shapes |= {"bias": (layer.features,)} if layer.use_bias else {}
    else:
        shapes = {name: s.shape for name, s in layer.specs(in_features).items()}
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()
    }
