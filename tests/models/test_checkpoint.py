"""Saving our own checkpoints: whole or not at all, readable as safetensors by anybody."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from pengi_rt.errors import CheckpointError
from pengi_rt.models.checkpoint import save_checkpoint
from pengi_rt.models.pengi import Pengi

TOKENIZERS = {"text": b'{"a": 1}', "decoder": b'{"b": 2}'}


def test_writes_weights_and_tokenizers(tiny_model: Pengi, tmp_path: Path) -> None:
    path = tmp_path / "new" / "mine.safetensors"
    save_checkpoint(tiny_model, path, TOKENIZERS)
    stored = load_file(path)
    for name, tensor in tiny_model.state_dict().items():
        assert stored.pop(name).equal(tensor), name
    assert not stored
    for name, text in TOKENIZERS.items():
        assert (path.parent / "tokenizers" / f"{name}.json").read_bytes() == text


def test_replaces_and_leaves_nothing_behind(tiny_model: Pengi, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"old")
    save_checkpoint(tiny_model, path, TOKENIZERS)
    assert len(load_file(path)) == len(tiny_model.state_dict())
    found = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")}
    assert found == {
        "mine.safetensors", "tokenizers", "tokenizers/text.json", "tokenizers/decoder.json",
    }  # fmt: skip


def test_a_failed_write_keeps_the_old_file(
    tiny_model: Pengi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.safetensors"
    save_checkpoint(tiny_model, path, TOKENIZERS)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"mine\.safetensors: .*No space left on device"):
        save_checkpoint(tiny_model, path, TOKENIZERS)
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob(".*"))
