"""Are files written whole, caches found, and missing packages named?"""

import ast
import concurrent.futures
import fcntl
import importlib
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import report  # of the experiments

from jaxrnn import files, interchange, logs


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "jaxrnn"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert files.cache_folder() == Path("/home/someone/.cache/jaxrnn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == Path("/home/someone/.cache/jaxrnn")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "words.txt"
    with files.replacing(path) as unfinished:
        unfinished.write_text("old")
        assert not path.exists()

    def fail_half_way():
        with files.replacing(path) as unfinished:
            unfinished.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def write(path, text):
    with files.replacing(path) as unfinished:
        unfinished.write_text(text)


def raw_writers(path):
    """Calls that write to a file other than an `unfinished` one of `replacing`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        words = [ast.unparse(part) for part in (node.func, *node.args)]
        if name == "open":
            modes = [part for part in words[1:] if re.fullmatch(r"'[rwaxbt+]+'", part)]
            writes = any(set("wax+") & set(mode) for mode in modes)
        else:
            writes = name in ("write_text", "write_bytes", "savez", "save_file")
            writes |= name == "savefig"
        if writes and not any(word.startswith("unfinished") for word in words):
            yield f"{path.name}: {ast.unparse(node)}"


def test_every_writer_goes_through_one_helper():
    root = Path(files.__file__).parents[1]
    paths = [p for p in root.rglob("*.py") if p.parent.name != "files"]
    paths += (root.parent / "experiments").rglob("*.py")
    # These run without jaxrnn, and one of them writes what a program says.
    alone = {"worker.py", "workloads.py", "accelerator.py"}
    assert len(paths) > 80
    found = [call for path in paths for call in raw_writers(path)]
    assert {call.partition(":")[0] for call in found} == alone, found


def test_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    path, calls = tmp_path / "words.txt", []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        calls.append(os.path.realpath(f"/dev/fd/{descriptor}"))
        fsync(descriptor)

    def watched_replace(source, target):
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write(path, "all")
    content, name, folder = calls
    assert Path(content).name == "words.txt"
    assert (name, folder) == (path, str(tmp_path))


def test_what_a_killed_process_left_goes_with_the_next_file(tmp_path):
    """And what a living one is making stays."""
    code = f"""
import os, signal
from jaxrnn import files
with files.replacing({str(tmp_path / "killed.txt")!r}) as unfinished:
    unfinished.write_text("half of")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name[:8] for path in tmp_path.iterdir()] == [".jaxrnn-"]
    (tmp_path / ".jaxrnn-notes").write_text("of a user")
    with files.replacing(tmp_path / "first.txt") as unfinished:
        unfinished.write_text("first")
        write(tmp_path / "second.txt", "second")
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == [".jaxrnn-notes", "first.txt", "second.txt"]


def test_many_write_to_one_folder_at_once(tmp_path):
    """None tidies away what another has begun; each lock is of its own."""

    def write_some(number):
        for _ in range(20):
            write(tmp_path / f"{number % 3}.txt", "all of it\n" * 99)

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        list(threads.map(write_some, range(6)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("0.txt", "1.txt", "2.txt")
    ]
    assert (tmp_path / "0.txt").read_text() == "all of it\n" * 99


def test_a_folder_that_somebody_locked_can_be_written_to(tmp_path):
    """`flock folder python train.py` is common; what it locks is not ours."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    write(tmp_path / "words.txt", "all")
    os.close(descriptor)
    assert os.listdir(tmp_path) == ["words.txt"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    target, link = tmp_path / "there" / "words.txt", tmp_path / "link.txt"
    link.symlink_to("there/words.txt")
    write(link, "made")  # where there was nothing, not even the folder
    target.chmod(0o600)
    write(link, "new\n")
    assert link.is_symlink()
    assert target.read_text() == "new\n"
    assert target.stat().st_mode & 0o777 == 0o600
    files.append_line(link, "more\n")
    assert (link.is_symlink(), target.read_text()) == (True, "new\nmore\n")
    assert list(target.parent.iterdir()) == [target]


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "loop", "."):
        with pytest.raises(ValueError, match="must be a file, or a link to one, found"):
            write(tmp_path / name, "text")
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "loop"}


def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    files.append_json_line(path, {"seed": 0})
    whole = path.read_bytes()
    for torn in (b'{"seed": 1', b"\0\0\0", b"12", b"\xff", b"[" * 10**5):
        path.write_bytes(whole + torn)
        with pytest.warns(UserWarning, match="in the middle of a line, which is left"):
            assert files.read_json_lines(path) == [{"seed": 0}]
        with pytest.warns(UserWarning, match="in the middle of a line, which is cut"):
            files.append_json_line(path, {"seed": 2})
        assert files.read_json_lines(path) == [{"seed": 0}, {"seed": 2}]
    path.write_bytes(whole.rstrip())  # its newline alone is missing
    assert files.read_json_lines(path) == [{"seed": 0}]
    files.append_json_line(path, {"seed": 3})
    assert files.read_json_lines(path) == [{"seed": 0}, {"seed": 3}]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{", "in line 2 '{' .Expecting property name"),
        ("", "in line 2 ''"),
        ("[1]", r"a record is an object, not list"),
        ('{"a": 1, "a": 2}', "two of 'a'"),
        ("[" * 10**5, "less deep than Python can read"),
    ],
)
def test_another_bad_line_is_refused(tmp_path, line, found):
    path = tmp_path / "run.jsonl"
    path.write_text(f'{{"seed": 0}}\n{line}\n')
    with pytest.raises(files.BadFile, match=f"one JSON object a line, found .*{found}"):
        files.read_json_lines(path)


def test_a_line_is_on_the_disk_if_asked(tmp_path, monkeypatch):
    synced = []
    files.append_line(tmp_path / "run.csv", "0\n")
    monkeypatch.setattr(os, "fsync", synced.append)
    files.append_line(tmp_path / "run.csv", "1\n", sync=False)
    assert synced == []
    files.append_line(tmp_path / "run.csv", "2\n")
    assert len(synced) == 1
    assert (tmp_path / "run.csv").read_text() == "0\n1\n2\n"


def test_a_bad_file_says_what_and_goes_between_processes(tmp_path):
    path = tmp_path / "x"
    error = files.BadFile(path, "be short", "x" * 10**6, "cut it")
    for same in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(same, ValueError)
        assert (same.path, same.rule, same.way_out) == (str(path), "be short", "cut it")
        assert len(str(same)) < 1000
        assert str(same).startswith(f"{path} must be short, found xxx")


def test_records_come_back_from_the_file(tmp_path):
    path = tmp_path / "new" / "records.jsonl"
    files.write_json_lines(path, [{"old": 0}] * 9)
    records = [
        {"loss": np.float32(0.5), "by_epoch": np.arange(3), "key": jnp.array(2)},
        {"text": "±"},
    ]
    files.write_json_lines(path, records)
    assert files.read_json_lines(path) == [
        {"loss": 0.5, "by_epoch": [0, 1, 2], "key": 2},
        {"text": "±"},
    ]
    with pytest.raises(TypeError, match="numbers, text, lists, dicts and arrays, got"):
        files.write_json_lines(path, [{"path": tmp_path}])
    assert len(files.read_json_lines(path)) == 2  # the older file stays


@pytest.mark.parametrize(
    ("use", "package", "extra"),
    [
        (lambda: report.new_figure(1), "matplotlib", "plots"),
        (lambda: logs.progress_bar(1, "").__enter__(), "tqdm", "experiments"),
        (lambda: logs.tensorboard("runs").__enter__(), "tensorboardX", "tensorboard"),
        (lambda: interchange.load("weights"), "safetensors", "interchange"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, use, package, extra):
    def no_package(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", no_package)
    with pytest.raises(ImportError, match=rf"{package}.*jaxrnn\[{extra}\]"):
        use()
