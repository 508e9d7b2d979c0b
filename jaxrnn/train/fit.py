"""How does a model train for many epochs? The loop most experiments would write."""

import contextlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, Key

from jaxrnn import metrics
from jaxrnn.data.batches import (
    Batch,
    Dataset,
    check_count,
    check_dataset,
    num_examples,
)
from jaxrnn.train.checkpoints import Checkpoints, shapes_of, to_json
from jaxrnn.train.checks import check_function, check_key
from jaxrnn.train.devices import check_sharding, everywhere, sent
from jaxrnn.train.evaluate import evaluate
from jaxrnn.train.logs import Checks, OnEpoch
from jaxrnn.train.over import Over
from jaxrnn.train.parts import Batches, Rows
from jaxrnn.train.plateaus import EarlyStopping, check_monitor
from jaxrnn.train.processes import first_says, one_of_them, told_of_lost_ones
from jaxrnn.train.rates import LearningRate, rates, with_rates
from jaxrnn.train.run import Run, check_finite, check_last, check_names
from jaxrnn.train.state import TrainState, check_state
from jaxrnn.train.stops import Interrupted, Signals, signals
from jaxrnn.train.update import LossFn


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
    sharding: NamedSharding | None = None,
    on_epoch: OnEpoch | Sequence[OnEpoch] = (),
    history: Mapping[str, Any] | None = None,
    checkpoints: Checkpoints | None = None,
    allow_non_finite: bool = False,
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
      epochs: passes over the dataset, those in `history` among them.
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
      sharding: of the rows of a batch over devices, such as `NamedSharding(mesh,
        PartitionSpec("batch"))`, also where each of several processes has some of the
        devices: see `train_epoch` for a Dataset in memory, which all processes have
        whole, and `train_batches` for a function.
      on_epoch: `(epoch, record, state) -> None` after every epoch, such as
        `jaxrnn.logs.print_epoch`, or several in a list (see `jaxrnn.logs`). Of several
        processes each calls its own; give what writes to the first one alone:
        `on_epoch=log if jax.process_index() == 0 else ()`.
      history: of epochs that were trained before, by an earlier call that returned it
        and `state`; the first epoch is the one after them. So 3 epochs, and 6 with the
        history of the 3, are 6 epochs at once, but for early stopping, which begins
        anew. The names in it must be those of this call: `validation` or
        `learning_rate` can neither be added nor left out.
      checkpoints: where to keep the run. Where it holds one already, training goes on
        from there, in place of `state`, and ends with the bits of a run that was never
        stopped (as long as `updates` of `Checkpoints` stays the same). That it is the
        same run is told by keys, rows, batch size, the shapes of state and dataset and
        the names in the history; other values of the same shapes are not noticed. A
        SIGTERM or SIGINT then ends the updates in flight, writes a checkpoint and
        raises `Interrupted`. A function that makes batches must make the same ones for
        an epoch; within an epoch, those that were trained on are read and left out.
      allow_non_finite: goes on where a loss or metric of training becomes NaN or
        infinite, in place of raising. (Of several models it is the last finite one that
        stops them.)

    Returns:
      The last state (or the best), and the history `{name: values by epoch}` with
      Keras' keys: loss, accuracy, val_loss, val_accuracy; and learning_rate, that of
      the epoch, where the argument is given (learning_rate/slow of a group "slow").

    Raises:
      NonFinite: training broke; with the epoch, the updates, and the last good state.
      Interrupted: by a signal, with `checkpoints`; with the state and the history.
      TypeError: a state, dataset, key, rule, history or optimizer that is none, rows
        that are not integers, a function that takes or returns something else.
      ValueError: a `learning_rate` that returns another number of rates, or a negative
        one; an empty dataset, arrays of different lengths, epochs or batch_size
        below 1, fewer epochs than history or checkpoints have, keys or rows that do not
        fit the models, rows outside of the dataset or of a function, a monitor that is
        not in the history, `learning_rate` for an optimizer that is not adjustable,
        checkpoints or a history of another run, a `sharding` that does not divide the
        rows.

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
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    _check_kinds(
        state,
        dataset,
        validation,
        on_epoch,
        learning_rate,
        early_stopping,
        history,
        checkpoints,
    )
    for part in (dataset, validation):
        if isinstance(part, Dataset):
            check_dataset(part)
    _check_key("key", key, state)
    if noise_key is not None:
        _check_key("noise_key", noise_key, state)
    _check_over(over, dataset, state)
    if rows is not None:
        _check_rows(rows, dataset, state)

    check_sharding(sharding, batch_size if isinstance(dataset, Dataset) else None)
    state, noise_key = everywhere(sharding, (state, noise_key))
    options = {"loss_fn": loss_fn, "optimizer": optimizer, "noise_key": noise_key}
    updates = checkpoints.updates if checkpoints else None
    facts: dict[str, Any] = {
        "key": to_json(jax.random.key_data(key)),
        "noise_key": noise_key is not None and to_json(jax.random.key_data(noise_key)),
        "rows": None if rows is None else zlib.crc32(np.asarray(rows).tobytes()),
        "state": shapes_of(state),
    }
    if isinstance(dataset, Dataset):
        facts |= {"batch_size": batch_size, "shuffle": shuffle}
        facts["dataset"] = shapes_of(dataset)
        parts = Rows(
            dataset, key, rows, batch_size, updates, shuffle, over, sharding, options
        )
    else:
        parts = Batches(dataset, updates, sharding, options)
    reports = (on_epoch,) if callable(on_epoch) else tuple(on_epoch)

    def with_others(names: set[str]) -> set[str]:
        """All names of the history, from those of the means of training."""
        of_validation = {f"val_{name}" for name in names}
        of_rates = set(rates(state)) if learning_rate is not None else set()
        return names | of_rates | (of_validation if validation is not None else set())

    of_loss = parts.names(state)
    if of_loss is not None:
        names = with_others(of_loss)
        check_monitor(early_stopping, names)
        check_monitor(learning_rate, names)
        of_models = dict.fromkeys(sorted(names), np.zeros(state.step.shape))
        for report in reports:
            if isinstance(report, Checks):
                report.check(of_models)

    validation = sent(sharding, validation)
    run = Run.start(state, history, early_stopping)
    with contextlib.ExitStack() as stack:
        stack.enter_context(told_of_lost_ones())
        kept, signal, at = None, Signals(), None
        if checkpoints is not None:
            kept = stack.enter_context(checkpoints.opened())
            signal = stack.enter_context(signals())
            found = run.newest(kept, facts)
            if found is not None:
                run, at = found, (found.epoch, found.done)

        if run.epoch > epochs:
            raise ValueError(
                f"epochs must be at least those that were trained before, {run.epoch}, "
                f"got {epochs}; ask for as many or more, or begin anew with another "
                "folder and no history."
            )

        goes_on = run.epoch > 0 or run.done > 0
        if goes_on and of_loss is not None:
            check_names(run, of_loss, with_others(of_loss))
            goes_on = False
        before = run

        def keep(*, due: bool) -> None:
            """A checkpoint, where it is time; and the end, where a signal came."""
            nonlocal at
            if kept is None:
                return
            came = one_of_them(signal.came)
            if came or (due and first_says(kept.due)):
                if not allow_non_finite:  # from there nothing could go on
                    check_last(before, run)
                run.save(kept, facts)
                at = run.epoch, run.done
            if came:
                raise Interrupted(
                    f"{came} interrupted training in epoch {run.epoch}, after "
                    f"{run.done} of its updates; the same call goes on from there.",
                    run.state,
                    run.arrays(),
                )

        while run.epoch < epochs and not run.is_over(early_stopping):
            if learning_rate is not None and run.done == 0:
                given = rates(run.state).items()
                now = {n: learning_rate(run.epoch, r, run.history) for n, r in given}
                changed = everywhere(sharding, with_rates(run.state, now))
                run = run._replace(state=changed)
            before, part_means, by_update = run, {}, None
            for part in parts(run.epoch, run.done, run.position):
                # From the host: the first batch tells.
                if goes_on and (of_loss := parts.names(run.state)) is not None:
                    check_names(run, of_loss, with_others(of_loss))
                goes_on = False
                before = run
                state, part_means, by_update, count = part(run.state)
                run = run.after_part(state, part_means, count, parts.position())
                if kept is not None and not allow_non_finite:
                    check_finite(before, part_means, by_update)
                keep(due=updates is not None)
            means = dict(run.so_far)
            if validation is not None:
                validated = evaluate(
                    run.state.params,
                    validation,
                    loss_fn=loss_fn,
                    over=over,
                    sharding=sharding,
                )
                means |= {f"val_{name}": mean for name, mean in validated.items()}
            if kept is None and not allow_non_finite:
                # Not before: the device is to have its work while the host waits.
                check_finite(before, part_means, by_update)
            record = metrics.values(means)
            if learning_rate is not None:
                record |= rates(run.state)
            run = run.after_epoch(record, early_stopping)
            for report in reports:
                report(run.epoch - 1, record, run.state)
            keep(due=checkpoints is not None and run.epoch % checkpoints.epochs == 0)
        if run.best is None and not allow_non_finite:
            check_last(before, run)
        if kept is not None and at != (run.epoch, run.done):
            run.save(kept, facts)
        if came := one_of_them(signal.came):
            raise Interrupted(
                f"{came} came when training had ended; all of it is kept.",
                run.state,
                run.arrays(),
            )

    state = run.state if run.best is None else run.best.or_last(run.state)
    return state, run.arrays()


def _check_kinds(
    state: Any,
    dataset: Any,
    validation: Any,
    on_epoch: Any,
    learning_rate: Any,
    early_stopping: Any,
    history: Any,
    checkpoints: Any,
) -> None:
    """What people write who know another `fit`."""
    check_state(state)
    is_one = isinstance(on_epoch, str) or not isinstance(on_epoch, Sequence)
    for report in [on_epoch] if is_one else on_epoch:
        check_function(
            "on_epoch",
            report,
            "(epoch, record, state) -> None, or a list of some",
            *(0, {}, state),
            way_out="write on_epoch=jaxrnn.logs.print_epoch, or json_lines(path).",
        )
    if learning_rate is not None:
        check_function(
            "learning_rate",
            learning_rate,
            "(epoch, rate, history) -> rate",
            *(0, 0.0, {}),
            way_out="write ReduceOnPlateau(), say, or lambda epoch, rate, history: 0.9 "
            "* rate; the first rate, or a schedule that counts updates, goes to the "
            "optimizer: adjustable(keras_adam, 0.001), keras_adam(schedule).",
        )
    if not isinstance(history, Mapping | None) or not all(
        np.ndim(values) for values in (history or {}).values()
    ):
        raise TypeError(
            "history must be {name: values by epoch}, as an earlier fit returned it, "
            f"got {history!r}."
        )
    if not isinstance(early_stopping, EarlyStopping | None):
        raise TypeError(
            f"early_stopping must be jaxrnn.EarlyStopping, got {early_stopping!r}; "
            "write EarlyStopping(patience=3), say."
        )
    if not isinstance(dataset, Dataset):
        check_function(
            "dataset",
            dataset,
            "epoch -> batches, or a data.Dataset",
            0,
            way_out="write data.Dataset(inputs, targets), or lambda epoch: "
            "data.batches(dataset, 32, rng=np.random.default_rng(epoch)).",
        )
    if not isinstance(validation, Dataset | None):
        raise TypeError(
            f"validation must be a data.Dataset, got {type(validation).__name__}; "
            "write data.Dataset(inputs, targets), and data.split_last(dataset, 0.2) "
            "for a share of the rows."
        )
    if not isinstance(checkpoints, Checkpoints | None):
        raise TypeError(
            f"checkpoints must be jaxrnn.Checkpoints, got {checkpoints!r}; write "
            f"Checkpoints({checkpoints!r})."
        )


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
    check_key(name, key)
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
    rows = np.asarray(rows)
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
    examples = num_examples(dataset)
    if rows.min() < 0 or rows.max() >= examples:
        raise ValueError(
            f"rows must lie in the dataset, from 0 to {examples - 1}, got "
            f"{rows.min()} to {rows.max()}; count them from its first row."
        )
