"""Do all tutorials come out as Keras has them? Runs everything, writes the tables.

Command    python experiments/reproduce.py --seeds 10 --first-epochs 200
           (the reviews: --data-dir or TFDS_DATA_DIR; --only-tables runs nothing and
           writes the tables again from the records in results/)
Time       about 20 minutes on 2 cores; 5 with --seeds 3 --first-epochs 0
Expect     every jaxrnn figure within two standard errors of Keras' beside it, but for
           one in twenty; after one epoch of 002 no difference of the distributions

Writes results/*.jsonl and *.png, and the tables between the marks in README.md and in
the pages index.md and 002.md of docs/tutorials and docs/benchmarks.md. The column
"Keras" is from results/keras.jsonl, which `keras_tutorials.py` writes.
"""

import datetime
import importlib.metadata
import os
import pathlib
import sys
import tempfile
import time

import imdb
import jax
import numpy as np
import report
import sentences
import sine
import tyro
from scipy import stats

sys.path.append(str(pathlib.Path(__file__).parent / "benchmarks"))
import peer_report
from speed_cases import FLAX, SOLVERS

import jaxrnn
from jaxrnn import files
from jaxrnn.solvers.default import default_scan

RESULTS = pathlib.Path(__file__).parent / "results"
ROOT = pathlib.Path(__file__).parent.parent

# What the tutorials' own texts report.
TUTORIALS = {
    ("imdb-002", "test_accuracy"): "0.814",
    ("imdb-002", "test_loss"): "0.781",
    ("imdb-004a", "test_accuracy"): "0.77",
    ("imdb-004b", "test_accuracy"): "0.68",
    ("sine", "next_value"): "0.776",
}
RESULTS_OF_A_RUN = {
    "accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
    "best_val_accuracy": "best validation accuracy",
    "test_loss": "test loss",
    "test_mse": "test MSE",
    "next_value": "next value",
}
# Of each tutorial the one result that a reader in a hurry wants.
SUMMARY = {
    "sentences": ("000, four sentences: training accuracy", "accuracy"),
    "imdb-001": ("001, reviews of 500 words: test accuracy", "test_accuracy"),
    "imdb-002": ("002, reviews of 100 words: test accuracy", "test_accuracy"),
    "sine": ("003, a noisy sine: test MSE", "test_mse"),
    "imdb-004a": ("004, 30 words, without recurrence: test accuracy", "test_accuracy"),
    "imdb-004b": ("004, 30 words, SimpleRNN: test accuracy", "test_accuracy"),
}
TITLES = {
    "sentences": "000 four sentences",
    "imdb-001": "001 reviews, 500 words",
    "imdb-002": "002 reviews, 100 words",
    "imdb-002-masked": "002, padding masked",
    "sine": "003 sine, (N, 1, 4)",
    "sine-time": "003 sine, (N, 4, 1)",
    "imdb-004a": "004 reviews, 30 words, flat",
    "imdb-004b": "004 reviews, 30 words, RNN",
}


IN = "python experiments/benchmarks"
REST = {  # the benchmarks whose records have no table: question, command
    "parallel": ("solvers without a sequence of steps", f"{IN}/parallel.py"),
    "host": ("batches from the host", f"{IN}/host.py"),
    "startup": ("from `python` to the first update", f"{IN}/startup.py"),
    "checkpoints": ("what checkpoints cost", f"{IN}/checkpoints.py"),
    "latency": ("one step at batch 1, in microseconds", "make latency"),
}
FIRST_EPOCH = "imdb-002-first-epoch"
FIRST_EPOCH_KEYS = {
    "loss": "training loss",
    "accuracy": "training accuracy",
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
}


def main(
    *,
    seeds: int = 3,
    first_epochs: int = 0,
    only_tables: bool = False,
    data_dir: pathlib.Path | None = None,
    out: pathlib.Path = RESULTS,
    pages: pathlib.Path = ROOT,
) -> None:
    """Runs every experiment over `seeds`, then writes the tables into `pages`.

    By JAX alone: the native loops are faster and round otherwise, so that the committed
    figures would not come out again to the last digit.

    Args:
      seeds: models of each tutorial.
      first_epochs: models of 002 that are trained for one epoch; 0 leaves those of the
        record as they are.
      only_tables: run nothing.
      data_dir: a tfds directory; None for TFDS_DATA_DIR or tfds' default.
      out: where records and pictures go.
      pages: the folder of README.md and docs/.
    """
    os.environ["JAXRNN_NATIVE"] = "0"
    if not only_tables:
        started = time.perf_counter()
        sentences.main(seeds=seeds, out=out)
        sine.main(seeds=seeds, out=out)
        for variant in imdb.VARIANTS.values():
            variant(seeds=seeds, data_dir=data_dir, out=out)
        imdb.main(
            name="imdb-002-masked", masked=True, seeds=seeds, data_dir=data_dir, out=out
        )
        if first_epochs:
            records = run_first_epochs(first_epochs, data_dir)
            files.write_json_lines(out / f"{FIRST_EPOCH}.jsonl", records)
        print(f"all experiments: {time.perf_counter() - started:.0f} s")
        files.write_json_lines(out / "machine.jsonl", [machine() | {"seeds": seeds}])
    table = report.markdown_table(rows(out))
    write_between(pages / "README.md", "summary", summary(out))
    index = pages / "docs" / "tutorials" / "index.md"
    benchmarks = pages / "docs" / "benchmarks.md"
    write_between(index, "results", f"{table}\n\n{caption(out)}")
    write_between(index.parent / "002.md", "first epoch", first_epoch(out))
    peers = files.read_json_lines(out / "peers.jsonl")
    write_between(benchmarks, "peers", peer_report.tables(peers))
    write_between(benchmarks, "speed", speed(out))
    write_between(benchmarks, "rest", rest(out))
    print(table)


def run_first_epochs(seeds: int, data_dir: pathlib.Path | None = None) -> list[dict]:
    """002 for one epoch, which is short enough to train hundreds of models."""
    with tempfile.TemporaryDirectory() as out:
        runs = imdb.main(
            name=FIRST_EPOCH,
            epochs=1,
            seeds=seeds,
            data_dir=data_dir,
            out=pathlib.Path(out),
        )
    return [{key: run[key] for key in ("seed", *FIRST_EPOCH_KEYS)} for run in runs]


def same_distribution(
    keras: list[dict], records: list[dict]
) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Each result of Keras' runs, of jaxrnn's, and the p of a two-sample test.

    The test is that of Kolmogorov and Smirnov: the chance of two samples at least as
    unlike, were both drawn from one distribution.
    """

    def values(runs: list[dict], key: str) -> np.ndarray:
        return np.array([np.ravel(run[key])[-1] for run in runs])

    found = {}
    for key in FIRST_EPOCH_KEYS:
        theirs, ours = values(keras, key), values(records, key)
        found[key] = theirs, ours, float(stats.ks_2samp(theirs, ours).pvalue)
    return found


def first_epochs(out: pathlib.Path) -> tuple[list[dict], list[dict]]:
    """The committed runs of one epoch of 002, of Keras and of jaxrnn."""
    keras, _ = read_runs(out)
    keras = [run for run in keras if run["experiment"] == FIRST_EPOCH]
    return keras, files.read_json_lines(out / f"{FIRST_EPOCH}.jsonl")


def least_p(out: pathlib.Path) -> float:
    """Of all results of one epoch, the one in which the two are least alike."""
    return min(p for *_, p in same_distribution(*first_epochs(out)).values())


def first_epoch(out: pathlib.Path) -> str:
    """The table of one epoch of 002: whole distributions beside each other."""
    keras, records = first_epochs(out)
    return report.markdown_table(
        [
            {
                "after one epoch": FIRST_EPOCH_KEYS[key],
                f"Keras, {len(keras)} seeds": report.mean_and_spread(list(theirs)),
                f"jaxrnn, {len(records)} seeds": report.mean_and_spread(list(ours)),
                "Kolmogorov-Smirnov p": f"{p:.2f}",
            }
            for key, (theirs, ours, p) in same_distribution(keras, records).items()
        ]
    )


def machine() -> dict:
    """Where the numbers come from, and when."""
    return {
        "measured": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "keras": importlib.metadata.version("keras"),
    }


def summary(out: pathlib.Path) -> str:
    """One row per tutorial, for the README."""
    keras, records = read_runs(out)

    def mean_of(name: str, key: str, runs: list[dict]) -> str:
        of_name = [run for run in runs if run["experiment"] == name]
        return report.mean_and_error(values_of(of_name, key))

    table = [
        {
            "tutorial": title,
            "Keras": mean_of(name, key, keras),
            "jaxrnn": mean_of(name, key, records),
        }
        for name, (title, key) in SUMMARY.items()
    ]
    counts = [
        len([r for r in runs if r["experiment"] == "imdb-002"])
        for runs in (keras, records)
    ]
    return (
        f"{report.markdown_table(table)}\n\n"
        f"Mean ± standard error over {counts[0]} seeds of Keras and {counts[1]} of "
        "jaxrnn. After one epoch of 002,\n"
        f"{min(map(len, first_epochs(out)))} seeds of each show "
        "[no difference](docs/tutorials/002.md) of distributions:\n"
        f"Kolmogorov-Smirnov p from {least_p(out):.2f} up."
    )


def read_runs(out: pathlib.Path) -> tuple[list[dict], list[dict]]:
    """The records of Keras, and those of jaxrnn."""
    keras = files.read_json_lines(out / "keras.jsonl")
    records = files.read_json_lines(out / "sentences.jsonl")
    for name in (*imdb.VARIANTS, "002-masked"):
        records += files.read_json_lines(out / f"imdb-{name}.jsonl")
    for record in files.read_json_lines(out / "sine.jsonl"):
        in_time = "(N, 4, 1)" in record["layout"]
        records.append(record | {"experiment": "sine-time" if in_time else "sine"})
    return keras, records


def rows(out: pathlib.Path) -> list[dict]:
    """The results table: one row per tutorial and result."""
    keras, records = read_runs(out)
    table = []
    for name, title in TITLES.items():
        runs = [r for r in records if r["experiment"] == name]
        peers = [r for r in keras if r["experiment"] == name]
        for key, result in RESULTS_OF_A_RUN.items():
            values, others = values_of(runs, key), values_of(peers, key)
            if not values:
                continue
            table.append(
                {
                    "tutorial": title,
                    "result": result,
                    "the tutorial": TUTORIALS.get((name, key), ""),
                    "Keras": report.mean_and_spread(others) if others else "",
                    "jaxrnn": report.mean_and_spread(values),
                    "apart": standard_errors_apart(others, values),
                }
            )
    return table


def value_of(record: dict, key: str) -> float | None:
    """One number of a run; None where it has none of that name."""
    if key == "best_val_accuracy":
        return max(record["val_accuracy"]) if "val_accuracy" in record else None
    value = record.get(key)
    return None if isinstance(value, list) else value  # a list is by epoch


def values_of(runs: list[dict], key: str) -> list[float]:
    """That number of every run that has it."""
    found = (value_of(run, key) for run in runs)
    return [value for value in found if value is not None]


def standard_errors_apart(keras: list[float], values: list[float]) -> str:
    """How far jaxrnn's mean lies above Keras', in standard errors of the difference."""
    if min(len(keras), len(values)) < 2:
        return ""
    difference = np.mean(values) - np.mean(keras)
    variance = sum(np.var(runs, ddof=1) / len(runs) for runs in (keras, values))
    return "0" if difference == 0 else f"{difference / np.sqrt(variance):+.1f}"


def caption(out: pathlib.Path) -> str:
    """What the reader of the table must know."""
    machine = files.read_json_lines(out / "machine.jsonl")[0]
    keras, _ = read_runs(out)
    of_keras = len([run for run in keras if run["experiment"] == "imdb-002"])
    return (
        f"Mean ± standard deviation over {of_keras} seeds of Keras and "
        f"{machine['seeds']} of jaxrnn; apart: how far jaxrnn's mean lies above "
        "Keras', in standard errors of the difference (of twenty such figures one lies "
        f"beyond 2 by chance). Measured {report.when(machine)} on one "
        f"{machine['platform']} machine with JAX {machine['jax']}; Keras "
        f"{machine['keras']} on its JAX backend."
    )


def speed(out: pathlib.Path) -> str:
    """What `speed.py` measured: updates, and gradients beside Flax'."""
    records = files.read_json_lines(out / "speed.jsonl")
    first = records[0]
    updates = [
        {
            "run": r["run"],
            "solver": r["solver"],
            "models": f"{r['models']}, {r['over']}" if r["over"] else r["models"],
            "ms / update and model": f"{r['ms_per_update']:.3g}",
            "compilation, s": r["compile_s"],
        }
        for r in records
        if "updates" in r
    ]
    layers = [r for r in records if "shape" in r and r["run"] != "forward"]
    gradients = []
    for flax in (r for r in layers if r["solver"] == FLAX):
        same = [r for r in layers if all(r[k] == flax[k] for k in ("shape", "layer"))]
        ours = {r["solver"]: r for r in same if r["solver"] != FLAX}
        solver = default_scan(getattr(jaxrnn, flax["layer"]), flax["values"])
        default = next(name for name, s in SOLVERS.items() if s == solver)
        best = ours.get("Native", ours[default])
        gradients.append(
            {
                "shape": flax["shape"],
                "layer": flax["layer"],
                **{name: f"{r['median_ms']:.3g}" for name, r in ours.items()},
                FLAX: f"{flax['median_ms']:.3g}",
                "default in JAX": default,
                "against Flax": f"{ours[default]['times_as_fast_as_flax']:.1f}x",
                "Native against Flax": f"{best['times_as_fast_as_flax']:.1f}x",
                "of the matmul peak": f"{best['of_matmul_peak']:.0%}",
                "MiB": f"{best['temp_mib']:.3g}",
                "MiB, Flax": f"{flax['temp_mib']:.3g}",
            }
        )
    return (
        "Gradient of one layer, forward and backward, ms:\n\n"
        f"{report.markdown_table(gradients)}\n\n"
        "Training, ms per update, many updates in one program:\n\n"
        f"{report.markdown_table(updates)}\n\n"
        f"Medians, measured {report.when(first)} on {first['cores']} cores of one "
        f"{first['platform']} machine "
        f"({first['matmul_gflops']:.0f} GFLOP/s in a large matmul of XLA's, "
        f"{first['bandwidth_gb_s']:.0f} GB/s), {first['dtype']}, JAX {first['jax']}, "
        f"Flax {first['flax']}, interleaved; ratios are medians over rounds, and "
        "differences under 10 % are noise. MiB: temporary memory of the program, with "
        "Native and with Flax. The shapes stand in "
        "`experiments/benchmarks/speed_cases.py`."
    )


def rest(out: pathlib.Path) -> str:
    """Where the other benchmarks are, and when they were run."""
    table = [
        {
            "question": question,
            "command": f"`{command}`",
            "record": f"[{name}.jsonl](../experiments/results/{name}.jsonl)",
            "measured": report.when(files.read_json_lines(out / f"{name}.jsonl")[0]),
        }
        for name, (question, command) in REST.items()
    ]
    table.append(
        {
            "question": "an accelerator, beside PyTorch, cuDNN and Flax",
            "command": "`make accelerator`",
            "record": "none yet",
            "measured": "",
        }
    )
    return report.markdown_table(table)


def write_between(path: pathlib.Path, mark: str, text: str) -> None:
    """Replaces what stands between <!-- mark --> and <!-- /mark -->.

    Raises:
      ValueError: the file has no such marks.
    """
    head, start, rest = path.read_text(encoding="utf-8").partition(f"<!-- {mark} -->")
    _, end, tail = rest.partition(f"<!-- /{mark} -->")
    if not end:
        raise ValueError(
            f"{path.name} must hold the marks <!-- {mark} --> and <!-- /{mark} -->, "
            "between which the text goes; found none, put them back."
        )
    with files.replacing(path) as unfinished:
        unfinished.write_text(
            f"{head}{start}\n\n{text}\n\n{end}{tail}", encoding="utf-8"
        )


if __name__ == "__main__":
    tyro.cli(main)
