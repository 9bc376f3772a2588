"""What verbs that hear recordings share: no file that one reads is where it writes."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pengi_rt.cli.main import main
from pengi_rt.cli.resume import saved_rows

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
def test_what_is_read_is_not_overwritten(
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


def test_a_list_in_the_place_of_saved_rows(
    folder: Path, tiny_plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would go even without --resume, when the output is whole."""
    names = saved_rows("out.jsonl")
    names.write_text("a.wav\n")
    command = ["generate", f"@{names}", "-o", "out.jsonl", "--format", "jsonl"]
    assert main([*command, "--engine", str(tiny_plan)]) == 2
    assert f"would overwrite {names}" in capsys.readouterr().err
    assert names.read_text() == "a.wav\n"
