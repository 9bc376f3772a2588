"""A checkpoint's own checksums are compared; a file without any is reported."""

import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pengi_rt.errors import CheckpointError
from pengi_rt.export.file_check import check_file
from pengi_rt.export.torch_file import MAX_PICKLE, check_torch_file
from pengi_rt.system.files import file_sha256

UNRECORDED = "no checksum is recorded for it, inside or in {}.sha256, so damage would go unnoticed"


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    path = tmp_path / "base.pth"
    torch.save({"model": {"a": torch.arange(1000.0)}}, path)
    return path


@pytest.fixture
def without_sums() -> Iterator[None]:
    torch.serialization.set_crc32_options(compute_crc32=False)
    yield
    torch.serialization.set_crc32_options(compute_crc32=True)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        check_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def values_of(path: Path) -> int:
    """The offset of the numbers of ``data/0``."""
    return path.read_bytes().index(torch.arange(1000.0).numpy().tobytes())


def test_a_flipped_bit_of_an_archive(pth: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_file(pth)
    assert not caplog.messages
    flip(pth, values_of(pth) + 2000)
    # PyTorch reads it without complaint.
    assert not torch.load(pth)["model"]["a"].equal(torch.arange(1000.0))
    assert refusal(pth) == (
        "is damaged (Bad CRC-32 for file 'base/data/0'); nothing in it was run. Fetch it again"
    )


@pytest.mark.parametrize("form", ["legacy", "without sums", "safetensors"])
def test_files_without_a_checksum_are_read_with_a_warning(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth")
    state = {"a": torch.zeros(3)}
    if form == "safetensors":
        save_file(state, path)
    else:
        if form == "without sums":
            request.getfixturevalue("without_sums")
        torch.save({"model": state}, path, _use_new_zipfile_serialization=form != "legacy")
    with caplog.at_level(logging.WARNING):
        check_file(path)
    assert caplog.messages == [f"{path}: {UNRECORDED.format(path.name)}"]
    caplog.clear()
    path.with_name(f"{path.name}.sha256").write_text(f"{file_sha256(path)}  {path.name}\n")
    check_file(path)
    assert not caplog.messages


def test_a_file_must_match_the_sha256_that_pull_recorded(pth: Path) -> None:
    record = pth.with_name("base.pth.sha256")
    record.write_text(f"{file_sha256(pth).upper()}  base.pth\n")
    check_file(pth)
    torch.save({"model": {"a": torch.ones(2)}}, pth)
    assert refusal(pth).startswith("its SHA-256 is not the one in base.pth.sha256: it is damaged")
    record.write_text("none\n")
    with pytest.raises(CheckpointError, match=r"base\.pth\.sha256: holds no SHA-256; correct it"):
        check_file(pth)


def test_bombs_are_not_unpacked(pth: Path) -> None:
    with zipfile.ZipFile(pth, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("base/data.pkl", bytes(10**7))
    assert "base/data.pkl is compressed, which torch.save never does" in refusal(pth)
    with zipfile.ZipFile(pth, "w") as archive:
        archive.writestr("base/data.pkl", bytes(MAX_PICKLE + 1))
    assert "base/data.pkl is larger than that of the largest model" in refusal(pth)


def test_entries_that_overlap(pth: Path) -> None:
    """A thousand names for one place would take a thousand times as long to read."""
    data = bytearray(pth.read_bytes())
    with zipfile.ZipFile(pth) as archive:
        first, second, *_ = archive.infolist()
    listed = data.rindex(second.filename.encode())
    data[listed - 4 : listed] = first.header_offset.to_bytes(4, "little")
    pth.write_bytes(data)
    assert "overlaps the next entry" in refusal(pth)


def test_a_huge_list_of_entries(pth: Path) -> None:
    data = bytearray(pth.read_bytes())
    assert data[-42:-38] == b"PK\x06\x07"  # PyTorch writes a zip64 record
    data[-58:-50] = (2**40).to_bytes(8, "little")
    pth.write_bytes(data)
    assert f"its list of entries would be {2**40} bytes" in refusal(pth)
    with zipfile.ZipFile(pth, "w") as archive:
        archive.writestr("base/data.pkl", b"")
    data = bytearray(pth.read_bytes())
    data[-10:-6] = (2**31).to_bytes(4, "little")
    pth.write_bytes(data)
    assert f"its list of entries would be {2**31} bytes" in refusal(pth)


def test_bytes_after_the_archive(pth: Path) -> None:
    pth.write_bytes(pth.read_bytes() + b"x")
    assert "its end is missing, or something was appended to it" in refusal(pth)


def test_old_pickles_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    state = {f"a{n}": torch.zeros(1) for n in range(3)} | {"text": "x" * MAX_PICKLE}
    torch.save({"model": state}, path, _use_new_zipfile_serialization=False)
    assert refusal(path).startswith("is damaged, or not a PyTorch file of a model")


def test_returns_whether_a_file_has_checksums(
    pth: Path, tmp_path: Path, without_sums: None
) -> None:
    assert check_torch_file(pth)
    torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "b.pth")
    assert not check_torch_file(tmp_path / "b.pth")
