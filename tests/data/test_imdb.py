"""Are tfds' reviews turned into Keras' ids, and kept, and prepared offline?"""

import http.server
import io
import json
import os
import re
import shutil
import socket
import sys
import tarfile
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jaxrnn.data import imdb_cache, imdb_source, load_imdb, pad_sequences, split_last
from jaxrnn.data.imdb import Vocabulary
from jaxrnn.files import BadFile

VERSION = Path("imdb_reviews/plain_text/1.0.0")
REVIEWS = {  # folder of the archive -> texts
    "train/pos": ["A good film, GOOD!", "good <br />Élan"],
    "train/neg": ["A bad film.", "bad bad film"],
    "train/unsup": ["nobody said"],
    "test/pos": ["unseen good", "GOOD élan"],
    "test/neg": ["a bad Élan", "?"],
}
COUNTS = {
    "good": 3,
    "bad": 3,
    "film": 3,
    "a": 2,
    "br": 1,
    "élan": 1,
}  # in the training texts


def make_archive(path):
    """A small `aclImdb_v1.tar.gz` with the folders of the real one."""
    with tarfile.open(path, "w:gz") as archive:
        for folder, texts in REVIEWS.items():
            for i, text in enumerate(texts):
                member = tarfile.TarInfo(f"aclImdb/{folder}/{i}_7.txt")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))


@pytest.fixture
def served_archive(tmp_path, monkeypatch):
    """Lets tfds download a small archive from this machine; counts the requests."""
    pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.datasets.imdb_reviews import (
        imdb_reviews_dataset_builder as tfds_module,
    )

    make_archive(tmp_path / "aclImdb_v1.tar.gz")
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path)

        def log_message(self, *args):
            requests.append(args)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        url = f"http://127.0.0.1:{server.server_port}/aclImdb_v1.tar.gz"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(tfds_module, "_DOWNLOAD_URL", url)
        monkeypatch.setattr(imdb_source, "_ARCHIVE_URL", url)
        yield requests
        server.shutdown()


@pytest.fixture
def prepared(served_archive, tmp_path):
    """A small data directory, prepared by our real code, and a cache directory."""
    del served_archive
    where = {"data_dir": tmp_path / "prepared", "cache_dir": tmp_path / "cache"}
    load_imdb(**where)
    return where


@pytest.fixture
def no_network(monkeypatch):
    """An address where nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/aclImdb_v1.tar.gz"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(imdb_source, "_ARCHIVE_URL", url)


def decoded(imdb, dataset):
    """The reviews of a dataset as (words, label), in no order."""
    rows = zip(dataset.inputs, dataset.targets.tolist(), strict=True)
    return Counter((imdb.vocabulary.decode(row), label) for row, label in rows)


def assert_equal(found, want):
    for part, want_part in zip(found[:2], want[:2], strict=True):
        for array, want_array in zip(part, want_part, strict=True):
            np.testing.assert_array_equal(array, want_array)
    assert found.vocabulary == want.vocabulary


def test_download_prepare_and_read_without_tensorflow(
    served_archive, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "from_environment"))
    imdb = load_imdb(cache_dir=tmp_path / "cache", max_length=6)
    assert len(served_archive) == 2  # is there a network? then the download
    assert (tmp_path / "from_environment" / VERSION).is_dir()
    assert decoded(imdb, imdb.train) == {
        ("<start> a good film good", 1.0): 1,
        ("<start> good br élan", 1.0): 1,
        ("<start> a bad film", 0.0): 1,
        ("<start> bad bad film", 0.0): 1,
    }
    assert decoded(imdb, imdb.test) == {
        ("<start> good", 1.0): 1,  # "unseen" is dropped
        ("<start> good élan", 1.0): 1,
        ("<start> a bad élan", 0.0): 1,
        ("<start>", 0.0): 1,
    }
    words = list(imdb.vocabulary.word_ids)
    assert [COUNTS[word] for word in words] == sorted(COUNTS.values(), reverse=True)
    assert list(imdb.vocabulary.word_ids.values()) == [4, 5, 6, 7, 8, 9]
    assert imdb.train.inputs.dtype == np.int32
    assert imdb.train.targets.dtype == np.float32
    assert imdb.train.mask is None


def test_prepared_and_cached_need_no_network(prepared, no_network):
    assert_equal(load_imdb(**prepared), load_imdb(**prepared))


def test_options_share_one_cache_file(prepared):
    whole = load_imdb(**prepared, num_words=None, max_length=6)
    few = load_imdb(**prepared, num_words=6, max_length=3, masked=True)
    assert len(list(prepared["cache_dir"].iterdir())) == 1
    for part, few_part in zip(whole[:2], few[:2], strict=True):
        want = np.where(part.inputs >= 6, 2, part.inputs)[:, -3:]
        np.testing.assert_array_equal(few_part.inputs, want)
        np.testing.assert_array_equal(few_part.mask, want != 0)
        assert few_part.mask.dtype == bool
    assert whole.vocabulary.vocab_size == 10
    assert few.vocabulary.vocab_size == 6


def test_word_index_gives_the_ids_and_lower_cases_ascii(prepared, tmp_path):
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"bad": 1, "good": 2, "Élan": 3, "élan": 4}))
    imdb = load_imdb(**prepared, word_index=path, num_words=None, max_length=5)
    assert decoded(imdb, imdb.train) == {
        ("<start> good good", 1.0): 1,
        ("<start> good Élan", 1.0): 1,
        ("<start> bad", 0.0): 1,
        ("<start> bad bad", 0.0): 1,
    }
    rows = imdb.vocabulary.encode_reviews(["BAD Élan élan"])
    assert [row.tolist() for row in rows] == [[1, 4, 6, 7]]
    path.write_text(json.dumps({"bad": 7}))  # same name, other contents
    again = load_imdb(**prepared, word_index=path, num_words=None)
    assert again.vocabulary.word_ids == {"bad": 10}


def keras_reviews(folder, monkeypatch, index, num_words):
    """What Keras itself gives of the same reviews, from files in its layouts."""
    imdb = pytest.importorskip("keras.src.datasets.imdb")
    arrays = {}
    for half in ("train", "test"):
        texts = [(t, y) for y in (1, 0) for t in REVIEWS[f"{half}/{['neg', 'pos'][y]}"]]
        ranks = [
            [index[w] for w in re.findall(r"[\wÉé]+", ascii_lower(text)) if w in index]
            for text, _ in texts
        ]
        arrays[f"x_{half}"] = np.array([*ranks, None], object)[:-1]
        arrays[f"y_{half}"] = np.array([y for _, y in texts])
    np.savez(folder / "imdb.npz", **arrays)
    monkeypatch.setattr(imdb, "get_file", lambda fname, **_: str(folder / fname))
    assert imdb.get_word_index() == index
    return imdb.load_data(num_words=num_words)


def ascii_lower(text):
    return re.sub("[A-Z]", lambda letter: letter[0].lower(), text)


@pytest.mark.parametrize("num_words", [6, 100])
def test_word_index_of_keras_end_to_end(prepared, tmp_path, monkeypatch, num_words):
    """The rows of `keras.datasets.imdb.load_data`, of its own two files."""
    index = {"film": 3, "good": 1, "Élan": 6, "bad": 2, "a": 4, "br": 5, "said": 7}
    path = tmp_path / "imdb_word_index.json"
    path.write_text(json.dumps(index))
    imdb = load_imdb(**prepared, word_index=path, num_words=num_words, max_length=7)
    halves = keras_reviews(tmp_path, monkeypatch, index, num_words)
    for part, (rows, labels) in zip(imdb[:2], halves, strict=True):
        want = pad_sequences(list(rows), 7)
        assert Counter(zip(map(tuple, want), labels, strict=True)) == Counter(
            zip(map(tuple, part.inputs), part.targets.astype(int), strict=True)
        )
    (row,) = imdb.vocabulary.encode_reviews(["GOOD Élan élan"])
    assert row.tolist() == [1, 4, 9 if num_words > 9 else 2]
    assert imdb.vocabulary.vocab_size == min(num_words, 3 + max(index.values()) + 1)


@pytest.mark.parametrize(
    "content",
    [
        *("no json", "[]", "{}", '{"a": "b"}', '{"a": 0}', '{"a": true}'),
        '{"a": 1, "b": 1}',
        *('{"a": 1, "a": 2}', "[" * 10**5, f'{{"a": {2**31}}}'),
    ],
)
def test_word_index_of_another_kind(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(BadFile, match=r"index\.json must .* word -> rank"):
        load_imdb(word_index=tmp_path / "index.json")


def test_word_index_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"index\.json"):
        load_imdb(word_index=tmp_path / "index.json")


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_bytes(path):
    content = path.read_bytes()
    path.write_bytes(content.replace(b"good", b"goof"))


def damage_shape(path):
    """NumPy's header alone, which the checksum covers."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(4,)", b"(3,)"))


def damage_names(path):
    content = path.read_bytes()
    path.write_bytes(content.replace(b"test_ids", b"word_ids"))


def damage_by_compression(path):
    """A cache of ten kilobytes would take as many megabytes."""
    with np.load(path) as arrays:
        np.savez_compressed(path, **arrays)


def damage_empty(path):
    path.write_bytes(b"")


def damage_text(path):
    path.write_text("something else")


def damage_other_arrays(path):
    np.savez(path, a=np.zeros(3))


def damage_one_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    "damage",
    [
        damage_cut,
        damage_bytes,
        damage_shape,
        damage_names,
        damage_by_compression,
        damage_empty,
        damage_text,
        damage_other_arrays,
        damage_one_array,
    ],
)
def test_damaged_cache_is_rebuilt(prepared, damage):
    want = load_imdb(**prepared)
    (path,) = prepared["cache_dir"].iterdir()
    content = path.read_bytes()
    damage(path)
    assert path.read_bytes() != content
    assert imdb_cache.load_encoded(path) is None
    assert_equal(load_imdb(**prepared), want)
    assert imdb_cache.load_encoded(path) is not None


def test_reviews_are_read_and_encoded_once(prepared, monkeypatch):
    want = load_imdb(**prepared)
    monkeypatch.setattr(imdb_source, "read_reviews", None)
    assert_equal(load_imdb(**prepared), want)


def test_changed_directory_is_encoded_anew(prepared):
    (shard,) = (prepared["data_dir"] / VERSION).glob("*-train*")
    os.utime(shard, (1, 1))
    load_imdb(**prepared)
    assert len(list(prepared["cache_dir"].iterdir())) == 2


def test_unwritable_cache_warns_and_goes_on(prepared, tmp_path):
    (tmp_path / "file").touch()
    where = prepared | {"cache_dir": tmp_path / "file" / "cache"}
    with pytest.warns(UserWarning, match="cache cannot be written.*cache_dir names"):
        imdb = load_imdb(**where)
    assert_equal(imdb, load_imdb(**prepared))


def test_interrupted_write_leaves_nothing(prepared, tmp_path, monkeypatch):
    def full_disk(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.warns(UserWarning, match="No space left"):
        load_imdb(**prepared | {"cache_dir": tmp_path / "full"})
    assert list((tmp_path / "full").iterdir()) == []


def test_the_cache_lies_with_the_user(prepared, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    load_imdb(**prepared | {"cache_dir": "~/here"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    load_imdb(**prepared | {"cache_dir": None})
    found = [path.name for path in (tmp_path / "here").iterdir()]
    assert found == [path.name for path in (tmp_path / "home/jaxrnn").iterdir()]
    assert len(found) == 1


@pytest.mark.parametrize("exists", [True, False])
def test_no_network(no_network, tmp_path, monkeypatch, exists):
    monkeypatch.setenv("HOME", str(tmp_path))
    if exists:
        (tmp_path / "data").mkdir()
    state = "holds none" if exists else "does not exist"
    message = f"{re.escape(str(tmp_path))}/data {state}.*connect, or point data_dir or"
    with pytest.raises(ConnectionError, match=message):
        load_imdb(data_dir="~/data")


def test_server_that_does_not_answer(monkeypatch, tmp_path, no_network):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(imdb_source, "_ARCHIVE_URL", f"http://127.0.0.1:{port}/")
        monkeypatch.setattr(imdb_source, "_NETWORK_TIMEOUT_S", 0.2)
        with pytest.raises(ConnectionError, match="timed out"):
            load_imdb(data_dir=tmp_path)


def test_directory_prepared_as_tfrecord(prepared):
    info = prepared["data_dir"] / VERSION / "dataset_info.json"
    content = json.loads(info.read_text())
    info.write_text(json.dumps(content | {"fileFormat": "tfrecord"}))
    for shard in info.parent.glob("*.array_record*"):
        shard.rename(str(shard).replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"array_record format.*got tfrecord in.*anew"):
        load_imdb(**prepared)


def test_directory_prepared_in_part(prepared):
    shutil.rmtree(prepared["data_dir"] / VERSION)
    (prepared["data_dir"] / VERSION).mkdir()
    with pytest.raises(ValueError, match=r"completely or not at all.*delete it"):
        load_imdb(**prepared)


@pytest.mark.parametrize(
    "package", ["tensorflow_datasets", "array_record", "importlib_resources"]
)
def test_missing_package(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"no {package}; pip install jaxrnn\[data\]"):
        load_imdb()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_words": 3}, "num_words must be at least 4.*got 3"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        load_imdb(**options)


def test_vocabulary_errors():
    vocabulary = Vocabulary({"good": 4})
    with pytest.raises(TypeError, match="got one string 'good'"):
        vocabulary.encode_reviews("good")
    with pytest.raises(ValueError, match=r"\(0 to 4\), got 3"):
        vocabulary.decode(np.array([0, 1, 4, 3]))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real reviews: where they are, and all of them unpadded and uncut."""
    data_dir = os.environ.get("TFDS_DATA_DIR")
    if not data_dir or not (Path(data_dir).expanduser() / VERSION).is_dir():
        pytest.skip("TFDS_DATA_DIR names no directory with imdb_reviews")
    where = {"data_dir": data_dir, "cache_dir": tmp_path_factory.mktemp("cache")}
    return where, load_imdb(**where, num_words=None, max_length=3000, masked=True)


@pytest.mark.slow
@pytest.mark.real_data
def test_real_vocabulary_and_lengths(real):
    _, imdb = real
    assert len(imdb.vocabulary.word_ids) == 88_582
    assert imdb.vocabulary.vocab_size == 88_582 + 4
    lengths = imdb.train.mask.sum(axis=1)
    assert round(lengths.mean(), 2) == 238.71
    assert (imdb.train.inputs.max(), imdb.test.inputs.max()) <= (88_585, 88_585)
    for part in imdb[:2]:
        starts = np.argmax(part.mask, axis=1)
        assert (np.take_along_axis(part.inputs, starts[:, None], 1) == 1).all()
        assert ((part.inputs == 0) | (part.inputs == 1) | (part.inputs > 3)).all()


@pytest.mark.slow
@pytest.mark.real_data
def test_real_default_arrays(real):
    where, _ = real
    imdb = load_imdb(**where)
    assert imdb.vocabulary.vocab_size == 10_000
    for part in imdb[:2]:
        assert part.inputs.shape == (25_000, 500)
        assert part.targets.mean() == 0.5
        assert (part.inputs.min(), part.inputs.max()) == (0, 9_999)
    _, validation = split_last(imdb.train, 0.2)
    assert len(validation.targets) == 5_000
    assert abs(validation.targets.mean() - 0.5) < 0.02  # 3 standard deviations


@pytest.mark.slow
@pytest.mark.real_data
def test_real_cache_is_the_same(real, tmp_path):
    where, _ = real
    anew = load_imdb(**where | {"cache_dir": tmp_path})
    assert_equal(load_imdb(**where), anew)


@pytest.mark.slow
@pytest.mark.real_data
def test_real_reviews_survive_the_round_trip(real):
    _, imdb = real
    text = imdb.vocabulary.decode(imdb.test.inputs[0])
    (row,) = imdb.vocabulary.encode_reviews([text.removeprefix("<start> ")])
    np.testing.assert_array_equal(row, imdb.test.inputs[0][imdb.test.mask[0]])
