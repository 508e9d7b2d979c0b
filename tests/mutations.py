"""What do our readers make of files in which one byte is wrong? Run as a program.

A process of its own, as a crash would end it, and as its memory is looked at. For every
kind of file it prints one line of JSON: how many mutations were refused and how many
loaded, what went wrong, the most that Python and NumPy had allocated beside what is
promised (what arrays and file take, or what reading the whole file took), and by
how much the process grew.
"""

import json
import pathlib
import random
import resource
import sys
import tempfile
import tracemalloc
import warnings

import jax
import numpy as np
from legacy_files import unpack, write_legacy

import jaxrnn
from jaxrnn import interchange
from jaxrnn.data import Tokenizer, imdb_cache
from jaxrnn.files import BadFile

MODEL = jaxrnn.TextClassifier(9, 3, jaxrnn.Bidirectional(jaxrnn.GRU(4)))
MUTATIONS = 420
CUTS = 60


def draw_params():
    ids = np.zeros((1, 2), np.int32)
    like = jax.eval_shape(MODEL.init, jax.random.key(0), ids)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(-1, 1, x.shape).astype(x.dtype), like)


def mutants(content, rng):
    """One byte replaced, two thirds of them near an end, where formats say the most."""
    ends = [(0, 512), (len(content) - 512, len(content)), (0, len(content))]
    for number in range(MUTATIONS):
        start, end = ends[number % 3]
        place = rng.randrange(max(0, start), min(end, len(content)))
        others = {0, 255, content[place] ^ rng.randrange(1, 256)} - {content[place]}
        byte = bytes([rng.choice(sorted(others))])
        yield content[:place] + byte + content[place + 1 :]
    for _ in range(CUTS):
        yield content[: rng.randrange(len(content))]


def kinds(folder):
    """`{name: (path, read, bytes of what is read, whether a checksum covers it)}`."""
    params = draw_params()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    tree, model = folder / "model.weights.h5", folder / "model.keras"
    interchange.save_keras_weights(tree, params)
    interchange.save_keras_model(model, MODEL, params)
    legacy, whole = folder / "weights.h5", folder / "whole.keras"
    names = {"forward": "forward_gru", "reverse": "backward_gru"}
    both = {
        f"both/{names[side]}/{name}:0": np.stack(
            [layer["bias"], layer["recurrent_bias"]]
        )
        if name == "bias"
        else layer[name]
        for side, layer in params["recurrent"].items()
        for name in ("kernel", "recurrent_kernel", "bias")
    }
    layers = {
        "embedding": {"embeddings:0": params["embed"]["embedding"]},
        "both": both,
        "dense": {name: params["head"][name] for name in ("kernel", "bias")},
    }
    write_legacy(legacy, layers)
    tagger = unpack(folder) / "keras_2.3.1_tagger.h5"
    of_keras_2 = interchange.load_keras_model(folder / "tf_1.14_tagger.h5")
    interchange.save_keras_model(whole, *interchange.to_hard_sigmoid(*of_keras_2))
    ours = folder / "model.safetensors"
    interchange.save(ours, params)
    words = {f"word{i}": i + 4 for i in range(50)}
    half = imdb_cache.EncodedSplit(
        np.arange(4, 44, dtype=np.int32), np.full(10, 4), np.ones(10, np.float32)
    )
    cache, tokenizer = folder / "imdb.npz", folder / "tokenizer.json"
    imdb_cache.save_encoded(cache, imdb_cache.EncodedReviews(half, half, words))
    Tokenizer.fit([" ".join(words)], oov_token="<oov>").save(tokenizer)

    def load_keras(path):
        return interchange.load_keras(path, like=params)

    def replace_keras(path):
        interchange.replace_keras_weights(path, folder / "new.keras", params)
        return load_keras(folder / "new.keras")

    def load_model(path):
        return interchange.load_keras_model(path)[1]

    def load(path):
        return interchange.load(path, like=params)

    def load_encoded(path):
        encoded = imdb_cache.load_encoded(path)
        if encoded is None:
            raise BadFile(path, "be whole", "damage", "it is made anew")
        return encoded._asdict()

    return {
        "weights.h5": (tree, load_keras, size, False),
        "keras": (model, load_keras, size, True),
        "keras, replaced": (model, replace_keras, size, True),
        "legacy": (legacy, load_keras, size, False),
        "legacy, whole": (tagger, load_model, size, False),
        "keras, whole": (whole, load_model, size, True),
        "safetensors": (ours, load, size, False),
        "imdb cache": (cache, load_encoded, 1000, True),
        "tokenizer": (tokenizer, Tokenizer.load, 1000, False),
    }


def most_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def try_mutants(name, path, read, size, checksum, seed):
    read(path)  # what is imported then is no part of it
    tracemalloc.start()
    want = read(path)
    whole = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    content = path.read_bytes()
    found = {"kind": name, "refused": 0, "loaded": 0, "peak": 0, "wrong": []}
    before = most_mb()
    rng = random.Random(seed)
    for number, mutant in enumerate(mutants(content, rng)):
        path.write_bytes(mutant)
        print(name, number, file=sys.stderr, flush=True)  # who crashed?
        tracemalloc.start()
        try:
            got = read(path)
            found["loaded"] += 1
        except BadFile:
            got = want
            found["refused"] += 1
        except Exception as error:
            got = want
            found["wrong"].append(f"{number}: {type(error).__name__}: {error}")
        found["peak"] = max(found["peak"], tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        if checksum and not jax.tree.all(jax.tree.map(np.array_equal, got, want)):
            found["wrong"].append(f"{number}: other numbers under a checksum")
    path.write_bytes(content)
    promised = max(whole, size + len(content))
    return found | {"promised": promised, "grown_mb": most_mb() - before}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "(?s).*NaN or infinite")
    seed = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in kinds(pathlib.Path(folder)).items():
            print(json.dumps(try_mutants(name, *kind, seed)), flush=True)
