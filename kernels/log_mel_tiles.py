"""The sizes of the work of :mod:`pengi_rt.kernels.log_mel`, and its tiles."""

from dataclasses import dataclass
from typing import Final

import torch
import triton

from pengi_rt.kernels.launch import WAVE
from pengi_rt.kernels.log_mel_tables import SOURCES, LogMelTables
from pengi_rt.kernels.tuning import Problem
from pengi_rt.kernels.tuning_file import Tile

SCHEDULES: Final = {
    32: ((4, 2), (8, 2), (4, 1)),
    64: ((4, 2), (4, 1)),  # 8 warps would duplicate work along 64 rows, and spill on an L40S
}
"""Warps and stages by the source frames of a tile, the default first; one stage leaves registers
for a second program on the processor."""


@dataclass(frozen=True, slots=True)
class LogMelProblem(Problem):
    """One size of the work."""

    out: torch.dtype
    precision: str
    B: int
    frames: int
    half: int
    bands: int
    size: int
    source: int | None


def default_source(batch: int, tables: LogMelTables) -> int:
    """Source frames of a tile: 32 while tiles of 64 are too few to keep the GPU busy.

    Predictions (arithmetic, not measured) for ``base`` on an H200, which makes at most 165 TFLOP/s
    in three passes of TF32 and reads about 5.5 TB/s from its L2 cache. One clip is 35 tiles x 5
    groups of 128 bins: 1.5 GFLOP take 9 us, and every tile reads the basis from the cache, 92 MB in
    17 us, which is the limit. 64 clips are 1024 tiles of 512 bins: 69 GFLOP take 0.42 ms, and 2.1
    GB 0.39 ms; in tiles of 32 they would be 94 GFLOP and 5.9 GB, 1.1 ms. DRAM alone would allow
    0.02 ms.
    """
    step, groups = tables.cuts[64]
    programs = batch * triton.cdiv(len(tables.first), step) * len(groups)
    return 64 if programs >= WAVE else 32


def tiles(batch: int, tables: LogMelTables, source: int | None) -> tuple[Tile, ...]:
    """Source frames, warps and stages: the default, and what may be faster."""
    first = source or default_source(batch, tables)
    sizes = (first, *(size for size in SOURCES if source is None and size != first))
    return tuple((size, *schedule) for size in sizes for schedule in SCHEDULES[size])
