"""Miniature datasets: tiny recordings and the files around them."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 8000


def record(path: Path, seconds: float = 0.1) -> Path:
    """Write a quiet recording, creating folders as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(round(seconds * RATE), 0.01, np.float32), RATE)
    return path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """Write a text file, creating folders as needed; its first line break is dropped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.removeprefix("\n").encode(encoding))
    return path
