"""How does a decoder become a text? Token by token: greedily, or with beams.

`encoder_decoder.py` uses both. A decoder is its step, `(carry, tokens) -> (carry,
log_probs)`, where the carry is a pytree of arrays (*rows, features), tokens are
(*rows,) and log_probs (*rows, vocab): a jaxrnn layer's `step`, an embedding before it
and a Dense after it. Any rows will do, so beams are rows too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

FILLER, START, END = 0, 1, 2

Step = Callable[[Any, jax.Array], tuple[Any, jax.Array]]


def greedy(step: Step, carry: Any, rows: int, length: int):
    """Takes the most likely token, feeds it back, and goes on until `END`.

    Args:
      step: of the decoder.
      carry: what the encoder made of the sources, leaves (rows, features).
      rows: how many sources there are.
      length: tokens at most, `END` included.

    Returns:
      Tokens (rows, length): what was said, `END`, `FILLER`; and the sum of their
      log-probabilities (rows,).
    """

    def one(state, _):
        carry, last, score, ended = state
        carry, log_probs = step(carry, last)
        token = jnp.where(ended, FILLER, jnp.argmax(log_probs, axis=-1))
        gain = jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]
        score = score + jnp.where(ended, jnp.zeros_like(gain), gain)
        return (carry, token, score, ended | (token == END)), token

    last = jnp.full((rows,), START)
    start = carry, last, jnp.zeros((rows,)), jnp.zeros((rows,), bool)
    (_, _, score, _), tokens = jax.lax.scan(one, start, length=length)
    return tokens.T, score


class Beams(NamedTuple):
    """The sequences that may still be the best, as many for each source.

    Attributes:
      carry: of the decoder, leaves (rows, width, features).
      tokens: (rows, width, length), `FILLER` where nothing has been said.
      scores: (rows, width), sums of log-probabilities; -inf where there is none yet.
      lengths: (rows, width), of what was said, `END` included.
      ended: (rows, width).
    """

    carry: Any
    tokens: jax.Array
    scores: jax.Array
    lengths: jax.Array
    ended: jax.Array


def beam_search(
    step: Step,
    carry: Any,
    rows: int,
    length: int,
    *,
    width: int,
    length_power: float = 1.0,
):
    """Keeps the `width` best beginnings of every source, and all they can go on with.

        score = sum of log p(token) / (number of tokens)^length_power

    Beginnings that have ended stay, and compete with those that go on by this score.
    The search is over when all have ended. With a width of 1 it is `greedy`.

    Args:
      step, carry, rows, length: as in `greedy`.
      width: beams per source.
      length_power: 0 = the most likely sequence, which favours short ones; 1 = the
        best mean over tokens.

    Returns:
      Tokens (rows, width, length), the best first; and their scores (rows, width).

    Reference: the length-normalised beams of Wu et al., Google's neural machine
    translation system, 2016, arXiv 1609.08144, with their penalty's simplest form.
    """

    def normalised(scores, lengths):
        return scores / lengths.astype(scores.dtype) ** length_power

    def chosen(tree, beams):
        """Of every row, the beams (rows, width) named."""

        def choose(x):
            index = beams.reshape(*beams.shape, *[1] * (x.ndim - 2))
            return jnp.take_along_axis(x, index, axis=1)

        return jax.tree.map(choose, tree)

    def go_on(state):
        position, beams = state
        before = jnp.maximum(position - 1, 0)
        said = jax.lax.dynamic_index_in_dim(beams.tokens, before, 2, keepdims=False)
        last = jnp.where(position == 0, START, said)
        carry, log_probs = step(beams.carry, last)
        vocab = log_probs.shape[-1]
        # What has ended goes on in one way: with a filler, which costs nothing.
        rest = jnp.where(jnp.arange(vocab) == FILLER, 0.0, -jnp.inf)
        gains = jnp.where(beams.ended[..., None], rest, log_probs)
        scores = beams.scores[..., None] + gains
        lengths = beams.lengths + (~beams.ended).astype(beams.lengths.dtype)
        ranks = normalised(scores, lengths[..., None])
        _, best = jax.lax.top_k(ranks.reshape(rows, width * vocab), width)
        beam, token = best // vocab, best % vocab
        kept = Beams(carry, beams.tokens, beams.scores, lengths, beams.ended)
        carry, tokens, _, lengths, ended = chosen(kept, beam)
        flat = scores.reshape(rows, width * vocab)
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, position, axis=2)
        return position + 1, Beams(
            carry,
            tokens,
            jnp.take_along_axis(flat, best, axis=1),
            lengths,
            ended | (token == END),
        )

    def unfinished(state):
        position, beams = state
        return (position < length) & ~beams.ended.all()

    shape = (rows, width)
    first = Beams(
        jax.tree.map(lambda x: jnp.repeat(x[:, None], width, axis=1), carry),
        jnp.full((*shape, length), FILLER),
        jnp.where(jnp.arange(width) == 0, jnp.zeros(shape), -jnp.inf),  # all are one
        jnp.zeros(shape, int),
        jnp.zeros(shape, bool),
    )
    _, beams = jax.lax.while_loop(unfinished, go_on, (0, first))
    return beams.tokens, normalised(beams.scores, beams.lengths)
