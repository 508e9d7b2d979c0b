"""Where do the raw IMDB reviews come from?

From tensorflow-datasets (tfds), without TensorFlow: `tfds.data_source` reads a
directory prepared in array_record format, and needs no TensorFlow for it. Where
nothing is prepared, tfds downloads and prepares.
"""

import contextlib
import hashlib
import http.client
import importlib.util
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

_ARCHIVE_URL = "http://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
_NETWORK_TIMEOUT_S = 5.0
_FORMAT = "array_record"
_NEEDED_PACKAGES = ("tensorflow_datasets", "array_record", "importlib_resources")


class Reviews(NamedTuple):
    """Raw reviews: `texts`, and `labels` with 1 = positive, 0 = negative."""

    texts: list[str]
    labels: Float32[np.ndarray, " examples"]


def prepared_builder(data_dir: str | os.PathLike[str] | None) -> Any:
    """Returns the tfds builder of a prepared directory; prepares it if need be.

    Args:
      data_dir: directory for tfds; None takes the variable TFDS_DATA_DIR as it is
        now (tfds reads it once, when imported), and without it
        `~/tensorflow_datasets`.

    Raises:
      ImportError: if tfds or a package it needs here is missing.
      ValueError: if the directory is prepared in another format, or half.
      ConnectionError: if nothing is prepared and there is no network.
    """
    missing = [name for name in _NEEDED_PACKAGES if not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(
            f"load_imdb needs the packages {', '.join(_NEEDED_PACKAGES)}, found no "
            f"{', '.join(missing)}; pip install jaxrnn[data]."
        )
    import tensorflow_datasets as tfds  # takes 0.5 s, so only here

    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    directory = Path(data_dir).expanduser().absolute()
    builder = tfds.builder("imdb_reviews", data_dir=directory)
    if builder.is_prepared():
        formats = {found.value for found in builder.info.available_file_formats()}
        if _FORMAT not in formats:
            raise ValueError(
                f"imdb_reviews must be prepared in {_FORMAT} format, the only one "
                f"read without TensorFlow, got {', '.join(sorted(formats))} in "
                f"{builder.data_dir}; point data_dir or TFDS_DATA_DIR at another "
                "directory, or delete this one, and it will be prepared anew."
            )
        return builder
    if Path(builder.data_dir).exists():
        raise ValueError(
            "imdb_reviews must be prepared completely or not at all, got a part in "
            f"{builder.data_dir}; delete it, and it will be prepared anew."
        )
    _check_network(directory)
    builder = tfds.builder("imdb_reviews", data_dir=directory, file_format=_FORMAT)
    with _tfds_opening_without_tensorflow():
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return builder


def fingerprint(builder: Any) -> str:
    """Hashes what tells one prepared directory from another: place, files, version.

    Args:
      builder: from `prepared_builder`.
    """
    files = sorted(Path(builder.data_dir).iterdir())
    facts = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files
    ]
    identity = [builder.info.full_name, str(builder.data_dir), facts]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def read_reviews(builder: Any, split: str) -> Reviews:
    """Reads one split, in tfds' order.

    Args:
      builder: from `prepared_builder`.
      split: "train" or "test".
    """
    source = builder.as_data_source(split=split)
    rows = source.__getitems__(range(len(source)))  # one by one takes 3 times as long
    return Reviews(
        texts=[row["text"].decode("utf-8") for row in rows],
        labels=np.array([row["label"] for row in rows], np.float32),
    )


def _check_network(directory: Path) -> None:
    """Tries the server once; tfds itself would retry for minutes."""
    try:
        urllib.request.urlopen(_ARCHIVE_URL, timeout=_NETWORK_TIMEOUT_S).close()
    except (OSError, http.client.HTTPException) as error:
        state = "holds none" if directory.exists() else "does not exist"
        raise ConnectionError(
            "load_imdb needs imdb_reviews prepared by tfds or a network to download "
            f"it, but the directory {directory} {state}, and {_ARCHIVE_URL} did not "
            f"answer ({error}); connect, or point data_dir or TFDS_DATA_DIR at a "
            f"directory with imdb_reviews in {_FORMAT} format."
        ) from error


@contextlib.contextmanager
def _tfds_opening_without_tensorflow() -> Iterator[None]:
    """Lets tfds read the downloaded archive with `open` instead of TensorFlow.

    All of tfds 4.9.10's `download_and_prepare` works without TensorFlow but one
    function, `extractor._open_or_pass`, which calls `tf.io.gfile.GFile`. It is
    replaced while this context lasts. With another version of tfds, look there
    first.
    """
    from tensorflow_datasets.core.download import extractor

    @contextlib.contextmanager
    def open_or_pass(path_or_file):
        if isinstance(path_or_file, (str, os.PathLike)):
            with open(path_or_file, "rb") as file:
                yield file
        else:
            yield path_or_file

    original = extractor._open_or_pass
    extractor._open_or_pass = open_or_pass
    try:
        yield
    finally:
        extractor._open_or_pass = original
