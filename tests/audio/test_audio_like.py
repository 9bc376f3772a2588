"""What callers may pass: one recording or several, and how each is read."""

import io
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from encoded import encode

from pengi_rt.audio.audio_like import is_one, is_several, plain_recording
from pengi_rt.audio.recording import load_windows
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import AudioError

RATE = 16_000
CONFIG = PengiConfig.preset("tiny")
SAMPLES = np.linspace(-0.5, 0.5, 800, dtype=np.float32)
SOUND = (SAMPLES, RATE)
DATA = encode(SAMPLES[:, None], RATE, "WAV", "FLOAT")


class Decoded:
    """Mimics torchcodec's AudioSamples."""

    data = torch.tensor(np.stack([SAMPLES, SAMPLES]))
    sample_rate = RATE


class Decoder:
    """Mimics torchcodec's AudioDecoder, which rows of Hugging Face datasets contain today."""

    def get_all_samples(self) -> Decoded:
        return Decoded()


class Failing:
    def get_all_samples(self) -> Decoded:
        raise RuntimeError("no\nframes")


class Text(str):
    __slots__ = ()


class AsBytes:
    def __init__(self, path: Path) -> None:
        self._path = bytes(path)

    def __fspath__(self) -> Any:
        return self._path


class NoPath:
    def __fspath__(self) -> Any:
        return 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    path.write_bytes(DATA)
    return path


def sources(path: Path) -> dict[str, tuple[Any, str]]:
    """Every kind of source, with the name it is given."""
    return {
        "a string of a subclass": (Text(path), str(path)),
        "NumPy's string": (np.str_(path), str(path)),
        "a path of bytes": (AsBytes(path), str(path)),
        "bytearray": (bytearray(DATA), "<bytearray>"),
        "memoryview": (memoryview(DATA), "<memoryview>"),
        "decoded dataset": ({"array": SAMPLES, "sampling_rate": RATE, "path": None}, "<dict>"),
        "named dataset": ({"array": SAMPLES, "sampling_rate": RATE, "path": "x.wav"}, "x.wav"),
        "tensors of a dataset": (
            {"array": torch.tensor(SAMPLES), "sampling_rate": torch.tensor(RATE)},
            "<dict>",
        ),
        "bytes of a dataset": ({"bytes": DATA, "path": "x.wav"}, "x.wav"),
        "path of a dataset": ({"bytes": None, "path": str(path)}, str(path)),
        "another mapping": (UserDict(array=SAMPLES, sampling_rate=RATE), "<UserDict>"),
        "torchcodec's samples": (Decoded(), "<Decoded>"),
        "torchcodec's decoder": (Decoder(), "<Decoder>"),
        "a tensor": ((torch.tensor(SAMPLES), RATE), "<array>"),
        "a list": ((SAMPLES.tolist(), float(RATE)), "<array>"),
    }


def test_every_kind_of_input_is_one_recording_with_the_same_samples(path: Path) -> None:
    want = load_windows(SOUND, CONFIG).samples
    for kind, (source, name) in sources(path).items():
        got = load_windows(source, CONFIG)
        np.testing.assert_array_equal(got.samples, want, err_msg=kind)
        assert got.name == name
        assert is_one(source), kind
        assert not is_several(source), kind
        assert load_windows(source, CONFIG, name="dog").name == "dog"


REFUSED: dict[str, tuple[Any, str]] = {
    "scipy's order": ((RATE, SAMPLES), "swap them"),
    "samples alone": (SAMPLES, "samples need their rate, as in (samples, rate)"),
    "a tensor alone": (torch.tensor(SAMPLES), "samples need their rate"),
    "a list alone": (SAMPLES.tolist(), "samples need their rate"),
    "a list of several": (["a.wav", "b.wav"], "these are several recordings; read them one by one"),
    "names": (
        np.array(["a.wav", "b.wav"]),
        "give a list of names, not an array",
    ),
    "a set": ({"a.wav"}, "make a list of them"),
    "an iterator": (iter(["a.wav"]), "make a list of them"),
    "a number": (np.int64(3), "a number alone is not a recording"),
    "a class": (np.ndarray, "this is not a recording"),
    "an empty dict": (
        {},
        "a dict needs the keys 'array' and 'sampling_rate', or 'bytes', or 'path'; got n",
    ),
    "a row of a dataset": ({"audio": {"path": "a.wav"}}, "got 'audio'"),
    "no bytes, no path": ({"bytes": None, "path": None}, "got 'bytes', 'path'"),
    "text for bytes": ({"bytes": "RIFF"}, "got 'bytes'"),
    "a URL": ("https://example.org/a.wav", "URLs are not supported; download it and give the file"),
    "another URL": ({"path": "hf://datasets/a.wav"}, "URLs are not supported"),
    "a text file": (io.StringIO("RIFF"), "reads as str; open it in binary mode"),
    "a decoder that fails": (Failing(), r"its decoder cannot read it: 'no\nframes'"),
    "no path": (NoPath(), "<NoPath>: is not a path: expected"),
    "a file and a rate": ((io.BytesIO(DATA), RATE), "a file has its own rate; give only the file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    source, message = REFUSED[kind]
    with pytest.raises(AudioError) as caught:
        load_windows(source, CONFIG)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_open_files_at_another_position_or_not_readable(path: Path) -> None:
    end = io.BytesIO(DATA)
    end.seek(0, io.SEEK_END)
    closed = path.open("rb")
    closed.close()
    for source, message in (
        (end, "empty: nothing is left to read; seek(0) goes back to its start"),
        (closed, "cannot be read: read of closed file"),
        (bytes(path), "the bytes are a path; give it as a string"),
    ):
        with pytest.raises(AudioError, match=r"^[^\n]*$") as caught:
            load_windows(source, CONFIG)
        assert message in str(caught.value)
    with path.open("ab") as file, pytest.raises(AudioError, match="is not open for reading"):
        load_windows(file, CONFIG)
    with soundfile.SoundFile(path) as file, pytest.raises(AudioError, match="is an open sound f"):
        load_windows(file, CONFIG)


def test_a_file_whose_name_looks_like_a_url_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ab:").mkdir()
    Path("ab:/a.wav").write_bytes(DATA)
    assert load_windows("ab://a.wav", CONFIG).name == "ab://a.wav"


@pytest.mark.parametrize(
    ("source", "several"),
    [
        ([], True),
        ([SOUND], True),
        ([SAMPLES, RATE], True),
        ((SOUND, SOUND), True),
        (("a.wav", "b.wav"), True),
        (({"path": "a.wav"}, {"path": "b.wav"}), True),
        ((SAMPLES, SAMPLES), False),
        ((RATE, SAMPLES), False),
        ((SAMPLES.tolist(), "16000"), False),
        (("a.wav", RATE), False),
        ((SAMPLES, None), False),
        ("a.wav", False),
        (memoryview(DATA), False),
        (SAMPLES, False),
        ({"path": "a.wav"}, False),
        (Decoder(), False),
    ],
)
def test_one_recording_or_several(source: Any, several: bool) -> None:
    assert is_several(source) is several
    assert is_one(source) is not several


def test_paths_may_be_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    assert plain_recording(tmp_path / "a", None) == (tmp_path / "a", str(tmp_path / "a"))
    assert plain_recording("-", None) == ("-", "<stdin>")
    assert plain_recording(Path("-"), None) == (Path("-"), "-")
