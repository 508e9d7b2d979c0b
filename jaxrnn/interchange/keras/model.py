"""How does a file of a whole Keras model become a model of jaxrnn, with parameters?"""

import io
import itertools
from typing import Any

import flax.linen as nn
import numpy as np

from jaxrnn.files import BadFile, Path
from jaxrnn.files.refused import parse_json, refusing
from jaxrnn.interchange.hdf5 import opened_tree, read_array
from jaxrnn.interchange.keras.archive import WEIGHTS, is_archive, read_archive
from jaxrnn.interchange.keras.chain import KerasLayer, read_sequential
from jaxrnn.interchange.keras.layers import (
    CLASSES,
    layer_shapes,
    own_name,
    read_version,
)
from jaxrnn.interchange.keras.legacy import (
    is_legacy,
    legacy_arrays,
    legacy_config,
    legacy_layers,
)
from jaxrnn.interchange.keras.places import (
    check_places,
    layer_datasets,
    layer_groups,
    places,
)
from jaxrnn.interchange.keras.weights import unflatten_keras
from jaxrnn.interchange.structure import warn_not_finite
from jaxrnn.models.sequential import Sequential

_RULE = f"hold a Sequential of {', '.join(CLASSES)}"
_WAY_OUT = (
    "build its layers in jaxrnn and read the weights by load_keras(path, like=params), "
    "or of one layer by load_keras(path, like=params, layer=its_name)"
)
_DAMAGED = "get another copy of it, this one is damaged"
_Named = list[tuple[str, nn.Module]]


def load_keras_model(path: Path) -> tuple[Sequential, dict[str, Any]]:
    """Reads a whole Sequential that Keras 2 or 3 saved: the model and its parameters.

    Its predictions are Keras', the last activation included: it returns probabilities
    where Keras' model does. Settings that leave no trace in the weights come from the
    file's configuration: activations, `reset_after`, `go_backwards`, `merge_mode`,
    `mask_zero` and so on, by the meaning that they had in the version of Keras that
    saved it (`hard_sigmoid` has another since Keras 3; see `keras2_hard_sigmoid`).
    CuDNNLSTM and CuDNNGRU become LSTM and GRU.

    What acts on training alone is left behind, but for dropout and initial biases:
    initial values, regularizers, constraints, `trainable`, the loss and the optimizer.

    A file that comes from elsewhere is safe to read, as by `load_keras`.

    Args:
      path: a file `*.h5` or `*.hdf5` of Keras 2, or `*.keras`, from `model.save`.

    Returns:
      The model, which can be trained, exported and saved as any, and its parameters:
      NumPy arrays in the dtypes of the file, by Keras' names of the layers.

    Raises:
      BadFile: (a ValueError) weights alone; a model that is no Sequential; a layer or
        setting that jaxrnn lacks, by name and class; and see `load_keras`.
      ImportError: without h5py, which `pip install jaxrnn[interchange]` brings.

    Example:
      >>> import tempfile
      >>> model = Sequential([LSTM(4, name="lstm"), nn.Dense(2, name="dense")])
      >>> inputs = jnp.ones((1, 5, 3))
      >>> params = model.init(jax.random.key(0), inputs)["params"]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     interchange.save_keras_model(f"{folder}/rnn.keras", model, params)
      ...     loaded, same = load_keras_model(f"{folder}/rnn.keras")
      >>> want = model.apply({"params": params}, inputs)
      >>> bool((loaded.apply({"params": same}, inputs) == want).all())
      True
    """
    with open(path, "rb") as file:
        if is_archive(file):
            read = _from_archive(path, file)
        else:
            read = _from_legacy(path, file)
    chain, arrays, like = read
    model = Sequential([layer for one in chain for layer in one.layers])
    params = unflatten_keras(arrays, like, list(like))
    warn_not_finite(path, params)
    return model, params


def _from_archive(
    path: Path, file: io.BufferedIOBase
) -> tuple[list[KerasLayer], dict[str, np.ndarray], dict[str, Any]]:
    length = file.seek(0, io.SEEK_END)
    members = read_archive(path, file, most=20 * length)
    with refusing(path, "hold JSON in config.json and metadata.json", _DAMAGED):
        config = parse_json(members["config.json"])
        version = parse_json(members["metadata.json"])["keras_version"]
    chain = _read_chain(path, config, version)
    tree = io.BytesIO(members[WEIGHTS])
    with opened_tree(path, tree) as opened:
        datasets = layer_datasets(path, opened)
        like, groups = {}, {}
        for name, place, module in _with_weights(chain):
            own, base = own_name(name), f"layers/{place}"
            first = next(iter(layer_groups(base, own, _any(module))))
            rows = _rows(path, name, datasets.get(f"{first}/vars/0"))
            like[own] = layer_shapes(module, rows)
            groups |= layer_groups(base, own, like[own])
        check_places(path, datasets, groups, tree.seek(0, io.SEEK_END))
        want = places(groups)
        arrays = {want[place][0]: read_array(datasets[place]) for place in want}
    return chain, arrays, like


def _from_legacy(
    path: Path, file: io.BufferedIOBase
) -> tuple[list[KerasLayer], dict[str, np.ndarray], dict[str, Any]]:
    length = file.seek(0, io.SEEK_END)
    with opened_tree(path, file) as opened:
        if not is_legacy(opened):
            rule = "be a whole model, a .keras file or an .h5 file of Keras 2"
            way_out = "weights alone are for load_keras, with `like`"
            raise BadFile(path, rule, f"a tree of {list(opened)}", way_out)
        version, config = legacy_config(path, opened, length)
        chain = _read_chain(path, config, version)
        layers = legacy_layers(path, opened, length)
        like, weights = {}, []
        for name, _, module in _with_weights(chain):
            of_layer = list(layers.pop(name, {}).items())
            rows = _rows(path, name, of_layer[0][1] if of_layer else None)
            like[own_name(name)] = layer_shapes(module, rows)
            weights += of_layer
        rest = [name for name, of_layer in layers.items() if of_layer]
        if rest:
            rule = "hold weights of the layers that its configuration lists"
            raise BadFile(path, rule, f"those of {rest} too", _DAMAGED)
        arrays = legacy_arrays(path, weights, like, list(like), length)
    return chain, arrays, like


def _read_chain(path: Path, config: Any, version: Any) -> list[KerasLayer]:
    with refusing(path, _RULE, _WAY_OUT):
        chain = read_sequential(config, read_version(version))
        if not _with_weights(chain):
            raise ValueError("no layer with weights")
    return chain


def _with_weights(chain: list[KerasLayer]) -> list[tuple[str, str, Any]]:
    """Name, place and module of the layers that have parameters."""
    return [
        (one.name, one.place, layer)
        for one in chain
        for layer in itertools.islice(one.layers, 1)
        if isinstance(layer, nn.Module) and not isinstance(layer, nn.Dropout)
    ]


def _any(module: Any) -> dict[str, Any]:
    return layer_shapes(module, 1)  # the names are those of any number of inputs


def _rows(path: Path, name: str, dataset: Any) -> int:
    """How many features the first matrix of a layer takes."""
    shape = getattr(dataset, "shape", None)
    if shape is None or len(shape) != 2 or min(shape) < 1:
        rule = f"hold the matrices of the layer {name!r}"
        raise BadFile(path, rule, "none" if shape is None else shape, _DAMAGED)
    return shape[0]
