"""Is a file of weights that was made to harm, or is damaged, refused by its rule?"""

import io
import json
import pathlib
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxrnn
from jaxrnn.files import BadFile
from jaxrnn.interchange import (
    load,
    load_keras,
    replace_keras_weights,
    save,
    save_keras_model,
    save_keras_weights,
)

KERNEL, BIAS = "layers/dense/vars/0", "layers/dense/vars/1"
PARAMS = {"head": {"kernel": np.ones((2, 3), "f4"), "bias": np.zeros(3, "f4")}}


def most_allocated(function):
    """By Python and NumPy, in bytes; what the function raises goes through."""
    tracemalloc.start()
    try:
        function()
    finally:
        most_allocated.peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def external(file, folder):
    (folder / "secret").write_bytes(b"of another user, thirty bytes.")
    where = [(str(folder / "secret"), 0, 24)]
    file.create_dataset(KERNEL, (2, 3), "f4", external=where)


def virtual(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["secret"] = np.ones((2, 3), "f4")
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[:] = h5py.VirtualSource(folder / "other.h5", "secret", (2, 3))
    file.create_virtual_dataset(KERNEL, layout)


def external_link(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["secret"] = np.ones((2, 3), "f4")
    file[KERNEL] = h5py.ExternalLink(folder / "other.h5", "secret")


def external_root(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other[KERNEL] = np.ones((2, 3), "f4")
    del file["layers"]
    file["layers"] = h5py.ExternalLink(folder / "other.h5", "layers")


def soft_link(file, folder):
    file["elsewhere"] = np.ones((2, 3), "f4")
    file[KERNEL] = h5py.SoftLink("/elsewhere")


def two_names(file, folder):
    file[KERNEL] = np.ones((2, 3), "f4")
    file["layers/dense/vars/2"] = file[KERNEL]


def circle(file, folder):
    file["layers/dense/layers"] = file["layers"]


def compressed(file, folder):
    file.create_dataset(KERNEL, data=np.ones((2, 3), "f4"), compression="gzip")


def chunks(file, folder):
    file.create_dataset(
        KERNEL, (2, 3), "f4", maxshape=(None, None), chunks=(30000, 30000)
    )


def huge_shape(file, folder):
    file.create_dataset(KERNEL, (30000, 30000), "f4")


def not_there(file, folder):
    file.create_dataset(KERNEL, (2, 3), "f4")  # and nothing is written


def no_shape(file, folder):
    file[KERNEL] = h5py.Empty("f4")


def objects(file, folder):
    file.create_dataset(KERNEL, (2, 3), h5py.string_dtype())


def records(file, folder):
    file[KERNEL] = np.zeros((2, 3), [("a", "f4"), ("b", "f4")])


def integers(file, folder):
    file[KERNEL] = np.zeros((2, 3), "i4")


def two_bytes(file, folder):
    file[KERNEL] = np.zeros((2, 3), "V2")
    file[KERNEL].attrs["dtype"] = ["bfloat16"] * 3


def a_dtype(file, folder):
    file[KERNEL] = np.dtype("f4")


TREES = {  # what is made of the kernel: how it is refused
    external: r"in the file itself .* found /layers/dense/vars/0 to be external",
    virtual: r"in the file itself .* found /layers/dense/vars/0 to be virtual",
    compressed: r"in one piece, found /layers/dense/vars/0 to be in chunks, or compr",
    chunks: r"in one piece, found /layers/dense/vars/0 to be in chunks, or compr",
    external_link: "hold no links, .* found ExternalLink 0",
    external_root: "hold no links, .* found ExternalLink layers",
    soft_link: "hold no links, .* found SoftLink 0",
    two_names: r"one name for every .*found a second one, /layers/dense/vars/",
    circle: "one name for every .*found a second one, /layers",
    huge_shape: r"head/kernel must have shape \(2, 3\), found \(30000, 30000\)",
    not_there: r"hold every number .* found 0 bytes in a file of \d+ for the 24 of",
    no_shape: r"head/kernel must have shape \(2, 3\), found \(\)",
    objects: "hold floats .* found dtype object in /layers/dense/vars/0",
    records: r"hold floats .* found dtype \[\('a', '<f4'\)",
    integers: "hold floats .* found dtype int32",
    two_bytes: r"hold floats .* found dtype \|V2",
    a_dtype: "hold groups and arrays and nothing else, found Datatype",
}


@pytest.mark.parametrize("make", TREES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("archived", [False, True], ids=["h5", "keras"])
def test_a_hostile_tree_is_refused_by_its_rule(make, archived, tmp_path):
    tree = io.BytesIO()
    with h5py.File(tree, "w") as file:
        file[BIAS] = np.zeros(3, "f4")
        make(file, tmp_path)
    path = tmp_path / "model.weights.h5"
    path.write_bytes(tree.getvalue())
    if archived:
        path = tmp_path / "model.keras"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model.weights.h5", tree.getvalue())
        with pytest.raises(BadFile, match=TREES[make]):
            replace_keras_weights(path, tmp_path / "new.keras", PARAMS)
        assert not (tmp_path / "new.keras").exists()
    with pytest.raises(BadFile, match=TREES[make]) as caught:
        most_allocated(lambda: load_keras(path, like=PARAMS))
    assert caught.value.path == str(path)
    assert most_allocated.peak < 10**6


def test_a_shape_that_like_has_too_must_be_there(tmp_path):
    """14 kB of file would have taken 3.6 GB."""
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(KERNEL, (30000, 30000), "f4")
    like = {"head": {"kernel": jax.ShapeDtypeStruct((30000, 30000), np.float32)}}
    with pytest.raises(BadFile, match=r"found 0 bytes .* for the 3600000000 of /"):
        most_allocated(lambda: load_keras(path, like=like))
    assert most_allocated.peak < 10**6


def test_floats_of_another_byte_order_come_in_ours(tmp_path):
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file[KERNEL], file[BIAS] = np.full((2, 3), 0.1, ">f8"), np.ones(3, ">f2")
    found = load_keras(path, like=PARAMS)["head"]
    assert (found["kernel"].dtype, found["bias"].dtype) == (np.float64, np.float16)
    np.testing.assert_array_equal(jnp.asarray(found["bias"]), np.ones(3))
    np.testing.assert_array_equal(found["kernel"], np.full((2, 3), 0.1))


@pytest.fixture
def model(tmp_path):
    """A file as Keras writes it, its members, and their parameters."""
    path = tmp_path / "model.keras"
    model = jaxrnn.Forecaster(jaxrnn.SimpleRNN(4), hidden_features=2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 5, 3)))
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes["params"])
    save_keras_model(path, model, params)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return path, members, params


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.filterwarnings("ignore", "Duplicate name")
        for name, content in members:
            archive.writestr(name, content)


def test_an_archive_that_somebody_compressed_is_read(model, tmp_path):
    path, members, params = model
    write_zip(path, members.items(), zipfile.ZIP_DEFLATED)
    replace_keras_weights(path, tmp_path / "new.keras", params)
    for name in (path, tmp_path / "new.keras"):
        found = load_keras(name, like=params)
        jax.tree.map(np.testing.assert_array_equal, found, params)


def test_an_archive_that_unpacks_to_too_much_is_refused(model):
    path, members, params = model
    bomb = members["model.weights.h5"] + bytes(30_000_000)
    write_zip(
        path, (members | {"model.weights.h5": bomb}).items(), zipfile.ZIP_DEFLATED
    )
    assert path.stat().st_size < 50_000
    with pytest.raises(BadFile, match=r"unpack to no more .* found 'model.weights.h5'"):
        most_allocated(lambda: load_keras(path, like=params))
    assert most_allocated.peak < 10**6
    write_zip(
        path,
        [*members.items(), ("assets/a", bomb), ("assets/b", bomb)],
        zipfile.ZIP_DEFLATED,
    )
    load_keras(path, like=params)  # which leaves them alone
    with pytest.raises(BadFile, match=r"unpack to no more .* found 'assets/a' of 3"):
        replace_keras_weights(path, path, params)


def with_bytes(content, old, new):
    assert old in content
    return content.replace(old, new)


def test_archives_are_refused_by_their_rule(model):
    path, members, params = model
    whole = path.read_bytes()

    def refused(rule):
        for use in (
            lambda: load_keras(path, like=params),
            lambda: replace_keras_weights(path, path, params),
        ):
            with pytest.raises(BadFile, match=rule):
                use()

    write_zip(path, [*members.items(), ("model.weights.h5", b"another")])
    refused(r"name no member twice, found 'model.weights.h5' twice")
    write_zip(path, members.items(), zipfile.ZIP_BZIP2)
    refused("store or deflate its members, .* and compression 12")
    entry = b"PK\1\2\x14\3\x14\0"  # of the first member, up to its flags
    path.write_bytes(with_bytes(whole, entry + b"\0", entry + b"\1"))
    refused("without a password, found 'metadata.json' with flags 1")
    size = struct.pack("<I", len(members["model.weights.h5"]))
    path.write_bytes(with_bytes(whole, size * 2, size[:3] + b"\x7f" + size))
    refused(r"of the lengths that it says, found 'model.weights.h5' of \(21")
    path.write_bytes(with_bytes(whole, size * 2, (size[:3] + b"\x7f") * 2))
    refused(r"of the lengths that it says, found 'model.weights.h5' of \(21")
    path.write_bytes(whole[:-5])
    refused("be a zip archive, found BadZipFile")
    number = np.float32(1).tobytes() * 4
    path.write_bytes(with_bytes(whole, number, b"\0" * 16))
    refused("hold a whole model.weights.h5, found BadZipFile: Bad CRC-32")
    write_zip(path, (members | {"model.weights.h5": b"text"}).items())
    refused(r"hold HDF5 in model.weights.h5, found b'text'")
    write_zip(path, (members | {"model.weights.h5": b"\x89HDF"}).items())
    refused("hold an HDF5 tree that can be read, found ")


def test_weights_that_are_nan_are_reported(tmp_path):
    params = {"head": {"kernel": np.full((2, 3), np.nan), "bias": np.ones(3)}}
    params["head"]["bias"][1] = np.inf
    where = "NaN or infinite, .*1 in head/bias"
    save_keras_weights(tmp_path / "model.weights.h5", params)
    with pytest.warns(UserWarning, match=where):
        load_keras(tmp_path / "model.weights.h5", like=params)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    save(tmp_path / "model.safetensors", half)
    with pytest.warns(UserWarning, match=where):
        load(tmp_path / "model.safetensors")


def ours(header, data=b"", length=None):
    """A file of the format, of any header."""
    words = {"__metadata__": {"format": "jaxrnn", "version": "1"}}
    text = header if isinstance(header, str) else json.dumps(words | header)
    size = len(text) if length is None else length
    return struct.pack("<Q", size) + text.encode() + data


def array(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


TWICE = json.dumps({"a": array(), "__metadata__": {"format": "jaxrnn", "version": "1"}})
OURS = {  # what is in the file: how it is refused
    "duplicate": (
        ours(TWICE[:-1] + f', "a": {json.dumps(array())}}}', bytes(4)),
        "two of 'a'",
    ),
    "duplicate_parent": (
        ours({"a": array(), "a/b": array(offsets=(4, 8))}, bytes(8)),
        "found",
    ),
    "duplicate_child": (
        ours({"a/b": array(), "a": array(offsets=(4, 8))}, bytes(8)),
        "a name that begins another one",
    ),
    "long_header": (ours({}, length=2**60), "with a header of 1152921504606846976"),
    "cut_header": (ours({"a": array()}, bytes(4))[:30], "found SafetensorError"),
    "cut_data": (ours({"a": array()}, bytes(3)), "found SafetensorError"),
    "huge_shape": (
        ours({"a": array(shape=(30000, 30000))}, bytes(4)),
        "found SafetensorError",
    ),
    "overflow": (
        ours({"a": array(shape=(2**32, 2**32))}, bytes(4)),
        "found SafetensorError",
    ),
    "objects": (ours({"a": array("OBJECT")}, bytes(4)), "found SafetensorError"),
    "float8": (
        ours({"a": array("F8_E5M2", (4,))}, bytes(4)),
        "hold arrays of bool, .*found F8_E5M2 in a",
    ),
    "deep": (ours('{"a": ' + "[" * 10**5), "found SafetensorError"),
    "empty": (b"", "found error: unpack requires"),
}


@pytest.mark.parametrize("name", OURS)
def test_a_hostile_file_of_ours_is_refused_by_its_rule(name, tmp_path):
    content, match = OURS[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=f"model.safetensors must .*{match}"):
        most_allocated(lambda: load(path))
    assert most_allocated.peak < 10**6


def test_ours_is_compared_with_like_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(
        {"a": np.zeros((1000, 1000))}, path, {"format": "jaxrnn", "version": "1"}
    )
    for like in ({"a": np.zeros(3)}, {"b": np.zeros((1000, 1000))}):
        with pytest.raises(BadFile, match="hold the parameters of `like`, found"):
            most_allocated(lambda like=like: load(path, like=like))
        assert most_allocated.peak < 10**6
    assert load(path)["a"].shape == (1000, 1000)


@pytest.mark.slow
def test_bytes_that_are_wrong_crash_nothing():
    """Each kind of file with one byte replaced, 420 times, and cut short, 60 times."""
    program = pathlib.Path(__file__).parents[1] / "mutations.py"
    done = subprocess.run(
        [sys.executable, program, "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,  # against hanging: it takes half a minute
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 9
    for kind in found:
        assert kind["wrong"] == []
        assert kind["refused"] + kind["loaded"] == 480
        assert min(kind["refused"], kind["loaded"]) >= 20
        # beside it, what Python imports on the way, such as an old code for names
        assert kind["peak"] <= 2 * kind["promised"] + 2**18, kind
        assert kind["grown_mb"] < 20, kind  # with the caches of HDF5
