"""Does a run that is spread over processes give the numbers of one process?

Command    python experiments/many_processes.py --processes 2
           python experiments/many_processes.py --processes 1 --devices 2
           srun --ntasks=4 python experiments/many_processes.py --cluster
Time       half a minute on 2 cores
Expect     the same loss but for rounding, however many processes share the devices;
           a process that is killed makes the others stop with an error that says so,
           and the same command goes on from the last checkpoint

A GRU forecasts the next value of a noisy sine. Grain reads the windows: all processes
shuffle alike, and each takes its share of every batch. With `--processes` they run on
this machine, each with `--devices` devices of its own. On a cluster each process is
started by the cluster: `jax.distributed.initialize()` finds the others by itself under
SLURM, Open MPI, GKE and Cloud TPU; elsewhere give it the address of the first process.
"""

import functools
import os
import pathlib
import socket
import subprocess
import sys

import grain
import jax
import numpy as np
import tyro
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxrnn
from jaxrnn import data, files

OUT = pathlib.Path("runs")


def main(
    *,
    processes: int = 2,
    devices: int = 1,
    epochs: int = 20,
    batch_size: int = 64,
    features: int = 16,
    cluster: bool = False,
    process: int | None = None,
    port: int | None = None,
    out: pathlib.Path = OUT,
) -> None:
    """Starts the processes on this machine, or is one of them.

    Args:
      processes: on this machine.
      devices: of each of them.
      epochs: passes over the windows.
      batch_size: rows of an update, of all processes together.
      features: of the GRU.
      cluster: this is one of the processes that a cluster has started.
      process: this is that one, started by the first command.
      port: of the first process.
      out: a folder that all processes can write to.
    """
    if not cluster and process is None:
        sys.exit(start(processes, devices, sys.argv[1:]))
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(devices))
    if cluster:
        jax.distributed.initialize(heartbeat_timeout_seconds=30)
    elif processes > 1:
        jax.distributed.initialize(
            f"127.0.0.1:{port}", processes, process, heartbeat_timeout_seconds=30
        )
    train(epochs, batch_size, features, out)


def start(processes: int, devices: int, arguments: list[str]) -> int:
    """Starts so many processes of this very command; the worst exit status of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "-u", __file__, *arguments, f"--port={port}"]
    started = [
        subprocess.Popen([*command, f"--process={i}"], env=environment)
        for i in range(processes)
    ]
    print("started the processes", *(one.pid for one in started), flush=True)
    return max(abs(one.wait()) for one in started)


def train(epochs: int, batch_size: int, features: int, out: pathlib.Path) -> None:
    """What every process does; the first one writes."""
    axes = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(axes, PartitionSpec("batch"))
    series = data.sine_series(2000, rng=np.random.default_rng(0))
    train, test = data.sine_datasets(series, layout=data.window_as_time)

    model = jaxrnn.Forecaster(jaxrnn.GRU(features), hidden_features=8)
    optimizer = jaxrnn.keras_adam(0.003)

    def loss_fn(params, batch):
        forecast = model.apply({"params": params}, batch.inputs)
        return jaxrnn.squared_error_loss(forecast, batch.targets, batch.sample_weight)

    def init_fn(key):
        return model.init(key, train.inputs[:1])["params"]

    def report(epoch, record, state):
        del state
        if jax.process_index() == 0:
            print(f"epoch {epoch}: {record}", flush=True)

    state, history = jaxrnn.fit(
        jaxrnn.create_train_state(init_fn, optimizer, jax.random.key(0)),
        functools.partial(own_batches, train, batch_size),
        loss_fn=loss_fn,
        optimizer=optimizer,
        key=jax.random.key(0),
        epochs=epochs,
        validation=test,
        sharding=sharding,
        on_epoch=report,
        checkpoints=jaxrnn.Checkpoints(out / "many_processes", seconds=0),
    )
    if jax.process_index() == 0:
        record = {
            "experiment": "many_processes",
            "processes": jax.process_count(),
            "devices": jax.device_count(),
            "loss": float(history["loss"][-1]),
            "test_mse": float(history["val_loss"][-1]),
            "updates": int(state.step),
        }
        files.write_json_lines(out / "many_processes.jsonl", [record])
        print(record)


def own_batches(train: data.Dataset, batch_size: int, epoch: int):
    """This process' share of every batch of an epoch, in an order drawn by Grain.

    All draw the same order, and each reads every n-th example of it: the batch of all
    processes has the same rows, however many they are.
    """
    process, processes = jax.process_index(), jax.process_count()
    return iter(
        grain.MapDataset.source(Windows(train))
        .shuffle(seed=epoch)[process::processes]
        .batch(batch_size // processes, drop_remainder=True)
        .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    )


class Windows:
    """What Grain reads from: something with a length whose elements are examples.

    Records on disk (`grain.sources.ArrayRecordDataSource`), a memory map, a database.
    """

    def __init__(self, dataset: data.Dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset.inputs)

    def __getitem__(self, index):
        inputs, targets, *_ = self.dataset
        return data.Batch(inputs[index], targets[index], None, np.float32(1))


if __name__ == "__main__":
    tyro.cli(main)
