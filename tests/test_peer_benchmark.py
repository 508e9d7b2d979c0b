"""Is the comparison with the peers fair, and does it refuse what is not?"""

import dataclasses
import itertools
import pathlib

import install_peers
import numpy as np
import peer_process
import peer_report
import peer_rounds
import peers
import pytest
from peer_list import PEERS
from peer_programs import layouts, workloads
from PIL import Image  # Matplotlib brings it
from report import color_of

from jaxrnn import files


@pytest.mark.slow
def test_peers_take_turns(tmp_path):
    """From the same weights to the same losses, of which NumPy knows the first."""
    peers.main(
        rounds=2,
        kinds=("train",),
        workloads=("sine",),
        peers=("jaxrnn", "jaxrnn, 16 models", "flax.linen"),
        start_ups=0,
        block_s=0.001,
        out=tmp_path,
    )
    about, ours, many, linen = files.read_json_lines(tmp_path / "peers.jsonl")
    assert about["not_installed"] == {}
    assert set(about["devices"]) == {"jaxrnn", "jaxrnn, 16 models", "flax.linen"}
    assert (ours["peer"], linen["peer"]) == ("jaxrnn", "flax.linen")
    assert ours["times_ours"] == 1
    assert many["updates"] % (16 * 56) == 0
    assert ours["updates"] % 56 == 0  # whole epochs
    assert 0 < linen["min_ms"] <= linen["q1_ms"] <= linen["median_ms"] <= linen["q3_ms"]

    weights = workloads.initial_weights("sine")
    x = workloads.make_work("sine").inputs[0, :, 0]  # one step from a zero carry
    for name in ("recurrent", "hidden", "head"):
        x = x @ weights[name]["kernel"] + weights[name]["bias"]
        x = x if name == "head" else np.maximum(x, 0)
    first_loss = np.mean((x[:, 0] - workloads.make_work("sine").targets[0]) ** 2)
    for record in (ours, many, linen):
        assert len(record["values"]) == 4
        # sums of 64 products in float32, in another order
        np.testing.assert_allclose(record["values"][0], first_loss, rtol=1e-5)


def test_weights_come_back_as_they_were_saved(tmp_path):
    saved = layouts.layouts(workloads.initial_weights("wide-gru"))
    workloads.save(tmp_path / "weights.npz", saved)
    for name, layout in saved.items():
        loaded = workloads.load(tmp_path / "weights.npz", name)
        leaves = (
            [loaded["cell"], layout["cell"]] if name == "linen" else [loaded, layout]
        )
        assert list(leaves[0]) == list(leaves[1])
        for key, value in leaves[1].items():
            np.testing.assert_equal(leaves[0][key], value)


def started(**changes):
    """A peer "other" in its process; as PyTorch, but for what is given."""
    return peer_process.started(
        "other", dataclasses.replace(PEERS["pytorch"], **changes)
    )


def test_peer_that_is_not_installed_says_so():
    with started(packages=("no_such_package",)) as worker:
        reason = worker.about["not_installed"]
    assert reason == "ModuleNotFoundError: No module named 'no_such_package'"


def test_failure_of_a_program_is_no_missing_peer():
    with (
        pytest.raises(RuntimeError, match=r"other failed: Trace(.|\n)*no_such_program"),
        started(packages=("json",), module="no_such_program"),
    ):
        pass


def test_death_of_a_worker_shows_what_it_said_last(monkeypatch):
    monkeypatch.setattr(peer_process, "PROGRAMS", pathlib.Path("/no/such/folder"))
    with (
        pytest.raises(RuntimeError, match=r"ended without an answer(.|\n)*can't open"),
        started(),
    ):
        pass


def test_every_peer_has_all_cores_and_its_own_variables(monkeypatch):
    for name in ("OMP_NUM_THREADS", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.setenv(name, "1")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = {}
    for name in ("jaxrnn", "pytorch, 1 thread"):
        with peer_process.running(name, PEERS[name], "-c", code) as worker:
            seen[name] = worker.answer()
    assert "OMP_NUM_THREADS" not in seen["jaxrnn"]
    assert seen["pytorch, 1 thread"]["OMP_NUM_THREADS"] == "1"
    for env in seen.values():
        assert not {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"} & set(env)


def test_tables_keep_one_order_of_peers():
    """Also where the first workload is not one of a peer's."""
    runs = [{"peer": name} for name in ("pytorch", "jaxrnn, 16 models", "jaxrnn")]
    assert peer_report.in_order(runs) == ["jaxrnn", "jaxrnn, 16 models", "pytorch"]


def test_turns_are_rotated():
    turns = [peer_rounds.rotated("abc", turn) for turn in range(6)]
    assert all(sorted(turn) == list("abc") for turn in turns)
    assert {turn[0] for turn in turns} == set("abc")
    followers = {pair for turn in turns for pair in itertools.pairwise(turn)}
    assert len(followers) == 6  # everybody runs after everybody else


@pytest.mark.parametrize("wrong", [5.04, -5, float("nan")])
def test_peer_that_computes_something_else_is_named(wrong):
    """A small number counts as much as a large one beside it."""
    values = {"a": [70.0, 5.0], "b": [70.01, 5.002]}
    peer_rounds.check_agreement("train x", values)
    values["c"] = [70.0, wrong]
    with pytest.raises(ValueError, match=r"(?s)the same in 'train x'.*c: \[70"):
        peer_rounds.check_agreement("train x", values)


def test_wrong_name_is_refused():
    with pytest.raises(ValueError, match=r"among.*'imdb-001'.*got.*'imdb-003'"):
        peers.main(workloads=("imdb-003",))


ABOUT = {
    "measured": "2031-01-02",
    "cpu": "A CPU",
    "cores": 2,
    "dtype": "float32",
    "python": "3.11",
    "versions": {"jax": "0.10"},
    "not_installed": {"pytorch": "no module"},
}


def run(peer, workload, median, times_ours):
    return {
        "kind": "train",
        "workload": workload,
        "peer": peer,
        "median_ms": median,
        "q1_ms": 0.9 * median,
        "q3_ms": 1.1 * median,
        "times_ours": times_ours,
        "first_s": 1.5,
    }


def start_up(peer, compilation, median):
    record = {"kind": "start-up", "peer": peer, "compilation": compilation}
    return record | {"median_s": median, "peak_mib": 321.4}


RECORDS = [
    ABOUT,
    run("jaxrnn", "imdb-002", 4.0, 1),
    run("flax.linen", "imdb-002", 8.123, 2.04),
    run("jaxrnn", "sine", 0.02, 1),
    start_up("jaxrnn", "cold", 2.0),
    start_up("jaxrnn", "cached", 1.2),
    start_up("flax.linen", "cold", 4.5),
]


def test_tables_say_what_the_records_say():
    text = peer_report.tables(RECORDS)
    assert "|  | imdb-002 | sine |" in text
    assert "| jaxrnn | 4.00 | 0.0200 |" in text
    assert "| flax.linen | 8.12 (2.0) |  |" in text
    assert "| jaxrnn | 2.00 | 1.20 | 1.50 | 321 |" in text
    assert "| flax.linen | 4.50 |  | 1.50 | 321 |" in text
    assert "measured on 2031-01-02 on 2 cores of one A CPU" in text
    assert "Not installed: pytorch." in text


def test_picture_has_a_dot_for_every_peer(tmp_path):
    peer_report.draw(RECORDS, "train", tmp_path / "peers-train.png")
    picture = np.asarray(Image.open(tmp_path / "peers-train.png").convert("RGB"))
    for color in map(color_of, ("jaxrnn", "flax.linen")):
        rgb = tuple(bytes.fromhex(color[1:]))
        assert (picture == rgb).all(axis=-1).sum() > 50


# No CUDA by accident.


def plan(*items, system="linux"):
    return {
        "environment": {"sys_platform": system, "platform_machine": "x86_64"},
        "install": [
            {"metadata": {"name": n, "version": v, "requires_dist": list(needs)}}
            for n, v, needs in items
        ],
    }


TORCH_NEEDS = ("filelock", 'nvidia-cudnn-cu13==9.2; platform_system == "Linux"')


@pytest.mark.parametrize(
    "item",
    [
        ("torch", "2.15.0", TORCH_NEEDS),
        ("torch", "2.15.1", ('triton==3.9; platform_system == "Linux"',)),
        ("torch", "2.15.2", ("nvidia_nccl_cu13>=2",)),
        ("torch", "2.15.0+cu130", ()),
        ("nvidia-cublas", "13.4", ()),
        ("nvidia_cudnn_cu13", "9.2", ()),
        ("triton", "3.9.0", ()),
        ("cuda-toolkit", "13.2", ()),
        ("jax-cuda13-plugin", "0.10.2", ()),
        ("tensorflow", "2.20.0", ()),
    ],
    ids=lambda item: f"{item[0]}-{item[1]}",
)
def test_cuda_is_refused(item):
    (reason,) = install_peers.refusals(plan(("keras", "3.15.1", ("numpy",)), item))
    assert reason.startswith(item[0].replace("_", "-"))
    message = install_peers.refused([reason])
    assert reason in message
    assert "--extra-index-url" in message


@pytest.mark.parametrize(
    ("item", "system"),
    [
        (("torch", "2.13.0+cpu", ("filelock",)), "linux"),
        (("torch", "2.15.0", TORCH_NEEDS), "darwin"),
        (("torch", "2.15.0", ("filelock", 'nvidia-x; extra == "gpu"')), "linux"),
        (("tensorflow_cpu", "2.20.0", ('nvidia-x; extra == "and-cuda"',)), "linux"),
        (("equinox", "0.13.8", ("jax",)), "linux"),
    ],
)
def test_cpu_builds_are_welcome(item, system):
    assert install_peers.refusals(plan(item, system=system)) == []
