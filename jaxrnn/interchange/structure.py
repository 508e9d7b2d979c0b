"""Which layers does a tree of parameters hold, and in which order?

The names decide, never the order of a dict: a tree that went through `jax.tree` is
sorted by name, and "head" is not the second layer of any model.
"""

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrnn.cells.base import Params
from jaxrnn.files import Path

# What a `like` may be: parameters, their shapes, or a Flax NNX module that holds them.
Like = Any

MODEL_ORDER = ("embed", "recurrent", "hidden", "head")  # of the models of jaxrnn

STACKED = "layers_{}"  # how a Stacked names its layers
_DENSE = {"kernel", "bias"}
_RECURRENT = {
    *("kernel", "recurrent_kernel", "projection_kernel", "bias", "recurrent_bias")
}


class Sizes(NamedTuple):
    """What the shapes of a recurrent layer say about it."""

    gates: int
    in_features: int
    features: int
    projection: int | None  # size of the output, where it is not `features`


def as_params(like: Like) -> Params:
    """The parameters of a `like`, those of an NNX module as nested dicts.

    Raises:
      TypeError: neither parameters nor an NNX module.

    Example:
      >>> from flax import nnx
      >>> import jaxrnn.nnx
      >>> layer = jaxrnn.nnx.SimpleRNN(2, 3, rngs=nnx.Rngs(0))
      >>> sorted(as_params(layer))
      ['bias', 'kernel', 'recurrent_kernel']
    """
    nnx = sys.modules.get("flax.nnx")  # it is imported where a module exists
    if nnx is not None and isinstance(like, nnx.Module):
        return nnx.to_pure_dict(nnx.state(like, nnx.Param))
    if not isinstance(like, Mapping):
        raise TypeError(
            "like must be parameters, a mapping of names, or an NNX module, got "
            f"{type(like).__name__}; of a Linen module take "
            'jax.eval_shape(model.init, key, inputs)["params"].'
        )
    return like


def _check_names(params: Any) -> None:
    if not isinstance(params, Mapping):
        raise TypeError(
            "params must be a mapping of names, as model.init returns them, got "
            f"{type(params).__name__}; of a TrainState they are state.params."
        )


def flatten(params: Params) -> dict[str, Any]:
    """The leaves of nested dicts by path, as in "recurrent/kernel".

    Example:
      >>> flatten({"embed": {"embedding": 1}, "head": {"bias": 2}})
      {'embed/embedding': 1, 'head/bias': 2}
    """
    _check_names(params)
    leaves = {}
    for name, value in params.items():
        if "/" in str(name) or not isinstance(name, str):
            raise ValueError(
                f'parameters must have names without "/", which joins them, got '
                f"{name!r}; rename it."
            )
        if isinstance(value, Mapping):
            leaves |= {f"{name}/{k}": leaf for k, leaf in flatten(value).items()}
        else:
            leaves[name] = value
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`.

    Example:
      >>> unflatten({"embed/embedding": 1, "head/bias": 2})
      {'embed': {'embedding': 1}, 'head': {'bias': 2}}
    """
    params: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return params


def layers(params: Params, order: Sequence[str] = MODEL_ORDER) -> dict[str, Params]:
    """The layers of a model in the order in which they act.

    Args:
      params: of one layer, of a Bidirectional `{"forward": …, "reverse": …}`, of a
        Stacked `{"layers_0": …, "layers_1": …}`, or of a model of these.
      order: the names of the model's layers; those that it lacks are passed over.

    Returns:
      `{path: layer}`, a Bidirectional being one layer; the path of a single one is "".

    Raises:
      ValueError: a name that is in none of these.

    Example:
      >>> inner = {"layers_1": {"kernel": 1}, "layers_0": {"kernel": 2}}
      >>> list(layers({"head": {"kernel": 3}, "recurrent": inner}))
      ['recurrent/layers_0', 'recurrent/layers_1', 'head']
    """
    _check_names(params)
    if isinstance(order, str) or not isinstance(order, Iterable):
        raise TypeError(
            f'order must be a list of names, such as ["recurrent"], got {order!r}.'
        )
    return dict(_layers("", params, tuple(order)))


def _layers(
    path: str, params: Params, order: tuple[str, ...]
) -> Iterable[tuple[str, Params]]:
    names = set(params)
    if is_bidirectional(params) or not any(
        isinstance(value, Mapping) for value in params.values()
    ):
        yield path, params
        return
    stacked = [STACKED.format(number) for number in range(len(names))]
    if stacked[0] in names:
        in_order = stacked
    else:
        in_order = [name for name in order if name in names]
    if names != set(in_order):
        raise ValueError(
            f"the order of layers must be known by their names {list(order)}, or "
            f"{stacked[0]} and so on without a gap, or forward and reverse; found "
            f"{sorted(names)}{f' in {path}' if path else ''}; say the order of your "
            "own names with order=."
        )
    for name in in_order:
        yield from _layers(join(path, name), params[name], order)


def join(path: str, name: str) -> str:
    """The path of `name` below `path`, which is "" at the top."""
    return f"{path}/{name}" if path else name


def is_bidirectional(params: Params) -> bool:
    """Whether these are two directions of one layer."""
    return set(params) == {"forward", "reverse"}


def directions(path: str, layer: Params) -> dict[str, Params]:
    """A layer, or both directions of a Bidirectional, by path; forward comes first."""
    if not is_bidirectional(layer):
        return {path: layer}
    return {join(path, name): layer[name] for name in ("forward", "reverse")}


def layer_kind(path: str, params: Params) -> str:
    """What a layer is by the names of its parameters.

    Returns:
      "embedding", "dense" or "recurrent".

    Raises:
      ValueError: names that are of no layer here.
    """
    _check_names(params)
    names = set(params)
    if names == {"embedding"}:
        return "embedding"
    if "kernel" in names and names <= _DENSE:
        return "dense"
    if {"kernel", "recurrent_kernel"} <= names <= _RECURRENT:
        return "recurrent"
    raise ValueError(
        "a layer must have the parameters of an Embed (embedding), a Dense (kernel, "
        "bias) or a SimpleRNN, GRU or LSTM (kernel, recurrent_kernel, bias, …), found "
        f"{sorted(names)}{f' in {path}' if path else ''}; convert it by hand."
    )


def recurrent_sizes(path: str, params: Params) -> Sizes:
    """Reads gates and sizes off the shapes of a SimpleRNN, GRU or LSTM.

    Raises:
      ValueError: shapes that do not fit one another, or are of another cell.

    Example:
      >>> params = init_params(gru, jax.random.key(0), in_features=2, features=3)
      >>> recurrent_sizes("", params)
      Sizes(gates=3, in_features=2, features=3, projection=None)
    """
    if layer_kind(path, params) != "recurrent":
        raise ValueError(
            f"{path or 'params'} must be of a SimpleRNN, GRU or LSTM, found the names "
            f"{sorted(params)}; give the recurrent layer alone, such as "
            'params["recurrent"].'
        )
    shapes = {name: tuple(value.shape) for name, value in params.items()}
    kernel, recurrent = shapes["kernel"], shapes["recurrent_kernel"]
    matrices = [kernel, recurrent, shapes.get("projection_kernel", (1, 1))]
    sizes = None
    if all(len(shape) == 2 and min(shape) > 0 for shape in matrices):
        features, projection = shapes.get("projection_kernel", (recurrent[0], None))
        width = kernel[1]
        sizes = Sizes(width // features, kernel[0], features, projection)
        want = {
            "kernel": kernel,
            "recurrent_kernel": (projection or features, width),
            "projection_kernel": (features, projection),
            "bias": (width,),
            "recurrent_bias": (width,),
        }
        allowed = (
            {4} if projection else {3} if "recurrent_bias" in shapes else {1, 3, 4}
        )
        fits = width == sizes.gates * features and sizes.gates in allowed
        if fits and all(shape == want[name] for name, shape in shapes.items()):
            return sizes
    raise ValueError(
        "a SimpleRNN, GRU or LSTM must have a kernel (in_features, gates*features), a "
        "recurrent_kernel (features, gates*features) and biases (gates*features,) with "
        f"1, 3 or 4 gates, found {shapes}{f' in {path}' if path else ''}."
    )


def check_like(params: Params, like: Params) -> None:
    """Compares names and shapes with a template; dtypes may differ.

    Raises:
      ValueError: names the parameters that are missing, unexpected or of another
        shape.

    Example:
      >>> check_like({"bias": jnp.zeros(3)}, like={"bias": jnp.ones(3)})
    """
    found = {path: tuple(leaf.shape) for path, leaf in flatten(params).items()}
    want = {path: tuple(leaf.shape) for path, leaf in flatten(like).items()}
    check_names(found, want)
    for path, shape in want.items():
        check_shape(path, found[path], shape)


def check_names(found: Iterable[str], want: Iterable[str]) -> None:
    """Raises a ValueError with the names that are missing and unexpected."""
    found, want = set(found), set(want)
    if found != want:
        raise ValueError(
            "the names of parameters must agree, found missing "
            f"{sorted(want - found) or 'none'} and unexpected "
            f"{sorted(found - want) or 'none'}; give both models the same layers and "
            "settings."
        )


def check_shape(path: str, found: tuple[int, ...], want: tuple[int, ...]) -> None:
    """Raises a ValueError that names the parameter."""
    if tuple(found) != tuple(want):
        raise ValueError(
            f"{path} must have shape {tuple(want)}, found {tuple(found)}; give both "
            "models the same sizes and settings."
        )


def warn_not_finite(path: Path, params: Params) -> None:
    """Warns of numbers in a file that are NaN or infinite, and says where they are."""
    bad = {}
    for name, leaf in flatten(params).items():
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            count = leaf.size - np.count_nonzero(np.isfinite(leaf))
            bad |= {name: count} if count else {}
    if bad:
        where = ", ".join(f"{count} in {name}" for name, count in bad.items())
        warnings.warn(
            f"{path} holds numbers that are NaN or infinite, {where}; was it saved "
            "after training had diverged?",
            stacklevel=3,
        )


def to_numpy(path: str, value: Any) -> np.ndarray:
    """An array of floats on the host, in its own dtype.

    Tensors of PyTorch come off their graph and device; NumPy has no bfloat16 of its
    own, so theirs passes through float32, which holds all of its values.

    Raises:
      TypeError: what is no array of floats.
    """
    if hasattr(value, "detach"):  # a torch.Tensor, without importing torch
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = np.asarray(value.float()).astype(jnp.bfloat16)
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{path} must be an array of floats, got "
            f"{f'dtype {array.dtype}' if array.dtype.kind in 'biuc' else repr(value)}."
        )
    return array


def swap_z_r(gates: np.ndarray) -> np.ndarray:
    """Three gates side by side from z, r, n to r, z, n, or back.

    Keras and jaxrnn have the first order; PyTorch, cuDNN, Equinox and NNX the second.

    Example:
      >>> swap_z_r(np.arange(6)).tolist()
      [2, 3, 0, 1, 4, 5]
    """
    first, second, last = np.split(gates, 3, axis=-1)
    return np.concatenate([second, first, last], axis=-1)
