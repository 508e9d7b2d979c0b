"""How is a file written whole or not at all, even if the power fails?"""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Path = str | os.PathLike[str]

_UNFINISHED = ".jaxrnn-"  # begins the name of a folder in which a file is being made


def cache_folder() -> pathlib.Path:
    """The user's folder for what can be made again; it may be deleted at any time.

    Returns:
      `$XDG_CACHE_HOME/jaxrnn`, or `~/.cache/jaxrnn` where that is not set. It need not
      exist.

    Raises:
      RuntimeError: the user has no home directory.

    Example:
      >>> cache_folder().name
      'jaxrnn'
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return pathlib.Path(home).expanduser() / "jaxrnn"
    except RuntimeError as error:
        raise RuntimeError(
            "there is no home directory to keep a cache in: HOME is not set, and the "
            "system knows no such user; set HOME or XDG_CACHE_HOME."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
    """Yields a path to write to, which becomes `path` when all went well.

    Until then an older file stays as it is; after an error it stays for good. Nobody
    meets half a file, and of two processes that write the same one, the last wins. The
    content is on the disk before the name is, and the name when this returns (fsync of
    the file, then of its folder). What a process left that was killed meanwhile goes
    with the next file written to that folder.

    A symbolic link is followed: it stays, and its target is replaced. An older file's
    permissions stay; another hard link to it keeps the old content.

    Args:
      path: the file; its folder is made where it is missing.

    Raises:
      ValueError: `path` is there and is no file: a folder, a device, a pipe.

    Example:
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with replacing(f"{folder}/words.txt") as unfinished:
      ...         _ = unfinished.write_text("all of them")
      ...     os.listdir(folder)
      ['words.txt']
    """
    given, path = path, pathlib.Path(os.path.realpath(path))
    if os.path.lexists(path) and not path.is_file():
        raise ValueError(
            f"what is written must be a file, or a link to one, found {given} to be "
            "something else; choose another name."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with _folder_for_unfinished(path.parent) as folder:
        unfinished = folder / path.name
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, unfinished)
        os.replace(unfinished, path)  # atomic: same file system
    with _opened(path.parent) as descriptor, contextlib.suppress(OSError):
        os.fsync(descriptor)  # not every file system can


@contextlib.contextmanager
def _folder_for_unfinished(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that this process holds, so that no other takes it for left behind."""
    for left in parent.glob(f"{_UNFINISHED}*"):
        if left.is_dir() and not left.is_symlink():
            with _held(left, wait=False) as nobody_else:
                if nobody_else:
                    shutil.rmtree(left, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        folder = None
        while folder is None or not folder.exists():  # tidied away before it was held
            stack.close()
            made = tempfile.TemporaryDirectory(dir=parent, prefix=_UNFINISHED)
            folder = pathlib.Path(stack.enter_context(made))
            stack.enter_context(_held(folder, wait=True))
        yield folder


@contextlib.contextmanager
def _held(folder: pathlib.Path, *, wait: bool) -> Iterator[bool]:
    """Locks a folder, which the system undoes when a process ends.

    Yields:
      Whether that worked; not every file system knows locks, and then nothing is ever
      taken for left behind.
    """
    with _opened(folder) as descriptor:
        yield _lock(descriptor, wait)


def _lock(descriptor: int, wait: bool) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (OSError, ValueError):  # unknown to the file system, held; no descriptor
        return False
    return True


@contextlib.contextmanager
def _opened(folder: pathlib.Path) -> Iterator[int]:
    """A descriptor of a folder; -1 where there is none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows, or a folder that may be written to and not read
        yield -1
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
