"""Which of several tiles a launcher takes: its table's, or the fastest one measured on this GPU.

A launcher says what decides and which tiles it can run with, its table's first. That one is taken
unless measured choices were adopted for the device; nothing is measured but inside :func:`tuning`.
A result therefore depends on the shapes and on the file of choices alone. Another tile may add in
another order: then the last bits differ.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final

import torch
from triton.errors import TritonError

from pengi_rt.kernels.tuning_file import Measured, Tile, file_for, read, read_or_nothing, write

Launch = Callable[[Tile], object]
"""Puts a kernel with such a tile into the current stream, as often as wanted with one result."""
Chooser = Callable[[str, Sequence[Tile], Launch], Tile]
"""Takes one of the tiles for what the name says."""
Timer = Callable[[Callable[[], object]], float]
"""Microseconds on the device of what is called."""

NOISE: Final = 0.02
"""Of a time: a tile that is not faster by more than this is none worth leaving the table for."""
FLUSH_BYTES: Final = 2**30
"""Many times any L2 cache; filling so many takes an H200 0.25 ms, and others longer."""
WARM_UPS, REPEATS = 4, 32

_adopted: dict[torch.device, "Adopted"] = {}
_deciding: dict[torch.device, Chooser] = {}
"""What decides instead of the tables, of which :func:`choosing` comes first. No other state."""


def chosen(
    kernel: str,
    shape: Mapping[str, object],
    tiles: Sequence[Tile],
    launch: Launch,
    device: torch.device,
) -> Tile:
    """One of ``tiles``.

    Args:
        kernel: by name.
        shape: all that a time depends on, and which ``tiles`` there are.
        tiles: that the launcher can run with; the table's first.
        launch: runs with one of them.
        device: of the tensors.
    """
    chooser = _deciding.get(device) or _adopted.get(device)
    if chooser is None:
        return tiles[0]
    words = (f"{key}={value}".replace("torch.", "") for key, value in shape.items())
    return chooser(" ".join((kernel, *words)), tiles, launch)


@contextmanager
def choosing(device: torch.device, chooser: Chooser) -> Iterator[None]:
    """Let ``chooser`` decide for a device meanwhile."""
    before = _deciding.get(device)
    _deciding[device] = chooser
    try:
        yield
    finally:
        del _deciding[device]
        if before is not None:
            _deciding[device] = before


@dataclass(frozen=True, slots=True)
class Adopted:
    """The choices of a file."""

    path: Path
    choices: Mapping[str, Measured]

    def __call__(self, name: str, tiles: Sequence[Tile], launch: Launch) -> Tile:  # noqa: ARG002
        """What was measured, if it is there and can be run."""
        measured = self.choices.get(name)
        return measured.tile if measured is not None and measured.tile in tiles else tiles[0]


def adopt(device: torch.device, folder: Path) -> None:
    """Take on ``device`` what was measured on such a GPU, if ``folder`` has a file of it.

    Raises:
        ValueError: the file is damaged.
    """
    path = file_for(folder, gpu_name(device))
    found = Adopted(path, read(path)) if path.exists() else None
    _adopted.pop(device, None)
    if found is not None:
        _adopted[device] = found


def adopted(device: torch.device) -> Path | None:
    """The file whose choices are taken on ``device``."""
    return _adopted[device].path if device in _adopted else None


@dataclass(slots=True)
class Tuner:
    """Measures what is not known yet.

    Attributes:
        device: on which.
        timer: by which.
        known: what was measured before, and is not again.
        measured: what this one has measured.
        failed: tiles that could not be compiled, or would need more than the device has.
        seconds: that measuring took, compilation included.
    """

    device: torch.device
    timer: Timer
    known: Mapping[str, Measured] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)
    failed: int = 0
    seconds: float = 0.0

    def __call__(self, name: str, tiles: Sequence[Tile], launch: Launch) -> Tile:
        """The fastest; while a graph is captured, which cannot be timed, what is known of it."""
        found = self.measured.get(name) or self.known.get(name)
        if found is not None and found.tile in tiles:
            return found.tile
        if len(tiles) == 1 or self._capturing():
            return tiles[0]
        started = perf_counter()
        found = self.measured[name] = self._measured(tiles, launch)
        self.seconds += perf_counter() - started
        return found.tile

    @property
    def gains(self) -> list[float]:
        """Microseconds by which each choice is faster than the table's; 0 where it is that."""
        return [found.table_us - found.us for found in self.measured.values()]

    def _measured(self, tiles: Sequence[Tile], launch: Launch) -> Measured:
        launch(tiles[0])  # compiled for every GPU by a test: what it raises is no reason to go on
        running = [tiles[0], *(tile for tile in tiles[1:] if self._runs(tile, launch))]
        times = [self.timer(partial(launch, tile)) for tile in running]
        least = min(times)
        best = times.index(least) if least < times[0] * (1 - NOISE) else 0
        return Measured(running[best], times[best], times[0])

    def _runs(self, tile: Tile, launch: Launch) -> bool:
        """Once; which compiles it."""
        try:
            launch(tile)
        except (torch.AcceleratorError, torch.OutOfMemoryError):  # which are no fault of the tile
            raise
        except (TritonError, RuntimeError):  # the latter where a pass of the compiler gives up
            self.failed += 1
            return False
        return True

    def _capturing(self) -> bool:
        return self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@contextmanager
def tuning(
    device: torch.device, folder: Path | None, timer: Timer | None = None
) -> Iterator[Tuner]:
    """Measure every choice that comes up on ``device`` and is not known, and keep it.

    What was measured is written at the end, whatever ends it, and adopted. A damaged file is
    replaced.

    Args:
        device: is the current one.
        folder: of the files; None keeps nothing.
        timer: instead of :class:`ColdTimer`.

    Yields:
        What measures.

    Raises:
        CannotWriteError: the file cannot be written.
    """
    path = folder and file_for(folder, gpu_name(device))
    tuner = Tuner(device, timer or ColdTimer(device), read_or_nothing(path) if path else {})
    try:
        with choosing(device, tuner):
            yield tuner
    finally:
        if path and tuner.measured:
            write(path, gpu_name(device), tuner.measured)
        if folder and (tuner.measured or tuner.known):
            adopt(device, folder)


def gpu_name(device: torch.device) -> str:
    """What files of choices are named after."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


class ColdTimer:
    """The mean of the middle half of many times, each from an L2 cache without our tensors.

    In a decode step every layer's weights come from memory. The cache is overwritten with so much
    that the host has launched the kernel before the device gets to it: by ``do_bench`` of Triton,
    whose 256 MB are written within 0.07 ms, a kernel of 5 microseconds would be timed with a part
    of Python's launch. A mean, as events tell no times less than half a microsecond apart.
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
