"""How do parameters become what Keras' `get_weights()` lists, and back?

Keras is not imported: its lists are plain arrays in the order of the layers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrnn.cells.base import Params
from jaxrnn.interchange.keras.cudnn import check_bias, from_cudnn, is_cudnn
from jaxrnn.interchange.structure import (
    MODEL_ORDER,
    Like,
    as_params,
    check_shape,
    directions,
    join,
    layer_kind,
    layers,
    recurrent_sizes,
    to_numpy,
    unflatten,
)

# Within a layer; Keras stacks the two biases of a GRU.
_PARAMETER_ORDER = ("embedding", "kernel", "recurrent_kernel", "bias")


def to_keras(params: Params, *, order: Sequence[str] = MODEL_ORDER) -> list[np.ndarray]:
    """Lists parameters as Keras does, for `layer.set_weights` or `model.set_weights`.

    Per layer kernel, recurrent kernel, bias, with Keras' shapes and gate order, which
    are ours; of a GRU with `reset_after` the bias is (2, 3*features) with `bias` in row
    0 and `recurrent_bias` in row 1. A Bidirectional lists forward, then reverse.

    Args:
      params: of a layer or of a model, as `init` gives them.
      order: the names of the model's layers, in the order in which they act.

    Returns:
      NumPy arrays in the dtypes of the parameters.

    Raises:
      ValueError: names whose order is not known, or a layer that Keras lacks, such as
        an LSTM with projection.

    Example:
      >>> params = init_params(gru, jax.random.key(0), in_features=2, features=3)
      >>> [weight.shape for weight in to_keras(params)]
      [(2, 9), (3, 9), (2, 9)]
    """
    return [
        array
        for _, layer in single_layers(params, order)
        for array in layer_to_keras(layer).values()
    ]


def from_keras(
    weights: Sequence[Any], *, like: Like, order: Sequence[str] = MODEL_ORDER
) -> dict[str, Any]:
    """Takes the weights of a Keras layer or model, from `get_weights()`.

    The weights of Keras 2's CuDNNLSTM and CuDNNGRU are converted to those of an LSTM
    and of a GRU with `reset_after`, which compute the same.

    Args:
      weights: arrays in Keras' order.
      like: parameters of the same structure, `jax.eval_shape` of `init`, or an NNX
        module: only names and shapes are read.
      order: the names of the model's layers, in the order in which they act.

    Returns:
      Parameters as `like` nests them: NumPy arrays in the dtypes of `weights`, which
      enter JAX where they are first used (`jax.device_put` does it at once; without
      x64, JAX makes float32 of float64).

    Raises:
      ValueError: another number of weights, another shape, names whose order is not
        known.
      TypeError: what is no list of arrays.

    Example:
      >>> params = init_params(lstm, jax.random.key(0), in_features=2, features=3)
      >>> same = from_keras(to_keras(params), like=params)
      >>> all((same[name] == params[name]).all() for name in params)
      True
    """
    if not isinstance(weights, list | tuple):
        raise TypeError(
            "weights must be a list of arrays, as get_weights() gives it, got "
            f"{type(weights).__name__}; files are for load_keras, a state_dict is for "
            "from_torch."
        )
    like = as_params(like)
    want = {
        join(path, name): shape
        for path, layer in single_layers(like, order)
        for name, shape in keras_shapes(layer).items()
    }
    arrays = [to_numpy(f"weights[{i}]", value) for i, value in enumerate(weights)]
    if len(arrays) != len(want):
        raise ValueError(
            f"weights must hold {len(want)} arrays, {want}, found {len(arrays)} of "
            f"shapes {[array.shape for array in arrays]}; make `like` with the "
            "settings of the Keras model."
        )
    return unflatten_keras(dict(zip(want, arrays, strict=True)), like, order)


def unflatten_keras(
    found: dict[str, np.ndarray], like: Params, order: Sequence[str]
) -> dict[str, Any]:
    """Checks the shapes of Keras' arrays by path and nests them as `like`.

    What CuDNNLSTM and CuDNNGRU hold becomes what LSTM and GRU hold.
    """
    leaves = {}
    for path, layer in single_layers(like, order):
        shapes = keras_shapes(layer)
        arrays = {name: found[join(path, name)] for name in shapes}
        bias = arrays["bias"].shape if "bias" in arrays else None
        check_bias(path, shapes, bias)
        if is_cudnn(shapes, bias):
            for name in ("kernel", "recurrent_kernel"):
                check_shape(join(path, name), arrays[name].shape, shapes[name])
            arrays = from_cudnn(arrays)
        for name, shape in shapes.items():
            check_shape(join(path, name), arrays[name].shape, shape)
        if "recurrent_bias" in layer:
            arrays["bias"], arrays["recurrent_bias"] = arrays["bias"]
        leaves |= {join(path, name): arrays[name] for name in layer}
    return unflatten(leaves)


def layer_to_keras(layer: Params) -> dict[str, np.ndarray]:
    """The weights of one layer without directions, by name and in Keras' order."""
    arrays = {name: to_numpy(name, value) for name, value in layer.items()}
    if "recurrent_bias" in arrays:
        arrays["bias"] = np.stack([arrays["bias"], arrays["recurrent_bias"]])
    return {name: arrays[name] for name in _PARAMETER_ORDER if name in arrays}


def keras_shapes(layer: Params) -> dict[str, tuple[int, ...]]:
    """What `layer_to_keras` would have as shapes, of anything that has a shape."""
    shapes = {name: tuple(layer[name].shape) for name in layer}
    if "recurrent_bias" in shapes:
        shapes["bias"] = (2, *shapes["bias"])
    return {name: shapes[name] for name in _PARAMETER_ORDER if name in shapes}


def keras_class(path: str, layer: Params) -> str:
    """Keras' name of a layer's class, as its files spell it: "lstm", "dense", ….

    Raises:
      ValueError: a layer that Keras lacks.
    """
    kind = layer_kind(path, layer)
    if kind != "recurrent":
        return kind
    sizes = recurrent_sizes(path, layer)
    if sizes.projection is not None:
        raise ValueError(
            f"Keras has no LSTM with projection, found a projection_kernel in "
            f"{path or 'the layer'}; multiply it into recurrent_kernel by hand and put "
            "a Dense layer behind."
        )
    return {1: "simple_rnn", 3: "gru", 4: "lstm"}[sizes.gates]


def single_layers(params: Params, order: Sequence[str]) -> list[tuple[str, Params]]:
    """Every layer by path, both directions of a Bidirectional one after the other."""
    single = [
        pair
        for path, layer in layers(params, order).items()
        for pair in directions(path, layer).items()
    ]
    for path, layer in single:
        keras_class(path, layer)  # raises where Keras lacks it
    return single
