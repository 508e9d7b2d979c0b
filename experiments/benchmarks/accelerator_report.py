"""What do the records of `accelerator.py` say? A short table, a long one, a picture.

Command    python experiments/benchmarks/accelerator_report.py FOLDER

Prints the short table; writes table.md and, where Matplotlib is installed, speed.png.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from accelerator import PARTS
from records import color_of, markdown_table, new_figure, save_figure

from jaxrnn.files import replacing

SHORT = {  # the columns of the terminal
    "Fused": "Fused",
    "Scan": "Scan",
    "Scan, project first": "Scan pf",
    "HoistedScan, one chunk": "Hoisted",
    "HoistedScan, chunk 64": "Hoist64",
    "flax.linen.RNN": "Flax",
    "cuDNN in JAX": "cuDNN",
    "PyTorch": "PyTorch",
}
MARKS = dict(zip(SHORT, "osDv^PX*", strict=True))


def read(folder: pathlib.Path) -> list[dict]:
    """All records of all parts; a last line cut short by the end of a part is left."""
    records = []
    paths = [folder / f"{name}.jsonl" for name in PARTS]
    for path in filter(pathlib.Path.exists, paths):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                records.append({"part": path.stem, "unreadable": line[:80]})
    return records


def report(records: Sequence[dict]) -> str:
    """The short table, most important last, for a terminal that keeps its end."""
    sections = [
        ("Parts", parts(records)),
        ("Machine", machine(records)),
        ("Tests", tests(records)),
        ("Races", races(records)),
        ("Refused or failed", refusals(records)),
        ("Exactness", exactness(records)),
        ("Microseconds an update of one model", training(records)),
        *speed_sections(records),
    ]
    return "\n\n".join(f"{title}:\n{text}" for title, text in sections if text)


def speed_sections(records: Sequence[dict]) -> list[tuple[str, str]]:
    """float32 as such last; of the parts beside it a table each."""
    kinds = {
        "threads": "Microseconds a step, threads a feature of Fused",
        "graph": "Microseconds a step, a loop in one CUDA graph",
        "bfloat16": "Microseconds a step, bfloat16",
        "default": "Microseconds a step, float32 by default (TF32)",
        "solvers": "Microseconds a step, float32",
    }
    return [
        (title, plain_table(speed_rows(records, kind))) for kind, title in kinds.items()
    ]


def speed_kind(record: dict) -> str | None:
    """Which table a timing belongs to; None for what is no timing of a layer."""
    if "us_per_step" not in record:
        return None
    if record["part"] in ("threads", "graph"):
        return record["part"]
    if record["dtype"] == "bfloat16":
        return "bfloat16"
    return "default" if record["precision"] == "default" else "solvers"


def speed_rows(records: Sequence[dict], kind: str) -> list[dict[str, Any]]:
    """A row for every cell, shape and run; a column for every competitor, and ratios.

    Args:
      records: of all parts.
      kind: as `speed_kind` has it.
    """
    rows: dict[tuple, dict[str, float]] = {}
    for record in records:
        if speed_kind(record) == kind:
            sizes = (record["time"], record["batch"], record["features"])
            key = (record["cell"], "x".join(map(str, sizes)), record["run"])
            rows.setdefault(key, {})[record["competitor"]] = record["us_per_step"]
    found_names = dict.fromkeys(name for row in rows.values() for name in row)
    names = [n for n in SHORT if n in found_names]
    names += [n for n in found_names if n not in SHORT]
    table = []
    for (cell, shape, run), found in rows.items():
        row = {"cell": cell, "TxBxH": shape, "run": run[:4]}
        row |= {SHORT.get(n, n[-9:]): digits(found.get(n)) for n in names}
        if kind != "threads" and "Fused" in names:
            for rival in ("Scan", "Scan, project first", "PyTorch"):
                if rival in names:
                    value = ratio(found.get(rival), found.get("Fused"))
                    row[f"{SHORT[rival]}/F"] = value
        table.append(row)
    return table


def digits(value: float | None) -> str:
    """Three significant digits, none of them an exponent."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(numerator: float | None, denominator: float | None) -> str:
    return digits(numerator / denominator) if numerator and denominator else ""


def plain_table(rows: Sequence[dict[str, Any]]) -> str:
    """Columns of equal width; nothing of no rows."""
    if not rows:
        return ""
    lines = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def parts(records: Sequence[dict]) -> str:
    lines = []
    for record in records:
        if "status" in record:
            part = record["part"]
            left_out = [r["left_out"] for r in records if of(r, part, "left_out")]
            count = sum(map(len, left_out))
            note = f", {count} left out ({left_out[0][0][:50]}...)" if count else ""
            lines.append(f"{part}: {record['status']}, {record['seconds']} s{note}")
    return "\n".join(lines)


def of(record: dict, part: str, key: str) -> bool:
    return record["part"] == part and key in record


def machine(records: Sequence[dict]) -> str:
    found: dict[str, Any] = {}
    for record in records:
        if record["part"] == "machine" or of(record, "torch", "cudnn"):
            found |= record
    versions = found.pop("versions", {})
    for name in ("part", "status", "seconds"):
        found.pop(name, None)
    facts = [f"{name} {value}" for name, value in (found | versions).items()]
    return ", ".join(facts)


def tests(records: Sequence[dict]) -> str:
    counts = [r for r in records if of(r, "tests", "counts")]
    failing = [r["failing"] for r in records if of(r, "tests", "failing")]
    lines = [f"{r['counts']}, timed out: {r['timed_out']}" for r in counts]
    return "\n".join([*lines, *(f"  {name[:110]}" for name in failing[:8])])


def races(records: Sequence[dict]) -> str:
    lines = []
    for record in records:
        if of(record, "race", "tool"):
            summary = record.get("summary") or ["no summary"]
            lines.append(f"{record['tool']}: {'; '.join(summary)}")
    return "\n".join(lines)


def refusals(records: Sequence[dict]) -> str:
    """Every reason once, with how often and where first."""
    found: dict[str, list[str]] = {}
    for record in records:
        why = record.get("refused") or record.get("failed")
        if why:
            who = record.get("competitor") or record.get("solver", "")
            what = record.get("cell") or record.get("model") or record.get("what")
            size = record.get("features", "")
            found.setdefault(f"{who}: {why[:110]}", []).append(
                f"{record['part']} {what} {size}"
            )
    lines = [f"{why} ({len(where)}: {where[0]})" for why, where in found.items()]
    return "\n".join(line.replace("\n", " ")[:200] for line in lines[:10])


def exactness(records: Sequence[dict]) -> str:
    """By solver and kind: how many passed, and the worst error; then what failed."""
    cases = [r for r in records if "passed" in r]
    lines = []
    for solver, kind in dict.fromkeys((r["solver"], r["kind"]) for r in cases):
        some = [r for r in cases if (r["solver"], r["kind"]) == (solver, kind)]
        ran = [r for r in some if "error" in r]
        worst = max((r["error"] for r in ran), default=float("nan"))
        passed = sum(r["passed"] is True for r in some)
        refused = sum("refused" in r for r in some)
        lines.append(
            f"{solver}, {kind}: {passed} of {len(some)} passed, {refused} refused, "
            f"largest error {worst:.2g}"
        )
    wrong = [r for r in cases if r["passed"] is False]
    for r in wrong[:10]:
        what = r.get("failed") or f"{r['error']:.2g} of {r['worst']}"
        rows = "x".join(map(str, r["batch"]))
        sizes = f"T{r['time']} B{rows} F{r['in_features']} H{r['features']}"
        marks = "+".join(r["marks"])
        line = f"  WRONG {r['solver']} {r['cell']} {r['kind']} {sizes} {marks}: {what}"
        lines.append(line.replace("\n", " ")[:180])
    return "\n".join(lines)


def training(records: Sequence[dict]) -> str:
    rows: dict[str, dict[str, float]] = {}
    for r in records:
        if "us_per_update_of_one" in r:
            key = f"{r['models']} x {r['model']}"
            rows.setdefault(key, {})[r["competitor"]] = r["us_per_update_of_one"]
    names = [n for n in SHORT if any(n in row for row in rows.values())]
    return plain_table(
        [
            {"models": key}
            | {SHORT[n]: digits(row.get(n)) for n in names}
            | {"Scan/F": ratio(row.get("Scan"), row.get("Fused"))}
            | {"PyTorch/F": ratio(row.get("PyTorch"), row.get("Fused"))}
            for key, row in rows.items()
        ]
    )


def markdown(records: Sequence[dict]) -> str:
    """The table of float32 for a page, and what it was measured on."""
    rows = speed_rows(records, "solvers")
    table = markdown_table(rows) if rows else "Nothing was timed."
    return (
        "Microseconds a step of one layer, medians; T steps, B rows, H features. "
        "`forw` computes all outputs, `grad` the mean of their squares and its "
        "gradient with respect to parameters and inputs. The last columns are ratios "
        f"to `Fused`.\n\n{table}\n\n{machine(records)}\n"
    )


def draw(records: Sequence[dict], path: pathlib.Path) -> None:
    """Microseconds a step on a logarithmic axis: a panel a run, a line a shape."""
    timings = [r for r in records if speed_kind(r) == "solvers"]
    if not timings:
        return

    def label(record: dict) -> str:
        sizes = (record["time"], record["batch"], record["features"])
        return f"{record['cell']}  {'×'.join(map(str, sizes))}"

    labels = list(dict.fromkeys(label(r) for r in timings))[::-1]  # the first on top
    runs = list(dict.fromkeys(r["run"] for r in timings))
    height = 2.2 + 0.42 * len(labels)
    figure, panels = new_figure(len(runs), width=7.5, height=height)
    for panel, run in zip(panels, runs, strict=True):
        for name, mark in MARKS.items():
            points = [r for r in timings if (r["run"], r["competitor"]) == (run, name)]
            if points:
                panel.plot(
                    [r["us_per_step"] for r in points],
                    [labels.index(label(r)) for r in points],
                    mark,
                    color=color_of(name),
                    markersize=12 if name in ("Fused", "PyTorch") else 8,
                    label=name,
                )
        panel.set(xscale="log", ylim=(-0.6, len(labels) - 0.4))
        panel.set_title(run, fontsize=16)
        panel.set_xlabel("microseconds a step", fontsize=15)
        panel.set_yticks(range(len(labels)), labels if panel is panels[0] else [])
        panel.tick_params(labelsize=14)
        panel.grid(alpha=0.4)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
    handles = {
        name: handle
        for panel in panels
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=4, fontsize=14
    )
    card = next((r["card"] for r in records if "card" in r), "CPU")
    figure.suptitle(f"{card}, float32: steps × rows × features", fontsize=17)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    records = read(folder)
    with replacing(folder / "table.md") as unfinished:
        unfinished.write_text(markdown(records), encoding="utf-8")
    text = report(records)
    try:
        draw(records, folder / "speed.png")
    except ImportError as error:
        text = f"No picture: {error}\n\n{text}"
    print(text)


if __name__ == "__main__":
    main()
