"""How do the weights of CuDNNLSTM and CuDNNGRU, of Keras 2, become those of a layer?

These layers keep what the library cuDNN takes: of every gate the transposed matrices,
and two biases, one behind the other. The size of the bias tells them.
"""

from collections.abc import Mapping

import numpy as np

Shapes = Mapping[str, tuple[int, ...]]


def is_cudnn(want: Shapes, found: tuple[int, ...] | None) -> bool:
    """Whether a bias of the shape `found` is cuDNN's, where `want` is of one layer.

    Example:
      >>> lstm = {"kernel": (2, 12), "recurrent_kernel": (3, 12), "bias": (12,)}
      >>> is_cudnn(lstm, (24,)), is_cudnn(lstm, (12,))
      (True, False)
    """
    if "recurrent_kernel" not in want or "bias" not in want:
        return False
    features, width = want["recurrent_kernel"]
    return width // features in (3, 4) and found == (2 * width,)


def from_cudnn(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The kernel, recurrent kernel and bias that compute the same in LSTM or GRU.

    The biases of an LSTM are added; those of a GRU, which resets after the matmul, are
    the rows of its bias. The order of the gates is the same.

    Reference: `_convert_rnn_weights` in `keras/engine/saving.py` of Keras 2.2.4.
    """
    features, width = arrays["recurrent_kernel"].shape
    gates = width // features
    kernels = [
        gate.T.reshape(gate.shape, order="F")
        for gate in np.split(arrays["kernel"], gates, axis=1)
    ]
    recurrent = np.split(arrays["recurrent_kernel"], gates, axis=1)
    biases = arrays["bias"].reshape(2, width)
    return {
        "kernel": np.concatenate(kernels, axis=1),
        "recurrent_kernel": np.concatenate([gate.T for gate in recurrent], axis=1),
        "bias": biases if gates == 3 else biases.sum(axis=0, dtype=biases.dtype),
    }


def check_bias(path: str, want: Shapes, found: tuple[int, ...] | None) -> None:
    """Raises a ValueError that names the setting, where the bias of a GRU tells it."""
    if "recurrent_kernel" not in want or "bias" not in want:
        return
    features, width = want["recurrent_kernel"]
    after, before, cudnn = (2, width), (width,), (2 * width,)
    if width // features != 3 or found == want["bias"]:
        return
    if want["bias"] == after and found == before:
        cause = "a GRU with reset_after=False, give `like` that setting"
    elif want["bias"] == before and found in (after, cudnn):
        kind = "CuDNNGRU" if found == cudnn else "GRU"
        cause = f"a {kind} with reset_after=True, give `like` that setting"
    else:
        return
    name = f"the bias of {path}" if path else "the bias"
    raise ValueError(
        f"{name} must have shape {want['bias']}, found {found}, that of {cause}."
    )
