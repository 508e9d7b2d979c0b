"""How is a zip archive read that may be damaged, or made to harm?"""

import contextlib
import io
import zipfile
from collections.abc import Iterator

from jaxrnn.files.refused import BadFile, refusing
from jaxrnn.files.whole import Path

_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_WAY_OUT = "save it again"


@contextlib.contextmanager
def opened_zip(path: Path, file: io.BufferedIOBase) -> Iterator[zipfile.ZipFile]:
    """Opens an archive for reading, as `file` of the name `path`.

    Raises:
      BadFile: it is none, or not whole; two members have one name; a member is
        encrypted, compressed otherwise than by deflation, or longer than the file.

    Example:
      >>> made = io.BytesIO()
      >>> with zipfile.ZipFile(made, "w") as archive:
      ...     archive.writestr("config.json", "{}")
      >>> with opened_zip("model.keras", made) as archive:
      ...     read_member("model.keras", archive, "config.json", most=100)
      b'{}'
    """
    length = file.seek(0, 2)
    with contextlib.ExitStack() as stack:
        with refusing(path, "be a zip archive", _WAY_OUT):
            archive = stack.enter_context(zipfile.ZipFile(file))
        seen = set()
        for member in archive.infolist():
            name = member.filename
            if name in seen:
                raise BadFile(path, "name no member twice", f"{name!r} twice", _WAY_OUT)
            seen.add(name)
            if member.flag_bits & 1 or member.compress_type not in (_STORED, _DEFLATED):
                found = (
                    f"{name!r} with flags {member.flag_bits} and compression "
                    f"{member.compress_type}"
                )
                rule = "store or deflate its members, without a password"
                raise BadFile(path, rule, found, _WAY_OUT)
            is_stored = member.compress_type == _STORED
            lengths = (member.compress_size, member.file_size)
            if lengths[0] > length or (is_stored and lengths[0] != lengths[1]):
                rule = "have members of the lengths that it says"
                found = f"{name!r} of {lengths} bytes in a file of {length}"
                raise BadFile(path, rule, found, _WAY_OUT)
        yield archive


def check_unpacked(
    path: Path, archive: zipfile.ZipFile, name: str, *, most: int
) -> None:
    """Raises a `BadFile` if a compressed member is longer than `most` bytes.

    One that is not compressed may be as long as it is: it takes as much of the disk.
    """
    member = archive.getinfo(name)
    if member.compress_type == _DEFLATED and member.file_size > most:
        rule = f"unpack to no more than the {most} bytes that it can need"
        found = f"{name!r} of {member.file_size} bytes in {member.compress_size}"
        raise BadFile(path, rule, found, "save it again, or unpack it by hand")


def read_member(path: Path, archive: zipfile.ZipFile, name: str, *, most: int) -> bytes:
    """The content of a member, whose checksum is right.

    Raises:
      BadFile: there is none, it is damaged, or see `check_unpacked`.
    """
    with refusing(path, f"hold a whole {name}", _WAY_OUT):
        check_unpacked(path, archive, name, most=most)
        length = archive.getinfo(name).file_size
        with archive.open(name) as member:
            content = member.read(length)
        if len(content) != length:
            raise ValueError(f"{len(content)} of {length} bytes")
    return content
