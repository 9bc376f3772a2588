"""What the released Pengi computed: the arrays of ``tests/data/golden_pengi``, and its inputs.

``pair("base_s0_p00")`` holds one recording with one prompt, ``api()`` the public calls,
``loading()`` loader and tokenizers. Their clips are made by :mod:`golden_audio`.
"""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_audio import loading_case, waveform
from numpy.typing import NDArray

__all__ = [
    "PAIRS",
    "Golden",
    "api",
    "loading",
    "loading_case",
    "meta",
    "pair",
    "reference",
    "waveform",
]

Golden = Mapping[str, NDArray[Any]]

_FOLDER = Path(__file__).parents[1] / "data" / "golden_pengi"

PAIRS = (
    *(f"base_s0_p{i:02}" for i in range(9)),
    *(f"notext_s0_p{i:02}" for i in range(3)),
)
"""Names of the pair goldens; ``meta(pair(name))["config"]`` is the preset they belong to."""


def pair(name: str) -> Golden:
    """Every stage of one recording with one prompt; ``name`` is one of :data:`PAIRS`."""
    return _load(name)


def api() -> Golden:
    """The public calls of the released wrapper and their variants, end to end."""
    return _load("base_s0_api")


def loading() -> Golden:
    """Loaded waveforms, prompt ids and decoded texts; needs no weights and has no ``meta``."""
    return _load("loading")


def meta(golden: Golden) -> dict[str, Any]:
    """The JSON object stored in a golden file: inputs, versions, margins, rounding noise."""
    data = json.loads(str(golden["meta"]))
    assert isinstance(data, dict)
    return data


def reference() -> Path:
    """The folder with full-size weights and tokenizer files; skips the test without it."""
    folder = os.environ.get("PENGI_RT_REFERENCE")
    if not folder:
        pytest.skip("PENGI_RT_REFERENCE does not name the reference folder")
    return Path(folder)


@functools.cache
def _load(name: str) -> Golden:
    with np.load(_FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
