"""Where in the files of Keras 3 does every layer stand? By class and number.

layers/embedding/vars/0                                     Embed
layers/dense/vars/0, layers/dense_1/vars/0, …/1             Dense: kernel, bias
layers/lstm/cell/vars/0, 1, 2                               kernel, recurrent, bias
layers/bidirectional/forward_layer/cell/vars/0, …           and backward_layer
layers/time_distributed/layer/vars/0                        Dense inside of it
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxrnn.cells.base import Params
from jaxrnn.files import BadFile, Path
from jaxrnn.files.refused import refusing
from jaxrnn.interchange.hdf5 import check_array, datasets_below
from jaxrnn.interchange.keras.cudnn import check_bias
from jaxrnn.interchange.keras.weights import keras_class, keras_shapes
from jaxrnn.interchange.structure import (
    MODEL_ORDER,
    check_names,
    directions,
    is_bidirectional,
    join,
    layers,
)

Groups = Mapping[str, tuple[str, Params]]  # group: (path in params, layer)
Places = Mapping[str, tuple[str, tuple[int, ...]]]  # place: (parameter, shape)
_WAY_OUT = "give load_keras the parameters of the model that was saved as `like`"
_OLD_ROOT = "_layer_checkpoint_dependencies"  # where Keras 2.12 and 2.13 have "layers"


def numbered(classes: Iterable[str]) -> list[str]:
    """The names of layers by class and number.

    Example:
      >>> numbered(["LSTM", "SimpleRNN", "LSTM"])
      ['lstm', 'simple_rnn', 'lstm_1']
    """
    seen: collections.Counter[str] = collections.Counter()
    names = []
    for name in map(_snake_case, classes):
        names.append(f"{name}_{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def _snake_case(name: str) -> str:
    """As Keras does; see `to_snake_case` in `keras/src/utils/naming.py`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def layer_groups(base: str, path: str, layer: Params) -> Groups:
    """The groups of one layer, of which a Bidirectional has two.

    Args:
      base: the group of the layer, such as "layers/lstm_1".
      path: of the layer in the parameters.
      layer: its parameters.
    """
    both = is_bidirectional(layer)
    sides = ("/forward_layer", "/backward_layer") if both else ("",)
    groups = {}
    for side, part in zip(sides, directions(path, layer).items(), strict=True):
        cell = "" if keras_class(*part) in ("embedding", "dense") else "/cell"
        groups[f"{base}{side}{cell}"] = part
    return groups


def model_groups(params: Params, order: Sequence[str] = MODEL_ORDER) -> Groups:
    """The groups of all layers of a model."""
    parts = layers(params, order)
    classes = [
        "bidirectional" if is_bidirectional(layer) else keras_class(path, layer)
        for path, layer in parts.items()
    ]
    groups: dict[str, tuple[str, Params]] = {}
    for name, part in zip(numbered(classes), parts.items(), strict=True):
        groups |= layer_groups(f"layers/{name}", *part)
    return groups


def places(groups: Groups) -> Places:
    """What a file must hold."""
    return {
        f"{group}/vars/{i}": (join(path, name), shape)
        for group, (path, layer) in groups.items()
        for i, (name, shape) in enumerate(keras_shapes(layer).items())
    }


def layer_datasets(path: Path, tree: Any, below: str = "") -> dict[str, Any]:
    """The weights of layers by place; no optimizer and no state of dropout.

    Args:
      path: the file's name, for errors.
      tree: of the file.
      below: the part to be read, such as "lstm_1"; "" is all.
    """
    names = list(tree)
    root = next((name for name in ("layers", _OLD_ROOT) if name in names), None)
    if root is None:
        raise BadFile(path, "hold a group layers, as Keras 3 makes", names, _WAY_OUT)
    part = join(root, below) if below else root
    _check_part(path, tree, root, below)
    return {
        f"layers/{join(below, name)}": dataset
        for name, dataset in datasets_below(path, tree, part).items()
        if "seed_generator/" not in name
    }


def _check_part(path: Path, tree: Any, root: str, below: str) -> None:
    """Raises a `BadFile` unless all groups on the way are there, in this very file."""
    parent = tree
    for name in join(root, below).rstrip("/").split("/"):
        if name not in list(parent):
            found = f"{sorted(parent)} in {parent.name}"
            raise BadFile(path, f"hold a layer {below}", found, "name one of these")
        link = parent.get(name, getlink=True)
        if type(link).__name__ != "HardLink":
            rule = "hold no links, to other files or within"
            found = f"{type(link).__name__} {name}"
            raise BadFile(path, rule, found, "get another copy of it")
        parent = parent[name]


def check_places(
    path: Path, datasets: Mapping[str, Any], groups: Groups, length: int
) -> None:
    """Raises a `BadFile` unless the datasets are those of the parameters, all there."""
    want = places(groups)
    with refusing(path, "hold the layers of `like`", _WAY_OUT):
        check_names(datasets, want)
        for group, (layer_path, layer) in groups.items():
            shapes = keras_shapes(layer)
            if "bias" in shapes:
                place = f"{group}/vars/{list(shapes).index('bias')}"
                check_bias(layer_path, shapes, datasets[place].shape)
    for place, (name, shape) in want.items():
        check_array(path, datasets[place], name, shape, length)
