"""How does a whole model of PyTorch come in, and go out? Layer by layer, by names."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxrnn.cells.base import Params
from jaxrnn.interchange.structure import (
    Like,
    as_params,
    check_like,
    check_names,
    check_shape,
    flatten,
    join,
    layer_kind,
    to_numpy,
    unflatten,
)
from jaxrnn.interchange.torch import check_mapping, from_torch, to_torch


def from_torch_model(
    state_dict: Mapping[str, Any], names: Mapping[str, str], *, like: Like
) -> dict[str, Any]:
    """Takes the parameters of a model that is made of PyTorch's modules.

        torch.nn.Embedding      embedding = weight
        torch.nn.Linear         kernel = weight.T, bias
        RNN, GRU, LSTM,         as `from_torch` has them
        RNNCell, GRUCell, LSTMCell

    Nothing is left out in silence: every array of `state_dict` has its place in `like`,
    and every parameter of `like` comes from `state_dict`. Settings that leave no trace
    in the shapes, such as an activation, are up to the caller; PyTorch's layers read
    time-major arrays unless they were made with `batch_first=True`.

    Args:
      state_dict: `{name: array}`: NumPy arrays, or tensors of any dtype and device.
      names: which layer is which module, `{path in like: name in PyTorch}`, such as
        `{"embed": "embedding", "recurrent": "lstm", "head": "fc"}`. A layer within
        another has a path with "/", `{"recurrent/layers_1": "lstm2"}`; "" stands for
        the whole.
      like: parameters of the structure that is wanted, `jax.eval_shape` of `init`, or
        an NNX module.

    Returns:
      Parameters as `like` nests them, NumPy arrays in the dtypes of `state_dict`.

    Raises:
      ValueError: a path or a name that is not there, or stands within another one;
        arrays and parameters that are left over; another shape.
      TypeError: what is no mapping of arrays.

    Example:
      >>> model = TextClassifier(50, embed_features=3, recurrent=LSTM(4))
      >>> like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), int))
      >>> names = {"embed": "embedding", "recurrent": "lstm", "head": "fc"}
      >>> theirs = {
      ...     "embedding.weight": np.ones((50, 3)),
      ...     "lstm.weight_ih_l0": np.ones((16, 3)),
      ...     "lstm.weight_hh_l0": np.ones((16, 4)),
      ...     "lstm.bias_ih_l0": np.ones(16),
      ...     "lstm.bias_hh_l0": np.ones(16),
      ...     "fc.weight": np.ones((1, 4)),
      ...     "fc.bias": np.zeros(1),
      ... }
      >>> params = from_torch_model(theirs, names, like=like["params"])
      >>> params["head"]["kernel"].shape
      (4, 1)
    """
    check_mapping(state_dict, names)
    like = as_params(like)
    wanted = _cut(flatten(like), names.keys(), "/", "the parameters of `like`")
    given = _cut(state_dict, names.values(), ".", "the names of state_dict")
    leaves = {}
    for path, prefix in names.items():
        layer = _from_module(join(prefix, ""), given[prefix], unflatten(wanted[path]))
        leaves |= {join(path, name): leaf for name, leaf in flatten(layer).items()}
    params = unflatten(leaves)
    check_like(params, like)
    return params


def to_torch_model(
    params: Params, names: Mapping[str, str], *, like: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Turns the parameters of a model into what a model of PyTorch's modules loads.

    Put them there with

        theirs = to_torch_model(params, names, like=module.state_dict())
        module.load_state_dict({k: torch.tensor(v) for k, v in theirs.items()})

    Args:
      params: of a model whose layers `from_torch_model` names.
      names: which layer is which module, as for `from_torch_model`.
      like: the `state_dict` of the module that will load them, to compare names and
        shapes with. A `torch.nn.LSTMCell`, `GRUCell` or `RNNCell` needs it: its
        weights have other names than those of a layer. None compares nothing.

    Returns:
      `{name: array}`; each module's in PyTorch's order.

    Raises:
      ValueError: as `from_torch_model` and `to_torch`.

    Example:
      >>> params = {"head": {"kernel": jnp.ones((4, 1)), "bias": jnp.zeros(1)}}
      >>> theirs = to_torch_model(params, {"head": "fc"})
      >>> {name: array.shape for name, array in theirs.items()}
      {'fc.weight': (1, 4), 'fc.bias': (1,)}
    """
    check_mapping(like or {}, names)
    parts = _cut(flatten(params), names.keys(), "/", "the parameters")
    state_dict = {}
    for path, prefix in names.items():
        start = f"{prefix}." if prefix else ""
        is_cell = like is not None and f"{start}weight_ih" in like
        module = _to_module(path, unflatten(parts[path]), is_cell=is_cell)
        state_dict |= {f"{start}{name}": array for name, array in module.items()}
    if like is not None:
        check_names(state_dict, like)
        for name, array in state_dict.items():
            check_shape(name, array.shape, tuple(like[name].shape))
    return state_dict


def _from_module(prefix: str, module: Mapping[str, Any], layer: Params) -> Params:
    """One layer; `prefix` ends in "/" for errors only."""
    kind = _kind(layer)
    if kind == "recurrent":
        return from_torch(module)
    arrays = {name: to_numpy(f"{prefix}{name}", a) for name, a in module.items()}
    check_names(arrays, {"weight"} | ({"bias"} & layer.keys()))
    if kind == "embedding":
        return {"embedding": arrays["weight"]}
    return {
        "kernel" if name == "weight" else name: np.ascontiguousarray(array.T)
        for name, array in arrays.items()
    }


def _to_module(path: str, layer: Params, *, is_cell: bool) -> dict[str, np.ndarray]:
    kind = _kind(layer)
    if kind == "recurrent":
        arrays = to_torch(layer)
        if not is_cell:
            return arrays
        if not all(name.endswith("_l0") for name in arrays):
            raise ValueError(
                "a cell of PyTorch must come from one layer with one direction, got "
                f"{sorted(layer)} in {path or 'params'}; name its parts, such as "
                f"{join(path, 'forward')!r} or {join(path, 'layers_0')!r}."
            )
        return {name.removesuffix("_l0"): array for name, array in arrays.items()}
    arrays = {name: to_numpy(join(path, name), leaf) for name, leaf in layer.items()}
    if kind == "embedding":
        return {"weight": arrays["embedding"]}
    return {
        "weight" if name == "kernel" else name: np.ascontiguousarray(arrays[name].T)
        for name in sorted(arrays, reverse=True)
    }


def _kind(layer: Params) -> str:
    """Which kind of module holds a layer."""
    is_nested = any(isinstance(value, Mapping) for value in layer.values())
    return "recurrent" if is_nested else layer_kind("", layer)


def _cut(
    entries: Mapping[str, Any], heads: Iterable[str], mark: str, what: str
) -> dict[str, dict[str, Any]]:
    """Which entry belongs to which head: `{head: {rest of its name: entry}}`."""
    parts: dict[str, dict[str, Any]] = {head: {} for head in heads}
    for name, entry in entries.items():
        within = [h for h in parts if not h or name.startswith(h + mark)]
        if len(within) != 1:
            found = f"{name} in {within}" if within else f"{name} in none"
            way_out = (
                "name the parts instead"
                if within
                else "give it a layer, or leave it out of the arrays"
            )
            raise ValueError(
                f"names must give each of {what} to one of {sorted(parts)}, found "
                f"{found}; {way_out}."
            )
        (head,) = within
        parts[head][name.removeprefix(head + mark) if head else name] = entry
    empty = sorted(head for head, part in parts.items() if not part)
    if empty:
        raise ValueError(
            f"names must say what is there, found nothing below {empty} among {what}: "
            f"{sorted(entries)}."
        )
    return parts
