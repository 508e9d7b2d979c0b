"""Does every epoch reach the file at once, and come back from it?"""

import csv
import json
import os
import struct

import keras
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from jaxrnn import files, logs

RECORDS = [  # of one model
    {"loss": 0.1 + 0.2, "val_loss": 1e-20},
    {"loss": float("nan"), "val_loss": 2.0},
]
MODELS = [  # of two
    {"loss": np.array([0.5, 0.25]), "learning_rate": 0.1},
    {"loss": np.array([0.4, 0.125]), "learning_rate": 0.1},
]


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_run_that_goes_on_writes_no_epoch_twice(kind, tmp_path):
    """Epoch 2 was written, and its checkpoint was not."""
    path = tmp_path / f"run.{kind}"
    make = logs.csv_lines if kind == "csv" else logs.json_lines
    for epochs in (range(3), range(2, 4), range(1)):  # the last one begins anew
        log = make(path, append=True)
        for epoch in epochs:
            log(epoch, {"loss": 0.5})
    lines = path.read_text().splitlines()
    read = [line.split(",")[0] for line in lines[1:]] if kind == "csv" else None
    epochs = read or [json.loads(line)["epoch"] for line in lines]
    assert list(map(int, epochs)) == [0, 1, 2, 3, 0]


def test_csv_holds_what_keras_writes(tmp_path):
    log = logs.csv_lines(tmp_path / "new" / "ours.csv")
    wanted = keras.callbacks.CSVLogger(tmp_path / "keras.csv")
    wanted.on_train_begin()
    for epoch, record in enumerate(RECORDS):
        log(epoch, record)
        wanted.on_epoch_end(epoch, dict(record))
        found = read_csv(tmp_path / "new" / "ours.csv")  # while the run goes on
        assert found == read_csv(tmp_path / "keras.csv")
        assert len(found) == epoch + 1
    wanted.on_train_end()
    assert float(found[0]["loss"]) == 0.1 + 0.2  # every digit


def test_csv_has_a_column_per_model(tmp_path):
    log = logs.csv_lines(tmp_path / "run.csv")
    for epoch, record in enumerate(MODELS):
        log(epoch, record)
    assert (tmp_path / "run.csv").read_text().splitlines() == [
        "epoch,loss/0,loss/1,learning_rate",
        "0,0.5,0.25,0.1",
        "1,0.4,0.125,0.1",
    ]


def test_a_file_is_begun_anew_or_added_to(tmp_path):
    path = tmp_path / "run.csv"
    for append, rows in ((True, 1), (True, 2), (False, 1), (True, 2)):
        logs.csv_lines(path, append=append)(0, RECORDS[0])
        assert len(read_csv(path)) == rows
    with pytest.raises(
        ValueError, match=r"\['epoch', 'loss', 'val_loss'\], got .*'mse'"
    ):
        logs.csv_lines(path, append=True)(0, {"mse": 1.0})
    assert len(read_csv(path)) == 2
    logs.csv_lines(path)
    assert path.read_text() == ""  # nothing of the run before is left

    path = tmp_path / "run.jsonl"
    for append, rows in ((True, 1), (True, 2), (False, 1)):
        logs.json_lines(path, append=append)(0, RECORDS[0])
        assert len(files.read_json_lines(path)) == rows


def test_a_torn_row_is_cut_off(tmp_path):
    """Also one with as many numbers as columns: the last may lack digits."""
    path = tmp_path / "run.csv"
    for kept, torn in (
        ("", "epo"),
        ("epoch,loss,val_loss\n", "0,0.3"),
        ("epoch,loss,val_loss\n0,1.0,2.0\n", "1,0.5,0.2"),
    ):
        path.write_text(kept + torn)
        with pytest.warns(UserWarning, match=f"which is cut off: '{torn}'"):
            logs.csv_lines(path, append=True)(1, RECORDS[1])
        assert len(read_csv(path)) == max(1, kept.count("\n"))
        assert read_csv(path)[-1] == {"epoch": "1", "loss": "nan", "val_loss": "2.0"}
    path = tmp_path / "run.jsonl"
    path.write_text('{"epoch": 0}\n{"epoch": 1')
    with pytest.warns(UserWarning, match="which is cut off"):
        logs.json_lines(path, append=True)(1, {"loss": 0.5})
    assert files.read_json_lines(path) == [{"epoch": 0}, {"epoch": 1, "loss": 0.5}]


@pytest.mark.parametrize("log_lines", [logs.csv_lines, logs.json_lines])
def test_short_epochs_do_not_wait_for_the_disk(tmp_path, monkeypatch, log_lines):
    log, synced, now = log_lines(tmp_path / "run"), [], [0.0]
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    for epoch in range(8):
        log(epoch, {"loss": 0.5})
        now[0] += 0.25
    assert len(synced) == 2  # at 0 and 1 s
    assert len((tmp_path / "run").read_text().splitlines()) >= 8


def test_json_lines_come_back(tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    log = logs.json_lines(path)
    for epoch, record in enumerate(MODELS):
        log(epoch, record)
        last = files.read_json_lines(path)[-1]  # while the run goes on
        assert last == {
            "epoch": epoch,
            "loss": record["loss"].tolist(),
            "learning_rate": 0.1,
        }


def read_events(folder):
    """(step, tag, value); a record is a length, a checksum, the event, a checksum."""
    (path,) = folder.iterdir()
    content, events, start = path.read_bytes(), [], 0
    while start < len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        event = event_pb2.Event.FromString(content[start + 12 : start + 12 + length])
        events += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        start += length + 16
    return events


def test_tensorboard(tmp_path):
    with logs.tensorboard(tmp_path / "run") as log:
        log(0, MODELS[0])
        first = read_events(tmp_path / "run")  # while the run goes on
        log(1, MODELS[1])
    want = [(0, "loss/0", 0.5), (0, "loss/1", 0.25), (0, "learning_rate", 0.1)]
    assert first == [(*event, np.float32(value)) for *event, value in want]
    events = read_events(tmp_path / "run")
    assert len(events) == 6
    assert events[4] == (1, "loss/1", 0.125)


def test_progress_keeps_the_time():
    with logs.progress_bar(3, "three epochs") as progress:
        for epoch in range(3):
            progress(epoch, {"loss": np.array([0.5, 0.7])})
    assert len(progress.ended) == 4
    assert progress.epoch_s == np.median(np.diff(progress.ended)[1:])
