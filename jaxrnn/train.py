"""How do parameters learn? One update; one epoch, all of it on the device."""

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree

from jaxrnn import metrics
from jaxrnn.data.batches import Batch, Dataset
from jaxrnn.metrics import Mean

# (params, batch), and a key as well where training is given a noise_key
LossFn = Callable[..., tuple[Array, dict[str, Mean]]]
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
    batch: Batch,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    noise_key: Key[Array, ""] | None,
) -> tuple[TrainState, dict[str, Mean]]:
    noise = () if noise_key is None else (jax.random.fold_in(noise_key, state.step),)
    gradients, means = jax.grad(loss_fn, has_aux=True)(state.params, batch, *noise)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.step + 1), means


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
    return _update(state, batch, loss_fn, optimizer, noise_key)


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
            return _update(state, batch, loss_fn, optimizer, noise_key)

        state, means = jax.lax.scan(update, state, _rows(order, batch_size))
        return state, metrics.over_batches(means)

    return (over(epoch) if over else epoch)(state, order, noise_key)


def train_batches(
    state: TrainState,
    batches: Iterable[Batch],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    noise_key: Key[Array, ""] | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
    """One pass over batches that come from the host: for data that does not fit.

    While the device works on one batch the next ones are on their way to it. The
    state given is used up (donated).

    Args:
      state: params, opt_state, step.
      batches: of one shape, such as `jaxrnn.data.batches(dataset, 32, rng=rng)`.
      loss_fn: `(params, batch) -> (loss, {name: Mean})`.
      optimizer: an Optax transformation.
      noise_key: as in `train_step`.

    Returns:
      As `train_epoch`.

    Raises:
      ValueError: no batch at all.

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
    history = []
    for batch in prefetch(batches):
        state, means = train_step(
            state, batch, loss_fn=loss_fn, optimizer=optimizer, noise_key=noise_key
        )
        history.append(means)
    if not history:
        raise ValueError(
            "an epoch needs at least one batch, got an empty iterable; a generator is "
            "used up after one epoch: give `fit` a function that makes a new one."
        )
    return state, metrics.over_batches(jax.tree.map(lambda *m: jnp.stack(m), *history))


def prefetch(batches: Iterable[Any], size: int = 2) -> Iterator[Any]:
    """Keeps `size` batches ahead on their way to the device.

    Example:
      >>> [batch.shape for batch in prefetch(np.ones((3, 4, 2)))]
      [(4, 2), (4, 2), (4, 2)]
    """
    iterator = iter(batches)
    queue = collections.deque(map(jax.device_put, itertools.islice(iterator, size)))
    while queue:
        yield queue.popleft()
        queue.extend(map(jax.device_put, itertools.islice(iterator, 1)))


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
