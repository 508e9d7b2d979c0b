"""What happens when training no longer gets better? It stops, or it slows down."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrnn.data.batches import check_count, check_number
from jaxrnn.train.state import TrainState

History = Mapping[str, Sequence[Any]]  # {name: a value per epoch so far}


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stops when a value has not improved for `patience` epochs, and goes back.

    `fit` then returns the state of the best epoch (Keras' EarlyStopping with
    `restore_best_weights=True`). With several models each stops for itself: its best
    state is kept, and the epochs that the others still need do not change it.

    A NaN is never an improvement; without any number the last state is returned. (Keras
    takes the first value for the best, and no number is below a NaN: after a NaN in the
    first epoch it stops, whatever comes.)

    Attributes:
      monitor: a name in the history.
      patience: epochs without improvement to wait for; Keras' 0 means 1 as well.
      min_delta: what is gained by no more than this does not count as an improvement.
      higher_is_better: for an accuracy, say; Keras' `mode="max"`.
      start_from_epoch: the epochs before it, counted from 0, are not looked at.

    Raises:
      TypeError: what is no number.
      ValueError: patience below 1, a negative number, an accuracy whose lower values
        would be the better ones.

    Example:
      >>> EarlyStopping("val_accuracy", patience=2, higher_is_better=True).min_delta
      0.0
    """

    monitor: str = "val_loss"
    patience: int = 1
    min_delta: float = 0.0
    higher_is_better: bool = False
    start_from_epoch: int = 0

    def __post_init__(self) -> None:
        _check_rule(self, "min_delta", "start_from_epoch")


@dataclasses.dataclass(frozen=True)
class ReduceOnPlateau:
    """Reduces the learning rate when a value has not improved for `patience` epochs.

    Keras' ReduceLROnPlateau, as a pure function: the rate of an epoch follows from the
    rate before it and the history. For `learning_rate` of `fit`. With several models
    each has a rate of its own. As with `EarlyStopping`, a NaN is never an improvement.
    (`optax.contrib.reduce_on_plateau` compares after every update, and its tolerance is
    relative.)

    Attributes:
      monitor: a name in the history.
      factor: of the reduction, between 0 and 1.
      patience: epochs without improvement to wait for.
      min_delta: what is gained by no more than this does not count as an improvement.
      cooldown: epochs after a reduction that do not count as waiting.
      min_rate: the rate is not reduced below it; Keras' `min_lr`.
      higher_is_better: for an accuracy, say; Keras' `mode="max"`.

    Raises:
      TypeError: what is no number.
      ValueError: as `EarlyStopping`; a factor that is not between 0 and 1; when called,
        a monitor that is not in the history.

    Example:
      >>> rule = ReduceOnPlateau(factor=0.5, patience=2)
      >>> print(rule(3, 0.1, {"val_loss": [0.7, 0.8, 0.9]}))
      0.05
      >>> print(rule(4, 0.05, {"val_loss": [0.7, 0.8, 0.9, 0.9]}))
      0.05
    """

    monitor: str = "val_loss"
    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4
    cooldown: int = 0
    min_rate: float = 0.0
    higher_is_better: bool = False

    def __post_init__(self) -> None:
        _check_rule(self, "min_delta", "cooldown", "min_rate", "factor")
        if not 0 < self.factor < 1:
            raise ValueError(f"factor must lie between 0 and 1, got {self.factor}.")

    def __call__(self, epoch: int, rate: Any, history: History) -> Any:
        """The rate of `epoch`, from the rate and the values of the epochs before it."""
        if not history:
            return rate
        by_epoch = _monitored(history, self)
        by_model = by_epoch.reshape(len(by_epoch), -1).T.tolist()
        due = np.reshape([self._is_due(values) for values in by_model], np.shape(rate))
        reduced = np.maximum(rate * self.factor, self.min_rate)
        return np.where(due & (rate > self.min_rate), reduced, rate)[()]

    def _is_due(self, values: Sequence[float]) -> bool:
        """Whether the last epoch of one model calls for a reduction."""
        best, waited, cooling, due = np.inf, 0, 0, False
        for value in values:
            due = False
            cooling = max(cooling - 1, 0)
            if value + self.min_delta < best:
                best, waited = value, 0
            elif cooling == 0:
                waited += 1
                if waited >= self.patience:
                    due, waited, cooling = True, 0, self.cooldown
        return due


class Best(NamedTuple):
    """The best state so far, and how long ago that was; one entry per model."""

    state: TrainState
    value: np.ndarray
    epochs_since: np.ndarray

    @classmethod
    def start(cls, state: TrainState) -> "Best":
        models = state.step.shape
        return cls(state, np.full(models, np.inf), np.zeros(models, int))

    def after(self, state: TrainState, history: History, rule: EarlyStopping) -> "Best":
        value = _monitored(history, rule)[-1]
        unseen = len(history[rule.monitor]) <= rule.start_from_epoch
        running = self.epochs_since < rule.patience
        improved = unseen | (running & (value + rule.min_delta < self.value))
        return Best(
            _chosen(improved, state, self.state),
            np.where(improved & (not unseen), value, self.value),
            np.where(improved, 0, self.epochs_since + 1),
        )

    def or_last(self, state: TrainState) -> TrainState:
        """The best state, or the last one of a model that never had a number."""
        return _chosen(np.isinf(self.value), state, self.state)


def _chosen(which: Any, new: TrainState, old: TrainState) -> TrainState:
    """`new` for the models that `which` says, `old` for all others."""

    def choose(new: Array, old: Array) -> Array:
        axes = tuple(range(np.ndim(which), new.ndim))
        return jnp.where(jnp.expand_dims(which, axes), new, old)

    return jax.tree.map(choose, new, old)


def check_monitor(rule: Any, names: Collection[str]) -> None:
    """Raises a ValueError where a rule looks at a name that the history will not have.

    Args:
      rule: an `EarlyStopping`, a `ReduceOnPlateau`; others look at what they like.
      names: those of the history.
    """
    if isinstance(rule, EarlyStopping | ReduceOnPlateau) and rule.monitor not in names:
        raise ValueError(
            f"monitor must be one of {sorted(names)}, got {rule.monitor!r}; "
            "the val_ names need validation=..."
        )


def _monitored(history: History, rule: EarlyStopping | ReduceOnPlateau) -> np.ndarray:
    """What a rule looks at, one value per epoch, smaller is better."""
    check_monitor(rule, history)
    values = np.asarray(history[rule.monitor])
    return -values if rule.higher_is_better else values


def _check_rule(rule: EarlyStopping | ReduceOnPlateau, *numbers: str) -> None:
    """Raises where a rule could not be followed, when it is made."""
    check_count("patience", rule.patience)
    for name in numbers:
        check_number(name, getattr(rule, name))
    is_accuracy = rule.monitor in ("accuracy", "val_accuracy")
    if is_accuracy and not rule.higher_is_better:
        raise ValueError(
            f"{rule.monitor} is the better the higher it is, got higher_is_better="
            f"{rule.higher_is_better}; write {type(rule).__name__}({rule.monitor!r}, "
            "higher_is_better=True)."
        )
