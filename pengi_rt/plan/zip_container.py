"""The plan's container: a ZIP file in exactly the form in which we write it.

Every header is a function of an entry's name, offset, size and CRC-32. The reader takes these four
from the ZIP directory, as Python's zipfile reads it, rebuilds all headers and compares bytes. Any
difference is refused: a flag, a date, a comment, a gap, an overlap, a byte in the padding, bytes
before, between or after. (PKWARE APPNOTE 6.3.10: records 4.3, zip64 4.5.3, alignment 0xA11E 4.6.1.)
"""

import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import IO, cast

from pengi_rt.errors import PlanError
from pengi_rt.plan.manifest import ALIGNMENT, MANIFEST, MAX_NAME, aligned

SENTINEL = 0xFFFFFFFF  # in a 32-bit field: the value is in the zip64 record
ZIP64_LIMIT = SENTINEL
MAX_DIRECTORY = 1 << 16  # bytes: some 500 entries

LOCAL_MAGIC, CENTRAL_MAGIC = b"PK\3\4", b"PK\1\2"
END_MAGIC, ZIP64_END_MAGIC = b"PK\5\6", b"PK\6\6"
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_ZIP64_END = struct.Struct("<4sQ2H2I4Q")
_ZIP64_LOCATOR = struct.Struct("<4sIQI")
_ZIP64_SIZES = struct.Struct("<2H2Q")
_PADDING = struct.Struct("<3H")

_VERSION, _VERSION_ZIP64 = 20, 45  # needed to extract
_UNIX = 3 << 8
_MODE = 0o100644 << 16  # a plain file, rw-r--r--
_TIME, _DATE = 0, 0x21  # 1980-01-01 00:00, the earliest DOS time
_ENCRYPTED = 1  # a flag
_STORED = 0  # a method

_DAMAGED = "the ZIP directory is damaged, or not pengi-rt's"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored file: everything that its headers contain."""

    name: str
    offset: int  # of its local header, bytes into the file
    size: int  # bytes
    crc: int  # CRC-32 of its data

    @property
    def data(self) -> int:
        """Offset of its first data byte, which always leaves room for a zip64 record."""
        return aligned(
            self.offset + _LOCAL.size + len(self.name) + _ZIP64_SIZES.size + _PADDING.size
        )

    @property
    def end(self) -> int:
        """Offset just past its last data byte."""
        return self.data + self.size


def local_header(entry: Entry) -> bytes:
    """The bytes from ``entry.offset`` up to ``entry.data``, padding included."""
    name = entry.name.encode("ascii")
    big = entry.size >= ZIP64_LIMIT
    size = SENTINEL if big else entry.size
    zip64 = _ZIP64_SIZES.pack(1, 16, entry.size, entry.size) if big else b""
    extra = entry.data - entry.offset - _LOCAL.size - len(name)
    padding = extra - len(zip64) - _PADDING.size
    version = _VERSION_ZIP64 if big else _VERSION
    return b"".join((
        _LOCAL.pack(
            LOCAL_MAGIC, version, 0, _STORED, _TIME, _DATE, entry.crc, size, size, len(name), extra
        ),
        name,
        zip64,
        _PADDING.pack(0xA11E, 2 + padding, ALIGNMENT),
        bytes(padding),
    ))  # fmt: skip


def directory(entries: Sequence[Entry]) -> bytes:
    """The bytes after the last entry: the central directory and the end records."""
    start = entries[-1].end
    headers = b"".join(map(_central_header, entries))
    count, size = len(entries), len(headers)
    if start < ZIP64_LIMIT:
        return headers + _END.pack(END_MAGIC, 0, 0, count, count, size, start, 0)
    return b"".join((
        headers,
        _ZIP64_END.pack(
            ZIP64_END_MAGIC, _ZIP64_END.size - 12, _UNIX | _VERSION_ZIP64, _VERSION_ZIP64, 0, 0,
            count, count, size, start,
        ),
        _ZIP64_LOCATOR.pack(b"PK\6\7", 0, start + size, 1),
        _END.pack(END_MAGIC, 0, 0, count, count, size, SENTINEL, 0),
    ))  # fmt: skip


def read_entries(file: mmap) -> tuple[Entry, ...]:
    """The entries of a container, with every header checked; the data are not read.

    Raises:
        PlanError: the file is not a ZIP file exactly as we write it.
    """
    start, count = _directory_place(file)
    listed = list(_listed(file))
    if len(listed) != count:
        raise PlanError(_DAMAGED)
    for info in listed:
        _check_plain(info)
    names = [info.filename for info in listed]
    if MANIFEST not in names:
        raise PlanError(f"this is a ZIP file, but not a plan: it holds no {MANIFEST}")
    if len(set(names)) != len(names):
        raise PlanError("an entry's name occurs twice in the ZIP directory")
    entries = tuple(
        Entry(info.filename, info.header_offset, info.file_size, info.CRC) for info in listed
    )
    position = 0
    for entry in entries:
        if entry.offset != position or entry.end > start:
            raise PlanError(f"entry {entry.name} does not begin where the previous entry ends")
        if file[entry.offset : entry.data] != local_header(entry):
            raise PlanError(f"the header of entry {entry.name} is damaged, or not pengi-rt's")
        position = entry.end
    if position != start or file[start:] != directory(entries):
        raise PlanError(_DAMAGED)
    return entries


def _central_header(entry: Entry) -> bytes:
    big, far = entry.size >= ZIP64_LIMIT, entry.offset >= ZIP64_LIMIT
    size, offset = (SENTINEL if big else entry.size), (SENTINEL if far else entry.offset)
    values = (entry.size, entry.size) * big + (entry.offset,) * far
    extra = struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""
    version = _VERSION_ZIP64 if values else _VERSION
    name = entry.name.encode("ascii")
    header = _CENTRAL.pack(
        CENTRAL_MAGIC, _UNIX | version, version, 0, _STORED, _TIME, _DATE, entry.crc, size, size,
        len(name), len(extra), 0, 0, 0, _MODE, offset,
    )  # fmt: skip
    return header + name + extra


def _directory_place(file: mmap) -> tuple[int, int]:
    """Where the directory starts, and how many entries the end record counts in it."""
    end = len(file) - _END.size
    if file[end : end + 4] != END_MAGIC:
        raise PlanError(
            "the ZIP end record is not at the end: the file is cut short, or has extra bytes; "
            "fetch or export it again"
        )
    *_, count, _, start, _ = _END.unpack_from(file, end)
    if start == SENTINEL and end >= _ZIP64_LOCATOR.size + _ZIP64_END.size:
        start = int(_ZIP64_END.unpack_from(file, end - _ZIP64_LOCATOR.size - _ZIP64_END.size)[9])
    if not 0 <= end - start <= MAX_DIRECTORY:
        raise PlanError(f"the ZIP directory cannot be at {start} in a file of {len(file)} bytes")
    if file[start : start + 4] not in (CENTRAL_MAGIC, END_MAGIC, ZIP64_END_MAGIC):
        raise PlanError(_DAMAGED)
    return start, count


def _listed(file: mmap) -> Iterator[zipfile.ZipInfo]:
    """The entries as Python's ZIP reader sees them, not yet checked."""
    try:
        with zipfile.ZipFile(cast("IO[bytes]", file)) as archive:
            yield from archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError):
        raise PlanError(_DAMAGED) from None


def _check_plain(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    if len(name) > MAX_NAME or _SAFE_NAME.fullmatch(name) is None:
        raise PlanError(f"entry {name[:80]!r} does not belong in a plan")
    if info.flag_bits & _ENCRYPTED:
        raise PlanError(f"entry {name} is encrypted; a plan's entries are not")
    if info.compress_type != zipfile.ZIP_STORED:
        raise PlanError(f"entry {name} is compressed; a plan's entries are stored as they are")
