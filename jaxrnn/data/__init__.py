"""How does raw data become batches? NumPy only; JAX arrays begin at the model.

In reading order: text -> ids -> padded rows; rows -> datasets -> batches; and the
two data sets of the tutorials.
"""

from jaxrnn.data.tokenizer import Tokenizer  # isort: skip
from jaxrnn.data.text import pad_sequences, padding_mask  # isort: skip
from jaxrnn.data.vectors import Vectors, load_vectors  # isort: skip
from jaxrnn.data.batches import (  # isort: skip
    Dataset,
    Batch,
    check_dataset,
    split_last,
    batches,
    num_batches,
    streams,
)
from jaxrnn.data.buckets import buckets, bucket_batches  # isort: skip
from jaxrnn.data.imdb import Imdb, Vocabulary, load_imdb  # isort: skip
from jaxrnn.data.frames import series_of  # isort: skip
from jaxrnn.data.series import Scale  # isort: skip
from jaxrnn.data.windows import split_in_time, windows  # isort: skip
from jaxrnn.data.sine import (  # isort: skip
    sine_series,
    sine_windows,
    window_as_features,
    window_as_time,
    sine_datasets,
)

__all__ = [  # noqa: RUF022 (in reading order)
    "Tokenizer",
    "pad_sequences",
    "padding_mask",
    "Vectors",
    "load_vectors",
    "Dataset",
    "Batch",
    "check_dataset",
    "split_last",
    "batches",
    "num_batches",
    "streams",
    "buckets",
    "bucket_batches",
    "Imdb",
    "Vocabulary",
    "load_imdb",
    "series_of",
    "split_in_time",
    "Scale",
    "windows",
    "sine_series",
    "sine_windows",
    "window_as_features",
    "window_as_time",
    "sine_datasets",
]
