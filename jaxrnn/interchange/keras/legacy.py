"""What do the HDF5 files of Keras 2 hold, and those that Keras 3 writes in that layout?

A whole model, `.h5` or `.hdf5`, or its weights alone:

    attributes   keras_version, model_config (JSON), of a whole model
    model_weights/                 the root itself, where there are weights alone
      attribute  layer_names       or layer_names0, layer_names1, …, where they are many
      lstm_1/
        attribute  weight_names    lstm_1/kernel:0, lstm_1/recurrent_kernel:0, …
        lstm_1/kernel:0            an array
    optimizer_weights/             passed over
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrnn.cells.base import Params
from jaxrnn.files import BadFile, Path, optional
from jaxrnn.files.refused import parse_json, refusing
from jaxrnn.interchange.hdf5 import check_array, items_below, read_array, read_words
from jaxrnn.interchange.keras.cudnn import check_bias, is_cudnn
from jaxrnn.interchange.keras.weights import keras_shapes, single_layers
from jaxrnn.interchange.structure import join

_ROOT, _OPTIMIZER = "model_weights", "optimizer_weights"
_WAY_OUT = "get another copy of it, this one is damaged"
_OTHER = "it is of another model, or `like` has other settings"
# Keras' names of a weight -> ours.
_NAMES = {
    "embeddings": "embedding",
    "kernel": "kernel",
    "recurrent_kernel": "recurrent_kernel",
    "bias": "bias",
}


def is_legacy(tree: Any) -> bool:
    """Whether an HDF5 tree has the layout of Keras 2."""
    return _ROOT in list(tree) or any(
        name in tree.attrs for name in ("layer_names", "layer_names0")
    )


def legacy_layers(path: Path, tree: Any, length: int) -> dict[str, dict[str, Any]]:
    """The weights of every layer: `{layer: {name: dataset}}`, in Keras' order.

    Args:
      path: the file's name, for errors.
      tree: of `opened_tree`.
      length: bytes of the file.

    Raises:
      BadFile: names of what is not there, arrays without a name.
    """
    h5py = optional("h5py", "interchange")
    items = items_below(path, tree, list(tree))
    arrays = {k: v for k, v in items.items() if isinstance(v, h5py.Dataset)}
    stored = sum(array.id.get_storage_size() for array in arrays.values())
    most = max(length - stored, 0)  # bytes for words
    whole = _ROOT in items
    top, prefix = (items[_ROOT], f"{_ROOT}/") if whole else (tree, "")
    layers: dict[str, dict[str, Any]] = {}
    for name in _list(path, top, "layer_names", most):
        group = items.get(prefix + name)
        if not isinstance(group, h5py.Group) or name in layers:
            rule = "hold every layer that layer_names lists, once"
            raise BadFile(path, rule, repr(name), _WAY_OUT)
        layers[name] = {}
        for weight in _list(path, group, "weight_names", most):
            place = f"{prefix}{name}/{weight}"
            if place not in arrays:
                rule = "hold every array that weight_names lists, once"
                raise BadFile(path, rule, repr(place), _WAY_OUT)
            array = arrays.pop(place)
            if "seed_generator" not in weight:  # the state of dropout in Keras 3
                layers[name][weight] = array
    rest = [
        name
        for name in arrays
        if name.startswith(prefix) and not name.startswith(f"{_OPTIMIZER}/")
    ]
    if rest:
        rule = "list every array in weight_names"
        raise BadFile(path, rule, f"besides them {rest}", _WAY_OUT)
    return layers


def legacy_arrays(
    path: Path,
    weights: Sequence[tuple[str, Any]],
    like: Params,
    order: Sequence[str],
    length: int,
) -> dict[str, np.ndarray]:
    """The arrays of a model by the path of the parameter, as `unflatten_keras` takes.

    Args:
      path: the file's name, for errors.
      weights: names and datasets in Keras' order.
      like, order: as for `load_keras`.
      length: bytes of the file.

    Raises:
      BadFile: another number of arrays, other names or shapes.
    """
    layers = [(one, keras_shapes(layer)) for one, layer in single_layers(like, order)]
    want = [(join(one, name), s[name]) for one, s in layers for name in s]
    if len(weights) != len(want):
        found = (
            f"{len(weights)} arrays, {_listed(weights)}, for its {len(want)}, {want}"
        )
        raise BadFile(path, "hold the layers of `like`", found, _OTHER)
    rest = iter(weights)
    arrays = {}
    for layer_path, shapes in layers:
        datasets = {name: next(rest) for name in shapes}
        for name, (weight, _) in datasets.items():
            _check_name(path, layer_path, name, weight)
        bias = datasets["bias"][1].shape if "bias" in shapes else None
        with refusing(path, "hold the layers of `like`", _OTHER):
            check_bias(layer_path, shapes, bias)
        for name, (_, dataset) in datasets.items():
            of_cudnn = name == "bias" and is_cudnn(shapes, bias)
            shape = bias if of_cudnn else shapes[name]
            parameter = join(layer_path, name)
            check_array(path, dataset, parameter, shape or (), length)
            arrays[parameter] = dataset
    return {name: read_array(dataset) for name, dataset in arrays.items()}


def legacy_config(path: Path, tree: Any, length: int) -> tuple[str, Any]:
    """The version of Keras that saved a whole model, and what it says of the model.

    Raises:
      BadFile: weights alone, or no JSON.
    """
    if "model_config" not in tree.attrs or "keras_version" not in tree.attrs:
        rule = "be a whole model with the attributes model_config and keras_version"
        way_out = "weights alone are for load_keras, with `like`"
        raise BadFile(path, rule, sorted(tree.attrs), way_out)
    version, *_ = read_words(path, tree, "keras_version", most=length)
    config, *_ = read_words(path, tree, "model_config", most=length)
    with refusing(path, "hold JSON in model_config", _WAY_OUT):
        return version, parse_json(config)


def _list(path: Path, group: Any, name: str, most: int) -> list[str]:
    """A list of names, which Keras divides where HDF5 would not take it whole."""
    if name in group.attrs:
        return read_words(path, group, name, most=most)
    if f"{name}0" not in group.attrs:
        found = f"{sorted(group.attrs)} in {group.name}"
        raise BadFile(path, f"have an attribute {name}", found, _WAY_OUT)
    words = []
    number = 0
    while f"{name}{number}" in group.attrs:
        words += read_words(path, group, f"{name}{number}", most=most)
        number += 1
    return words


def _check_name(path: Path, layer_path: str, name: str, weight: str) -> None:
    """Compares with Keras' name of a weight, where it is one of those known here."""
    last = re.sub(r"(_\d+)?(:\d+)?$", "", weight.split("/")[-1])
    of_side = layer_path.split("/")[-1]
    sides = {"forward": "/backward_", "reverse": "/forward_"}
    is_other_side = sides.get(of_side, "//") in f"/{weight}"
    if _NAMES.get(last, name) != name or is_other_side:
        found = f"{weight!r} where {join(layer_path, name)} is to be"
        raise BadFile(path, "hold the layers of `like` in its order", found, _OTHER)


def _listed(weights: Sequence[tuple[str, Any]]) -> str:
    return str([(name, dataset.shape) for name, dataset in weights])
