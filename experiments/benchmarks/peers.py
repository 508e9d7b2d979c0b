"""How fast are a training step, a forward pass and a gradient beside every peer's?

Command    python experiments/benchmarks/peers.py --quick   (after `make .venv/peers`)
Time       5 minutes on 2 cores for --quick, 10 for everything in 3 rounds
Expect     on 2 CPU cores a training step on reviews with the native loops 2 to 4 times
           as fast as with flax.linen and Keras on JAX, 4 to 9 times as PyTorch, 6 to 23
           times as Keras on TensorFlow; by JAX alone 2.4 times as flax.linen for 001,
           2.2 for 002, 1.5 for 004b; on the sine 6 times, and with 16 models side by
           side 10 times. PyTorch and jaxrnn finish their first step within 0.2 s of
           each other, all others later

`jaxrnn` are its solvers in JAX, `jaxrnn, native` its compiled loops, where
`python -m jaxrnn.native` has compiled them. Both run whole epochs on the device, as the
tutorials do; "step by step" is a Python loop over batches, as Flax, Equinox and PyTorch
have it. Keras runs `fit`. "16 models" trains as many of the small sine models side by
side (`jax.vmap`), as one does for a spread over seeds; its updates are those of one
model.

Every peer runs in its own process, so that no thread pool disturbs another
(`peer_process.py`). In every round each of them in turn is told to run one timed block
of updates, in an order that is rotated from round to round, while the others wait
(`peer_rounds.py`). All begin with the same weights and see the same batches; one whose
losses are not those of the others is an error. Peers that are not installed are left
out, and named. Writes peers.jsonl, and a picture for every kind of run.
"""

import contextlib
import pathlib
import platform
import sys
from collections.abc import Sequence

import machine
import tyro
from peer_list import KINDS, PEERS
from peer_process import started
from peer_programs.workloads import WORKLOADS
from peer_report import draw, tables
from peer_rounds import measured, start_up_times
from records import RESULTS, write_json_lines


def main(
    *,
    rounds: int = 5,
    quick: bool = False,
    kinds: Sequence[str] = tuple(KINDS),
    workloads: Sequence[str] = tuple(WORKLOADS),
    peers: Sequence[str] = tuple(n for n, peer in PEERS.items() if peer.by_default),
    start_ups: int = 5,
    block_s: float = 0.3,
    out: pathlib.Path = RESULTS,
) -> list[dict]:
    """Measures the peers; writes peers.jsonl and pictures, and prints the tables.

    Args:
      rounds: timed blocks of every peer and workload.
      quick: the training steps alone, in 3 shorter rounds, and every start-up once.
      kinds: train, predict, gradient.
      workloads: names in `peer_programs/workloads.py`.
      peers: names in `peer_list.py`.
      start_ups: fresh processes per peer, for the time to the first step; 0 for none.
      block_s: about how long a block lasts; where a whole epoch lasts longer, longer.
      out: where results go.
    """
    if quick:
        rounds, kinds, start_ups, block_s = 3, ("train",), 1, 0.2
    for given, known in ((kinds, KINDS), (workloads, WORKLOADS), (peers, PEERS)):
        if not set(given) <= set(known):
            raise ValueError(
                f"names must be among {list(known)}, got {list(given)}; a name that "
                "holds spaces needs quotes."
            )

    records: list[dict] = []
    with contextlib.ExitStack() as stack:
        workers, missing = {}, {}
        for name in peers:
            worker = stack.enter_context(started(name, PEERS[name]))
            reason = worker.about.get("not_installed")
            if reason is None:
                workers[name] = worker
            else:
                missing[name] = reason
                print(f"{name} is not installed: {reason}", file=sys.stderr)
        for kind in kinds:
            for workload in workloads:
                records += measured(workers, kind, workload, rounds, block_s)
    records += start_up_times({name: PEERS[name] for name in workers}, start_ups)
    about = machine.computer() | {
        "dtype": "float32",
        "python": platform.python_version(),
        "devices": {name: worker.about["device"] for name, worker in workers.items()},
        "versions": {
            package: version
            for worker in workers.values()
            for package, version in worker.about["versions"].items()
        },
        "not_installed": missing,
    }
    records = [about, *records]

    write_json_lines(out / "peers.jsonl", records)
    for kind in kinds:
        draw(records, kind, out / f"peers-{kind}.png")
    print(tables(records))
    return records


if __name__ == "__main__":
    tyro.cli(main)
