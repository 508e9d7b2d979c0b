"""How are parameters kept in a file of our own? As safetensors, names joined by "/"."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrnn.cells.base import Params
from jaxrnn.files import Path, optional, replacing
from jaxrnn.interchange.structure import check_like, flatten, unflatten

_FORMAT = {"format": "jaxrnn", "version": "1"}


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
      ValueError: names with "/", which joins them.
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
    with replacing(path) as unfinished:
        words = {**(metadata or {}), **_FORMAT}
        numpy_format.save_file(leaves, unfinished, metadata=words)


def load(path: Path, *, like: Params | None = None) -> dict[str, Any]:
    """Reads what `save` wrote.

    Args:
      path: the file.
      like: parameters to compare names and shapes with.

    Returns:
      Nested dicts of NumPy arrays, bit by bit and in the dtypes that were saved; they
      enter JAX where they are first used (without x64, JAX makes float32 of float64).

    Raises:
      ValueError: another kind of file, or parameters that are not those of `like`.
      ImportError: without safetensors, which `pip install jaxrnn[interchange]` brings.

    Example: see `save`.
    """
    library = optional("safetensors", "interchange")
    try:
        with library.safe_open(path, framework="numpy") as file:
            found = {k: (file.metadata() or {}).get(k) for k in _FORMAT}
            leaves = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except library.SafetensorError as error:
        raise ValueError(
            f"{path} must be a safetensors file written by save, found another kind of "
            f"file ({error}); files of Keras are for load_keras."
        ) from error
    if found != _FORMAT:
        raise ValueError(
            f"{path} must be of the format {_FORMAT}, found {found}; arrays that "
            "others saved come through safetensors.numpy.load_file, and from_torch "
            "where they are PyTorch's."
        )
    params = unflatten(leaves)
    if like is not None:
        check_like(params, like)
    return params
