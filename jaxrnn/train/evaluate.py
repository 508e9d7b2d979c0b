"""What does a model give while its parameters rest? Means and predictions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, PyTree

from jaxrnn import metrics
from jaxrnn.data.batches import (
    Dataset,
    as_batch,
    check_count,
    check_dataset,
    cut_order,
    num_examples,
)
from jaxrnn.metrics import Mean
from jaxrnn.train.checks import (
    check_all_integers,
    check_function,
    checked_first,
    returned_by,
    rows_of,
)
from jaxrnn.train.devices import divided, gathered, shared_size, take
from jaxrnn.train.over import Over, over_models
from jaxrnn.train.programs import program
from jaxrnn.train.state import check_params
from jaxrnn.train.update import LossFn


def _check_evaluate(params: PyTree, dataset: Dataset, **options: object) -> None:
    """Shapes, and what a compiled program cannot see: values."""
    del options
    check_params(params)
    check_dataset(dataset)


def _check_predict(
    params: PyTree, inputs: PyTree, *, apply_fn: Any = None, **options: Any
) -> None:
    """What a compiled program cannot see: values, and what is no function."""
    check_params(params)
    check_function(
        "apply_fn",
        apply_fn,
        "(params, inputs) -> predictions",
        params,
        inputs,
        way_out='write lambda params, inputs: model.apply({"params": params}, inputs).',
    )
    check_count("batch_size", options.get("batch_size", 1))
    rows_of(inputs)
    check_all_integers("inputs", inputs)


@checked_first(_check_evaluate)
@program(owners=("loss_fn",), static=("batch_size", "over", "sharding"))
def evaluate(
    params: PyTree,
    dataset: Dataset,
    *,
    loss_fn: LossFn,
    batch_size: int = 256,
    over: Over | None = None,
    sharding: NamedSharding | None = None,
) -> dict[str, Mean]:
    """The means of `loss_fn` over a dataset, with the parameters at rest.

    Args:
      params: as `loss_fn` takes them.
      dataset: arrays with a common first axis.
      loss_fn: `(params, batch) -> (loss, {name: Mean})`.
      batch_size: does not change the numbers.
      over: evaluates several models: `jax.vmap` or `one_by_one`; then the leaves of
        `params` have a leading axis of models.
      sharding: of the rows of a batch over devices, as in `train_epoch`.

    Returns:
      `{name: Mean}`; `jaxrnn.metrics.values` makes floats of them.

    Raises:
      TypeError: a `loss_fn` that takes or returns something else, a dataset or an
        `over` that is none, a state in the place of parameters.
      ValueError: an empty dataset, arrays of different lengths, integers that do not
        fit into 32 bits, `batch_size` below 1.

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
        def batch_means(chosen: tuple[Array, Array]) -> dict[str, Mean]:
            rows, valid = chosen
            taken = take(sharding, dataset, rows)
            batch = as_batch(taken, divided(sharding, valid))
            return returned_by(loss_fn, params, batch)[1]

        order = jnp.arange(num_examples(dataset))
        batches = cut_order(order, shared_size(sharding, batch_size))
        return metrics.over_batches(jax.lax.map(batch_means, batches))

    return over_models(over, means)(params)


@checked_first(_check_predict)
@program(owners=("apply_fn",), static=("batch_size", "sharding"))
def predict(
    params: PyTree,
    inputs: PyTree,
    *,
    apply_fn: Callable[[Any, Any], Any],
    batch_size: int = 256,
    sharding: NamedSharding | None = None,
) -> Any:
    """Runs `apply_fn` over all rows, `batch_size` at a time.

    Args:
      params: as `apply_fn` takes them.
      inputs: an array, or a pytree of arrays with a common first axis.
      apply_fn: `(params, inputs) -> predictions`, row by row.
      batch_size: rows at a time; does not change the numbers. Where `jax.export` leaves
        the number of rows open, it is all of them.
      sharding: of these rows over devices, as in `train_epoch`; every device then has
        all predictions.

    Returns:
      The predictions, one row per input row.

    Raises:
      TypeError: an `apply_fn` that is no function of two arguments, or returns nothing,
        inputs that are no arrays, a state in the place of parameters.
      ValueError: no rows, arrays of different lengths, integers that do not fit into
        32 bits, `batch_size` below 1, an `apply_fn` that does not return one row per
        row.

    Example:
      >>> predict(jnp.eye(2), jnp.ones((5, 2)), apply_fn=lambda w, x: x @ w).shape
      (5, 2)
    """
    rows = rows_of(inputs)
    if not isinstance(rows, int):
        return apply_fn(params, inputs)
    size = shared_size(sharding, min(batch_size, rows))
    indices, _ = cut_order(jnp.arange(rows), size)
    predictions = jax.lax.map(
        lambda index: gathered(
            sharding, apply_fn(params, take(sharding, inputs, index))
        ),
        indices,
    )
    leaves = jax.tree.leaves(predictions)
    if not leaves:
        raise TypeError(
            "apply_fn must return an array, or several, got none; a function with def "
            "ends with a return."
        )
    for leaf in leaves:
        if leaf.shape[:2] != indices.shape:
            raise ValueError(
                "apply_fn must return one row per row of its inputs "
                f"({indices.shape[1]},), got shape {leaf.shape[1:]}; means over rows "
                "are what `evaluate` makes."
            )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:rows], predictions)
