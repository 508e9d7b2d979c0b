"""How does a model with the hard_sigmoid of Keras 2 become one with that of Keras 3?

clip(0.2 x + 0.5, 0, 1) is relu6(1.2 x + 3) / 6: the factor 1.2 goes into the weights.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxrnn.cells.activations import keras2_hard_sigmoid
from jaxrnn.cells.base import Params
from jaxrnn.interchange.structure import STACKED
from jaxrnn.layers.linen import GRU, LSTM, SimpleRNN
from jaxrnn.layers.linen_wrappers import Bidirectional, Stacked
from jaxrnn.models import FlattenClassifier, Forecaster, Sequential, TextClassifier

_FACTOR = 1.2


def to_hard_sigmoid(model: Any, params: Params) -> tuple[Any, dict[str, Any]]:
    """The same predictions by `jax.nn.hard_sigmoid`, in place of Keras 2's.

    Keras 3 has no name for `keras2_hard_sigmoid`, so that a model of Keras 2 with it,
    the default of LSTM and GRU up to Keras 2.2, cannot be saved for Keras 3 as it is.
    Here the weights before it are multiplied by 1.2; the result is equal but for the
    rounding of these products.

    Args:
      model: a `Sequential`, a `TextClassifier`, a `FlattenClassifier`, a `Forecaster`,
        or a recurrent layer.
      params: of the model.

    Returns:
      The model and its parameters, to be given to `save_keras_model`.

    Raises:
      ValueError: where no weights are before it: as the `activation` of an LSTM, which
        acts on the memory too, or behind a layer that is no Dense.

    Example:
      >>> layer = LSTM(3, recurrent_activation=keras2_hard_sigmoid)
      >>> inputs = jnp.ones((1, 5, 2))
      >>> variables = layer.init(jax.random.key(0), inputs)
      >>> other, params = to_hard_sigmoid(layer, variables["params"])
      >>> found = other.apply({"params": params}, inputs)
      >>> bool(jnp.allclose(found, layer.apply(variables, inputs), atol=1e-6))
      True
    """
    if isinstance(model, Sequential):
        return _sequential(model, params)
    if isinstance(model, TextClassifier | Forecaster | FlattenClassifier):
        return _classifier(model, params)
    if isinstance(model, Bidirectional):
        forward, first = to_hard_sigmoid(model.forward, params["forward"])
        reverse, second = to_hard_sigmoid(model.reverse, params["reverse"])
        both = model.clone(forward=forward, reverse=reverse)
        return both, {"forward": first, "reverse": second}
    if isinstance(model, Stacked):
        names = [STACKED.format(number) for number in range(len(model.layers))]
        pairs = [
            to_hard_sigmoid(layer, params[name])
            for name, layer in zip(names, model.layers, strict=True)
        ]
        of_layers = [one for _, one in pairs]
        stacked = Stacked([layer for layer, _ in pairs], dropout=model.dropout)
        return stacked, dict(zip(names, of_layers, strict=True))
    return _recurrent(model, params)


def _recurrent(layer: Any, params: Params) -> tuple[Any, dict[str, Any]]:
    """Scales the gates, which stand in the order z, r, n and i, f, g, o."""
    of_gates = {GRU: ([0, 1], [2]), LSTM: ([0, 1, 3], [2]), SimpleRNN: ([], [0])}
    if type(layer) not in of_gates:
        return layer, dict(params)
    gates, candidates = of_gates[type(layer)]
    changed, blocks = {}, []
    if getattr(layer, "recurrent_activation", None) is keras2_hard_sigmoid:
        changed["recurrent_activation"] = jax.nn.hard_sigmoid
        blocks += gates
    if layer.activation is keras2_hard_sigmoid:
        if isinstance(layer, LSTM):
            raise ValueError(_refusal("the activation of an LSTM, which reads memory"))
        changed["activation"] = jax.nn.hard_sigmoid
        blocks += candidates
    if not changed:
        return layer, dict(params)
    number = len(gates) + len(candidates)
    scaled = {
        name: value if name == "projection_kernel" else _scaled(value, blocks, number)
        for name, value in params.items()
    }
    return layer.clone(**changed), scaled


def _scaled(values: Any, blocks: Sequence[int], number: int) -> Any:
    """With some of `number` blocks on the last axis times 1.2."""
    width = values.shape[-1] // number
    values = values.copy()
    for block in blocks:
        part = (..., slice(block * width, (block + 1) * width))
        if isinstance(values, jax.Array):
            values = values.at[part].multiply(_FACTOR)
        else:
            values[part] *= _FACTOR
    return values


def _sequential(model: Sequential, params: Params) -> tuple[Any, dict[str, Any]]:
    layers, new = list(model.layers), dict(params)
    for number, (name, layer) in enumerate(
        zip(model.names or (), model.layers, strict=True)
    ):
        if layer is keras2_hard_sigmoid:
            before = model.layers[number - 1] if number else None
            if not isinstance(before, nn.Dense):
                raise ValueError(_refusal(f"a function behind {before}"))
            layers[number] = jax.nn.hard_sigmoid
            of_dense = (model.names or ())[number - 1]
            new[of_dense] = {k: _scaled(v, [0], 1) for k, v in new[of_dense].items()}
        elif isinstance(layer, nn.Module) and name in params:
            layers[number], new[name] = to_hard_sigmoid(layer, params[name])
    return Sequential(layers, model.names), new


def _classifier(model: Any, params: Params) -> tuple[Any, dict[str, Any]]:
    changed, new = {}, dict(params)
    if "recurrent" in params:
        pair = to_hard_sigmoid(model.recurrent, params["recurrent"])
        changed["recurrent"], new["recurrent"] = pair
    if model.hidden_activation is keras2_hard_sigmoid and "hidden" in params:
        changed["hidden_activation"] = jax.nn.hard_sigmoid
        new["hidden"] = {k: _scaled(v, [0], 1) for k, v in params["hidden"].items()}
    return model.clone(**changed), new


def _refusal(where: str) -> str:
    return (
        "the factor 1.2 must go into the weights before keras2_hard_sigmoid, got it as "
        f"{where}; train on with jax.nn.hard_sigmoid instead."
    )
