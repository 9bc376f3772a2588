"""Tiles come from the default, a file or a measurement, which runs only on request."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from triton_interpreter import DEVICE, INTERPRETED

# isort: split
import torch
from triton.runtime.errors import OutOfResources

from pengi_rt.kernels import tuning_file
from pengi_rt.kernels.tuning import (
    ColdTimer,
    Problem,
    RunTile,
    Tuner,
    adopt,
    adopted,
    choose_tile,
    gpu_name,
    tuning,
    use_chooser,
)
from pengi_rt.kernels.tuning_file import Measured, Tile, file_for, read, remove_damaged, write

HERE = torch.empty(0, device=DEVICE).device
TILES: tuple[Tile, ...] = ((64, 4), (128, 4), (32, 2))


@dataclass(frozen=True)
class KernelProblem(Problem):
    dtype: torch.dtype
    rows: int
    norm: bool


class Kernel:
    """A launcher whose times are known."""

    def __init__(self, **us: float) -> None:
        self.us = dict(zip(TILES, us.values(), strict=True))
        self.launched: list[Tile] = []
        self.timed: list[Tile] = []
        self.errors: dict[Tile, Exception] = {}

    def launch(self, tile: Tile) -> None:
        if tile in self.errors:
            raise self.errors[tile]
        self.launched.append(tile)

    def timer(self, call: Callable[[], object]) -> float:
        call()
        self.timed.append(self.launched[-1])
        return self.us[self.launched[-1]]

    def chosen(self, rows: int = 5, tiles: Sequence[Tile] = TILES) -> Tile:
        problem = KernelProblem(torch.float16, rows, norm=True)
        return choose_tile("kernel", problem, tiles, self.launch, HERE)


NAME = "kernel dtype=float16 rows=5 norm=True"


@pytest.fixture
def kernel() -> Kernel:
    """A launcher whose second tile is the fastest."""
    return Kernel(table=10.0, other=7.0, third=8.0)


@pytest.fixture(autouse=True)
def nothing_adopted(tmp_path: Path) -> Iterator[None]:
    yield
    adopt(HERE, tmp_path / "no such folder")


def file_in(folder: Path) -> Path:
    return file_for(folder, gpu_name(HERE))


def test_the_default_is_chosen_and_nothing_is_measured(kernel: Kernel) -> None:
    assert kernel.chosen() == TILES[0]
    assert kernel.launched == []
    assert adopted(HERE) is None


def test_the_fastest_tile_is_chosen_and_stored(kernel: Kernel, tmp_path: Path) -> None:
    with tuning(HERE, tmp_path, kernel.timer) as tuner:
        assert kernel.chosen() == TILES[1]
        assert kernel.timed == list(TILES)
        assert kernel.chosen() == TILES[1]
        assert kernel.timed == list(TILES), "a known choice was measured again"
    assert tuner.measured == {NAME: Measured(TILES[1], 7.0, 10.0)}
    assert tuner.seconds > 0
    assert adopted(HERE) == file_in(tmp_path)
    assert (kernel.chosen(), kernel.chosen(rows=6)) == (TILES[1], TILES[0])


def test_another_process_uses_the_stored_tiles(kernel: Kernel, tmp_path: Path) -> None:
    with tuning(HERE, tmp_path, kernel.timer):
        kernel.chosen()
    content = json.loads(file_in(tmp_path).read_text())
    assert content["gpu"] == gpu_name(HERE)
    assert content["kernels"] == tuning_file.kernel_hash()
    assert content["tiles"] == {NAME: {"tile": [128, 4], "us": 7.0, "table_us": 10.0}}
    adopt(HERE, tmp_path / "elsewhere")
    assert (adopted(HERE), kernel.chosen()) == (None, TILES[0])
    launched = len(kernel.launched)
    adopt(HERE, tmp_path)
    assert (adopted(HERE), kernel.chosen()) == (file_in(tmp_path), TILES[1])
    assert len(kernel.launched) == launched
    assert not list(tmp_path.glob("*.part"))


def test_known_problems_are_not_measured_again(kernel: Kernel, tmp_path: Path) -> None:
    for rows in (5, 6):
        with tuning(HERE, tmp_path, kernel.timer) as tuner:
            kernel.chosen(5)
            kernel.chosen(rows)
        assert len(tuner.measured) == 1
    assert len(read(file_in(tmp_path))) == 2
    with tuning(HERE, tmp_path, kernel.timer) as tuner:
        kernel.chosen()
    assert tuner.measured == {}
    assert kernel.chosen() == TILES[1]


@pytest.mark.parametrize(("us", "expected"), [(9.85, 0), (9.75, 1)])
def test_a_difference_within_noise_keeps_the_default(us: float, expected: int) -> None:
    kernel = Kernel(table=10.0, other=us, third=20.0)
    with tuning(HERE, None, kernel.timer) as tuner:
        assert kernel.chosen() == TILES[expected]
    (found,) = tuner.measured.values()
    assert found == Measured(TILES[expected], kernel.us[TILES[expected]], 10.0)


@pytest.mark.parametrize(
    "error",
    [OutOfResources(300_000, 232_448, "shared memory"), RuntimeError("PassManager::run failed")],
)
def test_a_tile_that_cannot_run_is_left_out(kernel: Kernel, error: Exception) -> None:
    kernel.errors[TILES[1]] = error
    with tuning(HERE, None, kernel.timer) as tuner:
        assert kernel.chosen() == TILES[2]
    assert tuner.failed == 1
    assert TILES[1] not in kernel.timed


def test_the_default_tile_must_run(kernel: Kernel) -> None:
    kernel.errors[TILES[0]] = RuntimeError("no kernel image")
    with tuning(HERE, None, kernel.timer), pytest.raises(RuntimeError, match="no kernel image"):
        kernel.chosen()


def test_a_single_tile_is_not_measured(kernel: Kernel) -> None:
    with tuning(HERE, None, kernel.timer) as tuner:
        assert kernel.chosen(tiles=TILES[2:]) == TILES[2]
    assert (kernel.launched, tuner.measured) == ([], {})


def test_nothing_is_measured_in_a_capture(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    with tuning(HERE, None, kernel.timer):
        kernel.chosen()
        monkeypatch.setattr(Tuner, "_capturing", lambda _: True)
        kernel.timed.clear()
        assert (kernel.chosen(), kernel.chosen(rows=6)) == (TILES[1], TILES[0])
        assert kernel.timed == []


def test_a_stored_tile_that_the_launcher_lacks_is_ignored(kernel: Kernel, tmp_path: Path) -> None:
    write(file_in(tmp_path), "a GPU", {NAME: Measured((256, 1), 5.0, 10.0)})
    adopt(HERE, tmp_path)
    assert kernel.chosen() == TILES[0]
    with tuning(HERE, tmp_path, kernel.timer):
        assert kernel.chosen() == TILES[1]
    assert kernel.chosen() == TILES[1]


def test_an_interrupt_keeps_what_was_measured(kernel: Kernel, tmp_path: Path) -> None:
    def interrupted(rows: int) -> None:
        with tuning(HERE, tmp_path, kernel.timer):
            kernel.chosen(rows)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(5)
    assert list(read(file_in(tmp_path))) == [NAME]


def test_without_a_folder_nothing_is_stored(kernel: Kernel) -> None:
    with tuning(HERE, None, kernel.timer):
        assert kernel.chosen() == TILES[1]
    assert kernel.chosen() == TILES[0]


def test_an_engine_that_is_opened_meanwhile_does_not_end_it(kernel: Kernel, tmp_path: Path) -> None:
    with tuning(HERE, tmp_path, kernel.timer):
        adopt(HERE, tmp_path)
        assert kernel.chosen() == TILES[1]


def test_choosers_nest_and_are_restored(kernel: Kernel) -> None:
    def last(_: str, tiles: Sequence[Tile], __: RunTile) -> Tile:
        return tiles[-1]

    with use_chooser(HERE, last):
        with tuning(HERE, None, kernel.timer):
            assert kernel.chosen() == TILES[1]
        assert kernel.chosen() == TILES[2]
    assert kernel.chosen() == TILES[0]


DAMAGED = {
    "empty": "",
    "no JSON": "{",
    "a list": "[]",
    "no tiles": "{}",
    "tiles that are none": '{"tiles": 3}',
    "text": '{"tiles": {"kernel": "fast"}}',
    "half an entry": '{"tiles": {"kernel": {"tile": [1]}}}',
    "fractions": '{"tiles": {"kernel": {"tile": [0.5], "us": 1.0, "table_us": 1.0}}}',
    "no time": '{"tiles": {"kernel": {"tile": [1], "us": NaN, "table_us": 1.0}}}',
    "slower": '{"tiles": {"kernel": {"tile": [1], "us": 2.0, "table_us": 1.0}}}',
    "words": '{"tiles": {"kernel": {"tile": [1], "us": "2", "table_us": 1.0}}}',
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file(text: str, kernel: Kernel, tmp_path: Path) -> None:
    path = file_in(tmp_path)
    path.write_text(text)
    with pytest.raises(ValueError, match="delete it or run pengi-rt warmup --tune") as refused:
        adopt(HERE, tmp_path)
    assert str(refused.value).startswith(f"{path}: not a file of measured tiles (")
    assert "\n" not in str(refused.value)
    assert kernel.chosen() == TILES[0]
    with tuning(HERE, tmp_path, kernel.timer):
        kernel.chosen()
    assert list(read(path)) == [NAME]


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    file_in(tmp_path).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not a file of measured tiles"):
        adopt(HERE, tmp_path)


def test_only_damaged_files_are_removed(tmp_path: Path) -> None:
    whole, damaged = tmp_path / "a.json", tmp_path / "b.json"
    write(whole, "a GPU", {"kernel": Measured((1,), 1.0, 2.0)})
    damaged.write_text("{")
    remove_damaged(tmp_path)
    assert (whole.exists(), damaged.exists()) == (True, False)
    remove_damaged(tmp_path / "none")


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "gpu.json"
    entries = {f"kernel {i}": Measured((i,), 1.0, 2.0) for i in range(24)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: write(path, "a GPU", dict([item])), entries.items()))
    assert read(path) == entries


def test_leftovers_of_a_killed_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is harmless, and removed; without locks it stays, as its process may still be running."""
    path = tmp_path / "gpu.json"
    left = tmp_path / ".gpu.json.0123abcd.tmp"
    entries = {"a": Measured((1,), 1.0, 2.0)}

    def fail(*_: object) -> None:
        raise OSError("No locks available")

    left.write_text("left")
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", fail)
        write(path, "a GPU", entries)
    assert sorted(tmp_path.iterdir()) == [left, path]
    write(path, "a GPU", entries)
    assert list(tmp_path.iterdir()) == [path]
    assert read(path) == entries


def test_newer_measurements_replace_older_ones(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    write(path, "a GPU", {"a": Measured((1,), 1.0, 2.0), "b": Measured((1,), 1.0, 2.0)})
    write(path, "a GPU", {"a": Measured((2,), 0.5, 2.0)})
    assert read(path) == {"a": Measured((2,), 0.5, 2.0), "b": Measured((1,), 1.0, 2.0)}


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of two kernels, which are hashed instead of ours."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "a.py").write_text("a")
    (folder / "b.py").write_text("b")
    monkeypatch.setattr(tuning_file, "__file__", str(folder / "tuning_file.py"))
    yield folder
    tuning_file.kernel_hash.cache_clear()


def hash_again() -> str:
    tuning_file.kernel_hash.cache_clear()
    return tuning_file.kernel_hash()


def test_other_kernels_have_another_file(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = [hash_again()]
    assert hash_again() == hashes[0]
    assert file_for(Path("f"), "NVIDIA H200").name == f"nvidia-h200-{hashes[0][:16]}.json"
    assert file_for(Path("f"), "Tesla (V100)-x ").name.startswith("tesla-v100-x-")
    (sources / "b.py").write_text("c")
    hashes.append(hash_again())
    (sources / "b.py").rename(sources / "c.py")
    hashes.append(hash_again())
    monkeypatch.setattr("triton.__version__", "0.0")
    hashes.append(hash_again())
    (sources / "a.txt").write_text("no kernel")
    assert hash_again() == hashes[-1]
    assert len(set(hashes)) == 4


@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA GPU")
def test_the_timer_on_a_gpu() -> None:
    """Times are unknown, but twice the work must not take less time."""
    x = torch.ones(2**26, device=HERE)
    timer: Any = ColdTimer(HERE)
    assert 0 < timer(lambda: x.add_(1)) < timer(lambda: (x.add_(1), x.add_(1), x.add_(1)))
