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
        encrypted or compressed otherwise than by deflation; they are longer than the
        file.

    Example:
      >>> made = io.BytesIO()
      >>> with zipfile.ZipFile(made, "w") as archive:
      ...     archive.writestr("config.json", "{}")
      >>> with opened_zip("model.keras", made) as archive:
      ...     read_member("model.keras", archive, "config.json", most=100)
      b'{}'
    """
    length = file.seek(0, io.SEEK_END)
    with contextlib.ExitStack() as stack:
        with refusing(path, "be a zip archive", _WAY_OUT):
            archive = stack.enter_context(zipfile.ZipFile(file))
        _check_members(path, archive, length)
        yield archive


def read_member(path: Path, archive: zipfile.ZipFile, name: str, *, most: int) -> bytes:
    """The content of a member, whose checksum is right.

    Args:
      path: the file's name, for errors.
      archive: from `opened_zip`.
      name: of the member.
      most: bytes of one that is compressed. One that is not may be as long as it is,
        as it takes as much of the disk.

    Raises:
      BadFile: there is none, it is damaged, or longer.
    """
    with refusing(path, f"hold a whole {name}", _WAY_OUT):
        member = archive.getinfo(name)
        length = member.file_size
        if member.compress_type == _DEFLATED and length > most:
            rule = f"unpack to no more than the {most} bytes that it can need"
            found = f"{name!r} of {length} bytes in {member.compress_size}"
            raise BadFile(path, rule, found, "save it again, or unpack it by hand")
        with archive.open(member) as file:
            content = file.read(length)
        if len(content) != length:
            raise ValueError(f"{len(content)} of {length} bytes")
    return content


def _check_members(path: Path, archive: zipfile.ZipFile, length: int) -> None:
    seen = set()
    left = length  # two members in one place would multiply what is there
    for member in archive.infolist():
        name, kind = member.filename, member.compress_type
        if name in seen:
            raise BadFile(path, "name no member twice", f"{name!r} twice", _WAY_OUT)
        seen.add(name)
        if member.flag_bits & 1 or kind not in (_STORED, _DEFLATED):
            rule = "store or deflate its members, without a password"
            found = f"{name!r} with flags {member.flag_bits} and compression {kind}"
            raise BadFile(path, rule, found, _WAY_OUT)
        packed, unpacked = member.compress_size, member.file_size
        left -= packed
        if left < 0 or (kind == _STORED and packed != unpacked):
            rule = "have members of the lengths that it says"
            found = f"{name!r} of {(packed, unpacked)} bytes in a file of {length}"
            raise BadFile(path, rule, found, _WAY_OUT)
