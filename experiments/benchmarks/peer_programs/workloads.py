"""What is trained, and on what? The sizes, the data and the weights, NumPy only.

Every peer's program is given a `Work`, and returns a `Program`.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LEARNING_RATE = 0.001
# Keras, Optax and PyTorch put epsilon in different places: inside the root, outside of
# it, before or after the moments are corrected. A small one lets all of them make the
# same updates, and does not change their time.
EPSILON = 1e-12
RMSPROP_DECAY = 0.9  # Keras' default; PyTorch's is 0.99


@dataclasses.dataclass(frozen=True)
class Workload:
    """The sizes of a model, or of one layer.

    Attributes:
      batch, time, in_features, features: of the recurrent layer.
      vocab_size: of the embedding; None reads windows of a series.
      hidden_features: width of the Dense layer before the last; None for no such layer.
      optimizer: "rmsprop" or "adam", as the tutorial has it.
      updates: of an epoch. The batches are all full.
      cell: "simple_rnn", "gru" or "lstm".
      is_layer: one layer alone, for its gradient.
    """

    batch: int
    time: int
    in_features: int
    features: int
    vocab_size: int | None = None
    hidden_features: int | None = None
    optimizer: str = "adam"
    updates: int = 1
    cell: str = "simple_rnn"
    is_layer: bool = False

    @property
    def classifies(self) -> bool:
        """Whether it ends in a probability (else in a number) and begins with words."""
        return self.vocab_size is not None


def _layer(batch: int, time: int, features: int, cell: str = "simple_rnn") -> Workload:
    return Workload(batch, time, features, features, cell=cell, is_layer=True)


# The tutorials: batch, time, and so on; and layers wide enough to be bound by matmuls.
WORKLOADS = {
    "imdb-001": Workload(32, 500, 32, 32, 10_000, None, "rmsprop", 100),
    "imdb-002": Workload(128, 100, 32, 32, 10_000, None, "adam", 156),
    "imdb-004b": Workload(128, 30, 16, 32, 10_000, 32, "rmsprop", 156),
    "sine": Workload(16, 1, 4, 32, None, 8, "rmsprop", 56),
    "wide-simple_rnn": _layer(64, 256, 256),
    "wide-gru": _layer(64, 256, 256, "gru"),
    "wide-lstm": _layer(64, 256, 256, "lstm"),
    "widest-simple_rnn": _layer(32, 100, 1024),
}


class Work(NamedTuple):
    """What a peer's program is given.

    Attributes:
      sizes: of the model.
      inputs: ids (updates, batch, time), or (updates, batch, time, in_features).
      targets: (updates, batch).
      weights: in the peer's layout; None leaves the peer's own initial values.
    """

    sizes: Workload
    inputs: np.ndarray
    targets: np.ndarray
    weights: dict[str, Any] | None = None


class Program(NamedTuple):
    """What a peer's program gives.

    Attributes:
      check: index of a batch -> numbers that all peers must agree on: the loss of one
        update, the first predictions, or the loss and the norms of its gradients.
      run: does so many updates or passes, and waits for the last one.
      unit: what `run` must be given a multiple of: a whole epoch, or 1.
    """

    check: Callable[[int], list[float]]
    run: Callable[[int], None]
    unit: int = 1


def passes(
    function: Callable[[Any], Any],
    inputs: Any,
    check: Callable[[Any], list[float]],
    wait: Callable[[Any], Any],
) -> Program:
    """A program of forward passes, or of gradients, each waited for."""

    def run(count: int) -> None:
        for i in range(count):
            wait(function(inputs[i % len(inputs)]))

    return Program(lambda i: check(function(inputs[i])), run)


def first_four(predictions: Any) -> list[float]:
    """What `check` of predictions gives."""
    return np.asarray(predictions).reshape(-1)[:4].tolist()


def norms(loss: Any, kernels: list[Any], inputs: Any) -> list[float]:
    """What `check` of gradients gives: the loss, and the norms of two gradients.

    Kernels only: a library that adds two biases has two gradients for one.
    """
    of_kernels = np.sqrt(sum(np.sum(np.square(np.asarray(k))) for k in kernels))
    of_inputs = np.linalg.norm(np.asarray(inputs))
    return [float(loss), float(of_kernels), float(of_inputs)]


def make_work(
    name: str, weights: dict[str, Any] | None = None, *, updates: int | None = None
) -> Work:
    """The random data of a workload, the same in every process."""
    sizes = WORKLOADS[name]
    if updates is not None:
        sizes = dataclasses.replace(sizes, updates=updates)
    rng = np.random.default_rng(0)
    shape = (sizes.updates, sizes.batch, sizes.time)
    if sizes.classifies:
        inputs = rng.integers(sizes.vocab_size, size=shape, dtype=np.int32)
        targets = rng.integers(2, size=shape[:2]).astype(np.float32)
    else:
        inputs = rng.normal(size=(*shape, sizes.in_features)).astype(np.float32)
        targets = rng.normal(size=shape[:2]).astype(np.float32)
    return Work(sizes, inputs, targets, weights)


def initial_weights(name: str) -> dict[str, Any]:
    """The weights that all peers begin with, as jaxrnn nests and names them."""
    sizes = WORKLOADS[name]
    rng = np.random.default_rng(1)

    def dense(in_features: int, features: int) -> dict[str, np.ndarray]:
        limit = np.sqrt(6 / (in_features + features))  # glorot_uniform
        kernel = rng.uniform(-limit, limit, (in_features, features))
        bias = rng.uniform(-0.1, 0.1, features)  # not 0: so that a wrong one shows
        return {"kernel": np.float32(kernel), "bias": np.float32(bias)}

    gates = {"simple_rnn": 1, "gru": 3, "lstm": 4}[sizes.cell]
    recurrent = dense(sizes.in_features, gates * sizes.features)
    square = rng.normal(size=(gates * sizes.features, sizes.features))
    recurrent["recurrent_kernel"] = np.float32(np.linalg.qr(square)[0].T)
    if sizes.cell == "gru":
        recurrent["recurrent_bias"] = np.zeros_like(recurrent["bias"])
    if sizes.is_layer:
        return recurrent

    weights: dict[str, Any] = {"recurrent": recurrent}
    if sizes.vocab_size is not None:
        shape = (sizes.vocab_size, sizes.in_features)
        weights["embed"] = {"embedding": np.float32(rng.uniform(-0.05, 0.05, shape))}
    features = sizes.features
    if sizes.hidden_features is not None:
        weights["hidden"] = dense(features, sizes.hidden_features)
        features = sizes.hidden_features
    return weights | {"head": dense(features, 1)}


def save(path: pathlib.Path, layouts: dict[str, dict[str, Any]]) -> None:
    """Writes nested dicts of arrays, one per peer, into one .npz."""

    def leaves(prefix: str, tree: dict[str, Any]) -> dict[str, np.ndarray]:
        flat: dict[str, np.ndarray] = {}
        for name, value in tree.items():
            path = f"{prefix}/{name}"
            flat |= leaves(path, value) if isinstance(value, dict) else {path: value}
        return flat

    np.savez(path, **leaves("", layouts))


def load(path: pathlib.Path, layout: str) -> dict[str, Any]:
    """Reads one peer's nested dict."""
    tree: dict[str, Any] = {}
    with np.load(path) as arrays:
        for name in arrays:
            _, first, *inner, leaf = name.split("/")
            if first == layout:
                branch = tree
                for key in inner:
                    branch = branch.setdefault(key, {})
                branch[leaf] = arrays[name]
    return tree
