"""Is a file in the layout of Keras 2 refused by its rule, damaged or made to harm?"""

import h5py
import numpy as np
import pytest
from legacy_files import write_legacy, write_names

from jaxrnn.files import BadFile
from jaxrnn.interchange import load_keras, load_keras_model

PARAMS = {"head": {"kernel": np.ones((2, 3), "f4"), "bias": np.zeros(3, "f4")}}
DENSE = {"kernel:0": PARAMS["head"]["kernel"], "bias:0": PARAMS["head"]["bias"]}
SETTINGS = {"name": "d", "units": 3, "use_bias": True, "activation": "linear"}
CONFIG = {
    "class_name": "Sequential",
    "config": [{"class_name": "Dense", "config": SETTINGS}],
}
KERNEL = "model_weights/d/kernel:0"


def external_link(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        file.copy("model_weights", other)
    del file["model_weights"]
    file["model_weights"] = h5py.ExternalLink(folder / "other.h5", "model_weights")


def soft_link(file, folder):
    file.move("model_weights/d", "elsewhere")
    file["model_weights/d"] = h5py.SoftLink("/elsewhere")


def circle(file, folder):
    file["model_weights/d/again"] = file["model_weights"]


def compressed(file, folder):
    del file[KERNEL]
    file.create_dataset(KERNEL, data=DENSE["kernel:0"], compression="gzip")


def not_there(file, folder):
    del file[KERNEL]
    file.create_dataset(KERNEL, (2, 3), "f4")


def no_name(file, folder):
    file["model_weights/d/more"] = np.ones(3)


def no_array(file, folder):
    del file[KERNEL]


def no_layer(file, folder):
    del file["model_weights/d"]


def no_list(file, folder):
    del file["model_weights/d"].attrs["weight_names"]


def twice(file, folder):
    write_names(file["model_weights"], "layer_names", ["d", "d"])


def array_twice(file, folder):
    names = ["kernel:0", "kernel:0", "bias:0"]
    write_names(file["model_weights/d"], "weight_names", names)


def upwards(file, folder):
    file["secret"] = np.ones((2, 3), "f4")
    write_names(file["model_weights/d"], "weight_names", ["../../secret", "bias:0"])


def numbers(file, folder):
    file["model_weights"].attrs["layer_names"] = [1, 2]


def nothing(file, folder):
    file["model_weights"].attrs["layer_names"] = h5py.Empty("S3")


def no_text(file, folder):
    file["model_weights"].attrs["layer_names"] = [b"\xff\xfe"]


TREES = {  # how the file is changed: how it is refused
    external_link: "hold no links, .* found ExternalLink model_weights",
    soft_link: "hold no links, .* found SoftLink d",
    circle: "one name for every .*found a second one",
    compressed: r"in one piece, found /model_weights/d/kernel:0 to be in chunks",
    not_there: r"hold every number .* found 0 bytes in a file of \d+ for the 24 of",
    no_name: r"list every array in weight_names, found .*'model_weights/d/more'",
    no_array: "hold every array that weight_names lists, once, found 'model_weights/d",
    no_layer: "hold every layer that layer_names lists, once, found 'd'",
    no_list: r"have an attribute weight_names, found \[\] in /model_weights/d",
    twice: "hold every layer that layer_names lists, once, found 'd'",
    array_twice: "hold every array that weight_names lists, once",
    upwards: "hold every array that weight_names lists, once, found '.*secret'",
    numbers: "have words in its attributes, one or a list, found int64",
    nothing: "have words in its attributes",
    no_text: r"layer_names lists, once, found '.udcff",
}


@pytest.mark.parametrize("change", TREES, ids=lambda change: change.__name__)
def test_a_hostile_file_is_refused_by_its_rule(change, tmp_path):
    path = tmp_path / "a.h5"
    write_legacy(path, {"d": DENSE}, config=CONFIG)
    load_keras_model(path)
    with h5py.File(path, "a") as file:
        change(file, tmp_path)
    for read in (load_keras_model, lambda path: load_keras(path, like=PARAMS)):
        with pytest.raises(BadFile, match=TREES[change]):
            read(path)


def test_words_that_are_many_and_may_be_long_are_refused(tmp_path):
    """They could all be the same word, of the length of the file."""
    path = tmp_path / "a.h5"
    layers = {f"layer_{number}": {} for number in range(300)} | {"d": DENSE}
    write_legacy(path, layers, as_text=True)
    load_keras(path, like=PARAMS)
    with open(path, "ab") as file:
        file.write(bytes(2**20))
    with pytest.raises(
        BadFile, match=r"hold every word .*found 301 words in layer_names"
    ):
        load_keras(path, like=PARAMS)
    rewrite(path, tmp_path / "b.h5")
    load_keras(tmp_path / "b.h5", like=PARAMS)


def rewrite(path, new):
    """What the errors advise: groups, arrays and attributes in a new file."""
    with h5py.File(path) as old, h5py.File(new, "w") as made:

        def write(name, item):
            if isinstance(item, h5py.Dataset):
                made.create_dataset(name, data=item[...])
            else:
                made.require_group(name).attrs.update(item.attrs)

        made.attrs.update(old.attrs)
        old.visititems(write)


def test_a_compressed_file_is_read_when_it_is_written_anew(tmp_path):
    path = tmp_path / "a.h5"
    write_legacy(path, {"d": DENSE}, config=CONFIG)
    with h5py.File(path, "a") as file:
        compressed(file, tmp_path)
    with pytest.raises(
        BadFile, match="write its groups, arrays and attributes to a new"
    ):
        load_keras_model(path)
    rewrite(path, tmp_path / "b.h5")
    _, params = load_keras_model(tmp_path / "b.h5")
    np.testing.assert_array_equal(params["d"]["kernel"], PARAMS["head"]["kernel"])
