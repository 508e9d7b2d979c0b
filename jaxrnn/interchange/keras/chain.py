"""Which layers does the configuration of a Keras model list, in which order?"""

from typing import Any, NamedTuple

from jaxrnn.files import BadFile, Path
from jaxrnn.files.refused import refusing
from jaxrnn.interchange.keras.layers import Version, class_of, read_layer
from jaxrnn.interchange.keras.places import numbered


class KerasLayer(NamedTuple):
    """A layer of a Keras Sequential.

    Attributes:
      name: Keras' name of it.
      place: where Keras 3 keeps its weights, such as "lstm_1".
      layers: the same for a Sequential of jaxrnn: a module of that name (see
        `own_name`), a function, one after the other, or nothing.
    """

    name: str
    place: str
    layers: tuple[Any, ...]


def read_sequential(config: Any, version: Version) -> list[KerasLayer]:
    """The layers of a Sequential, but for its InputLayer.

    Args:
      config: of the model, as JSON says it: `{"class_name", "config"}`, with a list of
        layers in it (Keras 2.0 to 2.2.2) or a dict with "layers".
      version: from `read_version`.

    Raises:
      ValueError: what was found that is not among `CLASSES`, or has a setting that
        jaxrnn lacks; KeyError, TypeError: no configuration of Keras.
    """
    inner = config["config"]
    if class_of(config) != "Sequential":
        raise ValueError(f"{class_of(config)} {inner['name']!r}")
    entries = inner if isinstance(inner, list) else inner["layers"]
    classes = [class_of(entry) for entry in entries]
    read = []
    for entry, class_name, place in zip(
        entries, classes, numbered(classes), strict=True
    ):
        if class_name == "InputLayer":
            continue
        name = entry["config"]["name"]
        if not isinstance(name, str) or "/" in name or name in [x.name for x in read]:
            raise ValueError(f"{class_name} {name!r}, which is no name of one layer")
        try:
            layers = read_layer(class_name, entry["config"], version)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{class_name} {name!r}: {_words(error)}") from error
        inside = "/layer" if class_name == "TimeDistributed" else ""
        read.append(KerasLayer(name, place + inside, layers))
    return read


def layer_place(path: Path, config: Any, name: str) -> str:
    """Where Keras 3 keeps the weights of a layer, by its name in any chain of layers.

    Raises:
      BadFile: no layer of that name.
    """
    if name.startswith("layers/"):
        return name.removeprefix("layers/")
    with refusing(
        path,
        "list its layers in config.json",
        "get another copy of it, this one is damaged",
    ):
        entries = config["config"]["layers"]
        classes = [entry["class_name"] for entry in entries]
        names = [entry["config"]["name"] for entry in entries]
    if name not in names:
        raise BadFile(path, f"hold a layer {name!r}", names, "name one of these")
    number = names.index(name)
    inside = "/layer" if classes[number] == "TimeDistributed" else ""
    return numbered(classes)[number] + inside


def _words(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)
