"""Which files did Keras 2 write? Real ones, and a writer of their layout."""

import json
import pathlib
import zipfile

import h5py
import numpy as np

FOLDER = pathlib.Path(__file__).parent / "fixtures" / "keras_legacy"
PREDICTIONS = json.loads((FOLDER / "predictions.json").read_text())
IDS = np.array(PREDICTIONS.pop("ids"), np.int32)


def unpack(folder):
    """The files of the fixtures."""
    with zipfile.ZipFile(FOLDER / "files.zip") as archive:
        archive.extractall(folder)
    return folder


def write_names(group, attribute, names, *, as_text=False, parts=1):
    """A list of names as Keras writes it: bytes or text, in parts where it is long."""
    kind = h5py.string_dtype() if as_text else None
    names = names if as_text else [name.encode() for name in names]
    pieces = np.array_split(np.array(names, object), parts)
    for number, piece in enumerate(pieces):
        key = attribute if parts == 1 else f"{attribute}{number}"
        # an empty list is one of floats, as in Keras 2
        value = np.array(piece.tolist()) if len(piece) else np.zeros(0)
        value = piece if as_text and len(piece) else value
        group.attrs.create(key, value, dtype=kind if len(piece) else None)


def write_legacy(
    path, layers, *, config=None, version="2.2.4", optimizer=False, **options
):
    """A whole model with `config`, else its weights alone.

    `layers` is `{name: {name of a weight: array}}`; `options` are `write_names`'.
    """
    with h5py.File(path, "w") as file:
        top = file if config is None else file.create_group("model_weights")
        for group in (file, top):
            group.attrs["keras_version"] = version.encode()
            group.attrs["backend"] = b"tensorflow"
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
        write_names(top, "layer_names", list(layers), **options)
        for name, weights in layers.items():
            group = top.create_group(name)
            write_names(group, "weight_names", list(weights), **options)
            for weight, array in weights.items():
                group[weight] = array
        if optimizer:
            state = file.create_group("optimizer_weights")
            write_names(state, "weight_names", ["Adam/iterations:0", "Adam/m:0"])
            state["Adam/iterations:0"] = 7
            state["Adam/m:0"] = np.zeros(3, np.int64)
