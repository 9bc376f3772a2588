"""Token sequences as tries: a shared beginning is stored and computed once."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pengi_rt.backends.protocol import I64


class Level(NamedTuple):
    """The ``n`` inner nodes at one depth, and the ``m`` sequences that continue from them.

    Leaves are left out: nothing follows them.
    """

    tokens: I64
    """``[n]``: the last token of each node; 0 for the root."""
    parents: I64
    """``[n]``: each node's parent among the nodes of the level above; 0 for the root."""
    sequences: I64
    """``[m]``: the indices of the sequences."""
    nodes: I64
    """``[m]``: the node that each sequence has reached."""
    following: I64
    """``[m]``: the next token of each sequence."""


Trie = list[Level]
"""Levels from the root down; as many as the longest sequence has tokens."""


def tries(sequences: Sequence[tuple[int, ...]], max_width: int) -> list[Trie]:
    """Put all sequences into one trie, or into several if a level would have too many nodes.

    Each trie takes neighbors in sorted order, which share the most. All have about the same number
    of sequences, so that few rows idle when they run side by side.

    Args:
        sequences: at least one, none empty.
        max_width: the maximum number of nodes per level.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    parts = 1
    while True:
        bounds = [len(order) * part // parts for part in range(parts + 1)]
        parted = [_trie(sequences, order[start:end]) for start, end in pairwise(bounds)]
        widest = max(map(width, parted))
        if widest <= max_width:
            return parted
        parts = min(-(-parts * widest // max_width), len(order))


def width(trie: Trie) -> int:
    """The number of nodes in the widest level."""
    return max(len(level.tokens) for level in trie)


def _trie(sequences: Sequence[tuple[int, ...]], chosen: Sequence[int]) -> Trie:
    levels = []
    nodes = dict.fromkeys(chosen, 0)
    for depth in range(max(len(sequences[each]) for each in chosen)):
        longer = [each for each in chosen if len(sequences[each]) > depth]
        edges: dict[tuple[int, int], int] = {}
        for each in longer:
            edge = (sequences[each][depth - 1], nodes[each]) if depth > 0 else (0, 0)
            nodes[each] = edges.setdefault(edge, len(edges))
        tokens, parents = np.array(list(edges), np.int64).T
        steps = [(each, nodes[each], sequences[each][depth]) for each in longer]
        levels.append(Level(tokens, parents, *np.array(steps, np.int64).T))
    return levels
