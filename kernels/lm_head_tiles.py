"""The sizes of the work of :mod:`pengi_rt.kernels.lm_head`, and its tiles."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
import triton

from pengi_rt.kernels.add_norm import FUSED_ROWS
from pengi_rt.kernels.tuning import Problem
from pengi_rt.kernels.tuning_file import Tile
from pengi_rt.kernels.vocab_tiles import TILE

HALF_TILES: Final = (
    (16, 64, 8, 3),
    (16, 32, 4, 4),
    (16, 128, 4, 2),
    (64, 64, 8, 4),
    (64, 64, 4, 3),
)
OTHER_TILES: Final = {
    1: HALF_TILES,
    2: (*HALF_TILES, (128, 64, 8, 3)),
    4: ((16, 32, 8, 3), (16, 16, 4, 4), (32, 32, 8, 4), (64, 32, 8, 3)),
}
"""Tiles that may be faster than the default, by the bytes of a weight: more or fewer weights in
flight, or larger pieces; more warps for the reduction; weights read less often for many rows."""


@dataclass(frozen=True, slots=True)
class HeadProblem(Problem):
    """One size of the work: M rows of width C, V tokens, K beams."""

    hidden: torch.dtype
    weight: torch.dtype
    M: int
    C: int
    V: int
    K: int
    splits: int
    logits: bool

    @property
    def norm(self) -> bool:
        """Whether one launch normalizes the rows and multiplies them."""
        return self.M <= FUSED_ROWS


def default_tile(rows: int, weight: torch.dtype) -> Tile:
    """``BLOCK_M``, ``BLOCK_C``, warps and stages: at most 16 KB of weights per stage."""
    depth = TILE // weight.itemsize
    if rows <= FUSED_ROWS:
        return 16, min(64, depth), 4, 3
    if rows <= 32 or weight == torch.float32:
        return 32, depth, 8, 3
    return 64, depth, 8, 3


@cache
def tiles(rows: int, weight: torch.dtype) -> tuple[Tile, ...]:
    """The default, and what may be faster: suited to the number of rows, without empty blocks."""
    most = max(16, triton.next_power_of_2(rows))
    few = rows <= FUSED_ROWS
    others = (t for t in OTHER_TILES[weight.itemsize] if t[0] <= most and (t[0] == 16) == few)
    return (default_tile(rows, weight), *others)
