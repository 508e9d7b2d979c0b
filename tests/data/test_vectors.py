"""Do pretrained vectors of each text format reach their rows, and train or rest?"""

import jax
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import data
from jaxrnn.data import Tokenizer, load_vectors
from jaxrnn.files import BadFile

WORDS = {"the": 1, "Café": 2, "missing": 3, ". . .": 4, "a\xa0b": 5, "late": 6}
BEFORE = np.linspace(-0.05, 0.05, 18).astype(np.float32).reshape(6, 3)
LINES = [
    "the 0.5 -1 1e-3",
    "unknown 1 2 x",  # numbers of other words are not read
    ". . . 1 2 3",
    "at name@domain.com 1 2 3",
    "Café 4 5 6",
    "late 7 8 9",  # an id beyond the table
    "the 9 9 9",
    "a\xa0b -7 -8 -9",
]
WANT = {1: [0.5, -1, 1e-3], 4: [1, 2, 3], 2: [4, 5, 6], 5: [-7, -8, -9]}
LAYOUTS = {
    "glove": "\n".join(LINES) + "\n",
    "no last newline": "\n".join(LINES),
    "word2vec": f"{len(LINES)} 3\n" + "".join(f"{line} \n" for line in LINES),
    "windows": "\r\n".join(LINES) + "\r\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vectors_reach_their_rows(layout, tmp_path):
    """Words that are not found keep what they had; the given table stays."""
    path = tmp_path / "vectors.txt"
    path.write_bytes(LAYOUTS[layout].encode())
    given = BEFORE.copy()
    embedding, found = load_vectors(path, WORDS, given)
    np.testing.assert_array_equal(np.flatnonzero(found), sorted(WANT))
    want = BEFORE.copy()
    for row, numbers in WANT.items():
        want[row] = numbers
    np.testing.assert_array_equal(embedding, want)
    np.testing.assert_array_equal(given, BEFORE)
    assert embedding.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the 1 2\n", "hold a word and 3 numbers a line, found 2 in line 1, 'the 1 2'"),
        ("a 1 2 3\nthe 1 2 3 4\n", "found 4 in line 2"),
        ("2 2\nthe 1 2\n", "found 2 numbers, says its first line; give a table as"),
        ("3 3\nthe 1 2 3\na 1 2 3\n", "as many words as its first line says, 3, found"),
        ("the 1 nan 3\n", "3 finite numbers a line, found line 1, '1 nan 3'"),
        ("a 1 2 3\nthe 1 1e39 3\n", "finite numbers a line, found line 2"),
        ("the 1 x 3\n", "finite numbers a line, found line 1"),
        ("the 1  3\n", "finite numbers a line, found line 1"),
        ("\n", "found -1 in line 1, ''"),
        ("", "hold one of the 5 words of word_index, found none"),
        ("THE 1 2 3\n", "found none of them; write them in upper or lower case"),
        ("1 3\nthe \0\1\2\3\x80\n", "found 1 in line 2"),  # the binary format
    ],
)
def test_a_file_of_other_vectors(text, message, tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text(text)
    with pytest.raises(BadFile, match=rf"vectors\.txt must .*{message}"):
        load_vectors(path, WORDS, BEFORE)


def test_ways_out_of_a_file_that_does_not_fit(tmp_path, untyped):
    path = tmp_path / "vectors.txt"
    path.write_text("THE 1 2\n")
    upper = {word.upper(): i for word, i in WORDS.items()}
    assert load_vectors(path, upper, BEFORE[:, :2]).found.sum() == 1
    with pytest.raises(ValueError, match=r"a table .* got shape \(3,\); it is params"):
        untyped(load_vectors)(path, upper, BEFORE[0])
    with pytest.raises(
        ValueError, match="at least 0, got -1, which would be a row cou"
    ):
        load_vectors(path, {"THE": -1}, BEFORE[:, :2])


@pytest.mark.parametrize("frozen", [True, False])
def test_vectors_rest_or_train(frozen, tmp_path):
    """The recipe: a classifier of texts; what is not in them rests in any case."""
    texts = ["good good film", "bad film", "good one", "bad bad one"]
    tokenizer = Tokenizer.fit(texts)
    path = tmp_path / "vectors.txt"
    path.write_text("good 0.3 0.1\nbad -0.2 0.2\nfilm 0.1 -0.3\n")
    ids = data.pad_sequences(tokenizer.encode(texts))
    dataset = data.Dataset(ids, np.float32([1, 0, 1, 0]), data.padding_mask(ids))
    model = jaxrnn.TextClassifier(tokenizer.vocab_size, 2, jaxrnn.SimpleRNN(4))
    params = model.init(jax.random.key(0), ids[:1])["params"]
    before = params["embed"]["embedding"]
    vectors = load_vectors(path, tokenizer.word_index, before)
    assert vectors.found.sum() == 3
    params["embed"]["embedding"] = vectors.embedding

    optimizer = jaxrnn.keras_adam(0.05)
    if frozen:
        labels = {name: "frozen" if name == "embed" else "free" for name in params}
        rules = {"frozen": optax.set_to_zero(), "free": optimizer}
        optimizer = optax.partition(rules, labels)

    def loss_fn(params, batch):
        logits = model.apply({"params": params}, batch.inputs, mask=batch.mask)
        loss = optax.sigmoid_binary_cross_entropy(logits, batch.targets)
        mean = jaxrnn.Mean.of(loss, batch.sample_weight)
        return mean.value, {"loss": mean}

    state, history = jaxrnn.fit(
        jaxrnn.init_state(params, optimizer),
        dataset,
        loss_fn=loss_fn,
        optimizer=optimizer,
        key=jax.random.key(1),
        epochs=30,
        batch_size=4,
    )
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    moved = np.abs(state.params["embed"]["embedding"] - vectors.embedding).max(axis=1)
    assert moved[0] == 0  # padding, which is masked
    assert (moved[1:] == 0).all() if frozen else (moved[1:] > 0.01).all()
