"""How are results kept? As one JSON object a line, and as lines that are added."""

import json
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxrnn.files.refused import BadFile, parse_json
from jaxrnn.files.whole import Path, replacing

Record = Mapping[str, Any]


def json_line(record: Record) -> str:
    r"""One record as a line of JSON, newline included.

    Arrays and numbers of NumPy and JAX become lists and numbers. What is not finite is
    written as NaN, Infinity or -Infinity, which Python reads and JSON proper does not
    know.

    Raises:
      TypeError: a value that is none of these and that JSON does not know.

    Example:
      >>> json_line({"epoch": 0, "loss": np.array([0.5, 0.25])})
      '{"epoch": 0, "loss": [0.5, 0.25]}\n'
    """
    return json.dumps(record, default=_plain) + "\n"


def write_json_lines(path: Path, records: Iterable[Record]) -> None:
    """Writes one JSON object per line, in place of what the file held.

    Args:
      path: the file; its folder is made where it is missing.
      records: see `json_line`.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_json_lines(f"{folder}/run.jsonl", [{"seed": 0}, {"seed": 1}])
      ...     read_json_lines(f"{folder}/run.jsonl")
      [{'seed': 0}, {'seed': 1}]
    """
    with replacing(path) as unfinished:
        unfinished.write_text("".join(map(json_line, records)), encoding="utf-8")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Reads what `write_json_lines` or `append_json_line` wrote.

    A last line that was torn, because its writer was stopped, is left out with a
    warning.

    Raises:
      BadFile: any other line that is not one object of JSON.
    """
    *lines, last = pathlib.Path(path).read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_parse_record(line))
        except ValueError as error:
            raise BadFile(
                path,
                "hold one JSON object a line",
                f"in line {number} {_start(line)} ({error})",
                "mend that line or take it out",
            ) from error
    if _is_record(last):
        records.append(_parse_record(last))
    elif last:
        warnings.warn(
            f"{path} ends in the middle of a line, which is left out: {_start(last)}.",
            stacklevel=2,
        )
    return records


def append_line(path: Path, line: str, *, sync: bool = True) -> None:
    r"""Adds a line at the end of a file, in one piece, after `cut_torn_line`.

    The system has it when this returns: whoever opens the file reads it, and it stays
    when this process is killed. A symbolic link is followed.

    Args:
      path: the file; it and its folder are made where they are missing.
      line: with its newline, and with others where it is several.
      sync: waits until it is on the disk too (fsync), and stays if the power fails.
        That takes milliseconds; without it the system writes within half a minute.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     append_line(f"{folder}/run.csv", "epoch,loss\n")
      ...     append_line(f"{folder}/run.csv", "0,0.5\n")
      ...     pathlib.Path(f"{folder}/run.csv").read_text()
      'epoch,loss\n0,0.5\n'
    """
    _append(path, line, sync, None)


def append_json_line(path: Path, record: Record, *, sync: bool = True) -> None:
    """Adds one record to a file of JSON lines; as `append_line`.

    A torn last line that is a whole object gets its newline instead of being cut off.

    Args:
      path: the file.
      record: see `json_line`.
      sync: see `append_line`.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     append_json_line(f"{folder}/run.jsonl", {"seed": 0})
      ...     read_json_lines(f"{folder}/run.jsonl")
      [{'seed': 0}]
    """
    _append(path, json_line(record), sync, _is_record)


def cut_torn_line(
    path: Path, *, is_whole: Callable[[bytes], bool] | None = None
) -> None:
    r"""Takes a last line without newline, which its writer did not finish, off a file.

    A warning says what went. A number that lost its last digits reads as another
    number: so no line is kept for looking complete, unless `is_whole` can tell.

    Args:
      path: the file; it may be missing.
      is_whole: tells a line that lacks its newline alone, and gets it.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "run.jsonl")
      ...     _ = path.write_text('{"seed": 0}')
      ...     cut_torn_line(path, is_whole=lambda line: line.endswith(b"}"))
      ...     path.read_text()
      '{"seed": 0}\n'
    """
    path = pathlib.Path(path)
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read() in (b"", b"\n"):
            return
        file.seek(0)
        content = file.read()
        end = content.rfind(b"\n") + 1
        torn = content[end:]
        if is_whole is not None and is_whole(torn):
            file.write(b"\n")
            return
        file.truncate(end)
    warnings.warn(
        f"{path} ended in the middle of a line, which is cut off: {_start(torn)}.",
        stacklevel=2,
    )


def _append(
    path: Path, line: str, sync: bool, is_whole: Callable[[bytes], bool] | None
) -> None:
    path = pathlib.Path(path)
    if not path.exists():
        with replacing(path) as unfinished:  # the folder too, and the name on the disk
            unfinished.touch()
    cut_torn_line(path, is_whole=is_whole)
    content = line.encode()
    with path.open("ab", buffering=2 + len(content)) as file:  # one write
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _parse_record(line: bytes) -> dict[str, Any]:
    record = parse_json(line)
    if not isinstance(record, dict):
        raise ValueError(f"a record is an object, not {type(record).__name__}")
    return record


def _is_record(line: bytes) -> bool:
    try:
        _parse_record(line)
    except ValueError:
        return False
    return True


def _start(line: bytes) -> str:
    return repr(line[:80].decode("utf-8", "replace"))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(
        "a record holds numbers, text, lists, dicts and arrays, got "
        f"{type(value).__name__}; turn it into one of them."
    )
