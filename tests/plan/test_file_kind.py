"""What nobody can make again is known by its bytes, whatever it is called."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import save_file

from pengi_rt.plan.builtin import builtin_plan
from pengi_rt.plan.file_kind import precious_kind
from pengi_rt.render.vectors import Stored, save_npy, save_safetensors

FORMATS = soundfile.available_formats()
WRITTEN = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC", "OGG", "MP3")


@pytest.mark.parametrize("kind", [each for each in WRITTEN if each in FORMATS])
def test_recordings(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "notes.txt"
    soundfile.write(path, np.zeros(3000, np.float32), 16_000, format=kind)
    assert precious_kind(path) == "a recording"


@pytest.mark.parametrize(
    "head",
    [
        b"ID3\4\0\0\0\0\0\0",
        b"\0\0\0\x20ftypM4A ",
        b"\x1a\x45\xdf\xa3\x9f\x42",
        b"\xff\xf1\x50\x80",
        b"RIFF\0\0\0\0AVI LIST",
        b"dns.\x18\0\0\0",
        b"\0\0\0\x08wide\0\0\0\0mdat",
        b"DSD \x1c\0\0\0",
        b"Creative Voice File\x1a",
        b"\x7f\xfe\x80\x01",
        b"\x64\xa3\1\0",
        3 * b"G".ljust(188, b"\xff"),
    ],
)
def test_recordings_of_other_formats(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "f").write_bytes(head.ljust(100, b"\0"))
    assert precious_kind(tmp_path / "f") == "a recording"


@pytest.mark.skipif("MP3" not in FORMATS, reason="this libsndfile writes no MP3")
def test_a_capture_that_begins_in_mid_frame(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    soundfile.write(tmp_path / "f", noise, 16_000, format="MP3")
    (tmp_path / "f").write_bytes((tmp_path / "f").read_bytes()[100:])
    assert precious_kind(tmp_path / "f") == "a recording"


def test_plans_and_checkpoints(tmp_path: Path, tiny_checkpoint: Path) -> None:
    assert precious_kind(builtin_plan()) == "a plan"
    assert precious_kind(tiny_checkpoint) == "a checkpoint"
    weights = {"a": torch.zeros(2)}
    torch.save(weights, tmp_path / "new")
    torch.save(weights, tmp_path / "old", _use_new_zipfile_serialization=False)
    (tmp_path / "pickle").write_bytes(pickle.dumps(list(range(100))))
    save_file({"a": np.zeros(2)}, tmp_path / "others")
    for path in tmp_path.iterdir():
        assert precious_kind(path) == "a checkpoint", path
    (tmp_path / "trt").write_bytes(b"ftrt" + bytes(100))
    assert precious_kind(tmp_path / "trt") == "a TensorRT plan"


def test_a_plan_whose_directory_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(builtin_plan().read_bytes()[:5000])
    assert precious_kind(tmp_path / "f") == "a plan"


def test_what_can_be_made_again(tmp_path: Path) -> None:
    stored = Stored(tmp_path / "x")
    stored.append(np.zeros((2, 3), np.float32))
    save_npy(tmp_path / "x.npy", [stored])
    save_safetensors(tmp_path / "x.safetensors", {"audio.embedding": stored}, {"plan": "0"})
    stored.close()
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("RIFF is a word, ID3 another, and dns.org a third\n")
    (tmp_path / "utf-16").write_bytes("text".encode("utf-16"))
    (tmp_path / "table").write_text("dns.example,1\n")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("notes.txt", "x" * 1000)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (*tmp_path.iterdir(), tmp_path / "missing", Path("/dev/zero")):
        assert precious_kind(path) is None, path
