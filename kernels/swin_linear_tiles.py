"""The sizes of the work of :mod:`pengi_rt.kernels.swin_linear`, and its tiles."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
import triton

from pengi_rt.kernels.launch import WAVE
from pengi_rt.kernels.tuning import Problem
from pengi_rt.kernels.tuning_file import Tile

TILES: Final = {
    2: ((128, 128, 64, 8, 3), (128, 64, 64, 8, 3), (64, 32, 64, 4, 4)),
    4: ((64, 64, 32, 8, 3), (64, 32, 32, 4, 3)),
}
"""Rows, columns and depth of a tile, warps and stages, by the bytes of an element, largest first.
They fit every GPU since the A100."""
OTHER_TILES: Final = {
    2: (
        (128, 128, 64, 8, 4),  # one more stage: 128 KiB, which only the A100 and the H100 have
        (64, 128, 64, 8, 3),  # half the rows, for when 128 leave processors idle
        (64, 64, 64, 4, 4),  # two programs on a processor, each with a warpgroup of 64 rows
        (32, 64, 64, 4, 4),  # more programs for the last stages, whose rows are few
        (32, 32, 128, 4, 3),  # the same, with half the iterations over a long K
    ),
    4: (
        (128, 64, 32, 8, 3),  # each weight read half as often
        (64, 64, 32, 4, 3),  # two programs on a processor
        (32, 64, 32, 4, 3),  # more programs, as above
        (32, 32, 32, 4, 3),
    ),
}
"""Tiles that may be faster than the default, by the bytes of an element."""
WAVES: Final = (1 / 8, 64)
"""The fewest and the most waves of programs with which another tile is tried."""


@dataclass(frozen=True, slots=True)
class SwinProblem(Problem):
    """One size of the work: M rows of K, N columns, and which parts there are."""

    x: torch.dtype
    weight: torch.dtype
    out: torch.dtype
    M: int
    N: int
    K: int
    norm: bool
    bias: bool
    gelu: bool
    merge: bool
    residual: bool


def default_tile(M: int, N: int, dtype: torch.dtype) -> Tile:
    """The largest tile that makes a wave of programs, none half empty; else the smallest tile."""
    for tile in TILES[dtype.itemsize]:
        if programs(M, N, tile) >= WAVE and -N % tile[1] < 64:
            return tile
    return TILES[dtype.itemsize][-1]


@cache
def tiles(M: int, N: int, dtype: torch.dtype) -> tuple[Tile, ...]:
    """The default, and what may be faster."""
    least, most = (WAVE * waves for waves in WAVES)
    others = TILES[dtype.itemsize] + OTHER_TILES[dtype.itemsize]
    sensible = (tile for tile in others if least <= programs(M, N, tile) <= most)
    return tuple(dict.fromkeys((default_tile(M, N, dtype), *sensible)))


def programs(M: int, N: int, tile: Tile) -> int:
    """The tiles of a result [M, N]."""
    programs: int = triton.cdiv(M, tile[0]) * triton.cdiv(N, tile[1])
    return programs
