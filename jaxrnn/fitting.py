"""How does a model train for many epochs? The loop most experiments would write."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from jaxrnn import metrics
from jaxrnn.data.batches import Batch, Dataset, check_dataset
from jaxrnn.solvers.base import hold
from jaxrnn.train import LossFn, Over, TrainState, evaluate, train_batches, train_epoch

OnEpoch = Callable[[int, Mapping[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stops when a value has not improved for `patience` epochs, and goes back.

    `fit` then returns the state of the best epoch (Keras' EarlyStopping with
    `restore_best_weights=True`). With several models each stops for itself: its best
    state is kept, and the epochs that the others still need do not change it.

    Attributes:
      monitor: a name in the history.
      patience: epochs without improvement to wait for.
      min_delta: smallest change that counts as one.
      higher_is_better: for an accuracy, say.

    Raises:
      ValueError: patience below 1.

    Example:
      >>> EarlyStopping("val_accuracy", patience=2, higher_is_better=True).min_delta
      0.0
    """

    monitor: str = "val_loss"
    patience: int = 1
    min_delta: float = 0.0
    higher_is_better: bool = False

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}.")


class _Best(NamedTuple):
    """The best state so far, and how long ago that was; one entry per model."""

    state: TrainState
    value: np.ndarray
    epochs_since: np.ndarray

    @classmethod
    def start(cls, state: TrainState) -> "_Best":
        models = state.step.shape
        return cls(state, np.full(models, np.inf), np.zeros(models, int))

    def after(
        self, state: TrainState, record: Mapping[str, Any], rule: EarlyStopping
    ) -> "_Best":
        if rule.monitor not in record:
            raise ValueError(
                f"early_stopping.monitor must be one of {sorted(record)}, got "
                f"{rule.monitor!r}; the val_ names need validation=..."
            )
        sign = -1 if rule.higher_is_better else 1
        value = sign * np.asarray(record[rule.monitor])
        running = self.epochs_since < rule.patience
        improved = running & (value < self.value - rule.min_delta)
        return _Best(
            hold(jnp.asarray(improved), state, self.state),
            np.where(improved, value, self.value),
            np.where(improved, 0, self.epochs_since + 1),
        )


@functools.partial(jax.jit, static_argnames=("examples", "shuffle", "over"))
def _order(
    key: Key[Array, "*models"],
    epoch: int | Array,
    *,
    examples: int,
    shuffle: bool,
    over: Over | None,
) -> Array:
    """The rows in the order to visit in this epoch; one order per key."""

    def order(key: Key[Array, ""]) -> Array:
        rows = jnp.arange(examples)
        key = jax.random.fold_in(key, epoch)
        return jax.random.permutation(key, rows) if shuffle else rows

    return (over(order) if over else order)(key)


def fit(
    state: TrainState,
    dataset: Dataset | Callable[[int], Iterable[Batch]],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    key: Key[Array, "*models"],
    epochs: int,
    batch_size: int = 32,
    validation: Dataset | None = None,
    shuffle: bool = True,
    early_stopping: EarlyStopping | None = None,
    over: Over | None = None,
    on_epoch: OnEpoch | None = None,
) -> tuple[TrainState, dict[str, Float[np.ndarray, "epochs *models"]]]:
    """Trains for some epochs: the loop that most experiments would write.

    It is short on purpose; to do something else between epochs, copy it and call
    `train_epoch` and `evaluate` yourself.

    Args:
      state: from `init_state`; it stays usable.
      dataset: in memory, to be shuffled on the device; or a function that takes the
        epoch and returns batches from the host (then `batch_size` and `shuffle` are
        the function's business).
      loss_fn: `(params, batch) -> (loss, {name: Mean})`.
      optimizer: an Optax transformation, the one the state was made with.
      key: decides the order of the examples; with `over` one key per model.
      epochs: passes over the dataset.
      batch_size: rows per update.
      validation: evaluated after every epoch, under names that begin with `val_`.
      shuffle: False keeps the order of the dataset.
      early_stopping: when to stop before `epochs`, and to return the best state.
      over: trains several models: `jax.vmap` or `one_by_one`; then `state` has a
        leading axis of models.
      on_epoch: `(epoch, record) -> None` after every epoch, such as
        `jaxrnn.report.print_epoch`.

    Returns:
      The last state (or the best), and the history `{name: values by epoch}` with
      Keras' keys: loss, accuracy, val_loss, val_accuracy.

    Raises:
      TypeError: a key that is not from `jax.random.key`.
      ValueError: an empty dataset, arrays of different lengths, epochs or batch_size
        below 1, keys that do not fit the models, a monitor that is not in the history.

    Example:
      >>> def loss_fn(params, batch):
      ...     error = (params["mean"] - batch.targets) ** 2
      ...     loss = Mean.of(error, batch.sample_weight)
      ...     return loss.value, {"loss": loss}
      >>> dataset = data.Dataset(np.zeros((5, 1)), np.float32([1, 2, 3, 4, 5]))
      >>> optimizer = rmsprop(0.1)
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
    """
    _check(state, dataset, validation, key, epochs, batch_size, over)
    if isinstance(dataset, Dataset):
        in_memory = jax.device_put(dataset)
        examples = dataset.inputs.shape[0]

        def one_pass(state: TrainState, epoch: int) -> tuple[TrainState, Any]:
            return train_epoch(
                state,
                in_memory,
                _order(key, epoch, examples=examples, shuffle=shuffle, over=over),
                loss_fn=loss_fn,
                optimizer=optimizer,
                batch_size=batch_size,
                over=over,
            )
    else:

        def one_pass(state: TrainState, epoch: int) -> tuple[TrainState, Any]:
            batches = dataset(epoch)
            return train_batches(state, batches, loss_fn=loss_fn, optimizer=optimizer)

    validation = jax.device_put(validation)
    best = _Best.start(state)
    state = jax.tree.map(jnp.copy, state)  # `one_pass` uses up what it is given
    history = collections.defaultdict(list)
    for epoch in range(epochs):
        state, means = one_pass(state, epoch)
        if validation is not None:
            validated = evaluate(state.params, validation, loss_fn=loss_fn, over=over)
            means |= {f"val_{name}": mean for name, mean in validated.items()}
        record = metrics.values(means)
        for name, value in record.items():
            history[name].append(value)
        if on_epoch is not None:
            on_epoch(epoch, record)
        if early_stopping is not None:
            best = best.after(state, record, early_stopping)
            if (best.epochs_since >= early_stopping.patience).all():
                break

    state = state if early_stopping is None else best.state
    return state, {name: np.asarray(values) for name, values in history.items()}


def _check(
    state: TrainState,
    dataset: Any,
    validation: Dataset | None,
    key: Any,
    epochs: int,
    batch_size: int,
    over: Over | None,
) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    for part in (dataset, validation):
        if isinstance(part, Dataset):
            check_dataset(part)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"key must be a typed key, got an array of {key.dtype}; "
            "make one with jax.random.key(seed)."
        )
    if key.shape != state.step.shape:
        raise ValueError(
            f"key must have one key per model, shape {state.step.shape}, got "
            f"{key.shape}; split one with jax.random.split(key, models)."
        )
    if (over is None) != (key.shape == ()):
        raise ValueError(
            f"over must be given if and only if the state holds several models; got "
            f"over={over} and a state of models {state.step.shape}."
        )
    if over is not None and not isinstance(dataset, Dataset):
        raise ValueError(
            "over trains several models on a Dataset in memory, got a function that "
            "makes batches; train the models one after the other, or give a Dataset."
        )
