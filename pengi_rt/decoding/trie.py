"""Token sequences as tries: what begins alike is stored, and computed, once."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pengi_rt.backends.protocol import I64


class Level(NamedTuple):
    """The ``n`` inner nodes of one depth, and the ``m`` sequences that go on from them.

    Leaves are not here: nothing follows them.
    """

    tokens: I64
    """``[n]``: the last token of each node; 0 for the root."""
    parents: I64
    """``[n]``: its parent among the nodes of the level above; 0 for the root."""
    sequences: I64
    """``[m]``: their indices."""
    nodes: I64
    """``[m]``: the node where each of them is."""
    following: I64
    """``[m]``: its next token."""


Trie = list[Level]
"""From the root downwards: as many levels as the longest sequence has tokens."""


def tries(sequences: Sequence[tuple[int, ...]], max_width: int) -> list[Trie]:
    """All sequences in one trie, or in several where a level of one would have too many nodes.

    Each trie has neighbours in sorted order, which share the most. All have about as many
    sequences, so that side by side they leave few rows idle.

    Args:
        sequences: at least one, none empty.
        max_width: nodes of a level, at most.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    parts = 1
    while True:
        bounds = [len(order) * part // parts for part in range(parts + 1)]
        found = [_trie(sequences, order[start:end]) for start, end in pairwise(bounds)]
        widest = max(map(width, found))
        if widest <= max_width:
            return found
        parts = min(-(-parts * widest // max_width), len(order))


def width(trie: Trie) -> int:
    """Nodes of the widest level."""
    return max(len(level.tokens) for level in trie)


def _trie(sequences: Sequence[tuple[int, ...]], chosen: Sequence[int]) -> Trie:
    levels = []
    nodes = dict.fromkeys(chosen, 0)
    for depth in range(max(len(sequences[each]) for each in chosen)):
        going = [each for each in chosen if len(sequences[each]) > depth]
        edges: dict[tuple[int, int], int] = {}
        for each in going:
            edge = (sequences[each][depth - 1], nodes[each]) if depth > 0 else (0, 0)
            nodes[each] = edges.setdefault(edge, len(edges))
        tokens, parents = np.array(list(edges), np.int64).T
        held = [(each, nodes[each], sequences[each][depth]) for each in going]
        levels.append(Level(tokens, parents, *np.array(held, np.int64).T))
    return levels
