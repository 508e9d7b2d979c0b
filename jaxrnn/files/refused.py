"""What does a reader say of a file that it refuses? One type of error for all.

A file may be cut short, damaged, of another kind, or made to harm; the libraries that
read it then raise errors of a dozen types.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

_LONGEST_FOUND = 600  # characters; what a bad file holds may be long


class BadFile(ValueError):
    """A file that a reader of jaxrnn refuses, because it breaks a rule.

    A file that is not there, or may not be read, is an OSError as everywhere.

    Attributes:
      path: the file.
      rule: what it must do, such as "hold every array in the file itself".
      found: what it does instead.
      way_out: what a user can do about it.

    Example:
      >>> error = BadFile("a.keras", "hold weights", "none", "save it again")
      >>> str(error), error.rule
      ('a.keras must hold weights, found none; save it again.', 'hold weights')
    """

    def __init__(
        self, path: str | os.PathLike[str], rule: str, found: object, way_out: str
    ):
        found = str(found)
        if len(found) > _LONGEST_FOUND:
            found = found[:_LONGEST_FOUND] + "…"
        super().__init__(str(path), rule, found, way_out)  # all of them, to pickle it
        self.path, self.rule, self.found, self.way_out = self.args

    def __str__(self) -> str:
        return f"{self.path} must {self.rule}, found {self.found}; {self.way_out}."


@contextlib.contextmanager
def refusing(path: str | os.PathLike[str], rule: str, way_out: str) -> Iterator[None]:
    """Makes a `BadFile` of whatever a library raises while it reads an open file.

    Args:
      path, rule, way_out: of the `BadFile`; the error is what was found.

    Example:
      >>> with refusing("a.json", "be JSON", "write it again"):
      ...     json.loads("{")
      Traceback (most recent call last):
      jaxrnn.files.refused.BadFile: a.json must be JSON, found JSONDecodeError:
      Expecting property name enclosed in double quotes: line 1 column 2 (char 1);
      write it again.
    """
    try:
        yield
    except (BadFile, ImportError, MemoryError):
        raise
    except Exception as error:
        is_ours = type(error) is ValueError
        words = str(error).removesuffix(".")
        found = words if is_ours else f"{type(error).__name__}: {words}"
        raise BadFile(path, rule, found, way_out) from error


def parse_json(text: str | bytes) -> Any:
    """Reads JSON in which no object has two members of one name.

    Raises:
      ValueError: no JSON, such an object, or one nested too deeply to be read.

    Example:
      >>> parse_json('{"a": [1, NaN]}')
      {'a': [1, nan]}
      >>> parse_json('{"a": 1, "a": 2}')
      Traceback (most recent call last):
      ValueError: the members of an object must differ in name, found two of 'a'
    """
    try:
        return json.loads(text, object_pairs_hook=_members)
    except RecursionError as error:
        raise ValueError("JSON must be less deep than Python can read") from error


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(
            f"the members of an object must differ in name, found two of {twice!r}"
        )
    return members
