"""How are sequences learnt that are longer than the gradient can reach?"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Int, Key, PyTree

from jaxrnn import metrics
from jaxrnn.data.batches import check_count
from jaxrnn.metrics import Mean
from jaxrnn.train.checks import (
    check_all_integers,
    checked_first,
    everything_everywhere,
    returned_by,
)
from jaxrnn.train.devices import by_rows
from jaxrnn.train.over import Over, over_models
from jaxrnn.train.programs import program
from jaxrnn.train.state import TrainState, check_params, check_state
from jaxrnn.train.update import StreamLossFn, update


def _check_train(
    state: TrainState, carry: PyTree, stream: PyTree, **options: object
) -> None:
    """What a compiled program cannot see: values."""
    del carry, options
    check_state(state)
    check_all_integers("a stream", stream)


def _check_evaluate(
    params: PyTree, carry: PyTree, stream: PyTree, **options: object
) -> None:
    """What a compiled program cannot see: values."""
    del carry, options
    check_params(params)
    check_all_integers("a stream", stream)


def _place(
    sharding: NamedSharding, arrays: Mapping[str, PyTree], over: Over | None
) -> dict[str, PyTree]:
    """The rows of carry and stream divided, all else everywhere."""
    models = [] if over is None else [None]
    rest = {name: x for name, x in arrays.items() if name not in ("carry", "stream")}
    return {
        **everything_everywhere(sharding, rest, over),
        "carry": by_rows(sharding, arrays["carry"], *models),
        "stream": by_rows(sharding, arrays["stream"]),
    }


@checked_first(_check_train, _place)
@program(
    owners=("loss_fn", "optimizer"),
    static=("chunk", "over", "sharding"),
    donate=("state",),
)
def train_stream(
    state: TrainState,
    carry: PyTree,
    stream: PyTree,
    *,
    loss_fn: StreamLossFn,
    optimizer: optax.GradientTransformation,
    chunk: int,
    noise_key: Key[Array, "*models"] | None = None,
    over: Over | None = None,
    sharding: NamedSharding | None = None,
) -> tuple[TrainState, PyTree, dict[str, Mean]]:
    """One pass over long sequences: truncated backpropagation through time.

    The sequences are read side by side, `chunk` steps at a time, with an update after
    each chunk. The next chunk begins with the carry this one ended with, as a value:
    the gradient of a chunk does not reach the one before. So a model remembers as long
    as its carry does, in the memory of `chunk` steps. It is Keras' `stateful=True`, and
    PyTorch's `hidden = hidden.detach()` between windows; there each window is a call,
    here the pass is one compiled `lax.scan`.

    What is left after the last whole chunk is one more update, from a shorter chunk:
    nothing is dropped or filled. The state given is used up (donated), the carry stays
    usable.

    Args:
      state: params, opt_state, step.
      carry: before the first step: zeros, such as
        `layer.apply(variables, (batch,), method="initial_carry")`. It keeps its dtype.
      stream: a pytree of arrays (batch, time, ...) on the device, such as the `Dataset`
        of `jaxrnn.data.streams`, in which `sample_weight` weighs each step. An array of
        resets among them can mark where texts begin inside of a stream.
      loss_fn: `(params, carry, batch) -> (loss, (carry, {name: Mean}))`, where `batch`
        is a part of `stream` of `chunk` steps (or fewer, the last one), and the carry
        returned is that after its last step.
      optimizer: an Optax transformation.
      chunk: steps between two updates; all steps or more give full backpropagation and
        one update.
      noise_key: for dropout: `loss_fn` is called as `(params, carry, batch, key)`, with
        another key at every update.
      over: trains several models: `jax.vmap` or `one_by_one`; then `state`, `carry` and
        `noise_key` have a leading axis of models. The stream is shared.
      sharding: of the rows of stream and carry over devices, which are then put there,
        each with its part. As in `train_epoch` the state is whole on each; with several
        processes each gives the rows of its own devices.

    Returns:
      The state; the carry after the last step; and the means over the stream, taken
      while the parameters moved.

    Raises:
      TypeError: a carry of integers that becomes one of floats, a `loss_fn` that
        returns something else.
      ValueError: `chunk` below 1, arrays that differ in (batch, time), or integers that
        do not fit into 32 bits.

    Example: the next value of a long series, for three epochs.
      >>> layer = SimpleRNN(4, return_sequences=True, return_carry=True)
      >>> def loss_fn(params, carry, batch):
      ...     carry, outputs = layer.apply(
      ...         {"params": params}, batch.inputs, initial_carry=carry
      ...     )
      ...     error = (outputs.sum(axis=-1) - batch.targets[..., 0]) ** 2
      ...     loss = Mean.of(error, batch.sample_weight)
      ...     return loss.value, (carry, {"loss": loss})
      >>> series = np.sin(np.arange(1001, dtype=np.float32))[:, None]
      >>> stream = jax.device_put(data.streams(series, batch_size=2))
      >>> optimizer = keras_rmsprop()
      >>> params = layer.init(jax.random.key(0), stream.inputs)["params"]
      >>> state = init_state(params, optimizer)
      >>> options = {"loss_fn": loss_fn, "optimizer": optimizer, "chunk": 32}
      >>> for epoch in range(3):
      ...     carry = jnp.zeros((2, 4))  # every epoch begins at the beginning
      ...     state, carry, means = train_stream(state, carry, stream, **options)
      >>> state.step.item()  # 15 chunks of 32 steps and one of 20, three times
      48

    A stream that does not fit on the device comes in segments whose time is a multiple
    of `chunk`, with a call for each: state and carry go on, and `Mean.add` adds up the
    means.

    Reference: Williams and Peng, An efficient gradient-based algorithm for on-line
    training of recurrent network trajectories, 1990, with h' = h = `chunk`; Mikolov et
    al., Recurrent neural network based language model, 2010.
    """

    def one_pass(
        state: TrainState, carry: PyTree, noise_key: Array | None
    ) -> tuple[TrainState, PyTree, dict[str, Mean]]:
        def train_on(
            loop: tuple[TrainState, PyTree], part: PyTree
        ) -> tuple[tuple[TrainState, PyTree], dict[str, Mean]]:
            state, carry = loop
            state, (new, means) = update(
                state,
                carry,
                part,
                loss_fn=loss_fn,
                optimizer=optimizer,
                noise_key=noise_key,
                with_carry=True,
            )
            return (state, _as_before(new, carry)), means

        loop, means = _over_chunks(train_on, (state, carry), stream, chunk)
        return *loop, means

    return over_models(over, one_pass)(state, carry, noise_key)


@checked_first(_check_evaluate, _place)
@program(owners=("loss_fn",), static=("chunk", "over", "sharding"))
def evaluate_stream(
    params: PyTree,
    carry: PyTree,
    stream: PyTree,
    *,
    loss_fn: StreamLossFn,
    chunk: int,
    over: Over | None = None,
    sharding: NamedSharding | None = None,
) -> tuple[PyTree, dict[str, Mean]]:
    """The means of `loss_fn` over long sequences, with the parameters at rest.

    Args:
      params: as `loss_fn` takes them.
      carry: before the first step.
      stream: as in `train_stream`.
      loss_fn: `(params, carry, batch) -> (loss, (carry, {name: Mean}))`.
      chunk: steps at a time; does not change the numbers.
      over: evaluates several models: `jax.vmap` or `one_by_one`; then `params` and
        `carry` have a leading axis of models.
      sharding: of the rows of stream and carry over devices, as in `train_stream`.

    Returns:
      The carry after the last step, and `{name: Mean}`.

    Raises:
      TypeError: a carry of integers that becomes one of floats, a `loss_fn` that
        returns something else.
      ValueError: `chunk` below 1, arrays that differ in (batch, time), or integers that
        do not fit into 32 bits.

    Example:
      >>> def loss_fn(params, carry, batch):
      ...     sums = carry[:, None] + jnp.cumsum(batch.inputs, axis=1)
      ...     loss = Mean.of((sums - batch.targets) ** 2)
      ...     return loss.value, (sums[:, -1], {"loss": loss})
      >>> stream = data.Dataset(jnp.ones((2, 5)), jnp.ones((2, 5)))
      >>> carry, means = evaluate_stream(
      ...     {}, jnp.zeros(2), stream, loss_fn=loss_fn, chunk=2
      ... )
      >>> carry.tolist(), metrics.values(means)  # 1 2 3 4 5 where 1 is wanted
      ([5.0, 5.0], {'loss': 6.0})
    """

    def one_pass(params: PyTree, carry: PyTree) -> tuple[PyTree, dict[str, Mean]]:
        def read(carry: PyTree, part: PyTree) -> tuple[PyTree, dict[str, Mean]]:
            _, (new, means) = returned_by(loss_fn, params, carry, part, with_carry=True)
            return _as_before(new, carry), means

        return _over_chunks(read, carry, stream, chunk)

    return over_models(over, one_pass)(params, carry)


def _over_chunks(
    read: Callable[[Any, PyTree], tuple[Any, dict[str, Mean]]],
    loop: Any,
    stream: PyTree,
    chunk: int,
) -> tuple[Any, dict[str, Mean]]:
    """Scans `read` over chunks of time, then calls it for what is left; adds means."""
    time = _stream_time(stream, chunk)
    whole = time - time % chunk

    def read_at(
        loop: Any, first: Int[Array, ""] | int, steps: int = chunk
    ) -> tuple[Any, dict[str, Mean]]:
        def cut(x: Array) -> Array:  # a chunk at a time: the stream is not copied
            return jax.lax.dynamic_slice_in_dim(x, first, steps, axis=1)

        return read(loop, jax.tree.map(cut, stream))

    parts = []
    if whole:
        loop, means = jax.lax.scan(read_at, loop, jnp.arange(0, whole, chunk))
        parts.append(metrics.over_batches(means))
    if whole < time:
        loop, means = read_at(loop, whole, time - whole)
        parts.append(means)
    return loop, jax.tree.map(lambda *sums: sum(sums[1:], sums[0]), *parts)


def _as_before(new: PyTree, old: PyTree) -> PyTree:
    """The carry in the dtypes it had: a layer may compute in a narrower one."""

    def cast(x: Array, y: Array) -> Array:
        floating = (jnp.issubdtype(z.dtype, jnp.floating) for z in (x, y))
        if len(set(floating)) > 1:
            raise TypeError(
                f"the carry must keep its kind of numbers, got one of {y.dtype} before "
                f"a chunk and of {x.dtype} after it, which would be rounded; begin "
                f"with a carry of {x.dtype}."
            )
        return x.astype(y.dtype)

    return jax.tree.map(cast, new, old)


def _stream_time(stream: PyTree, chunk: int) -> int:
    """The number of steps, if all is well."""
    check_count("chunk", chunk)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(stream)]
    axes = {shape[:2] for shape in shapes}
    if len(axes) != 1 or any(len(shape) < 2 or 0 in shape[:2] for shape in shapes):
        raise ValueError(
            "every array of a stream must have the same leading axes (batch, time), "
            f"none of them empty, got shapes {shapes}; a sample_weight weighs each "
            "step, and jaxrnn.data.streams makes streams of one long sequence."
        )
    return shapes[0][1]
