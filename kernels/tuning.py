"""Choose a launcher's tile: its default, or the fastest one measured on this GPU.

A launcher describes its :class:`Problem` and lists the tiles it can run with, the default first.
The default is taken unless measured tiles were adopted for the device; only :func:`tuning` measures
anything. So a result depends on the shapes and on the file of measured tiles alone. Another tile
may add in another order, which changes the last bits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final

import torch
from triton.errors import TritonError

from pengi_rt.kernels.tuning_file import Measured, Tile, file_for, read, read_if_valid, write

RunTile = Callable[[Tile], object]
"""Launches a kernel with the given tile; running it again gives the same result."""
Chooser = Callable[[str, Sequence[Tile], RunTile], Tile]
"""Chooses a tile for the problem of that name."""
Timer = Callable[[Callable[[], object]], float]
"""Microseconds that a call takes on the device."""

NOISE: Final = 0.02
"""A tile must be faster than the default by more than this share of its time."""
FLUSH_BYTES: Final = 2**30
"""Many times any L2 cache. Filling them takes 0.25 ms on an H200, and longer on other GPUs."""
WARM_UPS, REPEATS = 4, 32

_adopted: dict[torch.device, "Adopted"] = {}
_choosers: dict[torch.device, Chooser] = {}
"""Set by :func:`use_chooser`; they take precedence over adopted tiles. There is no other state."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One size of a kernel's work.

    Each launcher has a subclass. Its fields are everything that the kernel's time depends on, and
    that decides which tiles it can run with.
    """

    @property
    def key(self) -> str:
        """The fields, as files of measured tiles spell them."""
        pairs = (f"{each.name}={getattr(self, each.name)}" for each in fields(self))
        return " ".join(pairs).replace("torch.", "")


def choose_tile(
    kernel: str, problem: Problem, tiles: Sequence[Tile], run: RunTile, device: torch.device
) -> Tile:
    """One of ``tiles``.

    Args:
        kernel: its name.
        problem: what it is to do.
        tiles: those that the launcher can run with, the default first.
        run: launches the kernel with one of them.
        device: where the tensors are.
    """
    chooser = _choosers.get(device) or _adopted.get(device)
    if chooser is None:
        return tiles[0]
    return chooser(f"{kernel} {problem.key}", tiles, run)


@contextmanager
def use_chooser(device: torch.device, chooser: Chooser) -> Iterator[None]:
    """Let ``chooser`` choose all tiles on ``device`` inside the block."""
    before = _choosers.get(device)
    _choosers[device] = chooser
    try:
        yield
    finally:
        del _choosers[device]
        if before is not None:
            _choosers[device] = before


@dataclass(frozen=True, slots=True)
class Adopted:
    """The measured tiles of a file."""

    path: Path
    tiles: Mapping[str, Measured]

    def __call__(self, name: str, tiles: Sequence[Tile], run: RunTile) -> Tile:  # noqa: ARG002
        """The measured tile, if there is one and the launcher can run it; else the default."""
        measured = self.tiles.get(name)
        return measured.tile if measured is not None and measured.tile in tiles else tiles[0]


def adopt(device: torch.device, folder: Path) -> None:
    """Use the tiles measured on this kind of GPU on ``device``, if ``folder`` has their file.

    Raises:
        ValueError: the file is damaged.
    """
    path = file_for(folder, gpu_name(device))
    adopted_now = Adopted(path, read(path)) if path.exists() else None
    _adopted.pop(device, None)
    if adopted_now is not None:
        _adopted[device] = adopted_now


def adopted(device: torch.device) -> Path | None:
    """The file of measured tiles that are used on ``device``."""
    return _adopted[device].path if device in _adopted else None


@dataclass(slots=True)
class Tuner:
    """Measures the tiles of every problem it has not met yet.

    Attributes:
        device: where it measures.
        timer: how it measures.
        known: what was measured before and is not measured again.
        measured: what this tuner has measured.
        failed: how many tiles did not compile, or needed more than the device has.
        seconds: how long measuring took, compilation included.
    """

    device: torch.device
    timer: Timer
    known: Mapping[str, Measured] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)
    failed: int = 0
    seconds: float = 0.0

    def __call__(self, name: str, tiles: Sequence[Tile], run: RunTile) -> Tile:
        """The fastest tile; the default of a new problem met while a graph is captured."""
        known = self.measured.get(name) or self.known.get(name)
        if known is not None and known.tile in tiles:
            return known.tile
        if len(tiles) == 1 or self._capturing():
            return tiles[0]
        started = perf_counter()
        measured = self.measured[name] = self._measure(tiles, run)
        self.seconds += perf_counter() - started
        return measured.tile

    @property
    def gains(self) -> list[float]:
        """Microseconds by which each chosen tile beats the default; 0 where it is the default."""
        return [measured.table_us - measured.us for measured in self.measured.values()]

    def _measure(self, tiles: Sequence[Tile], run: RunTile) -> Measured:
        run(tiles[0])  # a test compiles the defaults for every GPU: if one fails, stop
        running = [tiles[0], *(tile for tile in tiles[1:] if self._try(tile, run))]
        times = [self.timer(partial(run, tile)) for tile in running]
        least = min(times)
        best = times.index(least) if least < times[0] * (1 - NOISE) else 0
        return Measured(running[best], times[best], times[0])

    def _try(self, tile: Tile, run: RunTile) -> bool:
        """Run a tile once, which compiles it, and say whether it could."""
        try:
            run(tile)
        except (torch.AcceleratorError, torch.OutOfMemoryError):  # not the tile's fault
            raise
        except (TritonError, RuntimeError):  # RuntimeError: a pass of the compiler gave up
            self.failed += 1
            return False
        return True

    def _capturing(self) -> bool:
        return self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@contextmanager
def tuning(
    device: torch.device, folder: Path | None, timer: Timer | None = None
) -> Iterator[Tuner]:
    """Measure the tiles of every new problem that comes up on ``device`` inside the block.

    At the end, even after an exception, the results are written and adopted. A damaged file is
    replaced.

    Args:
        device: the current device.
        folder: where the files of measured tiles are; None keeps nothing.
        timer: used instead of :class:`ColdTimer`.

    Yields:
        The tuner.

    Raises:
        CannotWriteError: the file cannot be written.
    """
    path = folder and file_for(folder, gpu_name(device))
    tuner = Tuner(device, timer or ColdTimer(device), read_if_valid(path) if path else {})
    try:
        with use_chooser(device, tuner):
            yield tuner
    finally:
        if path and tuner.measured:
            write(path, gpu_name(device), tuner.measured)
        if folder and (tuner.measured or tuner.known):
            adopt(device, folder)


def gpu_name(device: torch.device) -> str:
    """The GPU's name, after which its file of measured tiles is named."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


class ColdTimer:
    """Times a call with a cold L2 cache: the mean of the middle half of many runs.

    In a decode step every layer's weights come from memory, so the cache is overwritten before each
    run. That takes long enough for the host to have launched the kernel before the device gets to
    it. Triton's ``do_bench`` overwrites 256 MB, within 0.07 ms, and would count part of Python's
    launch in the time of a 5 us kernel. A mean, because events resolve only half a microsecond.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flushed = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)

    def __call__(self, call: Callable[[], object]) -> float:
        """Microseconds on the device."""
        events = [
            [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            for _ in range(WARM_UPS + REPEATS)
        ]
        torch.cuda.synchronize(self._device)
        for start, end in events:
            self._flushed.zero_()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize(self._device)
        times = sorted(start.elapsed_time(end) for start, end in events[WARM_UPS:])
        middle: list[float] = times[REPEATS // 4 : -REPEATS // 4]
        return 1e3 * sum(middle) / len(middle)
