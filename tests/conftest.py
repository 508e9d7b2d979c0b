"""What every test runs under: strict promotion, and Keras on its JAX backend."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before anything imports keras

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Runs a test in float64."""
    with jax.enable_x64(True):
        yield
