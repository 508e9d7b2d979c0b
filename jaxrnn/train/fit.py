"""How does a model train for many epochs? The loop most experiments would write."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, UInt32

from jaxrnn import metrics
from jaxrnn.data.batches import Batch, Dataset, check_dataset
from jaxrnn.train.epoch import train_epoch
from jaxrnn.train.evaluate import evaluate
from jaxrnn.train.host import train_batches
from jaxrnn.train.logs import OnEpoch
from jaxrnn.train.over import Over
from jaxrnn.train.plateaus import Best, EarlyStopping
from jaxrnn.train.rates import LearningRate, rates, with_rates
from jaxrnn.train.state import TrainState
from jaxrnn.train.update import LossFn


def _shuffled(
    words: UInt32[np.ndarray, "*models words"],
    rows: Int[np.ndarray, "*models rows"],
    epoch: int,
) -> Int[np.ndarray, "*models rows"]:
    """The rows in the order to visit in this epoch; one order per key.

    Drawn on the host, where a permutation compiles nothing.

    Args:
      words: `jax.random.key_data` of the key, or of one key per model.
      rows: of the dataset; those of each model in a row of their own.
      epoch: another one, another order.
    """
    if words.ndim > 1:
        models = zip(words, rows, strict=True)
        return np.stack([_shuffled(*one, epoch) for one in models])
    return np.random.default_rng([*words, epoch]).permutation(rows)


def fit(
    state: TrainState,
    dataset: Dataset | Callable[[int], Iterable[Batch]],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    key: Key[Array, "*models"],
    epochs: int,
    batch_size: int = 32,
    rows: Int[Any, "*models rows"] | None = None,
    validation: Dataset | None = None,
    shuffle: bool = True,
    noise_key: Key[Array, "*models"] | None = None,
    learning_rate: LearningRate | None = None,
    early_stopping: EarlyStopping | None = None,
    over: Over | None = None,
    on_epoch: OnEpoch | tuple[OnEpoch, ...] = (),
) -> tuple[TrainState, dict[str, Float[np.ndarray, "epochs *models"]]]:
    """Trains for some epochs: the loop that most experiments would write.

    To do something else between epochs, copy it: it calls `train_epoch` and `evaluate`.

    Args:
      state: from `create_train_state` or `init_state`; it stays usable.
      dataset: in memory, to be shuffled in every epoch; or a function that takes the
        epoch and returns batches from the host (then `batch_size` and `shuffle` are
        the function's business). For long streams see `train_stream`.
      loss_fn: `(params, batch) -> (loss, {name: Mean})`; `jaxrnn.regularizers.penalty`
        and `jaxrnn.class_weights` show how it gives Keras' loss with penalties and
        weights.
      optimizer: an Optax transformation, the one the state was made with.
      key: decides the order of the examples, which NumPy draws from its bits and the
        epoch; with `over` one key per model.
      epochs: passes over the dataset.
      batch_size: rows per update.
      rows: of the dataset, those to train on; None for all. With `over` each model has
        its own: what a cross-validation leaves it (below), a bootstrap sample, or its
        own one of several series that are stacked into one dataset.
      validation: evaluated after every epoch, under names that begin with `val_`.
      shuffle: False keeps the order of the dataset, or of `rows`.
      noise_key: for dropout: in training `loss_fn` is called as `(params, batch, key)`,
        with another key at every update, and for validation as `(params, batch)`; so
        write `loss_fn(params, batch, key=None)`, and in it `deterministic=key is None,
        rngs={"dropout": key}`. With `over` one key per model.
      learning_rate: `(epoch, rate, history) -> rate`, called before every epoch with
        the rate so far and `{name: values by epoch}`: a `ReduceOnPlateau`, or, as
        Keras' LearningRateScheduler, `lambda epoch, rate, history: 0.9 * rate`. It
        needs an `adjustable` optimizer; of several, the groups of
        `optax.multi_transform`, each rate follows the rule by itself. A schedule that
        counts updates is Optax's, and goes to the optimizer.
      early_stopping: when to stop before `epochs`, and to return the best state.
      over: trains several models: `jax.vmap` or `one_by_one`; then `state` has a
        leading axis of models, which may differ in their learning rates (below).
      on_epoch: `(epoch, record) -> None` after every epoch, such as
        `jaxrnn.logs.print_epoch`, or several as a tuple (see `jaxrnn.logs`).

    Returns:
      The last state (or the best), and the history `{name: values by epoch}` with
      Keras' keys: loss, accuracy, val_loss, val_accuracy; and learning_rate, that of
      the epoch, where the argument is given (learning_rate/slow of a group "slow").

    Raises:
      TypeError: a key that is not from `jax.random.key`, rows that are not integers.
      ValueError: an empty dataset, arrays of different lengths, epochs or batch_size
        below 1, keys or rows that do not fit the models, rows outside of the dataset or
        of a function, a monitor that is not in the history, `learning_rate` for an
        optimizer that is not adjustable.

    Example:
      >>> def loss_fn(params, batch):
      ...     error = (params["mean"] - batch.targets) ** 2
      ...     loss = Mean.of(error, batch.sample_weight)
      ...     return loss.value, {"loss": loss}
      >>> dataset = data.Dataset(np.zeros((5, 1)), np.float32([1, 2, 3, 4, 5]))
      >>> optimizer = keras_rmsprop(0.1)
      >>> state = init_state({"mean": jnp.zeros(())}, optimizer)
      >>> state, history = fit(
      ...     state,
      ...     dataset,
      ...     loss_fn=loss_fn,
      ...     optimizer=optimizer,
      ...     key=jax.random.key(0),
      ...     epochs=20,
      ...     batch_size=2,
      ...     validation=dataset,
      ... )
      >>> list(history), history["loss"].shape
      (['loss', 'val_loss'], (20,))
      >>> 2.5 < state.params["mean"].item() < 3.5  # the mean minimises the error
      True

    A grid of learning rates is one program, with `over`: the rate stands in the state
    of an `adjustable` optimizer, and each model has a state of its own.
      >>> optimizer = adjustable(keras_rmsprop, 0.1)
      >>> def new_state(rate):
      ...     state = init_state({"mean": jnp.zeros(())}, optimizer)
      ...     opt_state = optax.tree.set(state.opt_state, learning_rate=rate)
      ...     return state._replace(opt_state=opt_state)
      >>> rates = jnp.array([0.1, 0.01, 0.001])
      >>> states, history = fit(
      ...     jax.vmap(new_state)(rates),
      ...     dataset,
      ...     loss_fn=loss_fn,
      ...     optimizer=optimizer,
      ...     key=jax.random.split(jax.random.key(0), 3),
      ...     epochs=20,
      ...     over=jax.vmap,
      ... )
      >>> history["loss"].shape, history["loss"][-1].argmin().item()
      ((20, 3), 0)

    So is a cross-validation: every model leaves out rows of its own, here one.
      >>> rows = np.stack([np.delete(np.arange(5), row) for row in range(5)])
      >>> states, history = fit(
      ...     jax.vmap(new_state)(jnp.full(5, 0.1)),
      ...     dataset,
      ...     loss_fn=loss_fn,
      ...     optimizer=optimizer,
      ...     key=jax.random.split(jax.random.key(0), 5),
      ...     epochs=40,
      ...     rows=rows,
      ...     over=jax.vmap,
      ... )
      >>> left_out = jax.tree.map(lambda x: x[:, None], dataset)
      >>> def error(params, part):
      ...     return evaluate(params, part, loss_fn=loss_fn)["loss"].value
      >>> jax.vmap(error)(states.params, left_out).argmin().item()  # of the 3
      2
    """
    _check_sizes(epochs=epochs, batch_size=batch_size)
    for part in (dataset, validation):
        if isinstance(part, Dataset):
            check_dataset(part)
    _check_key("key", key, state)
    if noise_key is not None:
        _check_key("noise_key", noise_key, state)
    _check_over(over, dataset, state)
    if rows is not None:
        _check_rows(rows, dataset, state)

    options = {"loss_fn": loss_fn, "optimizer": optimizer, "noise_key": noise_key}
    if isinstance(dataset, Dataset):
        in_memory = jax.device_put(dataset)
        examples = dataset.inputs.shape[0]
        if rows is None:
            rows = np.broadcast_to(np.arange(examples), (*key.shape, examples))
        in_order = np.asarray(rows, np.int32)
        words = np.asarray(jax.random.key_data(key))

        def one_pass(state: TrainState, epoch: int) -> tuple[TrainState, Any]:
            order = _shuffled(words, in_order, epoch) if shuffle else in_order
            return train_epoch(
                state,
                in_memory,
                jax.device_put(order),
                batch_size=batch_size,
                over=over,
                **options,
            )
    else:

        def one_pass(state: TrainState, epoch: int) -> tuple[TrainState, Any]:
            return train_batches(state, dataset(epoch), **options)

    validation = jax.device_put(validation)
    best = Best.start(state)
    # A copy: `one_pass` uses up what it is given.
    state = jax.device_put(state, may_alias=False)
    history: dict[str, list[Any]] = {}
    for epoch in range(epochs):
        if learning_rate is not None:
            now = rates(state).items()
            new = {name: learning_rate(epoch, rate, history) for name, rate in now}
            state = with_rates(state, new)
        state, means = one_pass(state, epoch)
        if validation is not None:
            validated = evaluate(state.params, validation, loss_fn=loss_fn, over=over)
            means |= {f"val_{name}": mean for name, mean in validated.items()}
        record = metrics.values(means)
        if learning_rate is not None:
            record |= rates(state)
        for name, value in record.items():
            history.setdefault(name, []).append(value)
        for report in on_epoch if isinstance(on_epoch, tuple) else (on_epoch,):
            report(epoch, record)
        if early_stopping is not None:
            best = best.after(state, history, early_stopping)
            if (best.epochs_since >= early_stopping.patience).all():
                break

    state = state if early_stopping is None else best.state
    return state, {name: np.asarray(values) for name, values in history.items()}


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def _check_over(over: Over | None, dataset: Any, state: TrainState) -> None:
    if (over is None) != (state.step.shape == ()):
        raise ValueError(
            f"over must be given if and only if the state holds several models; got "
            f"over={over} and a state of models {state.step.shape}."
        )
    if over is not None and not isinstance(dataset, Dataset):
        raise ValueError(
            "over trains several models on a Dataset in memory, got a function that "
            "makes batches; train the models one after the other, or give a Dataset."
        )


def _check_key(name: str, key: Any, state: TrainState) -> None:
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{name} must be a typed key, got an array of {key.dtype}; "
            "make one with jax.random.key(seed)."
        )
    if key.shape != state.step.shape:
        raise ValueError(
            f"{name} must have one key per model, shape {state.step.shape}, got "
            f"{key.shape}; split one with jax.random.split(key, models)."
        )


def _check_rows(rows: Any, dataset: Any, state: TrainState) -> None:
    if not isinstance(dataset, Dataset):
        raise ValueError(
            "rows are those of a Dataset in memory, got a function that makes batches; "
            "let it leave out the others, or give a Dataset."
        )
    if not jnp.issubdtype(rows.dtype, jnp.integer):
        raise TypeError(
            f"rows must be integers, got an array of {rows.dtype}; np.flatnonzero "
            "makes them of a mask."
        )
    if rows.shape[:-1] != state.step.shape or rows.size == 0 or rows.ndim == 0:
        raise ValueError(
            f"rows must have the shape (*models, rows) with models {state.step.shape} "
            f"and at least one row, got {rows.shape}; np.broadcast_to gives several "
            "models the same rows."
        )
    examples = dataset.inputs.shape[0]
    rows = np.asarray(rows)
    if rows.min() < 0 or rows.max() >= examples:
        raise ValueError(
            f"rows must lie in the dataset, from 0 to {examples - 1}, got "
            f"{rows.min()} to {rows.max()}; count them from its first row."
        )
