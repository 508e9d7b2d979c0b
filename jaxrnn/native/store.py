"""May a library in the cache be run? Only one that is whole, and the user's own.

Code that is loaded can do all that the user can. So the library, its sum and their
folder must belong to the user (or to root) and be writable by nobody else, as ssh asks
of its keys; and the library must be what was once written, by the SHA-256 beside it: to
load half a file ends the process.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import stat
from collections.abc import Callable

from jaxrnn.files import replacing


def fault(path: pathlib.Path) -> str | None:
    """Why a library must not be loaded, as the start of a sentence; None = it may be.

    It is read once, and again when it has changed.
    """
    try:
        found = [os.stat(x) for x in (path.parent, path, sum_of(path))]
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    seen = tuple((x.st_ino, x.st_mtime_ns, x.st_ctime_ns, x.st_size) for x in found)
    return _fault(path, _user(), seen)


@functools.lru_cache(maxsize=16)
def _fault(path: pathlib.Path, user: int | None, seen: object) -> str | None:
    del seen  # what was true of these files is still true
    try:
        for part in (path.parent, path, sum_of(path)):
            shared = _shared(part, user)
            if shared is not None:
                return shared
        content, known = path.read_bytes(), sum_of(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        return f"{path} or the sum beside it cannot be read ({error})"
    if hashlib.sha256(content).hexdigest() != known.strip():
        return f"{path} is damaged: it is not what was once written"
    return None


def keep(path: pathlib.Path, make: Callable[[pathlib.Path], None]) -> None:
    """Has `make` write a library, and its sum beside it.

    Args:
      path: of the library. Its folder is made where it is missing.
      make: takes the path to write to.

    Raises:
      RuntimeError: the folder cannot be written, or is not the user's own.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _shared(path.parent, _user()) is not None:
            with contextlib.suppress(OSError):  # it is not ours: said below
                path.parent.chmod(0o700)
        shared = _shared(path.parent, _user())
        if shared is not None:
            raise RuntimeError(f"{shared}; XDG_CACHE_HOME names another place for it.")
        for one in (path, sum_of(path)):
            if one.is_symlink():
                one.unlink()  # to write here, not where it leads
            elif one.is_dir():
                raise RuntimeError(f"{one} is a folder; remove it.")
        with replacing(path) as unfinished:
            make(unfinished)
            unfinished.chmod(0o700)
            digest = hashlib.sha256(unfinished.read_bytes()).hexdigest()
            path.unlink(missing_ok=True)  # nor are its permissions handed on
        with replacing(sum_of(path)) as unfinished:
            unfinished.write_text(digest, encoding="ascii")
            unfinished.chmod(0o600)
            sum_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise RuntimeError(
            f"the native loops cannot be kept in {path.parent} ({error}); "
            "XDG_CACHE_HOME names another place for them."
        ) from error


def sum_of(path: pathlib.Path) -> pathlib.Path:
    """Where the SHA-256 of a library lies."""
    return path.with_suffix(".sha256")


def _shared(path: pathlib.Path, user: int | None) -> str | None:
    """That others may change a file or folder, as the start of a sentence, or None."""
    if user is None:
        return None
    found = path.stat()
    if found.st_uid not in (user, 0):
        return f"{path} belongs to another user ({found.st_uid})"
    if stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be changed by other users (chmod go-w)"
    return None


def _user() -> int | None:
    """None where there are no users of this kind (Windows)."""
    return os.geteuid() if hasattr(os, "geteuid") else None
