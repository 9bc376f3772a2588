"""The ancestry table: native equal to NumPy, and both lead every row to its own history."""

from typing import Any

import numpy as np
import pytest

from pengi_rt.kernels.beam_step_cpu import I32, update_ancestry, update_ancestry_reference


@pytest.mark.parametrize(("clips", "beams", "capacity"), [(1, 1, 1), (3, 5, 147), (2, 7, 33)])
def test_ancestry_equals_reference(clips: int, beams: int, capacity: int) -> None:
    generator = np.random.default_rng(capacity)
    ours = np.zeros((clips, beams, capacity), np.int32)
    reference = ours.copy()
    for position in range(capacity):
        sources = generator.integers(0, beams, (clips, beams))
        update_ancestry(ours, sources, position)
        update_ancestry_reference(reference, sources, position)
        np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("update", [update_ancestry, update_ancestry_reference])
def test_ancestry_finds_every_history(update: Any) -> None:
    """Rows write marks to their own slots and move no data; lists of these marks are the truth."""
    generator = np.random.default_rng(3)
    clips, beams, capacity = 2, 4, 20
    slots = np.zeros((clips, beams, capacity), np.int64)
    ancestry = np.zeros((clips, beams, capacity), np.int32)
    histories: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in range(clips)]
    for position in range(capacity):
        slots[..., position] = generator.integers(0, 1000, (clips, beams))
        for clip in range(clips):
            for beam in range(beams):
                histories[clip][beam].append(int(slots[clip, beam, position]))
        sources = generator.integers(0, beams, (clips, beams))
        update(ancestry, sources, position)
        histories = [
            [list(histories[clip][source]) for source in sources[clip]] for clip in range(clips)
        ]
        found = np.take_along_axis(slots, ancestry.astype(np.int64), axis=1)
        assert found[..., : position + 1].tolist() == histories


def test_bad_ancestry() -> None:
    table: I32 = np.zeros((2, 3, 4), np.int32)
    sources = np.zeros((2, 3), np.int64)
    with pytest.raises(ValueError, match=r"position must be in \[0, 4\), got 4"):
        update_ancestry(table, sources, 4)
    with pytest.raises(ValueError, match="position"):
        update_ancestry(table, sources, -1)
    with pytest.raises(ValueError, match=r"ancestry must be .* int32 .* got int64"):
        update_ancestry(table.astype(np.int64), sources, 0)
    with pytest.raises(ValueError, match="got strided int32"):
        update_ancestry(table[:, ::2], sources[:, ::2].copy(), 0)
    with pytest.raises(ValueError, match=r"sources must be .*\[2, 3\]"):
        update_ancestry(table, sources[:, :2].copy(), 0)
    for source in (-1, 3):
        sources[1, 2] = source
        with pytest.raises(ValueError, match=f"got {source}: clip 1, beam 2"):
            update_ancestry(table, sources, 0)
    assert not table.any()
    table.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        update_ancestry(table, np.zeros((2, 3), np.int64), 0)
