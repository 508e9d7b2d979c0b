"""Is training on many devices what it is on one, each with its own rows of a batch?"""

import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import jaxrnn
from jaxrnn import data
from jaxrnn.train import devices, host

HERE = pathlib.Path(__file__).parent


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    flags = {"JAX_NUM_CPU_DEVICES": "8", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    done = subprocess.run(
        [sys.executable, HERE.parent / "on_devices.py"],
        env=os.environ | flags | {"JAXRNN_NATIVE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def loss_fn(params, batch):
    error = (batch.inputs[:, 0] - params) ** 2
    loss = jaxrnn.Mean.of(error, batch.sample_weight)
    return loss.value, {"loss": loss}


DATASET = data.Dataset(np.ones((4, 2), np.float32), np.ones(4, np.float32))
OPTIMIZER = optax.sgd(0.1)


def train(entry, sharding):
    state = jaxrnn.init_state(np.float32(0), OPTIMIZER)
    options = {"loss_fn": loss_fn, "optimizer": OPTIMIZER, "sharding": sharding}
    if entry == "fit":
        options |= {"key": jax.random.key(0), "epochs": 1, "batch_size": 2}
        return jaxrnn.fit(state, DATASET, **options)
    if entry == "train_batches":
        return jaxrnn.train_batches(state, data.batches(DATASET, 2), **options)
    return jaxrnn.train_epoch(state, DATASET, np.arange(4), batch_size=2, **options)


MESH = AbstractMesh((2, 2), ("hosts", "devices"))


@pytest.mark.parametrize("entry", ["fit", "train_epoch", "train_batches"])
@pytest.mark.parametrize(
    ("error", "message", "sharding"),
    [
        (
            TypeError,
            "of the rows of a batch, got P;",
            PartitionSpec("hosts"),
        ),
        (
            ValueError,
            "must divide one axis, the rows of a batch, got P(None, 'hosts')",
            NamedSharding(MESH, PartitionSpec(None, "hosts")),
        ),
        (ValueError, "must divide one axis", NamedSharding(MESH, PartitionSpec())),
    ],
)
def test_sharding_must_divide_the_rows(untyped, entry, error, message, sharding):
    with pytest.raises(error, match=re.escape(message)):
        untyped(train)(entry, sharding)


@pytest.mark.parametrize("entry", ["fit", "train_epoch"])
def test_batch_must_be_shared_out_equally(entry):
    by_all = NamedSharding(MESH, PartitionSpec(("hosts", "devices")))
    message = "a multiple of the 4 devices that share it, got 2; take 4"
    with pytest.raises(ValueError, match=message):
        train(entry, by_all)


def test_a_process_with_fewer_batches_is_told(monkeypatch):
    """As if there were two processes, the other one with a batch less."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def of_all(said):
        return [said, said.replace("2 of", "1 of")]

    monkeypatch.setattr(host, "of_all", of_all)
    groups = iter([(np.int32(2), np.ones((2, 4))), (np.int32(1), np.ones((2, 4)))])
    sharding = NamedSharding(jax.make_mesh((1,), ("a",)), PartitionSpec("a"))
    message = r"as many batches as the others.*'2 of \[\(2, 4\)\]', '1 of .*leave out"
    with pytest.raises(ValueError, match=message):
        list(host._alike_in_all(groups, sharding))


def test_what_is_whole_must_be_the_same_in_all_processes(monkeypatch):
    """As if there were two processes, the other one with another seed."""
    mesh = jax.make_mesh((1,), ("a",))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(devices, "of_all", lambda said: [said, said + "0"])
    with pytest.raises(ValueError, match=r"got others in the processes \[1\] than"):
        train("train_epoch", NamedSharding(mesh, PartitionSpec("a")))
