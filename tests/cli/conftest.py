"""Recordings for the verbs that read audio."""

from pathlib import Path

import pytest
from clips import write_clip


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A recording as long as one clip."""
    return write_clip(tmp_path / "noise.wav", 0)


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A recording of two windows: 0 to 2 s and 1 to 3 s."""
    return write_clip(tmp_path / "long.wav", 1, seconds=3.0)
