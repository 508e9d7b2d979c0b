"""How do parameters learn? One update; one epoch, on the device or from the host.

`train_epoch` visits examples in any order, `train_batches` takes them from the host,
and `train_stream` reads sequences longer than the gradient can reach.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key, PyTree

from jaxrnn import metrics
from jaxrnn.data.batches import Batch, Dataset
from jaxrnn.metrics import Mean

# (params, batch), and a key as well where training is given a noise_key
LossFn = Callable[..., tuple[Array, dict[str, Mean]]]
# (params, carry, batch), and a key as well where training is given a noise_key
StreamLossFn = Callable[..., tuple[Array, tuple[PyTree, dict[str, Mean]]]]
Over = Callable[[Callable], Callable]


class TrainState(NamedTuple):
    """What one update hands to the next.

    Several models are one `TrainState` whose leaves have a leading axis of models;
    `jax.vmap(lambda key: init_state(...))(keys)` makes one.
    """

    params: PyTree
    opt_state: PyTree
    step: Int[Array, "*models"]


def init_state(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update.

    Example:
      >>> state = init_state({"w": jnp.zeros(3)}, rmsprop())
      >>> state.step.item()
      0
    """
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def one_by_one(function: Callable) -> Callable:
    """Maps over the leading axis of every argument, one element after the other.

    The same meaning as `jax.vmap`, with `jax.lax.map` underneath: for `over` in
    `train_epoch`, `evaluate` and `fit`. It needs memory for the step of one model at a
    time. On a CPU the two measured alike (`experiments/speed.py`); an accelerator that
    one model cannot fill wants `jax.vmap`.

    Example:
      >>> one_by_one(jnp.dot)(jnp.ones((5, 2)), jnp.ones((5, 2))).tolist()
      [2.0, 2.0, 2.0, 2.0, 2.0]
    """

    def mapped(*arguments: Any) -> Any:
        return jax.lax.map(lambda row: function(*row), arguments)

    return mapped


def _update(
    state: TrainState,
    arguments: tuple[Any, ...],
    loss_fn: LossFn | StreamLossFn,
    optimizer: optax.GradientTransformation,
    noise_key: Key[Array, ""] | None,
) -> tuple[TrainState, Any]:
    """One update; returns the state and what `loss_fn` returns beside the loss."""
    noise = () if noise_key is None else (jax.random.fold_in(noise_key, state.step),)
    gradients, aux = jax.grad(loss_fn, has_aux=True)(state.params, *arguments, *noise)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.step + 1), aux


@functools.partial(
    jax.jit, static_argnames=("loss_fn", "optimizer"), donate_argnames="state"
)
def train_step(
    state: TrainState,
    batch: Batch,
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    noise_key: Key[Array, ""] | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
    """One update from one batch, compiled; the state given is used up (donated).

    Args:
      state: params, opt_state, step.
      batch: of one shape in all calls, else it is compiled again.
      loss_fn: `(params, batch) -> (loss, {name: Mean})`.
      optimizer: an Optax transformation.
      noise_key: for dropout: `loss_fn` is called as `(params, batch, key)`, with a key
        folded with the step, another one at every update.

    Returns:
      The next state, and the means of the batch before the update.

    Example:
      >>> def loss_fn(params, batch):
      ...     error = (batch.inputs @ params["w"] - batch.targets) ** 2
      ...     loss = Mean.of(error, batch.sample_weight)
      ...     return loss.value, {"loss": loss}
      >>> state = init_state({"w": jnp.zeros(2)}, rmsprop())
      >>> batch = Batch(jnp.ones((4, 2)), jnp.ones(4), None, jnp.ones(4))
      >>> state, means = train_step(state, batch, loss_fn=loss_fn, optimizer=rmsprop())
      >>> means["loss"].value.item()
      1.0
    """
    return _update(state, (batch,), loss_fn, optimizer, noise_key)


@functools.partial(
    jax.jit,
    static_argnames=("loss_fn", "optimizer", "batch_size", "over"),
    donate_argnames="state",
)
def train_epoch(
    state: TrainState,
    dataset: Dataset,
    order: Int[Array, "*models examples"],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    noise_key: Key[Array, "*models"] | None = None,
    over: Over | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
    """One pass over a dataset that lives on the device: one compiled `lax.scan`.

    There is no Python between the updates. The last, short batch is filled with rows
    of weight 0, so every batch has one shape and the epoch compiles once. The state
    given is used up (donated).

    Args:
      state: params, opt_state, step.
      dataset: arrays with a common first axis.
      order: the rows in the order to visit, such as
        `jax.random.permutation(key, examples)`.
      loss_fn: `(params, batch) -> (loss, {name: Mean})`.
      optimizer: an Optax transformation.
      batch_size: rows per update.
      noise_key: as in `train_step`.
      over: trains several models: `jax.vmap` or `one_by_one`; then `state`, `order` and
        `noise_key` have a leading axis of models. The dataset is shared.

    Returns:
      The state after the pass, and the means over it, taken while the parameters
      moved, as Keras reports them.

    Example:
      >>> def loss_fn(params, batch):
      ...     error = (params["mean"] - batch.targets) ** 2
      ...     loss = Mean.of(error, batch.sample_weight)
      ...     return loss.value, {"loss": loss}
      >>> dataset = data.Dataset(np.zeros((5, 1)), np.float32([1, 2, 3, 4, 5]))
      >>> optimizer = rmsprop(0.1)
      >>> state = init_state({"mean": jnp.zeros(())}, optimizer)
      >>> options = {"loss_fn": loss_fn, "optimizer": optimizer, "batch_size": 2}
      >>> state, means = train_epoch(state, dataset, jnp.arange(5), **options)
      >>> state.step.item(), means["loss"].weight.item()
      (3, 5.0)
    """

    def epoch(
        state: TrainState, order: Array, noise_key: Array | None
    ) -> tuple[TrainState, dict[str, Mean]]:
        def update(
            state: TrainState, rows: tuple[Array, Array]
        ) -> tuple[TrainState, dict[str, Mean]]:
            batch = _batch(dataset, *rows)
            return _update(state, (batch,), loss_fn, optimizer, noise_key)

        state, means = jax.lax.scan(update, state, _rows(order, batch_size))
        return state, metrics.over_batches(means)

    return (over(epoch) if over else epoch)(state, order, noise_key)


def train_batches(
    state: TrainState,
    batches: Iterable[Batch],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    updates_per_call: int = 16,
    noise_key: Key[Array, ""] | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
    """One pass over batches that come from the host: for data that does not fit.

    Some batches at a time go to the device together, and one compiled loop makes an
    update from each, so that Python and the transfers cost little. While the device
    works on them, the next ones are read and sent; at most two such groups are in its
    memory. The updates are those of `train_epoch` for the same batches
    (`experiments/host.py` compares the speed). The state given is used up (donated).

    Args:
      state: params, opt_state, step.
      batches: such as `jaxrnn.data.batches(dataset, 32, rng=rng)`. Batches of another
        shape are allowed, and compiled for each shape.
      loss_fn: `(params, batch) -> (loss, {name: Mean})`.
      optimizer: an Optax transformation.
      updates_per_call: batches that are sent together, Keras' `steps_per_execution`;
        changes no number. 1 where a single batch is large.
      noise_key: as in `train_step`.

    Returns:
      As `train_epoch`.

    Raises:
      ValueError: no batch at all, or `updates_per_call` below 1.

    Example:
      >>> def loss_fn(params, batch):
      ...     error = (params["mean"] - batch.targets) ** 2
      ...     loss = Mean.of(error, batch.sample_weight)
      ...     return loss.value, {"loss": loss}
      >>> dataset = data.Dataset(np.zeros((5, 1)), np.float32([1, 2, 3, 4, 5]))
      >>> optimizer = rmsprop(0.1)
      >>> state = init_state({"mean": jnp.zeros(())}, optimizer)
      >>> options = {"loss_fn": loss_fn, "optimizer": optimizer}
      >>> state, means = train_batches(state, data.batches(dataset, 2), **options)
      >>> state.step.item(), means["loss"].weight.item()
      (3, 5.0)
    """
    if updates_per_call < 1:
        raise ValueError(
            f"updates_per_call must be at least 1, got {updates_per_call}."
        )
    options = {"loss_fn": loss_fn, "optimizer": optimizer, "noise_key": noise_key}
    history: list[dict[str, Mean]] = []
    for count, group in _groups(batches, updates_per_call):
        state, means = _train_group(state, group, count, **options)
        jax.block_until_ready(history[-1:])  # the group before: do not run far ahead
        history.append(means)
    if not history:
        raise ValueError(
            "an epoch needs at least one batch, got an empty iterable; a generator is "
            "used up after one epoch: give `fit` a function that makes a new one."
        )
    return state, metrics.over_batches(jax.tree.map(lambda *m: jnp.stack(m), *history))


def _groups(batches: Iterable[Any], size: int) -> Iterator[tuple[np.int32, Any]]:
    """Stacks up to `size` batches of one shape; yields their number and the stack.

    Every stack has `size` rows, so that one shape is compiled; filler comes last.
    """

    def stack(*leaves: Any) -> Any:
        on_host = isinstance(leaves[0], np.ndarray)
        return np.stack(leaves) if on_host else jnp.stack(leaves)

    for _, alike in itertools.groupby(batches, lambda b: jax.tree.map(np.shape, b)):
        while group := list(itertools.islice(alike, size)):
            filler = [group[0]] * (size - len(group))
            yield np.int32(len(group)), jax.tree.map(stack, *group, *filler)


@functools.partial(
    jax.jit, static_argnames=("loss_fn", "optimizer"), donate_argnames="state"
)
def _train_group(
    state: TrainState,
    group: Batch,
    count: Int[Array, ""],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    noise_key: Key[Array, ""] | None,
) -> tuple[TrainState, dict[str, Mean]]:
    """An update from each of the first `count` batches of a stack."""

    def update(
        i: Int[Array, ""], so_far: tuple[TrainState, dict[str, Mean]]
    ) -> tuple[TrainState, dict[str, Mean]]:
        state, sums = so_far
        batch = jax.tree.map(lambda x: x[i], group)
        state, means = _update(state, (batch,), loss_fn, optimizer, noise_key)
        return state, jax.tree.map(jnp.add, sums, means)

    batch = jax.tree.map(lambda x: x[0], group)
    noise = () if noise_key is None else (noise_key,)
    _, shapes = jax.eval_shape(loss_fn, state.params, batch, *noise)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(0, count, update, (state, zeros))


@functools.partial(
    jax.jit,
    static_argnames=("loss_fn", "optimizer", "chunk", "over"),
    donate_argnames="state",
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

    Returns:
      The state; the carry after the last step; and the means over the stream, taken
      while the parameters moved.

    Raises:
      ValueError: `chunk` below 1, or arrays that differ in (batch, time).

    Example: the next value of a long series, for three epochs.
      >>> layer = SimpleRNN(4, return_sequences=True, return_carry=True)
      >>> def loss_fn(params, carry, batch):
      ...     carry, outputs = layer.apply(
      ...         {"params": params}, batch.inputs, initial_carry=carry
      ...     )
      ...     error = (outputs.sum(axis=-1) - batch.targets[..., 0]) ** 2
      ...     loss = Mean.of(error.ravel(), batch.sample_weight.ravel())
      ...     return loss.value, (carry, {"loss": loss})
      >>> series = np.sin(np.arange(1001, dtype=np.float32))[:, None]
      >>> stream = jax.device_put(data.streams(series, batch_size=2))
      >>> optimizer = rmsprop()
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
        def update(
            loop: tuple[TrainState, PyTree], part: PyTree
        ) -> tuple[tuple[TrainState, PyTree], dict[str, Mean]]:
            state, carry = loop
            state, (new, means) = _update(
                state, (carry, part), loss_fn, optimizer, noise_key
            )
            return (state, _as_before(new, carry)), means

        loop, means = _over_chunks(update, (state, carry), stream, chunk)
        return *loop, means

    return (over(one_pass) if over else one_pass)(state, carry, noise_key)


@functools.partial(jax.jit, static_argnames=("loss_fn", "chunk", "over"))
def evaluate_stream(
    params: PyTree,
    carry: PyTree,
    stream: PyTree,
    *,
    loss_fn: StreamLossFn,
    chunk: int,
    over: Over | None = None,
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

    Returns:
      The carry after the last step, and `{name: Mean}`.

    Raises:
      ValueError: `chunk` below 1, or arrays that differ in (batch, time).

    Example:
      >>> def loss_fn(params, carry, batch):
      ...     sums = carry[:, None] + jnp.cumsum(batch.inputs, axis=1)
      ...     loss = Mean.of(((sums - batch.targets) ** 2).ravel())
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
            _, (new, means) = loss_fn(params, carry, part)
            return _as_before(new, carry), means

        return _over_chunks(read, carry, stream, chunk)

    return (over(one_pass) if over else one_pass)(params, carry)


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
    return jax.tree.map(lambda x, y: x.astype(y.dtype), new, old)


def _stream_time(stream: PyTree, chunk: int) -> int:
    """The number of steps, if all is well."""
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 step, got {chunk}.")
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(stream)]
    axes = {shape[:2] for shape in shapes}
    if len(axes) != 1 or any(len(shape) < 2 or 0 in shape[:2] for shape in shapes):
        raise ValueError(
            "every array of a stream must have the same leading axes (batch, time), "
            f"none of them empty, got shapes {shapes}; a sample_weight weighs each "
            "step, and jaxrnn.data.streams makes streams of one long sequence."
        )
    return shapes[0][1]


@functools.partial(jax.jit, static_argnames=("loss_fn", "batch_size", "over"))
def evaluate(
    params: PyTree,
    dataset: Dataset,
    *,
    loss_fn: LossFn,
    batch_size: int = 256,
    over: Over | None = None,
) -> dict[str, Mean]:
    """The means of `loss_fn` over a dataset, with the parameters at rest.

    Args:
      params: as `loss_fn` takes them.
      dataset: arrays with a common first axis.
      loss_fn: `(params, batch) -> (loss, {name: Mean})`.
      batch_size: does not change the numbers.
      over: evaluates several models: `jax.vmap` or `one_by_one`; then the leaves of
        `params` have a leading axis of models.

    Returns:
      `{name: Mean}`; `jaxrnn.metrics.values` makes floats of them.

    Example:
      >>> def loss_fn(params, batch):
      ...     error = (params["mean"] - batch.targets) ** 2
      ...     loss = Mean.of(error, batch.sample_weight)
      ...     return loss.value, {"loss": loss}
      >>> dataset = data.Dataset(np.zeros((5, 1)), np.float32([1, 2, 3, 4, 5]))
      >>> params = {"mean": jnp.float32(3)}
      >>> metrics.values(evaluate(params, dataset, loss_fn=loss_fn))
      {'loss': 2.0}
    """

    def means(params: PyTree) -> dict[str, Mean]:
        def batch_means(rows: tuple[Array, Array]) -> dict[str, Mean]:
            return loss_fn(params, _batch(dataset, *rows))[1]

        order = jnp.arange(dataset.inputs.shape[0])
        return metrics.over_batches(jax.lax.map(batch_means, _rows(order, batch_size)))

    return (over(means) if over else means)(params)


@functools.partial(jax.jit, static_argnames=("apply_fn", "batch_size"))
def predict(
    params: PyTree,
    inputs: PyTree,
    *,
    apply_fn: Callable[[Any, Any], Any],
    batch_size: int = 256,
) -> Any:
    """Runs `apply_fn` over all rows, `batch_size` at a time.

    Args:
      params: as `apply_fn` takes them.
      inputs: an array, or a pytree of arrays with a common first axis.
      apply_fn: `(params, inputs) -> predictions`, row by row.
      batch_size: rows at a time; does not change the numbers.

    Returns:
      The predictions, one row per input row.

    Example:
      >>> predict(jnp.eye(2), jnp.ones((5, 2)), apply_fn=lambda w, x: x @ w).shape
      (5, 2)
    """
    rows = jax.tree.leaves(inputs)[0].shape[0]
    indices, _ = _rows(jnp.arange(rows), min(batch_size, rows))
    predictions = jax.lax.map(
        lambda index: apply_fn(params, jax.tree.map(lambda x: x[index], inputs)),
        indices,
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:rows], predictions)


def _rows(order: Array, batch_size: int) -> tuple[Array, Array]:
    """Cuts an order into (batches, batch_size) indices; 1 for these, 0 for filler."""
    examples = order.shape[0]
    batches = -(-examples // batch_size)
    filler = batches * batch_size - examples
    indices = jnp.pad(order, (0, filler)).reshape(batches, batch_size)
    valid = (jnp.arange(batches * batch_size) < examples).astype(jnp.float32)
    return indices, valid.reshape(batches, batch_size)


def _batch(dataset: Dataset, indices: Array, valid: Array) -> Batch:
    inputs, targets, mask, sample_weight = jax.tree.map(lambda x: x[indices], dataset)
    weight = valid if sample_weight is None else valid * sample_weight
    return Batch(inputs, targets, mask, weight, valid)
