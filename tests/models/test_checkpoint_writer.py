"""Saving our own checkpoints: all or nothing, and readable by any safetensors reader."""

import copy
from pathlib import Path

import pytest
import torch
from rounding import rounded
from safetensors.torch import load_file

from pengi_rt.errors import CheckpointError
from pengi_rt.export.checkpoint_reader import load_model
from pengi_rt.models.checkpoint_writer import save_checkpoint, stft_kernels
from pengi_rt.models.pengi import Pengi

TOKENIZERS = {"text": b'{"a": 1}', "decoder": b'{"b": 2}'}


def test_writes_weights_and_tokenizers(tiny_model: Pengi, tmp_path: Path) -> None:
    path = tmp_path / "new" / "mine.safetensors"
    save_checkpoint(tiny_model, path, TOKENIZERS)
    stored = load_file(path)
    state = tiny_model.state_dict()
    computed = stft_kernels(tiny_model.config)
    assert all(state.pop(name).equal(kernel) for name, kernel in computed.items())
    for name, tensor in state.items():
        assert stored.pop(name).equal(tensor), name
    assert not stored
    for name, text in TOKENIZERS.items():
        assert (path.parent / "tokenizers" / f"{name}.json").read_bytes() == text


def test_replaces_and_leaves_nothing_behind(tiny_model: Pengi, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"old")
    save_checkpoint(tiny_model, path, TOKENIZERS)
    left_out = len(stft_kernels(tiny_model.config))
    assert len(load_file(path)) == len(tiny_model.state_dict()) - left_out
    found = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")}
    assert found == {
        "mine.safetensors",
        "tokenizers",
        "tokenizers/text.json",
        "tokenizers/decoder.json",
    }


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


def test_float16_halves_the_file_and_is_read_again(tiny_model: Pengi, tmp_path: Path) -> None:
    whole, small = tmp_path / "whole.safetensors", tmp_path / "small.safetensors"
    save_checkpoint(tiny_model, whole, TOKENIZERS)
    save_checkpoint(tiny_model, small, TOKENIZERS, dtype=torch.float16)
    assert small.stat().st_size < 0.7 * whole.stat().st_size
    model, read = load_model(small)
    assert set(read.converted) > {"decoder.wte.weight"}
    expected = rounded(tiny_model).state_dict()
    for name, tensor in model.state_dict().items():
        assert tensor.equal(expected[name]), name


def test_values_beyond_float16_are_not_written(tiny_model: Pengi, tmp_path: Path) -> None:
    model = copy.deepcopy(tiny_model)
    with torch.no_grad():
        model.decoder.wte.weight[3, 3] = 1e5
    path = tmp_path / "mine.safetensors"
    with pytest.raises(CheckpointError, match=r"mine\.safetensors: nothing was written: decoder"):
        save_checkpoint(model, path, TOKENIZERS, dtype=torch.float16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int8])
def test_other_types_are_refused(tiny_model: Pengi, tmp_path: Path, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="float32 or float16, not"):
        save_checkpoint(tiny_model, tmp_path / "mine.safetensors", TOKENIZERS, dtype=dtype)
