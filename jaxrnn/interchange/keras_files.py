"""How do parameters get into the files of Keras 3, and out of them?

Both kinds of file hold one HDF5 tree, `.weights.h5` alone and `.keras` in a zip archive
beside config.json. Keras is not imported; h5py reads and writes the tree.

The layers stand there by class and number, whatever their names in the model are:

    layers/embedding/vars/0                                     Embed
    layers/dense/vars/0, layers/dense_1/vars/0, …/1             Dense: kernel, bias
    layers/lstm/cell/vars/0, 1, 2                               kernel, recurrent, bias
    layers/bidirectional/forward_layer/cell/vars/0, …           and backward_layer
"""

import collections
import io
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from jaxrnn.cells.base import Params
from jaxrnn.files import BadFile, Path, optional, replacing
from jaxrnn.files.refused import refusing
from jaxrnn.interchange.hdf5 import (
    check_array,
    datasets_below,
    opened_tree,
    read_array,
    write_array,
)
from jaxrnn.interchange.keras import (
    keras_class,
    keras_shapes,
    layer_to_keras,
    unflatten_keras,
)
from jaxrnn.interchange.keras_archive import (
    WEIGHTS,
    read_archive,
    weights_inside,
    write_archive,
)
from jaxrnn.interchange.keras_config import keras_config
from jaxrnn.interchange.structure import (
    MODEL_ORDER,
    check_names,
    directions,
    is_bidirectional,
    join,
    layers,
    warn_not_finite,
)

_Places = Mapping[str, tuple[str, tuple[int, ...]]]
_WAY_OUT = "open it with Keras and save the model as .keras"
_OLD_ROOT = "_layer_checkpoint_dependencies"  # where Keras 2.12 and 2.13 have "layers"


def load_keras(
    path: Path, *, like: Params, order: Sequence[str] = MODEL_ORDER
) -> dict[str, Any]:
    """Reads the weights of a model that Keras 3 saved.

    The model is a chain of Embedding, SimpleRNN, GRU, LSTM, Bidirectional and Dense
    layers, in a Sequential or a functional model; layers without weights, such as
    Dropout and Flatten, may stand between them. The optimizer's state is passed over.

    A file that comes from elsewhere is safe to read: it is compared with `like` before
    anything is allocated, nothing in it is executed, and nothing in it may lead to
    another file. A warning names weights that are NaN or infinite.

    Args:
      path: a file `*.keras`, from `model.save`, or `*.weights.h5`, from
        `model.save_weights`.
      like: parameters of the same structure, from `model.init` or its
        `jax.eval_shape`; settings that leave no trace in the shapes, such as the
        activation, are up to the caller.
      order: the names of the model's layers, in the order in which they act.

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
      >>> bool((loaded["head"]["kernel"] == params["head"]["kernel"]).all())
      True
    """
    want = _wanted(like, order)
    with open(path, "rb") as file:
        tree = weights_inside(path, file, most=_most_unpacked(want))
        with opened_tree(path, tree) as opened:
            datasets = _checked_datasets(path, opened, want, tree.seek(0, 2))
            found = {want[name][0]: read_array(datasets[name]) for name in want}
    params = unflatten_keras(found, dict(want.values()), like, order)
    warn_not_finite(path, params)
    return params


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
    path: Path, model: nn.Module, params: Params, *, mask_zero: bool = False
) -> None:
    """Writes a model of jaxrnn that `keras.saving.load_model(path)` opens.

    It becomes a Sequential model, not compiled: to train on, call its `compile`. The
    classifiers end in a sigmoid there, as in the tutorials: Keras' predictions
    (batch, 1) are `jax.nn.sigmoid` of the logits (batch,).

    Args:
      path: must end in `.keras`.
      model: a `TextClassifier`, `FlattenClassifier` or `Forecaster`.
      params: of the model.
      mask_zero: whether Keras shall mask the id 0, as `mask=ids != 0` does here; a
        `TextClassifier` with `mask_zero` does so by itself.

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
    config = json.dumps(keras_config(model, params, mask_zero=mask_zero))
    metadata = json.dumps({"keras_version": "3.15.1", "saved_by": "jaxrnn"})
    write_archive(
        path,
        {
            "metadata.json": metadata.encode(),
            "config.json": config.encode(),
            WEIGHTS: _weights_file(params, MODEL_ORDER),
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
    want = _wanted(params, order)
    with open(source, "rb") as file:
        members = read_archive(source, file, most=_most_unpacked(want))
    tree = io.BytesIO(members[WEIGHTS])
    arrays = _weights(params, order)
    with opened_tree(source, tree, "r+") as opened:
        datasets = _checked_datasets(source, opened, want, tree.seek(0, 2))
        places = {name: datasets[name].name for name in arrays}
        for name, array in arrays.items():
            del opened[places[name]]
            write_array(opened, places[name], array)
    write_archive(path, {**members, WEIGHTS: tree.getvalue()})


def _most_unpacked(want: _Places) -> int:
    """What a compressed tree may take, in bytes, with the state of an optimizer.

    Of every weight eight copies of eight bytes; of every array what HDF5 adds.
    """
    return sum(2**18 + 8 * 8 * math.prod(shape) for _, shape in want.values())


def _wanted(params: Params, order: Sequence[str]) -> _Places:
    """What a file must hold: `{place: (name of the parameter, shape)}`."""
    return {
        f"{group}/vars/{i}": (join(layer_path, name), shape)
        for group, (layer_path, layer) in _groups(params, order).items()
        for i, (name, shape) in enumerate(keras_shapes(layer).items())
    }


def _groups(params: Params, order: Sequence[str]) -> dict[str, tuple[str, Params]]:
    """Where in a file every layer stands: `{group: (path in params, layer)}`."""
    groups: dict[str, tuple[str, Params]] = {}
    seen: collections.Counter[str] = collections.Counter()
    for path, layer in layers(params, order).items():
        parts = directions(path, layer)
        classes = [keras_class(*part) for part in parts.items()]
        both = is_bidirectional(layer)
        sides = ("/forward_layer", "/backward_layer") if both else ("",)
        name = "bidirectional" if both else classes[0]
        number = f"_{seen[name]}" if seen[name] else ""
        seen[name] += 1
        for side, kind, part in zip(sides, classes, parts.items(), strict=True):
            cell = "" if kind in ("embedding", "dense") else "/cell"
            groups[f"layers/{name}{number}{side}{cell}"] = part
    return groups


def _weights(params: Params, order: Sequence[str]) -> dict[str, np.ndarray]:
    return {
        f"{group}/vars/{i}": array
        for group, (_, layer) in _groups(params, order).items()
        for i, array in enumerate(layer_to_keras(layer).values())
    }


def _weights_file(params: Params, order: Sequence[str]) -> bytes:
    tree = io.BytesIO()
    with optional("h5py", "interchange").File(tree, "w") as file:
        for name, array in _weights(params, order).items():
            write_array(file, name, array)
    return tree.getvalue()


def _checked_datasets(
    path: Path,
    tree: Any,
    want: _Places,
    length: int,
) -> dict[str, Any]:
    """The weights of the layers by place; no optimizer and no state of dropout."""
    names = list(tree)
    root = next((name for name in ("layers", _OLD_ROOT) if name in names), None)
    if root is None:
        legacy = "layer_names" in tree.attrs or "model_weights" in names
        found = "the older .h5 format" if legacy else names
        raise BadFile(path, "hold a group layers, as Keras 3 makes", found, _WAY_OUT)
    datasets = {
        f"layers/{name}": dataset
        for name, dataset in datasets_below(path, tree, root).items()
        if "seed_generator/" not in name
    }
    with refusing(path, "hold the layers of `like`", "it is of another model"):
        check_names(datasets, want)
    for place, (name, shape) in want.items():
        check_array(path, datasets[place], name, shape, length)
    return datasets


def _check_keras_name(path: Path) -> None:
    if pathlib.Path(path).suffix != ".keras":
        raise ValueError(
            f"path must end in .keras, which Keras asks for, got {str(path)!r}; "
            "weights alone are for save_keras_weights."
        )
