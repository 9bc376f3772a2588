"""The sizes and tiles of a decode step's linear layers (:mod:`pengi_rt.kernels.small_linear`).

With few rows every warp multiplies a group of K by itself; with more, a product is an ordinary one.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

import torch
import triton

from pengi_rt.kernels.tuning import Problem

FEW_ROWS: Final = 16
"""Rows of a tensor core's tile; with at most this many, warps divide K among themselves."""
FUSED_WIDTH: Final = 1024
"""The widest row that a program can hold in registers."""


@dataclass(frozen=True, slots=True)
class LinearProblem(Problem):
    """One size of the work: M rows of K, N columns."""

    weight: torch.dtype
    out: torch.dtype
    M: int
    K: int
    N: int
    epilogue: str
    slices: int
    norm: bool
    partials: int


class LinearTile(NamedTuple):
    """The part of a product that one program computes at a time."""

    rows: int
    columns: int
    depth: int
    """Part of K, in each group."""
    groups: int
    """Groups of K, each multiplied by its own warp; 0 means an ordinary product."""
    warps: int
    stages: int


OTHER_GROUPS: Final = {
    (2, True): ((32, 16),),
    (2, False): ((16, 8), (32, 16), (32, 8), (16, 4)),
    (1, True): ((32, 16),),
    (1, False): ((16, 16), (16, 8), (32, 8)),
}
"""Columns and groups that may be faster, by the bytes of a weight and whether the row is normed.

Fewer groups make smaller programs, more of which hide each other's latency. More columns norm the
row less often; fewer make more programs. The sizes left out spill: a normed row stays in registers,
and so do int8 weights while they are widened.
"""
OTHER_TILES: Final = {
    2: (
        LinearTile(16, 32, 128, 0, 4, 4),  # K in steps, with the next ones being loaded
        LinearTile(32, 32, 64, 0, 4, 4),
        LinearTile(32, 64, 64, 0, 4, 4),
        LinearTile(64, 32, 128, 0, 4, 3),  # half as many steps
        LinearTile(64, 64, 64, 0, 8, 3),  # with 4 warps it spills on an A100, where K is in slices
        LinearTile(128, 64, 64, 0, 8, 3),  # weights read less often
        LinearTile(64, 128, 64, 0, 8, 3),  # rows read less often
    ),
    4: (
        LinearTile(16, 32, 64, 0, 4, 4),
        LinearTile(16, 16, 128, 0, 4, 3),
        LinearTile(32, 32, 64, 0, 4, 3),
        LinearTile(64, 32, 32, 0, 4, 4),
        LinearTile(128, 64, 32, 0, 8, 3),
    ),
}
"""Ordinary tiles that may be faster, by the bytes of a float (int8 counts as 16 bits)."""
MAX_ROW_BLOCKS: Final = 8
"""Every block of rows reads all the weights again."""


def default_tile(rows: int, chunk: int, weight: torch.dtype, *, norm: bool = False) -> LinearTile:
    """A tile that compiles without spills, and into 99 KiB, on every architecture.

    One row of a tile of weights fills a memory sector of 32 bytes, except that a normed row leaves
    too few registers for so many int8 weights.
    """
    if weight == torch.float32:
        if rows <= FEW_ROWS:
            return LinearTile(16, 16, 64, 0, 4, 4)
        return LinearTile(32, 32, 32, 0, 4, 4) if rows <= 64 else LinearTile(64, 64, 32, 0, 8, 3)
    if rows <= FEW_ROWS:
        tile = min(max(triton.next_power_of_2(chunk), 16), FUSED_WIDTH)
        groups = min(max(tile // 32, 1), 16)
        columns = 32 if weight == torch.int8 and not norm else 16
        return LinearTile(16, columns, tile // groups, groups, groups, 1)
    if rows <= 32:
        return LinearTile(32, 32, 64, 0, 4, 4)
    return LinearTile(64, 32 if rows <= 64 else 64, 64, 0, 4, 4)


@cache
def tiles(rows: int, chunk: int, weight: torch.dtype, *, norm: bool) -> tuple[LinearTile, ...]:
    """The default, and the tiles that may be faster.

    Args:
        rows: of the input.
        chunk: the part of K that a program multiplies.
        weight: its dtype.
        norm: whether the program norms the row, which is then one tile: groups * depth >= K.
    """
    default = default_tile(rows, chunk, weight, norm=norm)
    least, most = triton.cdiv(rows, MAX_ROW_BLOCKS), max(FEW_ROWS, triton.next_power_of_2(rows))
    ordinary = OTHER_TILES[4 if weight == torch.float32 else 2]
    others = [] if norm else [tile for tile in ordinary if least <= tile.rows <= most]
    if default.groups:
        others = [*_grouped(default, OTHER_GROUPS[weight.itemsize, norm]), *others]
    return tuple(dict.fromkeys((default, *others)))


def _grouped(default: LinearTile, choices: tuple[tuple[int, int], ...]) -> list[LinearTile]:
    """Tiles with other columns and groups than the default's, over as much of K."""
    covered, most = default.groups * default.depth, default.groups
    return [
        default._replace(columns=columns, depth=covered // groups, groups=groups, warps=groups)
        for columns, groups in ((columns, min(groups, most)) for columns, groups in choices)
    ]
