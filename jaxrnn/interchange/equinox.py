"""How do parameters become the arrays of an Equinox cell, and back? Without Equinox."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrnn.cells.base import Params
from jaxrnn.interchange.structure import recurrent_sizes, swap_z_r, to_numpy

_ARRAYS = ("weight_ih", "weight_hh", "bias", "bias_n")


def from_equinox(fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Takes the arrays of an `equinox.nn` GRUCell or LSTMCell.

        kernel = weight_ih.T        recurrent_kernel = weight_hh.T

    Equinox has PyTorch's gate order r, z, n in a GRU, which is turned here into
    z, r, n; its `bias_n`, inside the reset gate, is the gate n of `recurrent_bias`,
    whose other gates are zero. Its h' = n + z * (h - n) is ours, rounded differently.

    Args:
      fields: the fields by name, as `vars(cell)` gives them; sizes are passed over.

    Returns:
      The parameters of a GRU or LSTM: NumPy arrays in the dtypes of the cell.

    Raises:
      ValueError: fields of another cell, or shapes that do not fit.

    Example:
      >>> ours = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> fields = to_equinox(ours)
      >>> fields["weight_ih"].shape
      (12, 2)
      >>> bool((from_equinox(fields)["kernel"] == ours["kernel"]).all())
      True
    """
    missing = {"weight_ih", "weight_hh", "bias"} - set(fields)
    if missing:
        raise ValueError(
            f"fields must hold weight_ih, weight_hh and bias (or None), found "
            f"{sorted(fields)}; take vars(cell) of an equinox.nn.GRUCell or LSTMCell."
        )
    found = {
        name: to_numpy(name, fields[name])
        for name in _ARRAYS
        if fields.get(name) is not None
    }
    params = {"kernel": found["weight_ih"].T, "recurrent_kernel": found["weight_hh"].T}
    if "bias" in found:
        params["bias"] = found["bias"]
    if "bias_n" in found:
        zeros = np.zeros_like(found["bias_n"])
        params["recurrent_bias"] = np.concatenate([zeros, zeros, found["bias_n"]])
    if recurrent_sizes("", params).gates == 3:
        params = {name: swap_z_r(array) for name, array in params.items()}
    return {name: np.ascontiguousarray(array) for name, array in params.items()}


def to_equinox(params: Params) -> dict[str, np.ndarray | None]:
    """Turns parameters into the arrays of an `equinox.nn` GRUCell or LSTMCell.

    Put them into a cell of the same sizes with

        fields = to_equinox(params)
        names = [name for name, value in fields.items() if value is not None]
        cell = equinox.tree_at(
            lambda cell: [getattr(cell, name) for name in names],
            cell,
            [jnp.asarray(fields[name]) for name in names],
        )

    Args:
      params: of a GRU or LSTM.

    Returns:
      `{field: array}`; None where the cell has `use_bias=False`. Equal in function: a
      GRU's `recurrent_bias` is added to `bias` in the gates z and r.

    Raises:
      ValueError: what Equinox cannot hold: a SimpleRNN, a GRU that resets before the
        matmul, an LSTM with projection.

    Example:
      >>> params = init_params(gru, jax.random.key(0), in_features=2, features=3)
      >>> {name: value.shape for name, value in to_equinox(params).items()}
      {'weight_ih': (9, 2), 'weight_hh': (9, 3), 'bias': (9,), 'bias_n': (3,)}
    """
    sizes = recurrent_sizes("", params)
    arrays = {name: to_numpy(name, value) for name, value in params.items()}
    reset_before = "bias" in arrays and "recurrent_bias" not in arrays
    if sizes.gates == 1 or sizes.projection or (sizes.gates == 3 and reset_before):
        raise ValueError(
            "Equinox has a GRU that resets after the matmul and an LSTM without "
            f"projection, found {sorted(arrays)} with {sizes.gates} gates."
        )
    if sizes.gates == 3:
        arrays = {name: swap_z_r(array) for name, array in arrays.items()}
    fields = {
        "weight_ih": np.ascontiguousarray(arrays["kernel"].T),
        "weight_hh": np.ascontiguousarray(arrays["recurrent_kernel"].T),
        "bias": arrays.get("bias"),
    }
    if sizes.gates == 3:
        fields["bias_n"] = None
        if "recurrent_bias" in arrays:
            r, z, n = np.split(arrays["recurrent_bias"], 3)
            fields["bias"] = arrays["bias"] + np.concatenate([r, z, np.zeros_like(n)])
            fields["bias_n"] = n
    return fields
