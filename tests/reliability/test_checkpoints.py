"""Damaged, mutated or hostile checkpoints are each read correctly or refused in one line.

Nothing in them is run, and no refusal shows more of their content than a quoted name.
"""

import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from pengi_rt.errors import CheckpointError
from pengi_rt.export.checkpoint_reader import read_safetensors
from pengi_rt.export.file_check import check_file
from pengi_rt.export.torch_file import load_weights
from pengi_rt.models.safetensors_file import with_digest

WEIGHTS = {"caption_decoder.a.weight": torch.arange(24.0).reshape(4, 6), "b": torch.ones(3)}


def read(path: Path) -> dict[str, Tensor] | str:
    """The tensors, or the reason for the refusal."""
    try:
        check_file(path)
        if path.suffix == ".safetensors":
            return read_safetensors(path)[1]
        return load_weights(path)
    except CheckpointError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) < 1000
        return message


def same(found: dict[str, Tensor] | str) -> bool:
    """Whether the file was read back exactly as saved."""
    return not isinstance(found, str) and all(
        found.keys() == WEIGHTS.keys() and found[key].equal(WEIGHTS[key]) for key in WEIGHTS
    )


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    path = tmp_path / "base.pth"
    torch.save({"model": WEIGHTS}, path)
    return path


@pytest.fixture
def safetensors(tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"".join(with_digest(save(WEIGHTS, {"pengi_rt": "{}"}))))
    return path


def flips(path: Path, rng: random.Random, count: int) -> Iterator[str]:
    """Flip one bit of the file at a time, and yield where."""
    whole = path.read_bytes()
    for _ in range(count):
        place, bit = rng.randrange(len(whole)), rng.randrange(8)
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        yield f"byte {place}, bit {bit}"


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_no_flipped_bit_changes_a_weight(
    kind: str, request: pytest.FixtureRequest, rng: random.Random, rounds: int
) -> None:
    """A flip is refused, or hits a meaningless bit: padding, or the digest's own name."""
    path: Path = request.getfixturevalue(kind)
    assert same(read(path))
    refused = 0
    for place in flips(path, rng, 300 * rounds):
        found = read(path)
        assert isinstance(found, str) or same(found), place
        refused += isinstance(found, str)
    assert refused


def test_mutated_files_are_refused_or_read_right(
    pth: Path, safetensors: Path, rng: random.Random, rounds: int
) -> None:
    """Bytes removed, added, doubled or randomized, anywhere."""
    for path in (pth, safetensors):
        whole = path.read_bytes()
        for _ in range(100 * rounds):
            start = rng.randrange(len(whole))
            end = start + rng.randrange(64)
            junk = rng.choice([b"", rng.randbytes(end - start), whole[start:end] * 2, bytes(8)])
            path.write_bytes(whole[:start] + junk + whole[end:])
            found = read(path)
            assert isinstance(found, str) or same(found), (start, end, junk)


def rebuilt(path: Path, rng: random.Random) -> str:
    """An archive of the same entries with correct checksums, packed differently from PyTorch's."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    names = list(entries)
    change = rng.choice(["twice", "deflated", "without", "longer", "pickle", "renamed"])
    method = zipfile.ZIP_DEFLATED if change == "deflated" else zipfile.ZIP_STORED
    victim = rng.choice(names)
    if change == "pickle":
        victim = next(name for name in names if name.endswith("data.pkl"))
        entries[victim] = bytes(rng.choice(entries[victim]) for _ in range(len(entries[victim])))
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            if change == "without" and name == victim:
                continue
            new = f"{name}\x1b[2J\n" if change == "renamed" and name == victim else name
            archive.writestr(new, data * 2 if change == "longer" and name == victim else data)
        if change == "twice":
            archive.writestr(victim, b"other")
    return change


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_of_other_makers(pth: Path, rng: random.Random, rounds: int) -> None:
    """Entries duplicated, compressed, missing, longer or renamed; pickles of random opcodes."""
    whole = pth.read_bytes()
    for _ in range(30 * rounds):
        pth.write_bytes(whole)
        change = rebuilt(pth, rng)
        found = read(pth)
        assert isinstance(found, str) or same(found) or change == "longer"
        if change in ("twice", "deflated"):
            assert isinstance(found, str), change


HEADERS = (
    b'{"a":' * 4000,
    b'{"a":' + b"[" * 100_000,
    b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}',
    b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}',
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}',
    b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
    b'{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,4]}}',
    (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    b'{"__metadata__":{"sha256":"\x1b[2J"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    b'{"__metadata__":{"sha256":1}}',
    b'{"__metadata__":[]}',
    b"[]",
    b"null",
    b"\xff\xfe",
)


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_hostile_headers(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert isinstance(read(path), str)


def test_a_header_is_measured_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million tensors used 2.2 GB: neither parser may see them."""
    path = tmp_path / "a.safetensors"
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    many = json.dumps({f"{number}": entry for number in range(20_000)}).encode()
    path.write_bytes(len(many).to_bytes(8, "little") + many)
    assert "has 20000 tensors; the largest model has fewer than 16384" in str(read(path))
    path.write_bytes((10**7).to_bytes(8, "little") + b" " * 10**7)
    monkeypatch.setattr(json, "loads", None)
    assert "its header would be 10000000 bytes, at most 4194304 are read" in str(read(path))
