"""Verbs that read recordings never write to a file that one of them reads."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pengi_rt.cli.main import main
from pengi_rt.plan.builtin import builtin_plan

VERBS = {
    "a list": ["generate", "@READ", "-o", "WRITTEN"],
    "a list from standard input": ["generate", "@-", "-o", "WRITTEN"],
    "labels": ["classify", "a.wav", "--labels-file", "READ", "-o", "WRITTEN"],
    "texts": ["embed", "--texts-file", "READ", "-o", "WRITTEN"],
    "an example": ["search", "made.index", "--like", "READ", "-o", "WRITTEN"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 8_000), 16_000)
    return tmp_path


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("way", ["same", "link", "part"])
def test_inputs_are_not_overwritten(
    verb: str,
    way: str,
    folder: Path,
    tiny_plan: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suffix = ".npy" if verb == "texts" else ".txt"
    read = folder / (f"own{suffix}.part" if way == "part" else f"own{suffix}")
    read.write_text("a.wav\n")
    written = folder / {"same": read.name, "link": f"link{suffix}", "part": f"own{suffix}"}[way]
    if way == "link":
        written.symlink_to(read)
    if verb == "an example":
        assert main(["index", ".", "-o", "made.index", "--engine", str(tiny_plan), "-q"]) == 0
    command = [
        word.replace("READ", str(read)).replace("WRITTEN", str(written)) for word in VERBS[verb]
    ]
    if verb == "a list from standard input":
        descriptor = os.dup(0)
        with read.open("rb") as stream:
            os.dup2(stream.fileno(), 0)
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
            code = main([*command, "--engine", str(tiny_plan)])
        os.dup2(descriptor, 0)
        os.close(descriptor)
    else:
        code = main([*command, "--engine", str(tiny_plan)])
    err = capsys.readouterr().err
    assert err.startswith(f"pengi-rt: --output {written} would overwrite ")
    assert err.count("\n") == 1
    assert code == 2
    assert read.read_text() == "a.wav\n"


def test_a_list_named_like_the_part_file(
    folder: Path, tiny_plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list would be lost even without --resume."""
    names = Path("out.jsonl.part")
    names.write_text("a.wav\n")
    command = ["generate", f"@{names}", "-o", "out.jsonl", "--format", "jsonl"]
    assert main([*command, "--engine", str(tiny_plan)]) == 2
    assert f"would overwrite {names}" in capsys.readouterr().err
    assert names.read_text() == "a.wav\n"


WRITERS = {
    "generate": ["generate", "a.wav", "-o", "FILE"],
    "stream": ["generate", "--stream", "a.wav", "-o", "FILE"],
    "describe": ["describe", "a.wav", "-o", "FILE"],
    "classify": ["classify", "a.wav", "--labels", "a,b", "-o", "FILE"],
    "plot": ["classify", "a.wav", "--labels", "a,b", "--plot", "FILE.png"],
    "embed": ["embed", "a.wav", "-o", "FILE.npy"],
    "safetensors": ["embed", "a.wav", "-o", "FILE.safetensors"],
    "explain": ["explain", "a.wav", "-o", "FILE"],
    "export": ["export", "a.pth", "-o", "FILE"],
    "convert": ["data", "convert", "clotho", ".", "-o", "FILE"],
}


def put(kind: str, path: Path, checkpoint: Path) -> None:
    if kind == "a recording":
        soundfile.write(path, np.zeros(100), 16_000, format="FLAC")
    else:
        shutil.copy(builtin_plan() if kind == "a plan" else checkpoint, path)


@pytest.mark.parametrize("verb", WRITERS)
@pytest.mark.parametrize("kind", ["a recording", "a plan", "a checkpoint"])
@pytest.mark.parametrize("way", ["itself", "link", "hard link", "part"])
def test_irreplaceable_files_are_not_replaced(
    verb: str,
    kind: str,
    way: str,
    folder: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [word.replace("FILE", str(folder / "out")) for word in WRITERS[verb]]
    there = folder / "there"
    put(kind, there, tiny_checkpoint)
    before = there.read_bytes()
    written = Path(command[-1])
    if way == "link":
        written.symlink_to(there)
    elif way == "hard link":
        written.hardlink_to(there)
    else:
        written = there.rename(f"{written}.part" if way == "part" else written)
    assert main(command) == 2
    option = "--plot" if verb == "plot" else "--output"
    assert capsys.readouterr().err == (
        f"pengi-rt: {option} would replace {written}, which is {kind}: name another, or give "
        "--force\n"
    )
    assert written.read_bytes() == before


def test_force_replaces_them_but_never_inputs(
    folder: Path, tiny_plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("a.wav", "b.wav")
    command = ["generate", "a.wav", "--force", "--engine", str(tiny_plan), "-o"]
    assert main([*command, "b.wav"]) == 0
    assert (folder / "b.wav").read_bytes()[:4] != b"RIFF"
    assert main([*command, "b.wav"]) == 0
    assert main([*command, "a.wav"]) == 2
    assert "--output a.wav would overwrite a.wav, an input of this run" in capsys.readouterr().err
    assert main([*command, str(tiny_plan)]) == 2
    assert (folder / "a.wav").read_bytes()[:4] == b"RIFF"


def test_force_writes_over_a_picture_of_another_kind(
    folder: Path, tiny_plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("a.wav", "a.png")
    command = ["classify", "--labels", "a,b", "--plot", "a.png", "--force", "-q"]
    command += ["--engine", str(tiny_plan)]
    assert main([*command, "a.png"]) == 2
    assert "--plot a.png would overwrite a.png, an input of this run" in capsys.readouterr().err
    assert main([*command, "a.wav", "-o", "./a.png"]) == 2
    assert "--plot and --output are the same file" in capsys.readouterr().err
    assert main([*command, "a.wav"]) == 0
    assert (folder / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_not_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "out").touch(0o200)
    assert main(["generate", "a.wav", "-o", "out"]) == 2
    assert "cannot be read (Permission denied)" in capsys.readouterr().err
