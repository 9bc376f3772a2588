"""Folders of synthesized clips are the same from any number of processes, and never partial."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pengi_rt.errors import InputError, UsageError
from pengi_rt.training.scenes import write
from pengi_rt.training.scenes.facts import draw
from pengi_rt.training.scenes.mix import render_clip
from pengi_rt.training.scenes.words import rows


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_files_are_the_clips_in_16_bits(tmp_path: Path) -> None:
    write.write_clips(tmp_path, seed=4, start=7, count=2)
    assert sorted(files(tmp_path)) == ["audio/000007.wav", "audio/000008.wav"]
    for index in (7, 8):
        path = tmp_path / f"audio/{index:06d}.wav"
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        read, _ = soundfile.read(path, dtype="float32")
        # One 16-bit step: libsndfile multiplies by 32767 and reads back over 32768.
        np.testing.assert_allclose(read, render_clip(4, index)[1], atol=1.01 / 32_768)


def test_number_of_workers_and_range_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_SPAN", 2)
    write.write_clips(tmp_path / "one", seed=4, start=0, count=6)
    write.write_clips(tmp_path / "two", seed=4, start=0, count=6, workers=2)
    write.write_clips(tmp_path / "part", seed=4, start=3, count=3)
    one, part = files(tmp_path / "one"), files(tmp_path / "part")
    assert len(one) == 6
    assert one == files(tmp_path / "two")
    assert part == {name: one[name] for name in sorted(one)[3:]}


@pytest.mark.parametrize("before", [None, "7"])
def test_only_workers_are_limited_to_one_thread(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", before)
    with write._one_thread_each():
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_command_writes_a_training_set(tmp_path: Path) -> None:
    assert write.main([str(tmp_path), "--seed", "11", "--count", "3", "--start", "5"]) == 0
    assert set(files(tmp_path)) == {
        *(f"audio/{index:06d}.wav" for index in (5, 6, 7)),
        "facts.jsonl",
        "manifest.jsonl",
    }
    manifest = lines(tmp_path / "manifest.jsonl")
    wanted = [
        {"audio": f"audio/{index:06d}.wav", **row}
        for index in (5, 6, 7)
        for row in rows(draw(11, index), np.random.default_rng([11, index, 2]))
    ]
    assert manifest == json.loads(json.dumps(wanted))
    assert {next(iter(row)) for row in manifest} == {"audio"}
    facts = lines(tmp_path / "facts.jsonl")
    assert [row["index"] for row in facts] == [5, 6, 7]
    assert [row["place"] for row in facts] == [draw(11, index).place for index in (5, 6, 7)]


def test_text_only_makes_no_sound(tmp_path: Path) -> None:
    spoken, silent = tmp_path / "spoken", tmp_path / "silent"
    write.write_text(spoken, 11, 0, 3)
    assert write.main([str(silent), "--seed", "11", "--count", "3", "--text-only"]) == 0
    assert set(files(silent)) == {"facts.jsonl", "manifest.jsonl"}
    with_audio = lines(spoken / "manifest.jsonl")
    for row in with_audio:
        del row["audio"]
    text = lines(silent / "manifest.jsonl")
    assert [row for row in text if row["task"] not in ("check", "order")] == with_audio
    assert len(text) > len(with_audio)


def test_manifest_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write.write_text(tmp_path, 1, 0, 2)
    before = files(tmp_path)["manifest.jsonl"]

    def full(*_: object) -> list[dict[str, object]]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "rows", full)
    with pytest.raises(InputError, match=r"cannot write .*manifest.jsonl: No space left on device"):
        write.write_text(tmp_path, 2, 0, 2)
    after = files(tmp_path)
    assert after["manifest.jsonl"] == before
    assert set(after) == {"facts.jsonl", "manifest.jsonl"}


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1, 0, 1, 1), "seed must be at least 0, got -1"),
        ((0, -1, 1, 1), "start must be at least 0, got -1"),
        ((0, 0, 0, 1), "count must be at least 1, got 0"),
        ((0, 0, 1, 0), "workers must be at least 1, got 0"),
    ],
)
def test_invalid_numbers(tmp_path: Path, numbers: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write.write_clips(tmp_path, *numbers)
    assert files(tmp_path) == {}


def test_an_invalid_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    assert write.main([str(taken), "--seed", "0", "--count", "1"]) == InputError.exit_code
    told = capsys.readouterr().err
    assert told.startswith(f"error: cannot make the folder {taken / 'audio'}: ")
    assert told.count("\n") == 1


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "audio/000000.wav").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write .*000000\.wav: "):
        write.write_clips(tmp_path, 0, 0, 1)


def test_recordings_are_replaced_only_with_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tmp_path), "--seed", "11", "--count", "2"]
    (tmp_path / "audio").mkdir()
    left = tmp_path / "audio" / ".000007.wav.0123abcd.tmp"
    for path in (left, tmp_path / "audio" / "000001.wav"):
        path.write_bytes(b"mine")
    assert write.main(command) == 2
    assert "000001.wav: already exists: name another folder, or give --force" in (
        capsys.readouterr().err
    )
    assert (tmp_path / "audio" / "000001.wav").read_bytes() == b"mine"
    assert write.main([*command, "--force"]) == 0
    made = {"audio/000000.wav", "audio/000001.wav", "facts.jsonl", "manifest.jsonl"}
    assert set(files(tmp_path)) == made
    assert not left.exists()
