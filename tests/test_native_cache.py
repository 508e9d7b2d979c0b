"""Are native loops in the cache never worse than none, whatever lies there?"""

import functools
import os
import pathlib
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HAS_COMPILER, random_problem

import jaxrnn
from jaxrnn import native
from jaxrnn.files import cache_folder
from jaxrnn.native import compiler, store

needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
DRIVER = pathlib.Path(__file__).with_name("native_driver.cc")


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """The compiled loops in a cache of their own, which one may damage."""
    built = native.build()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAXRNN_NATIVE", "1")
    native._warn.cache_clear()
    path = native.library()
    store.keep(path, lambda made: made.write_bytes(built.read_bytes()))
    yield path
    path.parent.chmod(0o700)
    native._warn.cache_clear()


def changed(path, at, value):
    content = bytearray(path.read_bytes())
    content[at] ^= value
    path.write_bytes(content)


def planted(path):
    """By another user, or as far as this process can tell."""
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        store._user = lambda: os.geteuid() + 1


def folder_in_its_place(path):
    path.unlink()
    path.mkdir()


def link_to_nothing(path):
    path.unlink()
    path.symlink_to(path.with_name("nothing"))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "its last byte missing": lambda path: os.truncate(path, path.stat().st_size - 1),
    "one bit flipped": lambda path: changed(path, 20_000, 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "half-written: no sum yet": lambda path: store.sum_of(path).unlink(),
    "an empty sum": lambda path: store.sum_of(path).write_text(""),
    "a sum of bytes that are no text": lambda path: changed(
        store.sum_of(path), 3, 0x80
    ),
    "writable by all": lambda path: path.chmod(0o777),
    "in a folder that is writable by all": lambda path: path.parent.chmod(0o777),
    "of another user": planted,
    "a folder": folder_in_its_place,
    "a link to nothing": link_to_nothing,
}


def gradient():
    """Of the default solver, of enough steps for the loops."""
    params, _, _ = random_problem(jaxrnn.simple_rnn, np.float32)
    inputs = jnp.ones((40, 20, 3))
    solver = jaxrnn.default_solver(jaxrnn.simple_rnn, 40 * 20 * 4)

    def loss(params, solver):
        return jaxrnn.rnn(jaxrnn.simple_rnn, params, inputs, solver=solver)[1].sum()

    return solver, jax.grad(loss)(params, solver), jax.grad(loss)(params, jaxrnn.Scan())


@needs_compiler
@pytest.mark.parametrize("damage", DAMAGES)
def test_training_goes_on_after_any_damage_with_one_message(
    cached, monkeypatch, damage
):
    """And the command makes them again."""
    assert native.enabled()
    monkeypatch.setattr(store, "_user", store._user)  # `planted` changes it
    DAMAGES[damage](cached)
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        solver, found, want = [gradient() for _ in range(3)][-1]
    (message,) = (str(x.message) for x in messages)
    assert "native loops are not used" in message
    assert "`python -m jaxrnn.native` makes them again" in message
    assert isinstance(solver, jaxrnn.HoistedScan)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), found, want)

    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cached.parents[2]))
    monkeypatch.setenv("JAXRNN_NATIVE", "1")

    def copied(compiler, arguments, made, names):
        made.write_bytes(b"the loops")

    monkeypatch.setattr(native, "compiled", copied)
    if damage == "a folder":
        with pytest.raises(RuntimeError, match="is a folder; remove it"):
            native.build()
    else:
        whole = store.fault(cached) is None  # it was this user's after all
        assert whole or native.build().read_bytes() == b"the loops"
        with warnings.catch_warnings(action="error"):
            assert native.enabled()


def in_fresh_python(code, **environment):
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    return subprocess.run(
        [sys.executable, *code],
        env={k: v for k, v in (kept | environment).items() if v is not None},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,  # against hanging
    )


@pytest.mark.slow
@needs_compiler
def test_the_command_repairs_a_truncated_library(tmp_path):
    """A process that loaded it would end by SIGBUS."""
    copies = tmp_path / "copies"  # a compiler that is quick
    copies.write_text(f'#!/bin/sh\nfor last; do :; done\ncp {native.build()} "$last"\n')
    copies.chmod(0o700)
    given = {"XDG_CACHE_HOME": str(tmp_path), "CXX": str(copies)}
    command = ["-m", "jaxrnn.native"]
    made = in_fresh_python(command, **given)
    assert made.returncode == 0, made.stderr
    path = pathlib.Path(made.stdout.strip())
    os.truncate(path, path.stat().st_size // 2)
    refused = in_fresh_python(command, **given | {"CXX": "false"})
    assert refused.returncode == 1
    assert refused.stderr.startswith("jaxrnn.native: false could not compile")
    again = in_fresh_python(command, **given)
    assert "is damaged: it is not what was once written: made again" in again.stderr
    assert again.stdout == made.stdout
    assert store.fault(path) is None


def test_a_library_is_read_once_until_it_changes(monkeypatch, tmp_path):
    path = tmp_path / "cache" / "native.so"
    store.keep(path, lambda made: made.write_text("the loops"))
    read = []
    of_path = pathlib.Path.read_bytes
    monkeypatch.setattr(
        pathlib.Path, "read_bytes", lambda self: read.append(self) or of_path(self)
    )
    assert [store.fault(path) for _ in range(3)] == [None] * 3
    assert len(read) == 1
    path.write_text("THE LOOPS")
    assert "is damaged" in store.fault(path)
    assert len(read) == 2


# Where there is no place for them, and no compiler to make them.


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sh -c 'exit 1'", "could not compile"),
        ("true", "said that all went well, and wrote no library"),
        ("sh -c 'echo x > made'", "said that all went well, and wrote no library"),
        ("no-such-compiler", "cannot be started"),
        ("/", "cannot be started"),
    ],
)
def test_a_compiler_may_fail_or_keep_silent(tmp_path, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match=message):
        compiler.compiled(command, ["native.cc"], tmp_path / "native.so", ["f"])


def test_what_a_compiler_wrote_must_be_a_library(tmp_path):
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        compiler.compiled(
            "sh -c 'echo no library > $3' sh", ["x"], tmp_path / "native.so", ["f"]
        )


def test_a_compiler_that_hangs_is_ended_with_its_children(tmp_path):
    """Its child holds the pipe that its words come through."""
    mark = tmp_path / "child"
    command = f"sh -c 'sleep 600 & echo $! > {mark}; wait'"
    with pytest.raises(RuntimeError, match="did not end within 1 s"):
        compiler.compiled(command, ["x"], tmp_path / "native.so", ["f"], limit_s=1.0)
    child = pathlib.Path("/proc") / mark.read_text().strip()
    for _ in range(100):  # until its new parent has seen that it ended
        if (
            not (child / "status").exists()
            or "zombie" in (child / "status").read_text()
        ):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child goes on")


WITHOUT_A_PLACE = """
import os, sys, warnings
if sys.argv[1] == "home":
    import pwd
    def nobody(uid):
        raise KeyError(uid)
    pwd.getpwuid = nobody
    del os.environ["HOME"]
import jax, jax.numpy as jnp, jaxrnn
assert not jaxrnn.native.enabled()
params = jaxrnn.init_params(jaxrnn.gru, jax.random.key(0), 2, 3)
inputs = jnp.ones((7, 5, 2))
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    for rows in (5, 4):
        jaxrnn.rnn(jaxrnn.gru, params, inputs[:, :rows], solver=jaxrnn.Native())
jaxrnn.rnn(jaxrnn.gru, params, inputs)
print(*(str(x.message) for x in found), sep="\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("home", "there is no home directory to keep a cache in"),
        ("a file", "cannot be kept in"),
    ],
)
def test_without_a_place_for_them_jax_runs_and_one_message_says_so(
    tmp_path, place, message
):
    (tmp_path / "file").touch()
    folder = None if place == "home" else str(tmp_path / "file")
    done = in_fresh_python(
        ["-c", WITHOUT_A_PLACE, place], XDG_CACHE_HOME=folder, JAXRNN_NATIVE="1"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("jaxrnn.Native runs as HoistedScan: ")
    assert message in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_a_cache_without_a_home_says_what_to_set(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # knows no home
    with pytest.raises(RuntimeError, match="set HOME or XDG_CACHE_HOME"):
        cache_folder()


def test_a_folder_of_another_user_is_not_written_to(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "_user", store._user)
    planted(tmp_path)
    with pytest.raises(RuntimeError, match="belongs to another user"):
        store.keep(tmp_path / "native.so", lambda made: made.write_text("the loops"))


def test_a_folder_that_others_may_write_to_is_closed(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    store.keep(folder / "native.so", lambda made: made.write_text("the loops"))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "native.so").stat().st_mode & 0o777 == 0o700


# The loops by themselves, see native_driver.cc.


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_the_loops_under_sanitizers(tmp_path, sanitizer):
    """Random shapes, zero features, late threads; memory that runs out anywhere."""
    flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-march=native"]
    run_driver(tmp_path, flags, rounds=8)


def run_driver(folder, flags, rounds):
    made = folder / "driver"
    command = [native.compiler_found(), "-std=c++17", "-O1", "-g", "-pthread", *flags]
    included = ["-isystem", jax.ffi.include_dir(), f"-I{native.SOURCE.parent}"]
    sample = folder / "sample.cc"
    sample.write_text("int main() {}")
    linked = [*command, str(sample), "-o", str(made)]
    if subprocess.run(linked, capture_output=True, check=False).returncode:
        pytest.skip(f"this compiler has no runtime for {flags[0]}")
    subprocess.run([*command, *included, str(DRIVER), "-o", str(made)], check=True)
    ran = subprocess.run(
        [str(made), str(rounds)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "0 wrong"


@needs_compiler
@pytest.mark.parametrize("name", ["simple_rnn", "gru", "lstm"])
def test_no_features_and_no_gradient_of_them(name):
    """A division by their number would end the process."""
    cell = getattr(jaxrnn, name)
    params = {
        key: jnp.zeros(spec.shape) for key, spec in cell.param_specs(2, 0).items()
    }
    inputs = jnp.ones((7, 5, 2))

    def loss(params, inputs):
        return jaxrnn.rnn(cell, params, inputs, solver=jaxrnn.Native())[1].sum()

    gradients, of_inputs = jax.grad(loss, argnums=(0, 1))(params, inputs)
    assert {k: v.shape for k, v in gradients.items()} == {
        k: v.shape for k, v in params.items()
    }
    np.testing.assert_array_equal(of_inputs, np.zeros(inputs.shape))
