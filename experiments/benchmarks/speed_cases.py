"""What is timed by `speed.py`: layers, shapes, solvers, and the rival."""

import flax.linen as nn
import jax

import jaxrnn
from jaxrnn import native

LAYERS = {  # ours, Flax' cell, gates
    "simple_rnn": (jaxrnn.SimpleRNN, nn.SimpleCell, 1),
    "gru": (jaxrnn.GRU, nn.GRUCell, 3),
    "lstm": (jaxrnn.LSTM, nn.OptimizedLSTMCell, 4),
}
SHAPES = {  # (batch, time, in_features, features)
    "tiny": (2, 5, 3, 4),
    "imdb-001": (32, 500, 32, 32),
    "imdb-002": (128, 100, 32, 32),
    "imdb-004b": (128, 30, 16, 32),
    "wide": (64, 256, 256, 256),
    "very wide": (32, 100, 1024, 1024),
}
ONLY_SIMPLE = ("very wide",)  # shapes at which gates take too long
SOLVERS = {
    "Scan": jaxrnn.Scan(),
    "HoistedScan": jaxrnn.HoistedScan(),
    "HoistedScan, one chunk": jaxrnn.HoistedScan(chunk=None),
}
if native.compiler_found() and jax.default_backend() == "cpu":
    SOLVERS["Native"] = jaxrnn.Native()
if jax.default_backend() != "cpu":
    SOLVERS["Scan, project first"] = jaxrnn.Scan(project_first=True)
    SOLVERS["HoistedScan, project first"] = jaxrnn.HoistedScan(1, True, 64)
FLAX = "flax.linen.RNN"
SCALES = {  # one size at a time grows, from (batch, time, features) = (32, 100, 64)
    "time": (100, 300, 1_000, 3_000, 10_000),
    "batch": (1, 8, 32, 128, 512),
    "features": (16, 64, 128, 256, 512),
}
