"""Where does a run stand? All that it needs to go on, between two parts of an epoch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.metrics import Mean
from jaxrnn.train.checkpoints import Kept, from_json, to_json
from jaxrnn.train.plateaus import Best, EarlyStopping
from jaxrnn.train.processes import of_all
from jaxrnn.train.state import TrainState
from jaxrnn.train.stops import NonFinite

USUAL_CAUSES = (
    "Usual causes: an id beyond the embedding, NaN in the data, logits where a loss "
    "takes probabilities, a learning rate too high, a recurrence with ReLU or a long "
    "one that explodes (optax.clip_by_global_norm before the optimizer). `.state` and "
    "`.history` of this error are the last good ones; allow_non_finite=True goes on."
)


class Run(NamedTuple):
    """What is handed from one part of an epoch to the next.

    Attributes:
      state: after the last update.
      best: what early stopping remembers; None without.
      history: of the epochs that were finished.
      epoch: the one that is going on.
      done: its updates so far.
      so_far: the means over them.
      position: of the batches that come from the host, where they can say it.
    """

    state: TrainState
    best: Best | None
    history: dict[str, list[Any]]
    epoch: int
    done: int
    so_far: dict[str, Mean]
    position: str = ""

    @classmethod
    def start(
        cls, state: TrainState, history: Any, rule: EarlyStopping | None
    ) -> "Run":
        before = {name: list(values) for name, values in (history or {}).items()}
        lengths = {len(values) for values in before.values()}
        if len(lengths) > 1:
            raise ValueError(
                "history must have as many values of every name, got "
                f"{ {name: len(values) for name, values in before.items()} }."
            )
        best = None if rule is None else Best.start(state)
        return cls(state, best, before, lengths.pop() if lengths else 0, 0, {})

    def is_over(self, rule: EarlyStopping | None) -> bool:
        return (
            rule is not None
            and self.best is not None
            and bool((self.best.epochs_since >= rule.patience).all())
        )

    def after_part(
        self, state: TrainState, means: dict[str, Mean], count: int, position: str
    ) -> "Run":
        so_far = means
        if self.so_far:
            so_far = {name: mean.add(means[name]) for name, mean in self.so_far.items()}
        done = self.done + count
        return self._replace(state=state, so_far=so_far, done=done, position=position)

    def after_epoch(self, record: Any, rule: EarlyStopping | None) -> "Run":
        history = {name: list(values) for name, values in self.history.items()}
        for name, value in record.items():
            history.setdefault(name, []).append(value)
        best = self.best
        if rule is not None and best is not None:
            best = best.after(self.state, history, rule)
        return Run(self.state, best, history, self.epoch + 1, 0, {})

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(values) for name, values in self.history.items()}

    def save(self, kept: Kept, facts: dict[str, Any]) -> None:
        best = self.best
        kept.save(
            {"state": self.state, "best": best and best.state},
            {
                "run": facts,
                "epoch": self.epoch,
                "done": self.done,
                "history": {n: to_json(values) for n, values in self.arrays().items()},
                "positions": of_all(self.position),
                "so_far": {n: list(map(to_json, m)) for n, m in self.so_far.items()},
                "best": best and [to_json(best.value), to_json(best.epochs_since)],
            },
        )

    def newest(self, kept: Kept, facts: dict[str, Any]) -> "Run | None":
        """The newest checkpoint of this run; None where there is none yet."""

        def like(found: dict[str, Any]) -> Any:
            other = {n: v for n, v in found["run"].items() if v != facts.get(n)}
            if other or set(facts) != set(found["run"]):
                raise ValueError(
                    "the checkpoints are those of another run, which differs in "
                    f"{sorted(other or facts)}; choose another folder for this one, or "
                    "delete it to begin anew."
                )
            return {"state": self.state, "best": self.state if found["best"] else None}

        found = kept.newest(like)
        if found is None:
            return None
        arrays, facts = found
        best = self.best
        if best is not None and facts["best"]:
            best = Best(arrays["best"], *map(from_json, facts["best"]))
        positions = facts["positions"]
        as_many = len(positions) == jax.process_count()
        return Run(
            arrays["state"],
            best,
            {name: list(from_json(v)) for name, v in facts["history"].items()},
            facts["epoch"],
            facts["done"],
            {name: _mean(pair) for name, pair in facts["so_far"].items()},
            positions[jax.process_index()] if as_many else "",
        )


def check_names(run: Run, of_loss: set[str], names: set[str]) -> None:
    """Raises where a run that goes on would record other values than it did before.

    Args:
      run: as it was kept, or given as a history.
      of_loss: the names that `loss_fn` returns.
      names: all names of the history to come.
    """
    for before, now in ((run.history, names), (run.so_far, of_loss)):
        if before and set(before) != now:
            raise ValueError(
                f"a run that goes on must record what it did before, {sorted(before)}, "
                f"got {sorted(now)}; give fit the loss_fn, validation and "
                "learning_rate that it began with, or give its state to another fit, "
                "without a history and with another folder. Nothing was trained, and "
                "what is kept stays as it is."
            )


def _mean(kept: Any) -> Mean:
    return Mean(*(jnp.asarray(from_json(x)) for x in kept))


def _are_finite(state: TrainState) -> Any:
    """Whether all parameters of a model are, one answer for each; on the host.

    A program for it would be one more to compile, for something that is done once.
    """
    models = state.step.ndim

    def is_finite(leaf: Any) -> Any:
        whole = leaf.is_fully_addressable  # else all processes have the same
        values = np.asarray(leaf if whole else leaf.addressable_data(0))
        return np.isfinite(values).all(axis=tuple(range(models, values.ndim)))

    return np.logical_and.reduce([*map(is_finite, jax.tree.leaves(state.params))])


def check_last(before: "Run", run: Run) -> None:
    """Raises where the last update, whose loss nobody saw, left no model finite."""
    if not _are_finite(run.state).any():
        raise NonFinite(
            f"the parameters are not finite after the last update of epoch "
            f"{run.epoch - 1}. {USUAL_CAUSES}",
            before.state,
            before.arrays(),
        )


def check_finite(run: Run, means: dict[str, Mean], by_update: Any) -> None:
    """Raises where no model is left whose means are finite; a mean of nothing is."""
    finite = {name: np.isfinite(mean.total) for name, mean in means.items()}
    if np.logical_and.reduce(list(finite.values())).any():
        return
    broken = [name for name, of_models in finite.items() if not of_models.all()]
    where = f"in or after update {run.done + 1}"
    if by_update is not None:
        totals = {n: np.asarray(by_update[n].total) for n in broken}
        first = {
            n: int(np.argmax(~np.isfinite(t).reshape(-1, t.shape[-1]).any(axis=0)))
            for n, t in totals.items()
        }
        broken = sorted(broken, key=first.__getitem__)
        where = f"at update {run.done + first[broken[0]] + 1}"
    raise NonFinite(
        f"{broken[0]} is not finite in epoch {run.epoch}, {where}. {USUAL_CAUSES}",
        run.state,
        run.arrays(),
    )
