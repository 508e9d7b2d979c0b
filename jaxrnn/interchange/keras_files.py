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
import contextlib
import io
import json
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxrnn.cells.base import Params
from jaxrnn.files import Path, optional, replacing
from jaxrnn.interchange.keras import (
    keras_class,
    keras_shapes,
    layer_to_keras,
    unflatten_keras,
)
from jaxrnn.interchange.keras_config import keras_config
from jaxrnn.interchange.structure import (
    MODEL_ORDER,
    check_names,
    directions,
    is_bidirectional,
    join,
    layers,
)

_WEIGHTS = "model.weights.h5"  # inside of a .keras archive
_OLD_ROOT = "_layer_checkpoint_dependencies"  # where Keras 2.12 and 2.13 have "layers"


def load_keras(
    path: Path, *, like: Params, order: Sequence[str] = MODEL_ORDER
) -> dict[str, Any]:
    """Reads the weights of a model that Keras 3 saved.

    The model is a chain of Embedding, SimpleRNN, GRU, LSTM, Bidirectional and Dense
    layers, in a Sequential or a functional model; layers without weights, such as
    Dropout and Flatten, may stand between them. The optimizer's state is passed over.

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
      ValueError: another kind of file, missing or unexpected weights, another shape.
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
    groups = _groups(like, order)
    want = {
        f"{group}/vars/{i}": (join(layer_path, name), shape)
        for group, (layer_path, layer) in groups.items()
        for i, (name, shape) in enumerate(keras_shapes(layer).items())
    }
    with _open_weights(path) as file:
        datasets = _datasets(file)
        try:
            check_names(datasets, want)
        except ValueError as error:
            raise ValueError(f"{path} holds another model: {error}") from error
        found = {want[name][0]: _read(datasets[name]) for name in want}
    return unflatten_keras(found, dict(want.values()), like, order)


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
    _write_archive(
        path,
        {
            "metadata.json": metadata.encode(),
            "config.json": config.encode(),
            _WEIGHTS: _weights_file(params, MODEL_ORDER),
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
      ValueError: as `load_keras`, which reads the same places.
    """
    _check_keras_name(path)
    load_keras(source, like=params, order=order)  # names and shapes are those of params
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    tree = io.BytesIO(members[_WEIGHTS])
    with optional("h5py", "interchange").File(tree, "r+") as file:
        datasets = _datasets(file)
        for name, array in _weights(params, order).items():
            full_name = datasets[name].name
            del file[full_name]
            _write(file, full_name, array)
    _write_archive(path, {**members, _WEIGHTS: tree.getvalue()})


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
            _write(file, name, array)
    return tree.getvalue()


def _datasets(file: Any) -> dict[str, Any]:
    """The weights of the layers by path; no optimizer and no state of dropout."""
    h5py = optional("h5py", "interchange")
    root = next((name for name in ("layers", _OLD_ROOT) if name in file), None)
    if root is None:
        legacy = "layer_names" in file.attrs or "model_weights" in file
        raise ValueError(
            "a file of Keras 3 must hold a group layers, found "
            f"{'the older .h5 format' if legacy else sorted(file)}; open it with Keras "
            "and save the model as .keras."
        )
    found = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and "seed_generator/" not in name:
            found[f"layers/{name}"] = item

    file[root].visititems(visit)  # follows no links to other files
    return found


def _read(dataset: Any) -> np.ndarray:
    is_bfloat16 = dataset.attrs.get("dtype") == "bfloat16"  # two bytes to HDF5
    return dataset[...].view(jnp.bfloat16) if is_bfloat16 else dataset[...]


def _write(group: Any, name: str, array: np.ndarray) -> None:
    dataset = group.create_dataset(name, data=array)
    if array.dtype == jnp.bfloat16:
        dataset.attrs["dtype"] = "bfloat16"


@contextlib.contextmanager
def _open_weights(path: Path) -> Iterator[Any]:
    """The HDF5 tree of either kind of file."""
    content = pathlib.Path(path).read_bytes()
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if _WEIGHTS not in archive.namelist():
                raise ValueError(
                    f"{path} must be a .keras file with {_WEIGHTS}, found a zip "
                    f"archive with {archive.namelist()[:3]}; a file of PyTorch goes "
                    "through torch.load and from_torch."
                )
            content = archive.read(_WEIGHTS)
    if not content.startswith(b"\x89HDF"):
        raise ValueError(
            f"{path} must be a .keras or .weights.h5 file of Keras 3, found neither a "
            "zip archive nor HDF5; save it again with model.save."
        )
    with optional("h5py", "interchange").File(io.BytesIO(content), "r") as tree:
        yield tree


def _write_archive(path: Path, members: Mapping[str, bytes]) -> None:
    with replacing(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # no date: same bytes


def _check_keras_name(path: Path) -> None:
    if pathlib.Path(path).suffix != ".keras":
        raise ValueError(
            f"path must end in .keras, which Keras asks for, got {str(path)!r}; "
            "weights alone are for save_keras_weights."
        )
