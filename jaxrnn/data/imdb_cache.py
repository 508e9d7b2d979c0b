"""Where are the encoded reviews kept between runs?

In one uncompressed `.npz` per data set and vocabulary: 47 MB, read in 0.1 s,
where reading and encoding the texts takes seconds. Its name holds a hash of all
that decides its contents, so a file never has to be updated, and the folder may
be deleted at any time.
"""

import io
import json
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int32

from jaxrnn.files import BadFile, replacing
from jaxrnn.files.archives import opened_zip, read_member
from jaxrnn.files.refused import parse_json, refusing

_DTYPES = {
    "words": "uint8",
    "word_ids": "int32",
    **{f"{split}_ids": "int32" for split in ("train", "test")},
    **{f"{split}_lengths": "int64" for split in ("train", "test")},
    **{f"{split}_labels": "float32" for split in ("train", "test")},
}
CACHE_VERSION = 1  # raise it when the encoding or the layout of the file changes


class EncodedSplit(NamedTuple):
    """Reviews as ids end to end, the number of ids of each, and the labels."""

    ids: Int32[np.ndarray, " total"]
    lengths: Int[np.ndarray, " examples"]
    labels: Float32[np.ndarray, " examples"]


class EncodedReviews(NamedTuple):
    """Both splits and the vocabulary that encoded them (word -> id), all ids kept."""

    train: EncodedSplit
    test: EncodedSplit
    word_ids: dict[str, int]


def load_encoded(path: Path) -> EncodedReviews | None:
    """Reads a file of `save_encoded`; None if there is none, or a bit of it is wrong.

    Args:
      path: the file.
    """
    rule, way_out = "be a cache of load_imdb", "it is made anew"
    try:
        with path.open("rb") as file, refusing(path, rule, way_out):
            return _read(path, file)
    except (OSError, BadFile):  # not there or not readable; damaged
        return None


def _read(path: Path, file: io.BufferedIOBase) -> EncodedReviews:
    with opened_zip(path, file) as archive:
        # np.load would believe the shape in a header before it has seen the checksum
        arrays = {
            name: _array(read_member(path, archive, f"{name}.npy", most=0), dtype)
            for name, dtype in _DTYPES.items()
        }
    splits = [
        EncodedSplit._make(arrays[f"{name}_{key}"] for key in EncodedSplit._fields)
        for name in ("train", "test")
    ]
    for ids, lengths, labels in splits:
        whole = len(ids) == lengths.sum() and len(labels) == len(lengths)
        if not whole or lengths.min(initial=1) < 1:
            raise ValueError("every review must have its ids and its label")
    words = parse_json(arrays["words"].tobytes())
    word_ids = dict(zip(words, arrays["word_ids"].tolist(), strict=True))
    train, test = splits
    return EncodedReviews(train, test, word_ids)


def _array(content: bytes, dtype: str) -> np.ndarray:
    """The one axis of a .npy file; nothing is allocated that the file does not hold."""
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    shape, _, found = np.lib.format.read_array_header_1_0(file)
    data = memoryview(content)[file.tell() :]
    if found != dtype or shape != (len(data) // found.itemsize,):
        raise ValueError(f"an array must be a row of {dtype}, found {found} {shape}")
    return np.frombuffer(bytearray(data), found)  # can be written to


def save_encoded(path: Path, encoded: EncodedReviews) -> None:
    """Writes `encoded` to `path`, whole or not at all.

    Warns, and goes on, where the folder cannot be written.

    Args:
      path: the file; its folder is made.
      encoded: what `load_encoded` shall return.
    """
    words = json.dumps(list(encoded.word_ids)).encode()
    arrays = {
        "words": np.frombuffer(words, np.uint8),
        "word_ids": np.array(list(encoded.word_ids.values()), np.int32),
    }
    for name in ("train", "test"):
        for field, array in getattr(encoded, name)._asdict().items():
            arrays[f"{name}_{field}"] = array
    try:
        with replacing(path) as unfinished:
            np.savez(unfinished, **arrays)
    except OSError as error:
        warnings.warn(
            f"load_imdb encodes the reviews anew each time, because {path.parent} "
            f"cannot be written ({error}); cache_dir names another folder.",
            stacklevel=3,
        )
