"""Where is the HDF5 tree in a file of Keras 3? It is the file, or in an archive.

A `.keras` file is a zip archive of config.json, metadata.json and the tree; Keras does
not compress them. A file that somebody compressed is read within limits.
"""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

from jaxrnn.files import BadFile, Path, replacing
from jaxrnn.files.archives import opened_zip, read_member
from jaxrnn.files.refused import parse_json, refusing

WEIGHTS = "model.weights.h5"  # the member that is the tree
_HDF5 = b"\x89HDF"
_MOST_UNPACKED = 20  # times the file: JSON may be compressed so far
_WAY_OUT = "get another copy of it, this one is damaged"


def is_archive(file: io.BufferedIOBase) -> bool:
    """Whether an open file is a zip archive by its first bytes."""
    file.seek(0)
    start = file.read(2)
    file.seek(0)
    return start == b"PK"


def weights_inside(
    path: Path, file: io.BufferedIOBase, *, most: int
) -> io.BufferedIOBase:
    """The tree in either kind of file.

    Args:
      path: the file's name, for errors.
      file: opened.
      most: bytes of a tree that is compressed in an archive.

    Raises:
      BadFile: neither kind, or see `read_archive`.
    """
    start = file.read(4)
    file.seek(0)
    if start == _HDF5:
        return file
    if start[:2] != b"PK":
        rule = "be a .keras, .h5 or .hdf5 file of Keras"
        raise BadFile(path, rule, "neither a zip archive nor HDF5", _WAY_OUT)
    with opened_zip(path, file) as archive:
        return io.BytesIO(_read_weights(path, archive, most))


def read_archive(path: Path, file: io.BufferedIOBase, *, most: int) -> dict[str, bytes]:
    """All members of a `.keras` file by name, in its order.

    Raises:
      BadFile: a damaged archive, one without weights, one that unpacks to too much.
    """
    members = {}
    left = _MOST_UNPACKED * file.seek(0, io.SEEK_END)
    with opened_zip(path, file) as archive:
        weights = _read_weights(path, archive, most)
        for name in archive.namelist():
            if name == WEIGHTS:
                members[name] = weights
            else:
                members[name] = read_member(path, archive, name, most=left)
                left -= len(members[name])
    return members


def read_config(path: Path, file: io.BufferedIOBase) -> Any:
    """What config.json says of the model.

    Raises:
      BadFile: a damaged archive, no JSON.
    """
    most = _MOST_UNPACKED * file.seek(0, io.SEEK_END)
    with opened_zip(path, file) as archive:
        content = read_member(path, archive, "config.json", most=most)
    with refusing(path, "hold JSON in config.json", _WAY_OUT):
        return parse_json(content)


def write_archive(path: Path, members: Mapping[str, bytes]) -> None:
    """Writes an archive, the same one whenever it is written."""
    with replacing(path) as unfinished, zipfile.ZipFile(unfinished, "w") as made:
        for name, content in members.items():
            made.writestr(zipfile.ZipInfo(name), content)  # which has no date


def _read_weights(path: Path, archive: zipfile.ZipFile, most: int) -> bytes:
    names = archive.namelist()
    if WEIGHTS not in names:
        found = f"a zip archive with {names[:3]}"
        way_out = "a file of PyTorch goes through torch.load and from_torch"
        raise BadFile(path, f"be a .keras file with {WEIGHTS}", found, way_out)
    content = read_member(path, archive, WEIGHTS, most=most)
    if not content.startswith(_HDF5):
        raise BadFile(path, f"hold HDF5 in {WEIGHTS}", content[:8], _WAY_OUT)
    return content
