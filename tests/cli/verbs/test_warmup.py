"""``pengi-rt warmup`` without a GPU: a fake engine launches what a real one would."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_line import Capture, assert_refused, run

from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.family import FamilyConfig
from pengi_rt.config.pengi import pengi_config
from pengi_rt.engine import Engine
from pengi_rt.errors import UsageError
from pengi_rt.kernels import tuning
from pengi_rt.kernels.tuning_file import Tile, file_for
from pengi_rt.session.session import Session

CPU = torch.device("cpu")
TIMES: dict[Tile, float] = {(64,): 10.0, (32,): 7.5, (16,): 9.0}


@dataclass(frozen=True)
class Clips(tuning.Problem):
    B: int


class Backend:
    """A backend with one kernel, which every batch size launches once."""

    name = "triton"
    precision = "fp16"

    def __init__(self, config: FamilyConfig) -> None:
        self.config = config
        self.launched: list[Tile] = []
        self.asked: list[tuple[int, int, int]] = []

    def warm_up(self, prefix: int, clips: int, options: DecodeOptions) -> dict[str, Any]:
        self.asked.append((prefix, clips, options.beam_size))
        self.took = tuning.choose_tile("kernel", Clips(clips), [*TIMES], self.launched.append, CPU)
        return {"audio": SimpleNamespace(first_run=0.25, capture=0.5)}

    def timer(self, _: torch.device) -> tuning.Timer:
        """Replaces the device's timer."""

        def us(call: Callable[[], object]) -> float:
            call()
            return TIMES[self.launched[-1]]

        return us


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tiles are stored: not in this user's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pengi-rt" / "tuning"


@pytest.fixture
def backend(engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """Replaces the GPU for the command."""
    backend = Backend(engine.config)
    fake = Engine(Session(engine.plan, backend))  # type: ignore[arg-type]

    @contextmanager
    def load(plan: object, **options: object) -> Iterator[object]:
        assert options == {"backend": "triton", "device": "cuda", "precision": "fp16"}
        tuning.adopt(CPU, folder)
        yield fake

    monkeypatch.setattr("pengi_rt.engine.load", load)
    monkeypatch.setattr("pengi_rt.backends.triton.device.require_cuda", lambda: CPU)
    monkeypatch.setattr(tuning, "ColdTimer", backend.timer)
    yield backend
    tuning.adopt(CPU, folder / "none")


def warm_up(capsys: Capture, *arguments: str) -> list[str]:
    """The lines of a successful run, with runs of spaces collapsed."""
    code, out, err = run(capsys, "warmup", "--precision", "fp16", *arguments)
    assert (code, err) == (0, "")
    return [" ".join(line.split()) for line in out.splitlines()]


def test_parts_and_seconds(backend: Backend, engine: Engine, capsys: Capture) -> None:
    lines = warm_up(capsys, "--batch-size", "1", "8", "--beam-size", "2")
    assert backend.asked == [
        (pengi_config(engine.config).prefix_length, clips, 2) for clips in (1, 8)
    ]
    for line, name in zip(
        lines, ("import torch", "CUDA context", "packages, weights"), strict=False
    ):
        assert re.fullmatch(rf"{name} \d+\.\d{{3}} s", line)
    lines = lines[2:]
    assert lines[1:5] == [
        "audio, batch 1: first run, compilation included 0.250 s",
        "audio, batch 1: capture 0.500 s",
        "audio, batch 8: first run, compilation included 0.250 s",
        "audio, batch 8: capture 0.500 s",
    ]
    assert lines[5] == "measured tiles: none, pengi-rt warmup --tune would measure some"
    assert lines[6].startswith("ready, after PyTorch and the device ")
    assert (backend.launched, backend.took) == ([], (64,))


def test_tiles_are_measured_once(backend: Backend, folder: Path, capsys: Capture) -> None:
    path = file_for(folder, "interpreter")
    lines = warm_up(capsys, "--tune", "--batch-size", "1", "8")
    lines = lines[2:]
    assert lines[5].startswith("of which measuring 2 choices of tiles ")
    assert lines[6] == "tiles other than the table's: 2, together 5.0 us faster"
    assert lines[7] == f"measured tiles: {path}"
    assert list(json.loads(path.read_text())["tiles"]) == ["kernel B=1", "kernel B=8"]
    assert backend.took == (32,)

    launched = len(backend.launched)
    assert warm_up(capsys)[5] == f"measured tiles: {path}"
    assert warm_up(capsys, "--tune")[5].startswith("of which measuring 0 choices of tiles 0.000 s")
    assert (backend.took, len(backend.launched)) == ((32,), launched)


def test_tuning_starts_over_from_a_damaged_file(
    backend: Backend, folder: Path, capsys: Capture
) -> None:
    path = file_for(folder, "interpreter")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert f"measured tiles: {path}" in warm_up(capsys, "--tune")
    assert list(json.loads(path.read_text())["tiles"]) == ["kernel B=1"]


def test_a_cache_that_cannot_be_written(backend: Backend, folder: Path, capsys: Capture) -> None:
    folder.parent.mkdir()
    folder.touch()
    code, _, err = run(capsys, "warmup", "--precision", "fp16", "--tune")
    assert code == 5
    assert err == (
        f"pengi-rt: {folder}: cannot be written, File exists; make room there, or set "
        "XDG_CACHE_HOME\n"
    )


def test_no_batch(capsys: Capture) -> None:
    message = "batch_size must be a whole number of at least 1, got 0"
    assert_refused(capsys, ["warmup", "--batch-size", "0"], 2, message)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([1, 0], "batch_size must be a whole number of at least 1, got 0"),
        (["two"], "batch_size must be a whole number of at least 1, got 'two'"),
        (8, "batch_sizes must be a list of whole numbers, got 8"),
    ],
)
def test_batch_sizes_are_checked_at_the_call(sizes: Any, message: str, engine: Engine) -> None:
    with pytest.raises(UsageError) as caught:
        engine.warm_up(sizes)
    assert str(caught.value) == message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(folder: Path, capsys: Capture) -> None:
    code, _, err = run(capsys, "warmup", "--tune")
    assert code == 5
    assert "CUDA" in err
    assert not folder.exists()
