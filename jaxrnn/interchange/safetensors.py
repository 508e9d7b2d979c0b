"""How are parameters kept in a file of our own? As safetensors, names joined by "/"."""

import io
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrnn.cells.base import Params
from jaxrnn.files import BadFile, Path, optional, replacing
from jaxrnn.files.refused import parse_json, refusing
from jaxrnn.interchange.structure import (
    Like,
    as_params,
    check_names,
    check_shape,
    flatten,
    unflatten,
    warn_not_finite,
)

_FORMAT = {"format": "jaxrnn", "version": "1"}
_LONGEST_HEADER = 2**22  # bytes; of some 30,000 arrays
_DTYPES = {  # the names of the format and of NumPy
    "BOOL": "bool",
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": "bfloat16",
    "C64": "complex64",
}


def save(
    path: Path, params: Params, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes parameters, or any nested dict of arrays, to a safetensors file.

    Nothing in such a file is ever executed, and every tool of the format reads it. An
    older file of this name is replaced at once, when the new one is complete; an empty
    dict inside leaves no trace.

    Args:
      path: the file, `*.safetensors` by convention; missing folders are made.
      params: nested dicts of arrays; each keeps its dtype, bfloat16 too.
      metadata: words to keep beside the arrays; `load` does not return them,
        `safetensors.safe_open(path, "numpy").metadata()` does.

    Raises:
      ValueError: names with "/", which joins them; names and metadata of 4 MiB.
      TypeError: arrays that are not of numbers.
      ImportError: without safetensors, which `pip install jaxrnn[interchange]` brings.

    Example:
      >>> import tempfile
      >>> params = init_params(gru, jax.random.key(0), in_features=2, features=3)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(f"{folder}/gru.safetensors", {"recurrent": params})
      ...     loaded = load(f"{folder}/gru.safetensors")
      >>> bool((loaded["recurrent"]["kernel"] == params["kernel"]).all())
      True
    """
    numpy_format = optional("safetensors.numpy", "interchange")
    leaves = {
        # the format is row-major, and cannot see when an array is not
        name: np.asarray(leaf, order="C")
        for name, leaf in flatten(params).items()
    }
    for name, leaf in leaves.items():
        if leaf.dtype.name not in _DTYPES.values():
            raise TypeError(
                f"params must be arrays of {', '.join(_DTYPES.values())}, got "
                f"{leaf.dtype} in {name}; convert it, or leave it out."
            )
    given = {} if metadata is None else metadata
    is_named = isinstance(given, Mapping)
    if not is_named or not all(isinstance(x, str) for x in [*given, *given.values()]):
        raise TypeError(
            f"metadata must be {{name: text}}, got {metadata!r}; json.dumps makes a "
            "text of anything."
        )
    with replacing(path) as unfinished:
        words = {**given, **_FORMAT}
        numpy_format.save_file(leaves, unfinished, metadata=words)
        with unfinished.open("rb") as file:
            length = _header_length(file)
        if length > _LONGEST_HEADER:
            raise ValueError(
                f"names, shapes and metadata must take at most {_LONGEST_HEADER} "
                f"bytes, got {length}; keep long metadata in another file."
            )


def load(path: Path, *, like: Like | None = None) -> dict[str, Any]:
    """Reads what `save` wrote.

    A file that comes from elsewhere is safe to read: nothing is allocated that it does
    not hold, and names and shapes are compared with `like` before. A warning names
    arrays that hold NaN or infinite numbers.

    Args:
      path: the file.
      like: parameters, or an NNX module, to compare names and shapes with.

    Returns:
      Nested dicts of NumPy arrays, bit by bit and in the dtypes that were saved; they
      enter JAX where they are first used (without x64, JAX makes float32 of float64).

    Raises:
      BadFile: (a ValueError) another kind of file, or a damaged one; two arrays of one
        name; parameters that are not those of `like`.
      ImportError: without safetensors, which `pip install jaxrnn[interchange]` brings.

    Example: see `save`.
    """
    like = None if like is None else as_params(like)
    library = optional("safetensors", "interchange")
    rule, way_out = "be a file written by save", "files of Keras are for load_keras"
    with open(path, "rb") as file, refusing(path, rule, way_out):
        length = _header_length(file)
        if length > _LONGEST_HEADER:
            raise ValueError(f"another kind of file, with a header of {length} bytes")
        with library.safe_open(path, framework="numpy") as opened:  # its own checks
            header = parse_json(file.read(length))
            _check_header(path, header, like)
            leaves = {name: opened.get_tensor(name) for name in header}
        params = unflatten(leaves)
        if flatten(params).keys() != leaves.keys():
            raise ValueError(f"a name that begins another one, among {sorted(leaves)}")
    warn_not_finite(path, params)
    return params


def _header_length(file: io.BufferedIOBase) -> int:
    (length,) = struct.unpack("<Q", file.read(8))
    return length


def _check_header(path: Path, header: dict[str, Any], like: Params | None) -> None:
    """Raises unless all that it says of arrays is right; takes the metadata out."""
    metadata = header.pop("__metadata__", {})
    found = {name: metadata.get(name) for name in _FORMAT}
    if found != _FORMAT:
        way_out = (
            "arrays that others saved come through safetensors.numpy.load_file, and "
            "from_torch where they are PyTorch's"
        )
        raise BadFile(path, f"be of the format {_FORMAT}", found, way_out)
    for name, array in header.items():
        if array["dtype"] not in _DTYPES:
            rule = f"hold arrays of {', '.join(_DTYPES.values())}"
            found = f"{array['dtype']} in {name}"
            raise BadFile(path, rule, found, "convert it with the tool that wrote it")
    if like is not None:
        with refusing(path, "hold the parameters of `like`", "it is of another model"):
            want = {name: tuple(leaf.shape) for name, leaf in flatten(like).items()}
            check_names(header, want)
            for name, shape in want.items():
                check_shape(name, tuple(header[name]["shape"]), shape)
