"""What is an epoch? A compiled loop over all examples, in any order, on the device."""

from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Int, Key

from jaxrnn import metrics
from jaxrnn.data.batches import (
    Dataset,
    as_batch,
    check_dataset,
    cut_order,
    num_examples,
)
from jaxrnn.metrics import Mean
from jaxrnn.train.checks import check_order, checked_first
from jaxrnn.train.devices import check_sharding, divided, take
from jaxrnn.train.over import Over, over_models
from jaxrnn.train.programs import program
from jaxrnn.train.state import TrainState, check_state
from jaxrnn.train.update import LossFn, update

OWNERS, STATIC = ("loss_fn", "optimizer"), ("batch_size", "over", "sharding")


def _check(state: TrainState, dataset: Dataset, order: Any, **options: Any) -> None:
    """Shapes, and what a compiled program cannot see: values."""
    check_state(state)
    check_sharding(options.get("sharding"), options["batch_size"])
    check_dataset(dataset)
    check_order(order, num_examples(dataset))


@checked_first(_check)
@program(owners=OWNERS, static=STATIC, donate=("state",))
def train_epoch(
    state: TrainState,
    dataset: Dataset,
    order: Int[Array | np.ndarray, "*models examples"],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    noise_key: Key[Array, "*models"] | None = None,
    over: Over | None = None,
    sharding: NamedSharding | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
    """One pass over a dataset that lives on the device: one compiled `lax.scan`.

    There is no Python between the updates. The last, short batch is filled with copies
    of the first row of the order, whose weight is 0: every batch has one shape and the
    epoch compiles once. The state given is used up (donated).

    Args:
      state: params, opt_state, step.
      dataset: arrays with a common first axis.
      order: the rows in the order to visit, such as
        `jax.random.permutation(key, examples)`. Inside of `jax.jit` or `jax.vmap` its
        values cannot be checked: a row beyond the last one is then the last one, and
        negative ones count from the end.
      loss_fn: `(params, batch) -> (loss, {name: Mean})`.
      optimizer: an Optax transformation.
      batch_size: rows per update.
      noise_key: as in `train_step`.
      over: trains several models: `jax.vmap` or `one_by_one`; then `state`, `order` and
        `noise_key` have a leading axis of models. The dataset is shared.
      sharding: of the rows of a batch over devices, such as `NamedSharding(mesh,
        PartitionSpec("batch"))`: every device has the state and the dataset whole, and
        computes its part of each batch. What does not lie on the mesh is put there. The
        numbers are those of one device but for rounding.

    Returns:
      The state after the pass, and the means over it, taken while the parameters
      moved, as Keras reports them.

    Raises:
      TypeError: a dataset that is none, an order that is not of integers; as
        `train_step`.
      ValueError: an empty dataset, arrays of different lengths, an order of another
        shape than (*models, examples) with the models of `state`, or with a row outside
        of the dataset; `batch_size` below 1, or no multiple of the devices; another
        optimizer than that of `state`.

    Example:
      >>> def loss_fn(params, batch):
      ...     error = (params["mean"] - batch.targets) ** 2
      ...     loss = Mean.of(error, batch.sample_weight)
      ...     return loss.value, {"loss": loss}
      >>> dataset = data.Dataset(np.zeros((5, 1)), np.float32([1, 2, 3, 4, 5]))
      >>> optimizer = keras_rmsprop(0.1)
      >>> state = init_state({"mean": jnp.zeros(())}, optimizer)
      >>> options = {"loss_fn": loss_fn, "optimizer": optimizer, "batch_size": 2}
      >>> state, means = train_epoch(state, dataset, jnp.arange(5), **options)
      >>> state.step.item(), means["loss"].weight.item()
      (3, 5.0)
    """
    state, means, _ = one_epoch(
        state,
        dataset,
        order,
        loss_fn=loss_fn,
        optimizer=optimizer,
        batch_size=batch_size,
        noise_key=noise_key,
        over=over,
        sharding=sharding,
    )
    return state, means


def one_epoch(
    state: TrainState,
    dataset: Dataset,
    order: Int[Array | np.ndarray, "*models examples"],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    noise_key: Key[Array, "*models"] | None,
    over: Over | None,
    sharding: NamedSharding | None = None,
) -> tuple[TrainState, dict[str, Mean], dict[str, Mean]]:
    """`train_epoch`, to be compiled; returns the means of every update as well."""

    def epoch(
        state: TrainState, order: Any, noise_key: Array | None
    ) -> tuple[TrainState, dict[str, Mean], dict[str, Mean]]:
        def train_on(
            state: TrainState, batch: tuple[Array, Array]
        ) -> tuple[TrainState, dict[str, Mean]]:
            rows, valid = batch
            taken = take(sharding, dataset, rows)
            return update(
                state,
                as_batch(taken, divided(sharding, valid)),
                loss_fn=loss_fn,
                optimizer=optimizer,
                noise_key=noise_key,
            )

        state, by_update = jax.lax.scan(train_on, state, cut_order(order, batch_size))
        return state, metrics.over_batches(by_update), by_update

    models = np.shape(state.step)
    if (over is None) != (models == ()) or not order.ndim or order.shape[:-1] != models:
        raise ValueError(
            "order must have the shape (*models, examples), and `over` be given if and "
            f"only if there are several models; got order {order.shape}, over={over} "
            f"and a state of models {models}."
        )
    return over_models(over, epoch)(state, order, noise_key)


# For who wants to keep the state before it: that one is not used up.
keeping_epoch = program(owners=OWNERS, static=STATIC)(one_epoch)
