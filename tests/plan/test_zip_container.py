"""The container is a ZIP file for other readers; we accept only our own form."""

import shutil
import subprocess
import zipfile
from mmap import ACCESS_READ, mmap
from pathlib import Path

import pytest
import toy_plan

from pengi_rt.errors import PlanError
from pengi_rt.plan import zip_container as plan_zip
from pengi_rt.plan.manifest import ALIGNMENT, MANIFEST
from pengi_rt.plan.reader import Plan
from pengi_rt.plan.zip_container import Entry, directory, local_header, read_entries

CONTENT = [("licences/a", b"first"), ("licences/empty", b""), ("plan.json", b"{}" * 3000)]


def entries(path: Path) -> tuple[Entry, ...]:
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        return read_entries(mapped)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return toy_plan.pack(tmp_path / "toy.plan", CONTENT)


def check_foreign_readers(path: Path, content: list[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert [(info.filename, file.read(info)) for info in file.infolist()] == content
        for info in file.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
    if shutil.which("unzip"):
        done = subprocess.run(["unzip", "-t", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "No errors detected" in done.stdout


def test_zip_tools_read_it(packed: Path) -> None:
    check_foreign_readers(packed, CONTENT)


def test_entries_are_found_and_aligned(packed: Path) -> None:
    whole = packed.read_bytes()
    found = entries(packed)
    assert [(e.name, whole[e.data : e.end]) for e in found] == CONTENT
    assert all(entry.data % ALIGNMENT == 0 for entry in found)


def test_zip64_is_the_same_to_all_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 4 GiB of sizes and offsets without 4 GiB of disk: every reader must use the zip64 records.
    monkeypatch.setattr(plan_zip, "ZIP64_LIMIT", 5)
    path = toy_plan.pack(tmp_path / "toy.plan", CONTENT)
    assert path.read_bytes().count(b"PK\6\6") == 1
    check_foreign_readers(path, CONTENT)
    whole = path.read_bytes()
    assert [(e.name, whole[e.data : e.end]) for e in entries(path)] == CONTENT


def test_beyond_4_gib(tmp_path: Path) -> None:
    # A sparse file: nothing is written between the headers.
    big = Entry("weights.bin", 0, (4 << 30) + 5, 0)
    last = Entry("plan.json", big.end, 2, 0)
    path = tmp_path / "big.plan"
    with path.open("wb") as file:
        for entry in (big, last):
            file.seek(entry.offset)
            file.write(local_header(entry))
        file.seek(last.end)
        file.write(directory([big, last]))
    assert entries(path) == (big, last)
    assert last.data > 1 << 32
    with zipfile.ZipFile(path) as listing:
        assert [(info.filename, info.file_size) for info in listing.infolist()] == [
            ("weights.bin", big.size),
            ("plan.json", 2),
        ]


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_repacked_plan_is_refused(tmp_path: Path, compression: int) -> None:
    content = toy_plan.contents(toy_plan.write(tmp_path / "toy.plan"))
    with zipfile.ZipFile(tmp_path / "again.plan", "w", compression) as file:
        for name, data in content.items():
            file.writestr(name, data)
    with pytest.raises(PlanError) as caught:
        Plan.open(tmp_path / "again.plan")
    compressed = compression == zipfile.ZIP_DEFLATED
    assert ("is compressed" if compressed else "not pengi-rt's") in str(caught.value)


@pytest.mark.parametrize(
    ("offset_in_header", "value", "says"),
    [
        (8, b"\1\0", "is encrypted"),
        (10, b"\x08\0", "is compressed"),
        (8, b"\x08\0", "directory is damaged"),  # sizes in a trailing record
        (32, b"\1\0", "directory is damaged"),  # a comment
        (34, b"\1\0", "directory is damaged"),  # another disk
        (38, b"\0\0\xff\xa1", "directory is damaged"),  # a symbolic link
        (42, b"\1\0\0\0", "entry licences/a does not begin where"),
        (
            24,
            b"\xff\xff\xff\xff",
            "entry licences/a does not begin where",
        ),  # size without zip64 record
        (20, b"\6\0\0\0", "directory is damaged"),  # sizes that differ
        (28, b"\0\0", "directory is damaged"),  # no name
        (28, b"\xff\xff", "directory is damaged"),  # a name beyond the end
    ],
)
def test_an_inconsistent_directory(
    packed: Path, offset_in_header: int, value: bytes, says: str
) -> None:
    whole = bytearray(packed.read_bytes())
    at = whole.index(plan_zip.CENTRAL_MAGIC) + offset_in_header
    whole[at : at + len(value)] = value
    packed.write_bytes(whole)
    with pytest.raises(PlanError, match=says):
        entries(packed)


def test_entries_may_not_share_bytes_or_leave_gaps(packed: Path) -> None:
    whole = packed.read_bytes()
    *before, last = entries(packed)
    data = whole[: last.end]
    for offset in (0, before[1].offset, last.offset - 1, last.offset + 1, 1 << 31, 1 << 40):
        moved = Entry(last.name, offset, last.size, last.crc)
        ending = directory([*before, last])[-22:]
        headers = directory([*before, moved])
        packed.write_bytes(data + headers[: headers.index(plan_zip.END_MAGIC)] + ending)
        with pytest.raises(
            PlanError, match=r"does not begin where the previous entry ends|damaged"
        ):
            entries(packed)


def test_directory_somewhere_else_is_refused(packed: Path) -> None:
    whole = packed.read_bytes()
    for start in (0, len(whole), 1 << 31):
        packed.write_bytes(whole[:-6] + start.to_bytes(4, "little") + whole[-2:])
        with pytest.raises(PlanError, match=r"directory|no plan\.json"):
            entries(packed)


def test_a_huge_directory_is_not_read(tmp_path: Path) -> None:
    # A tiny end record that claims a (sparse) gigabyte as the directory.
    path = tmp_path / "bomb.plan"
    end = directory([Entry(MANIFEST, 0, 0, 0)])[-22:]
    with path.open("wb") as file:
        file.write(plan_zip.LOCAL_MAGIC)
        file.seek(1 << 30)
        file.write(end[:16] + bytes(6))
    with pytest.raises(PlanError, match="directory cannot be at 0"):
        entries(path)
