"""What is handed in instead of a plan is called by its name."""

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import toy_plan

from pengi_rt.errors import PlanError
from pengi_rt.plan.reader import Plan

SAFETENSORS = struct.pack("<Q", 0x0280) + b'{"__metadata__": {}}'.ljust(0x0280) + bytes(16)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


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
        (zipped("hello.txt"), "this is a ZIP file, but no plan: it holds no plan.json"),
        (zipped(), "this is no plan: it starts with"),
        (b"x", "this is no plan: it starts with b'x'"),
        (b"RIFF\x24\0\0\0WAVE", "this is no plan: it starts with b'RIFF"),
        (b"\xff\x1b[2J\n\n", "this is no plan: it starts with b'\\xff\\x1b[2J\\n\\n'"),
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
    assert refusal(tmp_path / "pipe.plan").startswith("this is no regular file")


def test_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file" / "x.plan") == "cannot be read: Not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "pengi.plan"
    path.touch(mode=0)
    assert refusal(path) == "cannot be read: Permission denied"
