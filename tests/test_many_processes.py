"""Do processes that share a run give the numbers of one, and survive each other?"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "experiments" / "many_processes.py"
EPOCHS = 8
pytestmark = pytest.mark.slow


def command(out, *, epochs=3, processes=2, devices=1):
    options = {"epochs": epochs, "processes": processes, "devices": devices, "out": out}
    return [sys.executable, SCRIPT, *(f"--{n}={value}" for n, value in options.items())]


def run(out, **options):
    done = subprocess.run(
        command(out, **options), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "many_processes.jsonl").read_text())


def test_two_processes_give_the_numbers_of_one(tmp_path):
    two = run(tmp_path / "two")
    one = run(tmp_path / "one", processes=1, devices=2)
    assert (two.pop("processes"), one.pop("processes")) == (2, 1)
    assert two.pop("experiment") == one.pop("experiment")
    assert two == pytest.approx(one, rel=1e-5)
    assert two["updates"] == 3 * (900 // 64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), epochs=EPOCHS)


@pytest.mark.parametrize("victim", [1])
def test_one_is_killed_the_other_says_so_and_the_same_command_goes_on(
    whole, tmp_path, victim
):
    process = subprocess.Popen(
        command(tmp_path, epochs=EPOCHS),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        read = []
        for line in process.stdout:
            read.append(line)
            if line.startswith("epoch 1:"):
                pids = re.findall(r"\d+", read[0])
                os.kill(int(pids[victim]), signal.SIGKILL)
                killed = time.monotonic()
    print(f"all had ended {time.monotonic() - killed:.0f} s after the kill")
    said = "".join(read)
    assert process.returncode != 0, said
    if victim == 1:  # of the first one the runtime itself may tell, which ends all
        assert "process 0 of 2 lost another one" in said, said
    assert not (tmp_path / "many_processes.jsonl").exists()
    assert run(tmp_path, epochs=EPOCHS) == whole
