"""Does a run that was stopped end with the bits of one that was not?

Killed processes, at random moments: `test_survival.py`. Here the stops are exceptions
and signals at chosen places, which is quick.
"""

import functools
import hashlib
import os
import shutil
import signal

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
import jaxrnn.train.run
from jaxrnn import data
from jaxrnn.train.checkpoints import Kept

EXAMPLES = 22
INPUTS = np.random.default_rng(0).standard_normal((EXAMPLES, 3)).astype(np.float32)
DATASET = data.Dataset(INPUTS, INPUTS.sum(axis=1))
OPTIMIZER = jaxrnn.adjustable(jaxrnn.keras_adam, 0.05)


def loss_fn(params, batch, key=None):
    """Linear regression with dropout of the inputs."""
    inputs = batch.inputs
    if key is not None:
        kept = jax.random.bernoulli(key, 0.8, inputs.shape)
        inputs = inputs * kept.astype(inputs.dtype)
    error = (inputs @ params["w"] - batch.targets) ** 2
    loss = jaxrnn.Mean.of(error, batch.sample_weight)
    return loss.value, {"loss": loss}


def from_host(epoch):
    yield from data.batches(DATASET, 4, rng=np.random.default_rng(epoch))


class Rows:
    """What Grain reads from; counts it."""

    read = 0

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, row):
        Rows.read += 1
        targets = np.float32(INPUTS[row].sum())
        return data.Batch(INPUTS[row], targets, None, np.float32(1))


def from_grain(epoch):
    read_ahead = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    rows = grain.MapDataset.source(Rows()).shuffle(seed=epoch)
    return iter(rows.batch(4).to_iter_dataset(read_ahead))


SOURCES = {"host": from_host, "grain": from_grain}


def models(kind):
    return (3,) if kind == "models" else ()


def train(kind, folder=None, updates=None, **options):
    """Six epochs of six updates, in memory, from the host, or of three models."""
    shape = models(kind)
    keys = jax.random.split(jax.random.key(0), (2, *shape))
    checkpoints = None
    if folder is not None:
        checkpoints = jaxrnn.Checkpoints(folder, updates=updates, seconds=0)
    given = {
        "epochs": 6,
        "validation": data.Dataset(-INPUTS, -INPUTS.sum(axis=1)),
        "learning_rate": jaxrnn.ReduceOnPlateau(patience=1, factor=0.5),
        "early_stopping": jaxrnn.EarlyStopping("loss", patience=5),
        "loss_fn": loss_fn,
        **options,
    }
    return jaxrnn.fit(
        given.pop("state", None) or new_state(shape),
        SOURCES.get(kind, DATASET),
        optimizer=OPTIMIZER,
        key=keys[0],
        noise_key=keys[1],
        batch_size=4,
        over=jax.vmap if shape else None,
        checkpoints=checkpoints,
        **given,
    )


def new_state(shape=()):
    keys = jax.random.split(jax.random.key(5), shape)

    def init(key):
        return {"w": jax.random.normal(key, (3,))}

    return jaxrnn.create_train_state(init, OPTIMIZER, keys)


def digest(ran):
    state, history = ran
    found = hashlib.sha256()
    for leaf in jax.tree.leaves((state, dict(sorted(history.items())))):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


class Killed(Exception):
    """As if the process had ended."""


@pytest.mark.parametrize("updates", [None, 4])
@pytest.mark.parametrize("kind", ["memory", "host", "grain", "models"])
@pytest.mark.slow
def test_killed_after_any_checkpoint_it_ends_with_the_same_bits(
    kind, updates, tmp_path, monkeypatch
):
    """Epochs are 6 updates, so parts of 4 and 2."""
    Rows.read = 0
    want = digest(train(kind, tmp_path / "undisturbed", updates))
    read = Rows.read
    if updates is None:
        assert digest(train(kind)) == want  # to keep checkpoints changes nothing
    real, saved = Kept.save, []

    def save_and_die(self, arrays, facts):
        real(self, arrays, facts)
        saved.append((facts["epoch"], facts["done"]))
        raise Killed

    monkeypatch.setattr(Kept, "save", save_and_die)
    for _ in range(40):
        try:
            found = train(kind, tmp_path / "killed", updates)
            break
        except Killed:
            continue
    assert digest(found) == want
    assert len(saved) == len(set(saved)) == (6 if updates is None else 18)
    if kind == "grain" and updates:  # its position is known: nothing is read again
        assert Rows.read == 2 * read == 2 * 6 * EXAMPLES


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_updates_in_flight_and_keeps_them(name, tmp_path):
    want = digest(train("host", tmp_path / "undisturbed", 2))
    before = signal.getsignal(getattr(signal, name))

    def interrupting(epoch):
        for i, batch in enumerate(from_host(epoch)):
            if (epoch, i) == (2, 3):
                os.kill(os.getpid(), getattr(signal, name))
            yield batch

    options = {"loss_fn": loss_fn, "optimizer": OPTIMIZER}
    keys = jax.random.split(jax.random.key(0), 2)
    said = f"{name} interrupted training in epoch 2"
    with pytest.raises(jaxrnn.Interrupted, match=said) as stop:
        jaxrnn.fit(
            new_state(),
            interrupting,
            key=keys[0],
            noise_key=keys[1],
            epochs=6,
            validation=data.Dataset(-INPUTS, -INPUTS.sum(axis=1)),
            learning_rate=jaxrnn.ReduceOnPlateau(patience=1, factor=0.5),
            early_stopping=jaxrnn.EarlyStopping("loss", patience=5),
            checkpoints=jaxrnn.Checkpoints(tmp_path / "stopped", updates=2, seconds=0),
            **options,
        )
    assert signal.getsignal(getattr(signal, name)) == before
    assert len(stop.value.history["loss"]) == 2
    assert stop.value.state.step in (14, 16)
    assert digest(train("host", tmp_path / "stopped", 2)) == want


@pytest.mark.parametrize("kind", ["memory", "host", "models"])
def test_three_epochs_and_three_more_are_six(kind):
    """By hand, with the history; plateaus remember, early stopping begins anew."""
    options = {"early_stopping": None}
    want = train(kind, **options)
    state, history = train(kind, epochs=3, **options)
    assert len(history["loss"]) == 3
    given = {"loss_fn": loss_fn, "optimizer": OPTIMIZER, "batch_size": 4}
    shape = models(kind)
    keys = jax.random.split(jax.random.key(0), (2, *shape))
    found = jaxrnn.fit(
        state,
        SOURCES.get(kind, DATASET),
        key=keys[0],
        noise_key=keys[1],
        epochs=6,
        history=history,
        validation=data.Dataset(-INPUTS, -INPUTS.sum(axis=1)),
        learning_rate=jaxrnn.ReduceOnPlateau(patience=1, factor=0.5),
        over=jax.vmap if shape else None,
        **given,
    )
    assert digest(found) == digest(want)


def test_a_run_that_ended_returns_what_it_returned(tmp_path):
    """Also where early stopping ended it; and more epochs go on."""
    stopping = jaxrnn.EarlyStopping("loss", patience=1, min_delta=100.0)
    first = train("memory", tmp_path, early_stopping=stopping)
    assert len(first[1]["loss"]) == 2
    assert digest(train("memory", tmp_path, early_stopping=stopping)) == digest(first)
    longer = train("memory", tmp_path, early_stopping=None, epochs=8)
    assert digest(longer) == digest(train("memory", early_stopping=None, epochs=8))


def damage(folder, number):
    """Half of every file of one checkpoint."""
    for path in (folder / str(number)).rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)


def test_fewer_epochs_than_were_trained_are_refused(tmp_path):
    state, history = train("memory", tmp_path)
    for before in ({"folder": tmp_path}, {"history": history}):
        with pytest.raises(ValueError, match="trained before, 6, got 3; ask for as"):
            train("memory", epochs=3, **before)
    del state


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(tmp_path):
    want = digest(train("memory"))
    train("memory", tmp_path, epochs=4)
    assert {path.name for path in tmp_path.iterdir() if path.name.isdigit()} == {
        "3",
        "4",
    }
    damage(tmp_path, 4)
    with pytest.warns(
        UserWarning, match=r"checkpoint 4 cannot be read .* an older one"
    ):
        assert digest(train("memory", tmp_path)) == want


def test_where_none_can_be_read_nothing_begins_anew_silently(tmp_path):
    train("memory", tmp_path, epochs=2)
    for number in (1, 2):
        damage(tmp_path, number)
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read") as error:
        train("memory", tmp_path)
    assert "delete this one to begin anew" in str(error.value)
    shutil.rmtree(tmp_path)
    assert digest(train("memory", tmp_path)) == digest(train("memory"))


def test_checkpoints_of_another_run_are_refused(tmp_path):
    train("memory", tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"another run, which differs in \['rows'\]"):
        train("memory", tmp_path, rows=np.arange(EXAMPLES - 1))
    with pytest.raises(ValueError, match=r"differs in \['key', 'noise_key', 'state'\]"):
        train("models", tmp_path)
    with pytest.raises(ValueError, match=r"differs in .*'shuffle'"):
        train("memory", tmp_path, shuffle=False)
    assert digest(train("memory", tmp_path)) == digest(train("memory"))


def with_accuracy(params, batch, key=None):
    loss, means = loss_fn(params, batch, key)
    return loss, means | {"accuracy": means["loss"]}


NAMES = {
    "added": {"validation": DATASET},
    "rate": {"learning_rate": lambda epoch, rate, history: rate},
    "metric": {"loss_fn": with_accuracy},
}


@pytest.mark.parametrize("kind", ["memory", "host"])
def test_a_run_goes_on_with_the_names_of_its_history(kind, tmp_path):
    """Else its values could not be put side by side; nothing is lost by asking."""
    run = functools.partial(train, kind, validation=None, learning_rate=None)
    run(folder=tmp_path, epochs=1)
    said = r"record what it did before, \['loss'\], got \[.*; give fit the loss_fn"
    for other in NAMES.values():
        with pytest.raises(ValueError, match=said):
            run(folder=tmp_path, epochs=2, **other)
    with pytest.raises(ValueError, match=r"\['loss', 'val_loss'\], got \['loss'\]"):
        run(epochs=2, history={"loss": [1.0], "val_loss": [1.0]})
    state, history = ran = run(folder=tmp_path, epochs=2)
    assert digest(ran) == digest(run(epochs=2))
    assert list(history) == ["loss"]
    # The way out: the state of that run, to another history.
    _, history = run(state=state, epochs=1, validation=DATASET)
    assert {name: len(x) for name, x in history.items()} == {"loss": 1, "val_loss": 1}


def test_a_run_that_stopped_within_an_epoch_goes_on_with_its_means(
    tmp_path, monkeypatch
):
    def die(self, arrays, facts):
        save(self, arrays, facts)
        raise Killed

    save = Kept.save
    monkeypatch.setattr(Kept, "save", die)
    run = functools.partial(train, "host", tmp_path, 4, epochs=1, early_stopping=None)
    with pytest.raises(Killed):
        run()
    with pytest.raises(ValueError, match=r"\['loss'\], got \['accuracy', 'loss'\]"):
        run(loss_fn=with_accuracy)


def test_how_often_and_how_many(tmp_path, monkeypatch):
    real, saved = Kept.save, []

    def note(self, arrays, facts):
        saved.append((facts["epoch"], facts["done"]))
        real(self, arrays, facts)

    monkeypatch.setattr(Kept, "save", note)
    run = functools.partial(
        jaxrnn.fit,
        new_state(),
        DATASET,
        loss_fn=loss_fn,
        optimizer=OPTIMIZER,
        key=jax.random.key(0),
        batch_size=4,
        epochs=5,
    )
    run(checkpoints=jaxrnn.Checkpoints(tmp_path / "a", epochs=2, keep=1, seconds=0))
    assert saved == [(2, 0), (4, 0), (5, 0)]  # what ended is kept
    assert [p.name for p in (tmp_path / "a").iterdir() if p.name.isdigit()] == ["3"]
    saved.clear()
    run(checkpoints=jaxrnn.Checkpoints(tmp_path / "b", seconds=3600.0))
    assert saved == [(5, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"updates": -1}, "updates must be at least 1, got -1"),
        ({"keep": 0}, "keep must be at least 1, got 0"),
        ({"seconds": -1.0}, "seconds must be a number of at least 0, got -1.0"),
    ],
)
def test_bad_numbers_are_explained(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        jaxrnn.Checkpoints(tmp_path, **options)


def test_bad_kinds_are_explained(tmp_path, untyped):
    for options, message in (
        ({"folder": None}, "folder must be a path, of one run, got None"),
        ({"epochs": None}, "epochs must be a whole number, got None"),
        ({"seconds": "60"}, "seconds must be a number of at least 0, got '60'"),
    ):
        with pytest.raises(TypeError, match=message):
            untyped(jaxrnn.Checkpoints)(**{"folder": tmp_path} | options)


def test_history_has_as_many_values_of_every_name():
    with pytest.raises(ValueError, match=r"history must have as many values"):
        train("memory", history={"loss": [1.0, 2.0], "val_loss": [1.0]})


# Training that breaks.


def breaking(at, rows=None):
    """A loss that is NaN from update `at` on, counted by the parameters themselves."""

    def breaking_loss_fn(params, batch):
        error = (batch.inputs @ params["w"] - batch.targets) ** 2
        count = params["count"]
        error = jnp.where(count >= at, jnp.nan, error) - count
        loss = jaxrnn.Mean.of(error, batch.sample_weight)
        return loss.value, {"accuracy": jaxrnn.Mean.of(error * 0 + 1), "loss": loss}

    return breaking_loss_fn


def counting():
    """Gradient descent of which `count` goes up by one at every update."""
    import optax

    return optax.GradientTransformation(
        lambda params: (),
        lambda updates, state, params=None: (
            {"w": -0.1 * updates["w"], "count": jnp.ones(())},
            state,
        ),
    )


COUNTING = counting()


def fit_breaking(at, kind="memory", **options):
    loss = breaking(at)
    params = {"w": jnp.zeros(3), "count": jnp.zeros(())}
    return jaxrnn.fit(
        jaxrnn.init_state(params, COUNTING),
        SOURCES.get(kind, DATASET),
        loss_fn=loss,
        optimizer=COUNTING,
        key=jax.random.key(0),
        epochs=4,
        batch_size=4,
        **options,
    )


def test_training_that_breaks_stops_and_says_where():
    """Update 15 of 6 a epoch is the third of epoch 2; the state is that before it."""
    with pytest.raises(jaxrnn.NonFinite, match=r"loss|accuracy") as stop:
        fit_breaking(14)
    assert "is not finite in epoch 2, at update 3." in str(stop.value)
    assert "learning rate" in str(stop.value)
    assert stop.value.state.step == 12
    assert np.isfinite(stop.value.state.params["w"]).all()
    assert len(stop.value.history["loss"]) == 2


def test_from_the_host_it_says_after_which_update(tmp_path):
    with pytest.raises(jaxrnn.NonFinite, match=r"in epoch 2, in or after update 1\."):
        fit_breaking(14, "host")
    checkpoints = jaxrnn.Checkpoints(tmp_path, updates=2, seconds=0)
    with pytest.raises(jaxrnn.NonFinite, match=r"in or after update 3\.") as stop:
        fit_breaking(14, "host", checkpoints=checkpoints)
    assert stop.value.state.step == 14


@pytest.mark.parametrize("kept", [False, True])
def test_a_last_update_that_breaks_is_seen(kept, tmp_path):
    """Its loss is finite, and no other one shows what it left."""

    def loss_fn(params, batch):
        square = (params["w"] ** 2).sum()
        norm = jnp.sqrt(jnp.where(params["count"] < 23, square, 0 * square))
        error = (batch.inputs @ params["w"] - batch.targets) ** 2 + norm
        loss = jaxrnn.Mean.of(error - params["count"], batch.sample_weight)
        return loss.value, {"loss": loss}

    def train(**options):
        params = {"w": jnp.ones(3), "count": jnp.zeros(())}
        return jaxrnn.fit(
            jaxrnn.init_state(params, COUNTING),
            DATASET,
            loss_fn=loss_fn,
            optimizer=COUNTING,
            key=jax.random.key(0),
            epochs=4,
            batch_size=4,
            **options,
        )

    options = {"checkpoints": jaxrnn.Checkpoints(tmp_path)} if kept else {}
    with pytest.raises(jaxrnn.NonFinite, match="last update of epoch 3") as at:
        train(**options)
    assert np.isfinite(at.value.state.params["w"]).all()
    state, history = train(allow_non_finite=True)
    assert np.isnan(state.params["w"]).all()
    assert np.isfinite(history["loss"]).all()


def test_a_signal_after_the_last_checkpoint_is_not_lost(tmp_path):
    """The epoch is over and kept; who called must still hear of it."""

    def on_epoch(epoch, record, state):
        if epoch == 1:
            at_exit.append(True)

    at_exit, saved = [], jaxrnn.train.run.Run.save
    with pytest.MonkeyPatch.context() as patch:

        def save(run, kept, facts):
            saved(run, kept, facts)
            if at_exit:
                signal.raise_signal(signal.SIGINT)

        patch.setattr(jaxrnn.train.run.Run, "save", save)
        with pytest.raises(jaxrnn.Interrupted, match="SIGINT came when training had"):
            train("memory", tmp_path, epochs=2, on_epoch=on_epoch)
    state, _ = train("memory", tmp_path, epochs=2)
    assert state.step == 12


def test_the_option_goes_on():
    state, history = fit_breaking(14, allow_non_finite=True)
    assert state.step == 24
    assert np.isfinite(history["loss"]).tolist() == [True, True, False, False]


def test_a_mean_of_nothing_is_not_broken():
    nothing = DATASET._replace(sample_weight=np.zeros(EXAMPLES, np.float32))
    state, history = jaxrnn.fit(
        new_state(),
        nothing,
        loss_fn=loss_fn,
        optimizer=OPTIMIZER,
        key=jax.random.key(0),
        epochs=2,
    )
    assert np.isnan(history["loss"]).all()
    assert np.isfinite(state.params["w"]).all()


def test_of_several_models_the_last_finite_one_stops_them():
    loss = breaking(14)
    counts = jnp.array([0.0, -100.0])
    params = {"w": jnp.zeros((2, 3)), "count": counts}
    states = jaxrnn.TrainState(params, (), jnp.zeros(2, jnp.int32))
    state, history = jaxrnn.fit(
        states,
        DATASET,
        loss_fn=loss,
        optimizer=COUNTING,
        key=jax.random.split(jax.random.key(0), 2),
        epochs=4,
        batch_size=4,
        over=jax.vmap,
    )
    assert state.step.tolist() == [24, 24]
    assert np.isfinite(history["loss"]).sum(axis=0).tolist() == [2, 4]


def test_a_monitor_is_checked_before_anything_is_trained():
    reports = []
    for rule in (
        {"early_stopping": jaxrnn.EarlyStopping("val_acc")},
        {"learning_rate": jaxrnn.ReduceOnPlateau("val_acc")},
    ):
        with pytest.raises(
            ValueError, match=r"one of \['learning_rate', 'loss', 'val_l"
        ):
            train("memory", on_epoch=lambda *given: reports.append(given), **rule)
    assert not reports


@pytest.mark.parametrize("kind", ["memory", "models"])
def test_the_columns_of_a_log_are_checked_before_anything_is_trained(kind, tmp_path):
    path, reports = tmp_path / "run.csv", []
    path.write_text("epoch,loss,mse\n")
    log = jaxrnn.logs.csv_lines(path, append=True)
    with pytest.raises(ValueError, match=r"columns \['epoch', 'loss', 'mse'\], got"):
        train(kind, on_epoch=(lambda *given: reports.append(given), log))
    assert not reports
    log = jaxrnn.logs.csv_lines(path)  # begins it anew
    train(kind, epochs=2, on_epoch=log)
    train(kind, epochs=2, on_epoch=jaxrnn.logs.csv_lines(path, append=True))
    assert len(path.read_text().splitlines()) == 5


def test_on_epoch_sees_the_state():
    steps = []
    state, _ = train(
        "memory", on_epoch=lambda e, record, state: steps.append(state.step)
    )
    assert [int(step) for step in steps] == [6, 12, 18, 24, 30, 36]
    del state
