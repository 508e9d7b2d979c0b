"""What do the records of `peers.py` say? Tables, and a picture of every kind of run."""

import pathlib
from collections.abc import Sequence

from peer_list import DRAWN, KINDS, OURS, PEERS
from records import color_of, markdown_table, new_figure, save_figure, when


def tables(records: Sequence[dict]) -> str:
    """One table for every kind of run, one for the start-up, and what they are of."""
    about, *records = records
    parts = []
    for kind, title in KINDS.items():
        runs = [r for r in records if r["kind"] == kind]
        if runs:
            parts.append(f"{title}:\n\n{markdown_table(rows(runs))}")
    start_ups = [r for r in records if r["kind"] == "start-up"]
    if start_ups:
        table = markdown_table(start_up_rows(start_ups, records))
        title = "From `python` to the first finished step of 002, in a fresh process"
        parts.append(f"{title}:\n\n{table}")
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    missing = ", ".join(about["not_installed"])
    parts.append(
        f"Medians, and in brackets how many times as long as {OURS} (median over "
        f"rounds), measured {when(about)} on {about['cores']} cores of one "
        f"{about['cpu']}, {about['dtype']}, each peer in a process of its own, in "
        f"turns. Updates are whole epochs of {OURS} (its solvers in JAX; native: its "
        "compiled loops) and of Keras' `fit`, single steps of the others; with 16 "
        f"models side by side, per model. Python {about['python']}, {versions}."
        + (f" Not installed: {missing}." if missing else "")
    )
    return "\n\n".join(parts)


def rows(runs: Sequence[dict]) -> list[dict]:
    """A row for every peer, a column for every workload."""
    found = {(r["peer"], r["workload"]): r for r in runs}
    columns = list(dict.fromkeys(r["workload"] for r in runs))
    table = []
    for peer in in_order(runs):
        row = {"": peer}
        for column in columns:
            record = found.get((peer, column))
            row[column] = timing(record) if record else ""
        table.append(row)
    return table


def in_order(runs: Sequence[dict]) -> list[str]:
    """The peers of some runs, in the order of `PEERS`."""
    return [name for name in PEERS if any(r["peer"] == name for r in runs)]


def timing(record: dict) -> str:
    """A median, and its ratio where there is one: "11.1 (2.1)"."""
    text = digits(record["median_ms"], 3)
    if record["peer"] != OURS and "times_ours" in record:
        text += f" ({digits(record['times_ours'], 2)})"
    return text


def digits(value: float, count: int) -> str:
    """So many significant digits, and all those before the point."""
    return f"{value:.0f}" if value >= 10 ** (count - 1) else f"{value:#.{count}g}"


def start_up_rows(start_ups: Sequence[dict], records: Sequence[dict]) -> list[dict]:
    """A row for every peer: cold, with the compilation cache, and its memory."""
    found = {(r["peer"], r["compilation"]): r for r in start_ups}
    compiled = {
        r["peer"]: r["first_s"]
        for r in records
        if (r["kind"], r.get("workload")) == ("train", "imdb-002")
    }

    def cell(value: float | None, spec: str) -> str:
        return "" if value is None else f"{value:{spec}}"

    return [
        {
            "": peer,
            "cold, s": cell(cold["median_s"], ".2f"),
            "compilation cached, s": cell(
                found.get((peer, "cached"), {}).get("median_s"), ".2f"
            ),
            "model, compilation and step alone, s": cell(compiled.get(peer), ".2f"),
            "peak memory, MiB": cell(cold["peak_mib"], ".0f"),
        }
        for (peer, compilation), cold in found.items()
        if compilation == "cold"
    ]


def draw(records: Sequence[dict], kind: str, path: pathlib.Path) -> None:
    """Dots at milliseconds with quartiles, a panel for every workload."""
    runs = [r for r in records if r.get("kind") == kind and r["peer"] in DRAWN]
    names = list(dict.fromkeys(r["workload"] for r in runs))
    if not names:
        return
    peers = in_order(runs)[::-1]  # the first on top
    height = 1.2 + 0.36 * len(peers)
    figure, panels = new_figure(len(names), rows=2, width=7, height=height)
    for at, (panel, name) in enumerate(zip(panels, names, strict=True)):
        for record in (r for r in runs if r["workload"] == name):
            y = peers.index(record["peer"])
            median = record["median_ms"]
            spread = [[median - record["q1_ms"]], [record["q3_ms"] - median]]
            color = color_of(record["peer"])
            panel.errorbar(
                median, y, xerr=spread, color=color, fmt="o", ms=8, capsize=3
            )
            panel.annotate(
                timing(record),
                (record["q3_ms"], y),
                (8, 0),
                textcoords="offset points",
                va="center",
            )
        slowest = max(r["q3_ms"] for r in runs if r["workload"] == name)
        least = min(r["q1_ms"] for r in runs if r["workload"] == name) / 2
        panel.set_ylim(-0.6, len(peers) - 0.4)  # a peer may be missing from one panel
        panel.set_xscale("log")
        panel.grid(axis="y", alpha=0.3)
        panel.set_xlim(least, slowest * (slowest / least) ** 0.5)  # room for numbers
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
        panel.set(title=name, xlabel="ms", yticks=range(len(peers)))
        panel.set_yticklabels([] if at % 2 else peers)
    figure.suptitle(f"{KINDS[kind]} (in brackets: times that of {OURS})")
    save_figure(figure, path)
