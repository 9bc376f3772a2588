"""Files are recognized by their bytes: irreplaceable ones, and those that are not plans."""

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import toy_plan
from safetensors.numpy import save_file

from pengi_rt.errors import PlanError
from pengi_rt.plan.builtin import builtin_plan
from pengi_rt.plan.file_kind import precious_kind
from pengi_rt.plan.reader import Plan
from pengi_rt.render.vectors import GrowingArray, save_npy, save_safetensors

FORMATS = soundfile.available_formats()
WRITTEN = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC", "OGG", "MP3")
SAFETENSORS = struct.pack("<Q", 0x0280) + b'{"__metadata__": {}}'.ljust(0x0280) + bytes(16)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


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


def test_files_that_can_be_made_again(tmp_path: Path) -> None:
    stored = GrowingArray(tmp_path / "x")
    stored.append(np.zeros((2, 3), np.float32))
    save_npy(tmp_path / "x.npy", [stored])
    save_safetensors(tmp_path / "x.safetensors", {"audio.embedding": stored}, {"plan": "0"})
    stored.close()
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("RIFF is a word, ID3 another, and dns.org a third\n")
    (tmp_path / "utf-16").write_bytes("text".encode("utf-16"))
    (tmp_path / "table").write_text("dns.example,1\n")
    (tmp_path / "coffee").write_text("caffeine,1\n")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("notes.txt", "x" * 1000)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (*tmp_path.iterdir(), tmp_path / "missing", Path("/dev/zero")):
        assert precious_kind(path) is None, path


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return buffer.getvalue()


def refusal(path: Path) -> str:
    with pytest.raises(PlanError) as caught:
        Plan.open(path)
    assert toy_plan.one_line(str(caught.value))
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"ftrt" + bytes(60), "a raw TensorRT engine, not a pengi-rt plan"),
        (b"ptrt" + bytes(60), "a raw TensorRT engine, not a pengi-rt plan"),
        (pickle.dumps({"model": {}}, protocol=2), "pickled PyTorch checkpoint, not a plan: run p"),
        (pickle.dumps({"model": {}}, protocol=4), "pickled PyTorch checkpoint, not a plan: run p"),
        (zipped("base/data.pkl", "base/data/0"), "a PyTorch checkpoint, not a plan: run pengi-rt"),
        (SAFETENSORS, "a safetensors file, not a plan: run pengi-rt export"),
        (b"\x08\x0a\x12\x07pytorch", "an ONNX graph, not a plan"),
        (b"\x08\x08:\x05graph", "an ONNX graph, not a plan"),
        (b"<!DOCTYPE html><html>", "an HTML page, not a plan: the download went wrong"),
        (b"\n  <HTML lang=en>", "an HTML page, not a plan: the download went wrong"),
        (LFS, "a git-lfs pointer, not the plan itself: run git lfs pull"),
        (zipped("hello.txt"), "this is a ZIP file, but not a plan: it holds no plan.json"),
        (zipped(), "this is not a plan: it starts with"),
        (b"x", "this is not a plan: it starts with b'x'"),
        (b"RIFF\x24\0\0\0WAVE", "this is not a plan: it starts with b'RIFF"),
        (b"\xff\x1b[2J\n\n", "this is not a plan: it starts with b'\\xff\\x1b[2J\\n\\n'"),
    ],
)
def test_refusal_says_what_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "pengi.plan"
    path.write_bytes(content)
    assert says in refusal(path)


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nope.plan").startswith("no such file; pengi-rt export makes")


def test_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith("this is a folder")


def test_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.plan")
    assert refusal(tmp_path / "pipe.plan").startswith("this is not a regular file")


def test_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file" / "x.plan") == "cannot be read: Not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "pengi.plan"
    path.touch(mode=0)
    assert refusal(path) == "cannot be read: Permission denied"
