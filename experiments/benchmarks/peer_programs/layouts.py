"""How does every peer name and lay out the same weights?"""

from typing import Any

import numpy as np

from jaxrnn import interchange

Tree = dict[str, Any]


def layouts(weights: Tree) -> dict[str, Tree]:
    """The weights of a model, or of one layer, in the layout of every library."""
    is_layer = "kernel" in weights
    recurrent = weights if is_layer else weights["recurrent"]
    linen = {"cell": interchange.to_linen(recurrent)}
    nnx = interchange.to_nnx(recurrent, optimized=True)
    prefix = "" if is_layer else "recurrent."
    torch = interchange.to_torch(recurrent, prefix=prefix)
    equinox = equinox_cell(recurrent)
    if not is_layer:
        others = {name: weights[name] for name in weights if name != "recurrent"}
        linen |= others
        nnx = others | {"recurrent": {"cell": nnx}}
        others = dotted(others)
        torch |= others
        equinox = {f"cell.{name}": value for name, value in equinox.items()} | others
    return {
        "jaxrnn": weights,
        "linen": linen,
        "nnx": nnx,
        "keras": {str(i): w for i, w in enumerate(interchange.to_keras(weights))},
        "torch": torch,
        "equinox": equinox,
    }


def equinox_cell(recurrent: Tree) -> dict[str, np.ndarray]:
    """By the dotted names of a cell; the simple one is ours, of two Linear layers."""
    if recurrent["kernel"].shape[1] != recurrent["recurrent_kernel"].shape[0]:
        return {
            name: value
            for name, value in interchange.to_equinox(recurrent).items()
            if value is not None
        }
    return {
        "input.weight": recurrent["kernel"].T,
        "input.bias": recurrent["bias"],
        "recurrent.weight": recurrent["recurrent_kernel"].T,
    }


def dotted(weights: Tree) -> dict[str, np.ndarray]:
    """Embedding and Dense layers, which PyTorch and Equinox lay out alike."""
    flat = {}
    for name in ("embed", "hidden", "head"):
        if name in weights:
            table = weights[name].get("embedding")
            flat[f"{name}.weight"] = (
                weights[name]["kernel"].T if table is None else table
            )
        if "bias" in weights.get(name, {}):
            flat[f"{name}.bias"] = weights[name]["bias"]
    return flat
