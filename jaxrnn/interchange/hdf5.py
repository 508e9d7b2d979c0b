"""How are arrays read from an HDF5 tree that may be damaged, or made to harm?

HDF5 can do much more than hold arrays: a link or a dataset may lead to another file, an
array may be declared and not be there, or be compressed a thousandfold. Keras uses none
of this, so none of it is allowed. h5py reads and writes the tree.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrnn.files import BadFile, Path, optional
from jaxrnn.files.refused import refusing
from jaxrnn.interchange.structure import check_shape

_FLOATS = ("float16", "float32", "float64")
_MOST_WORDS = 2**28  # bytes that the words of an attribute might take
_READABLE = "hold an HDF5 tree that can be read"
_WAY_OUT = (
    "if you trust it, write its groups, arrays and attributes to a new file with h5py, "
    "each array whole and uncompressed"
)
_DAMAGED = "get another copy of it, this one is damaged"


@contextlib.contextmanager
def opened_tree(
    path: Path, content: io.BufferedIOBase, mode: str = "r"
) -> Iterator[Any]:
    """Opens a tree; whatever HDF5 does not like about it is a `BadFile`.

    Args:
      path: the file's name, for errors.
      content: the tree itself.
      mode: "r", or "r+" to write too.

    Yields:
      The `h5py.File`.
    """
    h5py = optional("h5py", "interchange")
    with refusing(path, _READABLE, _DAMAGED), h5py.File(content, mode) as tree:
        yield tree


def datasets_below(path: Path, tree: Any, root: str) -> dict[str, Any]:
    """All datasets below a group, by their path from it.

    Raises:
      BadFile: something that leads elsewhere or can be larger than the file.
    """
    dataset = optional("h5py", "interchange").Dataset
    return {
        name.removeprefix(f"{root}/"): item
        for name, item in items_below(path, tree, [root]).items()
        if isinstance(item, dataset)
    }


def items_below(path: Path, tree: Any, roots: Sequence[str]) -> dict[str, Any]:
    """Some groups of the tree, and all groups and datasets below, by their full path.

    Raises:
      BadFile: something that leads elsewhere or can be larger than the file.
    """
    h5py = optional("h5py", "interchange")
    found, seen, left = {}, set(), [(root, tree) for root in roots]
    while left:  # not h5py's visititems, which says nothing of links
        name, parent = left.pop()
        link = parent.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            rule = "hold no links, to other files or within"
            raise BadFile(path, rule, f"{type(link).__name__} {name}", _WAY_OUT)
        item = parent[name]
        place = h5py.h5o.get_info(item.id).addr
        if place in seen:
            rule = "have one name for every group and array"
            raise BadFile(path, rule, f"a second one, {item.name}", _WAY_OUT)
        seen.add(place)
        found[item.name.removeprefix("/")] = item
        if isinstance(item, h5py.Group):
            left += [(child, item) for child in item]
        elif isinstance(item, h5py.Dataset):
            _check_in_one_piece(path, item)
        else:
            rule = "hold groups and arrays and nothing else"
            raise BadFile(path, rule, f"{type(item).__name__} {item.name}", _WAY_OUT)
    return found


def read_words(path: Path, item: Any, name: str, *, most: int) -> list[str]:
    """The words of an attribute, or the single one.

    A word of no fixed length stands elsewhere in the file, where many may be the same
    long one; what reading them could take is limited before.

    Args:
      path: the file's name, for errors.
      item: a group or the tree itself, which has the attribute.
      name: of the attribute.
      most: bytes of the file that can be words.

    Raises:
      BadFile: no words, or more than the file can hold.
    """
    h5py = optional("h5py", "interchange")
    attribute = item.attrs.get_id(name)
    shape = attribute.shape  # None where there is no space
    if shape is not None and 0 in shape:
        return []  # of any dtype: Keras 2 writes floats
    kind = h5py.check_string_dtype(attribute.dtype)
    if kind is None or shape is None or len(shape) > 1:
        rule = "have words in its attributes, one or a list"
        found = f"{attribute.dtype} of shape {shape} in {name}"
        raise BadFile(path, rule, found, _WAY_OUT)
    count = math.prod(shape)
    if count * (kind.length or 1) > most or (
        kind.length is None and count * most > _MOST_WORDS
    ):
        rule = "hold every word of its attributes"
        found = f"{count} words in {name} in a file with {most} bytes beside arrays"
        raise BadFile(path, rule, found, _WAY_OUT)
    value = item.attrs[name]
    words = [value] if shape == () else list(value)
    return [x.decode() if isinstance(x, bytes) else str(x) for x in words]


def check_array(
    path: Path, dataset: Any, name: str, shape: tuple[int, ...], length: int
) -> None:
    """Raises a `BadFile` unless a dataset holds floats of this shape, all of them.

    Nothing of the array is read or allocated for it.

    Args:
      path: the file's name, for errors.
      dataset: of `datasets_below`.
      name: of the parameter, for errors.
      shape: what the parameters need.
      length: bytes of the file.
    """
    dtype = dataset.dtype
    if dtype.name not in _FLOATS and not _is_bfloat16(dataset):
        rule = f"hold floats ({', '.join(_FLOATS)} or bfloat16)"
        raise BadFile(path, rule, f"dtype {dtype} in {dataset.name}", _WAY_OUT)
    with refusing(path, "hold the layers of `like`", "give both the same sizes"):
        check_shape(name, dataset.shape or (), shape)
    promised = math.prod(shape) * dtype.itemsize
    stored = dataset.id.get_storage_size()
    if stored != promised or stored > length:
        rule = "hold every number of its arrays"
        found = (
            f"{stored} bytes in a file of {length} for the {promised} of {dataset.name}"
        )
        raise BadFile(path, rule, found, _DAMAGED)


def read_array(dataset: Any) -> np.ndarray:
    """The array of a dataset that `check_array` has passed, in this machine's order."""
    array = dataset[...]
    if _is_bfloat16(dataset):
        return array.view(jnp.bfloat16)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def write_array(group: Any, name: str, array: np.ndarray) -> None:
    """Writes an array as Keras does: two bytes and a word where it is bfloat16."""
    dataset = group.create_dataset(name, data=array)
    if array.dtype == jnp.bfloat16:
        dataset.attrs["dtype"] = "bfloat16"


def _is_bfloat16(dataset: Any) -> bool:
    if dataset.dtype != np.dtype("V2") or "dtype" not in dataset.attrs:
        return False
    word = dataset.attrs.get_id("dtype")
    is_short = word.shape == () and word.get_storage_size() <= 64
    return is_short and dataset.attrs["dtype"] == "bfloat16"


def _check_in_one_piece(path: Path, dataset: Any) -> None:
    h5d = optional("h5py", "interchange").h5d
    settings = dataset.id.get_create_plist()
    kinds = {
        h5d.CHUNKED: "in chunks, or compressed",
        h5d.VIRTUAL: "virtual, put together from other files",
    }
    layout = settings.get_layout()
    if settings.get_external_count():
        what = "external, in another file"
    elif layout in (h5d.COMPACT, h5d.CONTIGUOUS):
        return
    else:
        what = kinds.get(layout, f"in a layout of number {layout}")
    rule = "hold every array in the file itself and in one piece"
    raise BadFile(path, rule, f"{dataset.name} to be {what}", _WAY_OUT)
