"""Which peers are measured, and in which kinds of run? The rows of the tables."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from peer_programs.workloads import WORKLOADS

KINDS = {
    "train": "Training, ms per update",
    "predict": "Predictions for one batch, ms",
    "gradient": "One layer, forward and backward, ms",
}


@dataclasses.dataclass(frozen=True)
class Peer:
    """One row of the tables.

    Attributes:
      module: its programs, in peer_programs/.
      layout: of its weights, as peer_programs/layouts.py names it.
      packages: that it must be able to import.
      env: environment variables of its process.
      first_step: the script that measures the start-up; None for not at all.
      caches: measure the start-up also with JAX's persistent compilation cache.
      by_default: measure it without being asked to.
      workloads: that it is measured on.
    """

    module: str
    layout: str
    packages: tuple[str, ...]
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    first_step: str | None = "first_step.py"
    caches: bool = False
    by_default: bool = True
    workloads: tuple[str, ...] = tuple(WORKLOADS)


def variant(peer: Peer, env: Mapping[str, str] = {}, **changes: Any) -> Peer:
    """A peer with more variables, or other attributes."""
    return dataclasses.replace(peer, env={**peer.env, **env}, **changes)


EPOCHS = Peer(
    "with_jaxrnn",
    "jaxrnn",
    ("jaxrnn", "jax", "flax", "optax"),
    {"JAXRNN_NATIVE": "0"},
    first_step="first_step_jaxrnn.py",
    caches=True,
)
STEPS = variant(EPOCHS, module="with_jaxrnn_steps", first_step=None)
NATIVE = {"JAXRNN_NATIVE": "1"}
SIXTEEN = variant(STEPS, module="with_jaxrnn_models", workloads=("sine",))
KERAS = Peer("with_keras", "keras", ("keras",))
ON_JAX = variant(KERAS, {"KERAS_BACKEND": "jax"}, packages=("keras", "jax"))
ON_TF = variant(
    KERAS, {"KERAS_BACKEND": "tensorflow"}, packages=("keras", "tensorflow")
)
ON_TORCH = variant(KERAS, {"KERAS_BACKEND": "torch"}, packages=("keras", "torch"))
TORCH = Peer("with_torch", "torch", ("torch",))

OURS = "jaxrnn"
PEERS = {
    OURS: EPOCHS,
    "jaxrnn, 16 models": SIXTEEN,
    "jaxrnn, step by step": STEPS,
    "jaxrnn, native": variant(EPOCHS, NATIVE),
    "jaxrnn, native, step by step": variant(STEPS, NATIVE, by_default=False),
    "flax.linen": Peer("with_linen", "linen", ("flax", "jax", "optax"), caches=True),
    "flax.nnx": Peer("with_nnx", "nnx", ("flax", "jax", "optax")),
    "equinox": Peer("with_equinox", "equinox", ("equinox", "jax", "optax")),
    "keras-jax": ON_JAX,
    "keras-tensorflow": ON_TF,
    "keras-tensorflow, XLA": variant(ON_TF, {"KERAS_JIT_COMPILE": "1"}),
    "keras-torch": variant(ON_TORCH, by_default=False),
    "pytorch": TORCH,
    "pytorch, 1 thread": variant(TORCH, {"OMP_NUM_THREADS": "1"}),
}
DRAWN = (  # the tables have more ways to run some of them
    "jaxrnn, native",
    OURS,
    "jaxrnn, step by step",
    "flax.linen",
    "flax.nnx",
    "equinox",
    "keras-jax",
    "keras-tensorflow",
    "keras-tensorflow, XLA",
    "keras-torch",
    "pytorch",
)
