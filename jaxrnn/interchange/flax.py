"""How do parameters become those of Flax' own cells, Linen or NNX, and back?

Flax keeps one bias where the sum of two matters. So what it holds comes over equal in
function, not bit by bit: a GRU's `recurrent_bias` is added to `bias` in the gates z and
r, and cells without biases get zeros.
"""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrnn.cells.base import Params
from jaxrnn.interchange.structure import (
    flatten,
    recurrent_sizes,
    swap_z_r,
    to_numpy,
    unflatten,
)

_GATES = {1: ("",), 3: ("z", "r", "n"), 4: ("i", "f", "g", "o")}  # by their number


def from_linen(cell_params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Takes the parameters of a `flax.linen` SimpleCell, GRUCell or LSTMCell.

    `OptimizedLSTMCell` has the same names as `LSTMCell`. The reset gate of Flax' GRU
    acts after the matmul, as in `jaxrnn.gru`; `SimpleCell(residual=True)` has no
    counterpart, which its parameters do not show.

    Args:
      cell_params: of the cell alone: those of a `flax.linen.RNN` are in its "cell".

    Returns:
      The parameters of a SimpleRNN, GRU or LSTM: NumPy arrays in the dtypes of Flax.

    Raises:
      ValueError: names of another cell, or shapes that do not fit.

    Example:
      >>> import flax.linen as nn
      >>> variables = nn.RNN(nn.GRUCell(3)).init(jax.random.key(0), jnp.ones((1, 5, 2)))
      >>> params = from_linen(variables["params"]["cell"])
      >>> params["kernel"].shape, params["recurrent_bias"].shape
      ((2, 9), (9,))
    """
    found = {path: to_numpy(path, leaf) for path, leaf in flatten(cell_params).items()}
    gates = next((g for g in _GATES.values() if set(found) == _linen_names(g)), None)
    if gates is None:
        raise ValueError(
            "cell_params must be those of a SimpleCell, GRUCell or LSTMCell of Linen, "
            f'found {sorted(found)}; of a flax.linen.RNN take params["cell"], an NNX '
            "cell is for from_nnx."
        )

    def fused(side: str, leaf: str) -> np.ndarray:
        """The gates side by side; zeros where Flax has no such bias."""
        zeros = np.zeros_like(found[f"i{gates[-1]}/kernel"][0])
        with_zeros = collections.defaultdict(lambda: zeros, found)
        return np.concatenate([with_zeros[f"{side}{g}/{leaf}"] for g in gates], -1)

    params = {"kernel": fused("i", "kernel"), "recurrent_kernel": fused("h", "kernel")}
    if len(gates) == 3:
        params |= {"bias": fused("i", "bias"), "recurrent_bias": fused("h", "bias")}
    else:  # one of the two is missing, and zero
        params["bias"] = fused("i", "bias") + fused("h", "bias")
    recurrent_sizes("", params)
    return params


def to_linen(params: Params) -> dict[str, Any]:
    """Turns parameters into those of a `flax.linen` SimpleCell, GRUCell or LSTMCell.

    Args:
      params: of a SimpleRNN, GRU or LSTM.

    Returns:
      The parameters of the cell, which a `flax.linen.RNN` has under "cell".

    Raises:
      ValueError: what Flax cannot hold: a GRU that resets before the matmul, an LSTM
        with projection, other cells.

    Example:
      >>> params = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> sorted(to_linen(params))
      ['hf', 'hg', 'hi', 'ho', 'if', 'ig', 'ii', 'io']
    """
    arrays, gates = _flax_arrays(params), _GATES[recurrent_sizes("", params).gates]
    split = {
        name: dict(zip(gates, np.split(array, len(gates), axis=-1), strict=True))
        for name, array in arrays.items()
    }
    leaves = {}
    for path in _linen_names(gates):
        name, leaf = path.split("/")
        recurrent = "recurrent_" if name[0] == "h" else ""
        if len(gates) == 4 and leaf == "bias":
            recurrent = ""  # Linen's LSTM adds its only bias to the recurrent part
        leaves[path] = split[f"{recurrent}{leaf}"][name[1:]]
    return unflatten(leaves)


def from_nnx(cell_params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Takes the parameters of an `flax.nnx` SimpleCell, GRUCell or LSTMCell.

    `OptimizedLSTMCell` works too. NNX' GRUCell has no bias inside the reset gate:
    `recurrent_bias` is zero.

    Args:
      cell_params: `nnx.to_pure_dict(nnx.state(cell, nnx.Param))`.

    Returns:
      The parameters of a SimpleRNN, GRU or LSTM: NumPy arrays in the dtypes of NNX.

    Raises:
      ValueError: names of another cell, or shapes that do not fit.

    Example:
      >>> from flax import nnx
      >>> cell = nnx.GRUCell(2, 3, rngs=nnx.Rngs(0))
      >>> params = from_nnx(nnx.to_pure_dict(nnx.state(cell, nnx.Param)))
      >>> params["kernel"].shape, params["recurrent_bias"].tolist() == [0.0] * 9
      ((2, 9), True)
    """
    leaves = flatten(cell_params)
    if "if_/kernel" in leaves:  # LSTMCell is that of Linen but for a Python keyword
        return from_linen({name.rstrip("_"): cell_params[name] for name in cell_params})
    found = {path: to_numpy(path, leaf) for path, leaf in leaves.items()}
    biases = set(found) - {"dense_i/kernel", "dense_h/kernel"}
    if len(found) != 3 or biases not in ({"dense_i/bias"}, {"dense_h/bias"}):
        raise ValueError(
            "cell_params must be those of a SimpleCell, GRUCell, LSTMCell or "
            f"OptimizedLSTMCell of NNX, found {sorted(found)}; take "
            "nnx.to_pure_dict(nnx.state(cell, nnx.Param)) of the cell alone."
        )
    params = {
        "kernel": found["dense_i/kernel"],
        "recurrent_kernel": found["dense_h/kernel"],
        "bias": found[biases.pop()],
    }
    if recurrent_sizes("", params).gates == 3:
        params = {name: swap_z_r(array) for name, array in params.items()}
        params["recurrent_bias"] = np.zeros_like(params["bias"])
    return params


def to_nnx(params: Params, *, optimized: bool = False) -> dict[str, Any]:
    """Turns parameters into those of an `flax.nnx` SimpleCell, GRUCell or LSTMCell.

    Args:
      params: of a SimpleRNN, GRU or LSTM.
      optimized: write an LSTM for `OptimizedLSTMCell` rather than `LSTMCell`.

    Returns:
      A pure dict, for `nnx.update(cell, …)`.

    Raises:
      ValueError: what NNX cannot hold: a GRU whose `recurrent_bias` is not zero in the
        gate n, where NNX has none; and as `to_linen`.

    Example:
      >>> from flax import nnx
      >>> cell = nnx.LSTMCell(2, 3, rngs=nnx.Rngs(0))
      >>> params = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> nnx.update(cell, to_nnx(params))
      >>> bool((cell.if_.kernel[...] == params["kernel"][:, 3:6]).all())
      True
    """
    arrays, gates = _flax_arrays(params), recurrent_sizes("", params).gates
    if gates == 4 and not optimized:
        linen = to_linen(params)
        return {"if_" if name == "if" else name: linen[name] for name in linen}
    if gates == 3:
        if np.any(arrays["recurrent_bias"]):
            raise ValueError(
                "NNX' GRUCell has no bias inside the reset gate, so the gate n of "
                "recurrent_bias must be zero, found "
                f"{np.split(arrays['recurrent_bias'], 3)[2]}; use flax.linen.GRUCell."
            )
        arrays = {name: swap_z_r(array) for name, array in arrays.items()}
    return unflatten(
        {
            "dense_i/kernel": arrays["kernel"],
            "dense_h/kernel": arrays["recurrent_kernel"],
            f"dense_{'h' if gates == 4 else 'i'}/bias": arrays["bias"],
        }
    )


def _linen_names(gates: tuple[str, ...]) -> set[str]:
    """The parameters of Linen's cell with these gates."""
    names = {f"{side}{gate}/kernel" for side in "ih" for gate in gates}
    if len(gates) == 4:
        return names | {f"h{gate}/bias" for gate in gates}
    inside = {"hn/bias"} if len(gates) == 3 else set()  # of the reset gate
    return names | inside | {f"i{gate}/bias" for gate in gates}


def _flax_arrays(params: Params) -> dict[str, np.ndarray]:
    """The parameters with one bias where one is enough, and with biases at all."""
    sizes = recurrent_sizes("", params)
    arrays = {name: to_numpy(name, value) for name, value in params.items()}
    if sizes.projection is not None:
        raise ValueError(
            "Flax has no LSTM with projection, found a projection_kernel; multiply it "
            "into recurrent_kernel by hand and put a Dense layer behind."
        )
    if sizes.gates == 3 and "bias" in arrays and "recurrent_bias" not in arrays:
        raise ValueError(
            "a GRU of Flax resets after the matmul and has a recurrent_bias, found "
            f"{sorted(arrays)}; reset_after=False has no counterpart there."
        )
    zeros = np.zeros_like(arrays["kernel"][0])
    arrays = {"bias": zeros, "recurrent_bias": zeros, **arrays}
    if sizes.gates == 3:
        inside = np.arange(len(zeros)) >= 2 * sizes.features  # of the reset gate: n
        recurrent_bias = arrays["recurrent_bias"]
        arrays["bias"] = arrays["bias"] + np.where(inside, zeros, recurrent_bias)
        arrays["recurrent_bias"] = np.where(inside, recurrent_bias, zeros)
    return arrays
