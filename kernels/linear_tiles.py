"""How the products of a decode step's linear layers (:mod:`pengi_rt.kernels.linear_call`) are cut.

Of few rows every warp multiplies a group of K by itself; of more, a product is made as any other.
"""

from functools import cache
from typing import Final, NamedTuple

import torch
import triton

FEW_ROWS: Final = 16
"""Rows of a tensor core's tile; up to these, warps divide K among themselves."""
FUSED_WIDTH: Final = 1024
"""Of a row that a program holds in registers."""


class Tiles(NamedTuple):
    """How a product is divided."""

    rows: int
    columns: int
    depth: int
    """Of K at a time, in each group."""
    groups: int
    """Of K that warps multiply by themselves; 0 is a product in the ordinary way."""
    warps: int
    stages: int


OTHER_GROUPS: Final = {
    (2, True): ((32, 16),),
    (2, False): ((16, 8), (32, 16), (32, 8), (16, 4)),
    (1, True): ((32, 16),),
    (1, False): ((16, 16), (16, 8), (32, 8)),
}
"""Columns and groups that may be faster, by the bytes of a weight and whether the row is normed.

Fewer groups are smaller programs, more of which hide each other's waiting; more columns norm the
row less often, fewer make more programs. What is left out spills: a normed row stays in registers,
and so do int8 weights while they are widened.
"""
OTHERS: Final = {
    2: (
        Tiles(16, 32, 128, 0, 4, 4),  # K in turns, the next ones on their way
        Tiles(32, 32, 64, 0, 4, 4),
        Tiles(32, 64, 64, 0, 4, 4),
        Tiles(64, 32, 128, 0, 4, 3),  # half the turns
        Tiles(64, 64, 64, 0, 8, 3),  # with 4 warps it spills on an A100, where K is in slices
        Tiles(128, 64, 64, 0, 8, 3),  # weights read less often
        Tiles(64, 128, 64, 0, 8, 3),  # rows read less often
    ),
    4: (
        Tiles(16, 32, 64, 0, 4, 4),
        Tiles(16, 16, 128, 0, 4, 3),
        Tiles(32, 32, 64, 0, 4, 3),
        Tiles(64, 32, 32, 0, 4, 4),
        Tiles(128, 64, 32, 0, 8, 3),
    ),
}
"""Ordinary tiles that may be faster, by the bytes of a float (int8 weights are as 16-bit ones)."""
MOST_BLOCKS: Final = 8
"""Of rows: each reads all weights again."""


def tiles_for(rows: int, chunk: int, weight: torch.dtype, *, norm: bool = False) -> Tiles:
    """What compiles without spills, and into 99 KiB, on every architecture.

    One row of a tile of int8 weights is as long as a sector of memory, 32 bytes, as one of 16-bit
    weights is; but beside a normed row there are no registers for so many.
    """
    if weight == torch.float32:
        if rows <= FEW_ROWS:
            return Tiles(16, 16, 64, 0, 4, 4)
        return Tiles(32, 32, 32, 0, 4, 4) if rows <= 64 else Tiles(64, 64, 32, 0, 8, 3)
    if rows <= FEW_ROWS:
        tile = min(max(triton.next_power_of_2(chunk), 16), FUSED_WIDTH)
        groups = min(max(tile // 32, 1), 16)
        columns = 32 if weight == torch.int8 and not norm else 16
        return Tiles(16, columns, tile // groups, groups, groups, 1)
    if rows <= 32:
        return Tiles(32, 32, 64, 0, 4, 4)
    return Tiles(64, 32 if rows <= 64 else 64, 64, 0, 4, 4)


@cache
def linear_tiles(rows: int, chunk: int, weight: torch.dtype, *, norm: bool) -> tuple[Tiles, ...]:
    """The tiles of :func:`tiles_for`, and what may be faster.

    Args:
        rows: of the input.
        chunk: of K that a program multiplies.
        weight: dtype.
        norm: whether the program norms the row, which is then one tile: groups * depth >= K.
    """
    table = tiles_for(rows, chunk, weight, norm=norm)
    least, most = triton.cdiv(rows, MOST_BLOCKS), max(FEW_ROWS, triton.next_power_of_2(rows))
    usual = OTHERS[4 if weight == torch.float32 else 2]
    others = [] if norm else [tiles for tiles in usual if least <= tiles.rows <= most]
    if table.groups:
        others = [*_grouped(table, OTHER_GROUPS[weight.itemsize, norm]), *others]
    return tuple(dict.fromkeys((table, *others)))


def _grouped(table: Tiles, choices: tuple[tuple[int, int], ...]) -> list[Tiles]:
    """With other columns and groups than the table's, over as much of K."""
    covered, most = table.groups * table.depth, table.groups
    return [
        table._replace(columns=columns, depth=covered // groups, groups=groups, warps=groups)
        for columns, groups in ((columns, min(groups, most)) for columns, groups in choices)
    ]
