"""What tests run under: strict promotion, quick compilation, Keras on JAX."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before anything imports keras
os.environ["JAXRNN_NATIVE"] = "0"  # the default is JAX alone, whatever was compiled
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # before anything imports jax

import jax
import pytest
from jaxtyping import config

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the tests' time is compilation; programs of seven steps need no optimizing.
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version_info__ < (0, 11):
    # A fifth of the time and half of the memory to compile a loop. Later versions of
    # XLA know one emitter only, and stop at an option that they do not know.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    )


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Frees what a module has compiled: its programs fit no other module."""
    yield
    jax.clear_caches()


@pytest.fixture
def optimized():
    """Compiles as users do what is compiled anew: for tests of memory or of bits."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


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
