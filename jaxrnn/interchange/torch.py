"""How do parameters become a PyTorch `state_dict`, and back? Without PyTorch."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrnn.cells.base import Params
from jaxrnn.interchange.structure import (
    STACKED,
    Like,
    as_params,
    check_like,
    check_shape,
    directions,
    is_bidirectional,
    layers,
    recurrent_sizes,
    swap_z_r,
    to_numpy,
)

_KINDS = "weight_ih|weight_hh|weight_hr|bias_ih|bias_hh"
_NAME = re.compile(rf"({_KINDS})_l\d+(_reverse)?")
_ANY_NAME = re.compile(rf"({_KINDS})(_l(\d+)(_reverse)?)?")  # a cell has no number


def from_torch(
    state_dict: Mapping[str, Any], *, prefix: str = "", like: Like | None = None
) -> dict[str, Any]:
    """Takes the parameters of a `torch.nn.RNN`, `GRU` or `LSTM`, or of a cell of these.

        kernel = weight_ih.T    recurrent_kernel = weight_hh.T    bias = b_ih + b_hh

    The cell follows from the shapes. PyTorch has the gates of a GRU in the order
    r, z, n, which is turned here into z, r, n; its two biases are `bias` and
    `recurrent_bias`. An RNN and an LSTM add their two biases, so their sum is `bias`.
    `weight_hr` of an LSTM with `proj_size` becomes `projection_kernel`.

    Args:
      state_dict: `{name: array}`: NumPy arrays, or tensors of any dtype and device.
      prefix: of the layer in the `state_dict` of a larger model, such as "rnn.";
        other names are then passed over.
      like: parameters, or an NNX module, to compare names and shapes with.

    Returns:
      The parameters of one layer, or those of a Stacked `{"layers_0": …, …}` where
      `num_layers` is above 1; with `bidirectional` each is a Bidirectional
      `{"forward": …, "reverse": …}`. NumPy arrays in the dtypes of `state_dict`.

    Raises:
      ValueError: names or shapes that are of no such layer, or not those of `like`.
      TypeError: what is no mapping of arrays.

    Example:
      >>> ours = init_params(gru, jax.random.key(0), in_features=2, features=3)
      >>> theirs = to_torch(ours)
      >>> theirs["weight_ih_l0"].shape
      (9, 2)
      >>> bool((from_torch(theirs)["kernel"] == ours["kernel"]).all())
      True
    """
    check_mapping(state_dict)
    suffixes: dict[tuple[int, str], str] = {}
    groups: dict[tuple[int, str], dict[str, np.ndarray]] = {}
    for name, value in state_dict.items():
        if not name.startswith(prefix):
            continue
        match = _ANY_NAME.fullmatch(name.removeprefix(prefix))
        if match is None:
            raise ValueError(_unknown_name(name, state_dict))
        kind, suffix, number, reverse = match.groups(default="")
        key = (int(number or 0), "reverse" if reverse else "forward")
        if suffixes.setdefault(key, suffix) != suffix:
            raise ValueError(
                "a state_dict must be of a layer or of a cell, found both "
                f"{prefix}{kind} and {prefix}{kind}_l0, or the like; convert each by "
                "itself."
            )
        groups.setdefault(key, {})[kind] = to_numpy(name, value)
    bidirectional = (0, "reverse") in groups
    sides = ("forward", "reverse") if bidirectional else ("forward",)
    depth = len(groups) // len(sides)
    wanted = [(number, side) for number in range(depth) for side in sides]
    if not groups or set(groups) != set(wanted):
        raise ValueError(
            "the layers of a state_dict must be numbered from 0, with the same "
            f"directions in each, found {sorted(groups) or 'none'} among "
            f"{sorted(state_dict)}; check the prefix {prefix!r}."
        )
    single = {key: _from_group(prefix, suffixes[key], groups[key]) for key in wanted}
    stack = [
        {side: single[number, side] for side in sides}
        if bidirectional
        else single[number, "forward"]
        for number in range(depth)
    ]
    params = stack[0]
    if depth > 1:
        params = {STACKED.format(number): layer for number, layer in enumerate(stack)}
    if like is not None:
        check_like(params, as_params(like))
    return params


def check_mapping(state_dict: Any, names: Any = ()) -> None:
    """Raises unless it is a `state_dict`, and `names` are a mapping, if there are."""
    if names != () and not isinstance(names, Mapping):
        raise TypeError(
            "names must be {path of a layer here: name of a module there}, such as "
            f'{{"recurrent": "lstm"}}, got {type(names).__name__}.'
        )
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            "state_dict must be a mapping of names to arrays, got "
            f"{type(state_dict).__name__}; take rnn.state_dict(), of a file "
            "torch.load(path, weights_only=True)."
        )


def to_torch(params: Params, *, prefix: str = "") -> dict[str, np.ndarray]:
    """Turns parameters into what `torch.nn.RNN`, `GRU` and `LSTM` load.

    Put them there with

        rnn.load_state_dict({k: torch.tensor(v) for k, v in to_torch(params).items()})

    An RNN and an LSTM of PyTorch add two biases: `bias` goes into the first, and the
    second is zero, which is the same function. A `torch.nn.RNN` knows the activations
    tanh and relu. bfloat16, which `torch.tensor` does not take from NumPy, goes
    through float32.

    Args:
      params: of a SimpleRNN, GRU or LSTM, of a Bidirectional or a Stacked of these.
      prefix: put before every name, such as "rnn.".

    Returns:
      `{name: array}` in PyTorch's order.

    Raises:
      ValueError: what PyTorch cannot hold: layers of different kinds or sizes, a GRU
        that resets before the matmul.

    Example:
      >>> params = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> list(to_torch({"layers_0": params}))
      ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
    """
    stack = layers(params, order=())
    kinds = {
        (is_bidirectional(layer), sizes.gates, sizes.features, sizes.projection)
        for path, layer in stack.items()
        for sizes in (recurrent_sizes(*one) for one in directions(path, layer).items())
    }
    if len(kinds) > 1:
        raise ValueError(
            "the layers of one PyTorch module must agree in (bidirectional, gates, "
            f"features, projection), found {sorted(kinds, key=str)}; convert them one "
            "by one."
        )
    state_dict = {}
    for number, (path, layer) in enumerate(stack.items()):
        for one_path, one in directions(path, layer).items():
            suffix = "_reverse" if one_path.endswith("reverse") else ""
            for kind, array in _to_group(one_path, one).items():
                state_dict[f"{prefix}{kind}_l{number}{suffix}"] = array
    return state_dict


def _from_group(
    prefix: str, suffix: str, group: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """One direction of one layer."""
    required = {"weight_ih", "weight_hh"}
    if any(kind.startswith("bias") for kind in group):
        required |= {"bias_ih", "bias_hh"}
    missing = sorted(f"{prefix}{kind}{suffix}" for kind in required - set(group))
    if missing:
        raise ValueError(
            f"a layer must have weight_ih, weight_hh and both biases or none, missing "
            f"{missing} in the state_dict."
        )
    shapes = {f"{prefix}{kind}{suffix}": array.shape for kind, array in group.items()}
    params = {
        "kernel": group["weight_ih"].T,
        "recurrent_kernel": group["weight_hh"].T,
    }
    if "weight_hr" in group:
        params["projection_kernel"] = group["weight_hr"].T
    if "bias_ih" in group:
        params["bias"] = group["bias_ih"]
        check_shape(
            f"{prefix}bias_hh{suffix}", group["bias_hh"].shape, group["bias_ih"].shape
        )
    try:
        gates = recurrent_sizes("", params).gates
    except ValueError as error:
        raise ValueError(
            "the weights of a layer must be (gates*features, in_features), "
            "(gates*features, features or proj_size) and (gates*features,) with 1, 3 "
            f"or 4 gates, found {shapes}."
        ) from error
    if gates == 3:
        if "bias_hh" in group:
            params["recurrent_bias"] = group["bias_hh"]
        params = {name: swap_z_r(array) for name, array in params.items()}
    elif "bias" in params:
        params["bias"] = params["bias"] + group["bias_hh"]
    return {name: np.ascontiguousarray(array) for name, array in params.items()}


def _to_group(path: str, layer: Params) -> dict[str, np.ndarray]:
    sizes = recurrent_sizes(path, layer)
    arrays = {name: to_numpy(name, value) for name, value in layer.items()}
    if sizes.gates == 3:
        if "bias" in arrays and "recurrent_bias" not in arrays:
            raise ValueError(
                "a GRU of PyTorch resets after the matmul and has a recurrent_bias, "
                f"found {sorted(arrays)}{f' in {path}' if path else ''}; "
                "reset_after=False has no counterpart there."
            )
        arrays = {name: swap_z_r(array) for name, array in arrays.items()}
    group = {
        "weight_ih": np.ascontiguousarray(arrays["kernel"].T),
        "weight_hh": np.ascontiguousarray(arrays["recurrent_kernel"].T),
    }
    if "bias" in arrays:
        zeros = np.zeros_like(arrays["bias"])
        group["bias_ih"] = arrays["bias"]
        group["bias_hh"] = arrays.get("recurrent_bias", zeros)
    if "projection_kernel" in arrays:
        group["weight_hr"] = np.ascontiguousarray(arrays["projection_kernel"].T)
    return group


def _unknown_name(name: str, state_dict: Mapping[str, Any]) -> str:
    heads = {known[: m.start()] for known in state_dict if (m := _NAME.search(known))}
    way_out = (
        f"say which layer with prefix=, one of {sorted(heads - {''})}"
        if heads - {""}
        else "take the state_dict of a torch.nn.RNN, GRU or LSTM"
    )
    return (
        "a state_dict must hold the weight_ih_l0, weight_hh_l0, … of one layer, found "
        f"{name}; {way_out}."
    )
