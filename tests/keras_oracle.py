"""How is Keras asked for its numbers, and for which combinations of options?"""

import contextlib
import itertools
import random
from unittest import mock

import jax
import keras
import numpy as np
from keras.src.backend.common import dtypes

assert keras.backend.backend() == "jax", "tests/conftest.py chooses the backend"


@contextlib.contextmanager
def keras_rules():
    """JAX' own promotion rules, which Keras counts on and our tests forbid."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@contextlib.contextmanager
def keras_float64():
    """Keras in float64, which it otherwise rounds to float32 in tanh and elsewhere.

    That is its rule on every backend but TensorFlow, whatever `dtype` a layer has.
    """
    before = keras.config.floatx(), keras.config.dtype_policy()
    wide = {"float64": "float64"}
    with jax.enable_x64(True), mock.patch.dict(dtypes.BIT64_TO_BIT32_DTYPE, wide):
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        try:
            yield
        finally:
            keras.config.set_floatx(before[0])
            keras.config.set_dtype_policy(before[1])


def to_weights(params):
    """The parameters of a layer or a model as Keras lists them.

    Layer by layer, and in each kernel, recurrent kernel, bias. A GRU that resets after
    the matmul has two biases, which Keras stacks.
    """
    layers = [
        params[n] for n in ("embed", "recurrent", "hidden", "head") if n in params
    ]
    weights = []
    for layer in layers or [params]:
        names = ("embedding", "kernel", "recurrent_kernel")
        weights += [np.asarray(layer[name]) for name in names if name in layer]
        if "recurrent_bias" in layer:
            weights.append(np.stack([layer["bias"], layer["recurrent_bias"]]))
        elif "bias" in layer:
            weights.append(np.asarray(layer["bias"]))
    return weights


def get_weights(layer):
    """What `layer.get_weights()` returns, without its deprecated call of NumPy."""
    return [np.asarray(variable.value) for variable in layer.weights]


def stateless(layer, params):
    """A built Keras layer or model as a pure function, and its weights.

    Returns:
      `apply(weights, inputs, **options)`, the weights, and their names.
    """
    layer.set_weights(to_weights(params))  # checks the number and the shapes
    weights = [variable.value for variable in layer.trainable_variables]
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def apply(weights, inputs, **options):
        return layer.stateless_call(weights, fixed, inputs, **options)[0]

    return apply, weights, [variable.path for variable in layer.trainable_variables]


def assert_close(found, want, names, **tolerance):
    """Compares lists of arrays one by one; a failure names the one that differs."""
    for name, found_array, want_array in zip(names, found, want, strict=True):
        np.testing.assert_allclose(
            np.asarray(found_array), np.asarray(want_array), err_msg=name, **tolerance
        )


def pairwise(options):
    """A few combinations in which every pair of values of two options occurs.

    Args:
      options: `{name: values}`.

    Returns:
      Dicts `{name: value}`. Greedy: the combination with most new pairs comes next.
    """
    combinations = list(itertools.product(*options.values()))
    random.Random(0).shuffle(combinations)  # so that what is left free varies too
    bits = {}  # a pair -> its bit; a set of pairs is then one integer
    pairs_of = {
        values: sum(
            1 << bits.setdefault(pair, len(bits))
            for pair in itertools.combinations(enumerate(values), 2)
        )
        for values in combinations
    }
    missing = (1 << len(bits)) - 1
    chosen = []
    while missing:
        best = max(combinations, key=lambda v: (pairs_of[v] & missing).bit_count())
        missing &= ~pairs_of[best]
        chosen.append(dict(zip(options, best, strict=True)))
    return chosen
