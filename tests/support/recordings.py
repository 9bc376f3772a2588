"""Small folders of recordings, their index, and the work the engine did for it."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pengi_rt.engine import Engine
from pengi_rt.tasks.search.index import Index

RATE = 16_000
LONG = "b/long.wav"  # windows at 0, 2 and 3 s of its 5 s


def write_sound(path: Path, seed: int, seconds: float = 1.0) -> None:
    """Noise, different for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(RATE * seconds))
    with path.open("wb") as file:  # soundfile may be unable to write to the name
        soundfile.write(file, samples, RATE, format=path.suffix[1:].upper())


def write_folder(folder: Path) -> Path:
    """Six recordings, one of them with three windows, and a file that is not a recording."""
    for seed, name in enumerate(("a.wav", "a/1.flac", "b/2.wav", "b/c/3.ogg", "z.wav")):
        write_sound(folder / name, seed)
    write_sound(folder / LONG, 5, 5.0)
    (folder / "notes.txt").write_text("no sound")
    return folder


class Spy:
    """Counts the windows and the texts that an engine's backend encodes."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.windows = self.texts = 0
        self.fail_after: int | None = None  # windows
        encoders = engine.backend.encoders
        audio, text = encoders.encode_audio, encoders.encode_text

        def encode_audio(windows: Any) -> Any:
            if self.fail_after is not None and self.windows >= self.fail_after:
                raise KeyboardInterrupt
            self.windows += len(windows)
            return audio(windows)

        def encode_text(ids: Any) -> Any:
            self.texts += len(ids)
            return text(ids)

        monkeypatch.setattr(encoders, "encode_audio", encode_audio)
        monkeypatch.setattr(encoders, "encode_text", encode_text)


def generation(index: Path) -> dict[str, bytes]:
    """The current generation's files, without its name."""
    return {path.name: path.read_bytes() for path in Index.open(index).generation.iterdir()}


def check_rows(index: Path, folder: Path, files: list[str]) -> None:
    """Check that rows stand for exactly these files, as they are now, in order."""
    rows = Index.open(index, verify=True).rows
    assert list(dict.fromkeys(row.file for row in rows)) == sorted(files)
    for row in rows:
        content, status = (folder / row.file).read_bytes(), (folder / row.file).stat()
        assert row.recording.sha256 == hashlib.sha256(content).hexdigest()
        assert row.recording[1:3] == (status.st_size, status.st_mtime_ns)
