"""How do parameters get into the files of Keras, and out of them?

`.weights.h5` is an HDF5 tree, `.keras` a zip archive of one beside config.json; see
`places` for the places in it, and `legacy` for the `.h5` of Keras 2. Keras
is not imported; h5py reads and writes the tree.
"""

import io
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from jaxrnn.cells.base import Params
from jaxrnn.files import BadFile, Path, optional, replacing
from jaxrnn.interchange.hdf5 import opened_tree, read_array, write_array
from jaxrnn.interchange.keras.archive import (
    WEIGHTS,
    is_archive,
    read_archive,
    read_config,
    weights_inside,
    write_archive,
)
from jaxrnn.interchange.keras.chain import layer_place
from jaxrnn.interchange.keras.config import keras_config
from jaxrnn.interchange.keras.legacy import is_legacy, legacy_arrays, legacy_layers
from jaxrnn.interchange.keras.places import (
    Groups,
    check_places,
    layer_datasets,
    layer_groups,
    model_groups,
    places,
)
from jaxrnn.interchange.keras.sequential import (
    model_order,
    renamed,
    sequential_config,
)
from jaxrnn.interchange.keras.weights import layer_to_keras, unflatten_keras
from jaxrnn.interchange.structure import (
    MODEL_ORDER,
    Like,
    as_params,
    layers,
    warn_not_finite,
)
from jaxrnn.models import Sequential


def load_keras(
    path: Path,
    *,
    like: Like,
    order: Sequence[str] = MODEL_ORDER,
    layer: str | None = None,
) -> dict[str, Any]:
    """Reads the weights of a model that Keras 2 or 3 saved; see `load_keras_model` too.

    The model is a chain of Embedding, SimpleRNN, GRU, LSTM, Bidirectional and Dense
    layers, in a Sequential or a functional model; layers without weights, such as
    Dropout and Flatten, may stand between them. The optimizer's state is passed over.
    CuDNNLSTM and CuDNNGRU become what an LSTM and a GRU with `reset_after` hold. Of any
    other model `layer` reads one layer.

    A file that comes from elsewhere is safe to read: it is compared with `like` before
    anything is allocated, nothing in it is executed, and nothing in it may lead to
    another file. A warning names weights that are NaN or infinite.

    Args:
      path: a file `*.keras`, from `model.save`, or `*.weights.h5`, from
        `model.save_weights`; `*.h5` or `*.hdf5` of Keras 2 from either.
      like: parameters of the same structure, from `model.init` or its
        `jax.eval_shape`, or an NNX module; settings that leave no trace in the shapes,
        such as the activation, are up to the caller.
      order: the names of the model's layers, in the order in which they act.
      layer: read this one alone, into `like` of a single layer: Keras' name of it, in a
        `.weights.h5` its class and number, such as "lstm_1"; those of a model inside of
        the model in a `.keras` as "layers/functional/layers/lstm_1".

    Returns:
      Parameters as `like` nests them: NumPy arrays in the dtypes of the file.

    Raises:
      BadFile: (a ValueError) another kind of file, or a damaged one; missing or
        unexpected weights, another shape, no floats; links, and arrays that are not
        there, lie in other files, in chunks or compressed; a zip archive that unpacks
        to far more than `like` can need.
      ImportError: without h5py, which `pip install jaxrnn[interchange]` brings.

    Example:
      >>> import tempfile
      >>> model = Forecaster(SimpleRNN(4), hidden_features=2)
      >>> params = model.init(jax.random.key(0), jnp.zeros((1, 5, 3)))["params"]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_keras_weights(f"{folder}/rnn.weights.h5", params)
      ...     loaded = load_keras(f"{folder}/rnn.weights.h5", like=params)
      ...     part = load_keras(
      ...         f"{folder}/rnn.weights.h5", like=params["head"], layer="dense_1"
      ...     )
      >>> bool((loaded["head"]["kernel"] == params["head"]["kernel"]).all())
      True
      >>> bool((part["kernel"] == params["head"]["kernel"]).all())
      True
    """
    like = as_params(like)
    groups = model_groups(like, order)
    with open(path, "rb") as file:
        place = layer
        if layer is not None and is_archive(file):
            place = layer_place(path, read_config(path, file), layer)
        tree = weights_inside(path, file, most=_most_unpacked(groups))
        length = tree.seek(0, io.SEEK_END)
        with opened_tree(path, tree) as opened:
            if is_legacy(opened):
                weights = _legacy_weights(path, opened, length, layer)
                found = legacy_arrays(path, weights, like, order, length)
            else:
                if place is not None:
                    groups = _part_groups(place, like, order)
                datasets = layer_datasets(path, opened, place or "")
                check_places(path, datasets, groups, length)
                want = places(groups)
                found = {want[name][0]: read_array(datasets[name]) for name in want}
    params = unflatten_keras(found, like, order)
    warn_not_finite(path, params)
    return params


def _legacy_weights(
    path: Path, tree: Any, length: int, layer: str | None
) -> list[tuple[str, Any]]:
    found = legacy_layers(path, tree, length)
    if layer is not None and layer not in found:
        rule, way_out = f"hold a layer {layer!r}", "name one of these"
        raise BadFile(path, rule, list(found), way_out)
    chosen = list(found) if layer is None else [layer]
    return [pair for name in chosen for pair in found[name].items()]


def _part_groups(place: str, like: Params, order: Sequence[str]) -> Groups:
    parts = layers(like, order)
    if len(parts) != 1:
        raise ValueError(
            "layer= reads one layer into `like` of one layer, got "
            f"{sorted(parts)}; give the parameters of that layer alone, such as "
            'params["recurrent"].'
        )
    return layer_groups(f"layers/{place}", *next(iter(parts.items())))


def save_keras_weights(
    path: Path, params: Params, *, order: Sequence[str] = MODEL_ORDER
) -> None:
    """Writes what `keras_model.load_weights(path)` reads.

    The Keras model is the Sequential one with the same layers; layers without weights
    may stand between them.

    Args:
      path: must end in `.weights.h5`, which Keras asks for.
      params: of a layer or of a model, as `init` gives them.
      order: the names of the model's layers, in the order in which they act.

    Raises:
      ValueError: another file name, or a layer that Keras lacks.
      ImportError: without h5py, which `pip install jaxrnn[interchange]` brings.

    Example: see `load_keras`.
    """
    if not str(path).endswith(".weights.h5"):
        raise ValueError(
            f"path must end in .weights.h5, which Keras asks for, got {str(path)!r}; "
            "a whole model is for save_keras_model."
        )
    with replacing(path) as unfinished:
        unfinished.write_bytes(_weights_file(params, order))


def save_keras_model(
    path: Path,
    model: nn.Module,
    params: Params,
    *,
    mask_zero: bool = False,
    head_activation: Callable[..., Any] | None = None,
    order: Sequence[str] | None = None,
) -> None:
    """Writes a model of jaxrnn that `keras.saving.load_model(path)` opens.

    It becomes a Sequential model, not compiled: to train on, call its `compile`. The
    classifiers of two classes end in a sigmoid there, as in the tutorials: predictions
    (batch, 1) are `jax.nn.sigmoid` of the logits (batch,). A `Sequential` is saved as
    it is.

    Args:
      path: must end in `.keras`.
      model: a `TextClassifier`, `TextTagger`, `FlattenClassifier` or `Forecaster`, or
        a `Sequential` of what `load_keras_model` reads.
      params: of the model.
      mask_zero: whether Keras shall mask the id 0, as `mask=ids != 0` does here; a
        `TextClassifier` with `mask_zero` does so by itself.
      head_activation: what the last Dense layer ends in there: None is a sigmoid for a
        classifier with one logit and nothing for a Forecaster. With `num_classes` it
        must be given, for nothing else tells classes from labels: `jax.nn.softmax`,
        `jax.nn.sigmoid`, or `jaxrnn.linear` for logits.
      order: the names that `params` has for the model's layers, in the order in which
        they act, where these are of a model of your own; None = the model's names.

    Raises:
      TypeError, ValueError: a model, a layer or a setting that Keras has no name for.
      ImportError: without h5py, which `pip install jaxrnn[interchange]` brings.

    Example:
      >>> import tempfile
      >>> model = Forecaster(SimpleRNN(4), hidden_features=2)
      >>> params = model.init(jax.random.key(0), jnp.zeros((1, 5, 3)))["params"]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_keras_model(f"{folder}/rnn.keras", model, params)
      ...     loaded = load_keras(f"{folder}/rnn.keras", like=params)
      >>> bool((loaded["head"]["kernel"] == params["head"]["kernel"]).all())
      True
    """
    _check_keras_name(path)
    if order is not None:
        params = renamed(model, params, order)
    if isinstance(model, Sequential):
        if head_activation is not None:
            raise ValueError(
                "head_activation is for a model whose last layer gives logits, got it "
                "for a Sequential; put the function behind its last layer."
            )
        config = sequential_config(model, params, mask_zero=mask_zero)
    else:
        config = keras_config(
            model, params, mask_zero=mask_zero, head_activation=head_activation
        )
    metadata = json.dumps({"keras_version": "3.15.1", "saved_by": "jaxrnn"})
    write_archive(
        path,
        {
            "metadata.json": metadata.encode(),
            "config.json": json.dumps(config).encode(),
            WEIGHTS: _weights_file(params, model_order(model)),
        },
    )


def replace_keras_weights(
    source: Path, path: Path, params: Params, *, order: Sequence[str] = MODEL_ORDER
) -> None:
    """Writes a copy of a `.keras` file with other weights.

    The way back for a model that Keras made: its layers, names and settings stay, and
    so does the state of its optimizer, as after Keras' own `model.set_weights`.

    Args:
      source: the file from which `load_keras` took the parameters.
      path: the file to write; may be `source`.
      params: of the structure that `load_keras` returned.
      order: as for `load_keras`.

    Raises:
      BadFile: as `load_keras`, which reads the same places.
      ValueError: another file name.
    """
    _check_keras_name(path)
    groups = model_groups(params, order)
    with open(source, "rb") as file:
        members = read_archive(source, file, most=_most_unpacked(groups))
    tree = io.BytesIO(members[WEIGHTS])
    arrays = _weights(groups)
    with opened_tree(source, tree, "r+") as opened:
        datasets = layer_datasets(source, opened)
        check_places(source, datasets, groups, tree.seek(0, io.SEEK_END))
        places = {name: datasets[name].name for name in arrays}
        for name, array in arrays.items():
            del opened[places[name]]
            write_array(opened, places[name], array)
    write_archive(path, {**members, WEIGHTS: tree.getvalue()})


def _most_unpacked(groups: Groups) -> int:
    """What a compressed tree may take, in bytes, with the state of an optimizer.

    Of every weight eight copies of eight bytes; of every array what HDF5 adds.
    """
    shapes = [shape for _, shape in places(groups).values()]
    return sum(2**18 + 8 * 8 * math.prod(shape) for shape in shapes)


def _weights(groups: Groups) -> dict[str, np.ndarray]:
    return {
        f"{group}/vars/{i}": array
        for group, (_, layer) in groups.items()
        for i, array in enumerate(layer_to_keras(layer).values())
    }


def _weights_file(params: Params, order: Sequence[str]) -> bytes:
    tree = io.BytesIO()
    with optional("h5py", "interchange").File(tree, "w") as file:
        for name, array in _weights(model_groups(params, order)).items():
            write_array(file, name, array)
    return tree.getvalue()


def _check_keras_name(path: Path) -> None:
    if pathlib.Path(path).suffix != ".keras":
        raise ValueError(
            f"path must end in .keras, which Keras asks for, got {str(path)!r}; "
            "weights alone are for save_keras_weights."
        )
