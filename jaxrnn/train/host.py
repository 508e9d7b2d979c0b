"""How does training read from the host what does not fit on the device?"""

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Int, Key

from jaxrnn.data.batches import Batch, Dataset, check_batch, check_count
from jaxrnn.data.trees import leaves_of
from jaxrnn.metrics import Mean
from jaxrnn.train.checks import check_all_integers, returned_by
from jaxrnn.train.devices import by_rows, check_sharding, everywhere
from jaxrnn.train.processes import of_all
from jaxrnn.train.programs import program
from jaxrnn.train.state import TrainState, check_state
from jaxrnn.train.update import LossFn, update


def train_batches(
    state: TrainState,
    batches: Iterable[Batch],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    updates_per_call: int = 16,
    noise_key: Key[Array, ""] | None = None,
    sharding: NamedSharding | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
    """One pass over batches that come from the host: for data that does not fit.

    Some batches at a time go to the device together, and one compiled loop makes an
    update from each, so that Python and the transfers cost little. While the device
    works on them, the next ones are read and sent; at most two such groups are in its
    memory. The updates are those of `train_epoch` for the same batches. The state given
    is used up (donated).

    Where another shape follows before a group is full, as among the batches of
    `jaxrnn.data.bucket_batches`, the batches go one by one, and nothing is filled up.

    Args:
      state: params, opt_state, step.
      batches: such as `jaxrnn.data.batches(dataset, 32, rng=rng)`. Batches of another
        shape are allowed, and compiled for each shape (a second time for one that also
        comes `updates_per_call` times in a row).
      loss_fn: `(params, batch) -> (loss, {name: Mean})`.
      optimizer: an Optax transformation.
      updates_per_call: batches that are sent together, Keras' `steps_per_execution`;
        changes no number. 1 where a single batch is large.
      noise_key: as in `train_step`.
      sharding: of the rows of a batch over devices, as in `train_epoch`. With several
        processes, each gives batches of the rows for its own devices, as many batches
        as the others, all of one size; together they are the batch.

    Returns:
      As `train_epoch`.

    Raises:
      TypeError: batches that are none; as `train_step`.
      ValueError: no batch at all, `updates_per_call` below 1, a batch that differs in
        the rows of its arrays, has integers that do not fit into 32 bits, or cannot be
        shared out equally to the devices; other numbers or shapes of batches in one
        process than in another.

    Example:
      >>> def loss_fn(params, batch):
      ...     error = (params["mean"] - batch.targets) ** 2
      ...     loss = Mean.of(error, batch.sample_weight)
      ...     return loss.value, {"loss": loss}
      >>> dataset = data.Dataset(np.zeros((5, 1)), np.float32([1, 2, 3, 4, 5]))
      >>> optimizer = keras_rmsprop(0.1)
      >>> state = init_state({"mean": jnp.zeros(())}, optimizer)
      >>> options = {"loss_fn": loss_fn, "optimizer": optimizer}
      >>> state, means = train_batches(state, data.batches(dataset, 2), **options)
      >>> state.step.item(), means["loss"].weight.item()
      (3, 5.0)
    """
    check_count("updates_per_call", updates_per_call)
    check_state(state)
    check_batches(batches)
    check_sharding(sharding)
    state, noise_key = everywhere(sharding, (state, noise_key))
    options = {"loss_fn": loss_fn, "optimizer": optimizer, "noise_key": noise_key}
    sums: dict[str, Mean] | None = None
    groups = _groups(batches, updates_per_call, sharding)
    for count, group in _alike_in_all(groups, sharding):
        group = by_rows(sharding, group, None)
        state, means = _train_group(state, group, count, **options)
        jax.block_until_ready(sums)  # of the groups before: do not run far ahead
        sums = jax.tree.map(jnp.add, sums, means) if sums is not None else means
    if sums is None:
        raise ValueError(
            "an epoch needs at least one batch, got an empty iterable; a generator is "
            "used up after one epoch: give `fit` a function that makes a new one."
        )
    return state, sums


def check_batches(batches: Any) -> None:
    """Raises a TypeError where there are no batches to read one by one."""
    if isinstance(batches, Dataset | Batch) or not isinstance(batches, Iterable):
        raise TypeError(
            "batches must be an iterable of batches, got "
            f"{type(batches).__name__}; write data.batches(dataset, 32, rng=rng), or "
            "[batch] of a single one."
        )


def _groups(
    batches: Iterable[Any], size: int, sharding: NamedSharding | None
) -> Iterator[tuple[np.int32, Any]]:
    """Stacks batches of one shape; yields how many of a stack count, and the stack.

    Stacks are of `size` batches, and of one where not that many of a shape follow one
    another. What remains of a longer sequence is filled up: its program is there.
    """

    def stack(*leaves: Any) -> Any:
        on_host = isinstance(leaves[0], np.ndarray)
        return np.stack(leaves) if on_host else jnp.stack(leaves)

    checked = map(functools.partial(_checked, sharding), batches)
    for _, alike in itertools.groupby(checked, lambda b: jax.tree.map(np.shape, b)):
        full = False
        while group := list(itertools.islice(alike, size)):
            full = full or len(group) == size
            if full:
                filler = [group[0]] * (size - len(group))
                yield np.int32(len(group)), jax.tree.map(stack, *group, *filler)
            else:
                for batch in group:
                    yield np.int32(1), jax.tree.map(stack, batch)


def _alike_in_all(
    groups: Iterator[tuple[np.int32, Any]], sharding: NamedSharding | None
) -> Iterator[tuple[np.int32, Any]]:
    """The same groups; raises where processes have others, who would wait for ever."""
    if sharding is None or jax.process_count() == 1:
        yield from groups
        return
    for count, group in itertools.chain(groups, [(np.int32(0), None)]):
        shapes = sorted({np.shape(leaf) for leaf in jax.tree.leaves(group)})
        said = of_all(f"{count} of {shapes}")
        if len(set(said)) > 1:
            raise ValueError(
                "each process must make as many batches as the others, of the same "
                f"shapes, got next, process by process, {said}; give each the same "
                "number of rows, and leave out what is over."
            )
        if count:
            yield count, group


def _checked(sharding: NamedSharding | None, batch: Any) -> Any:
    check_all_integers("a batch", batch)
    if isinstance(batch, Batch):
        check_batch(batch)
        if sharding is not None:
            rows = len(leaves_of(batch.inputs)[0][1]) * jax.process_count()
            check_sharding(sharding, rows)
    return batch


@program(owners=("loss_fn", "optimizer"), donate=("state",))
def _train_group(
    state: TrainState,
    group: Batch,
    count: Int[Array | np.int32, ""],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    noise_key: Key[Array, ""] | None,
) -> tuple[TrainState, dict[str, Mean]]:
    """An update from each of the first `count` batches of a stack."""

    def at(i: Any) -> Any:
        return lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False)

    def train_on(
        i: Int[Array, ""], so_far: tuple[TrainState, dict[str, Mean]]
    ) -> tuple[TrainState, dict[str, Mean]]:
        state, sums = so_far
        batch = jax.tree.map(at(i), group)
        state, means = update(
            state, batch, loss_fn=loss_fn, optimizer=optimizer, noise_key=noise_key
        )
        return state, jax.tree.map(jnp.add, sums, means)

    batch = jax.tree.map(at(0), group)
    noise = () if noise_key is None else (noise_key,)
    loss = functools.partial(returned_by, loss_fn)
    _, shapes = jax.eval_shape(loss, state.params, batch, *noise)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(0, count, train_on, (state, zeros))
