"""Our checkpoints carry a digest of their contents, in a header that never varies."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from pengi_rt.errors import CheckpointError
from pengi_rt.models.safetensors_file import DIGEST_KEY, check_safetensors, with_digest

STATE = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2, dtype=torch.float16)}
METADATA = {"pengi_rt": '{"name": "x"}'}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"".join(with_digest(save(STATE, METADATA))))
    return path


def test_a_sealed_file_is_read_as_before(path: Path) -> None:
    found = load_file(path)
    assert all(found[name].equal(tensor) for name, tensor in STATE.items())
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata.pop(DIGEST_KEY).isalnum()
    assert metadata == METADATA
    assert check_safetensors(path)


def test_sealing_is_deterministic(path: Path) -> None:
    assert b"".join(with_digest(save(STATE, METADATA))) == path.read_bytes()


@pytest.mark.parametrize("what", ["config", "name", "shape", "value"])
def test_every_kind_of_change_is_seen(what: str, path: Path) -> None:
    old, new = {
        "config": (b'\\"x\\"', b'\\"y\\"'),
        "name": (b'"a"', b'"c"'),
        "shape": (b"[2,3]", b"[3,2]"),
        "value": (bytes(4) + b"\0\0\x80\x3f", bytes(4) + b"\0\0\x80\x3e"),
    }[what]
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    load_file(path)  # safetensors itself notices nothing
    with pytest.raises(CheckpointError, match="its SHA-256 is not the one in its metadata"):
        check_safetensors(path)


def test_another_order_of_the_header_is_the_same_file(path: Path) -> None:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    text = json.dumps(dict(reversed(header.items()))).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    assert check_safetensors(path)


def test_files_of_other_writers_have_no_digest(path: Path) -> None:
    save_file(STATE, path, METADATA)
    assert not check_safetensors(path)
    save_file(STATE, path)
    assert not check_safetensors(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        check_safetensors(tmp_path / "none.safetensors")
