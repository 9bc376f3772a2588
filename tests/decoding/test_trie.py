"""Tries are read back into the sequences that they were built from."""

import numpy as np
import pytest

from pengi_rt.decoding.trie import Trie, tries, width


def read_back(trie: Trie) -> dict[int, tuple[int, ...]]:
    """Every sequence by its index: its path from the root, then its last token."""
    paths: list[tuple[int, ...]] = [()]
    found: dict[int, tuple[int, ...]] = {}
    for depth, level in enumerate(trie):
        if depth > 0:
            steps = zip(level.tokens.tolist(), level.parents.tolist(), strict=True)
            paths = [(*paths[parent], token) for token, parent in steps]
        assert len(set(paths)) == len(paths)  # no node appears twice
        reads = zip(level.sequences, level.nodes, level.following, strict=True)
        found |= {int(each): (*paths[node], int(token)) for each, node, token in reads}
    return found


def random_sequences(seed: int, count: int = 120, tokens: int = 4) -> list[tuple[int, ...]]:
    """Distinct sequences, many of which are the beginning of others."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 7, count)
    drawn = [tuple(generator.integers(0, tokens, length).tolist()) for length in lengths]
    return list(dict.fromkeys(drawn))


@pytest.mark.parametrize("max_width", [1, 2, 7, 64])
@pytest.mark.parametrize("seed", range(4))
def test_every_sequence_is_in_one_trie(seed: int, max_width: int) -> None:
    sequences = random_sequences(seed)
    found = tries(sequences, max_width)
    assert max(map(width, found)) <= max_width
    read = [read_back(trie) for trie in found]
    assert sum(map(len, read)) == len(sequences)
    assert {index: each for part in read for index, each in part.items()} == dict(
        enumerate(sequences)
    )


def test_a_shared_beginning_is_one_node() -> None:
    (trie,) = tries([(5, 6, 7), (5, 6), (5, 8, 9, 1), (4,)], max_width=64)
    assert [len(level.tokens) for level in trie] == [1, 1, 2, 1]
    assert trie[1].tokens.tolist() == [5]
    assert sorted(trie[2].tokens.tolist()) == [6, 8]
    assert trie[2].parents.tolist() == [0, 0]
    assert trie[3].tokens.tolist() == [9]


def test_parts_are_few_and_of_equal_size() -> None:
    sequences = [(token, 0) for token in reversed(range(130))]
    assert [width(trie) for trie in tries(sequences, 64)] == [43, 43, 44]
    assert [width(trie) for trie in tries(sequences[:64], 64)] == [64]
    assert [width(trie) for trie in tries(sequences[:65], 64)] == [32, 33]
    assert len(tries([(token,) for token in range(500)], 64)) == 1  # leaves use no rows
    assert len(tries([(3, token, 0) for token in range(500)], 500)) == 1


def test_similar_sequences_stay_in_one_part() -> None:
    """Sequences with two beginnings, alternating in the input."""
    sequences = [(index % 2, 0, index, 1) for index in range(128)]
    first, second = tries(sequences, 64)
    for trie in (first, second):
        assert [len(level.tokens) for level in trie] == [1, 1, 1, 64]
