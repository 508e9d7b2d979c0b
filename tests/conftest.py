"""What every test runs under: strict promotion, and Keras on its JAX backend."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before anything imports keras

import jax
import pytest
from jaxtyping import config

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Runs a test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def untyped():
    """Calls a function without the annotations being checked, as users do.

    A wrong shape or dtype then reaches our own message.
    """

    def call(function):
        def unchecked(*args, **kwargs):
            config.update("jaxtyping_disable", True)
            try:
                return function(*args, **kwargs)
            finally:
                config.update("jaxtyping_disable", False)

        return unchecked

    return call
