"""The native beam step refuses unsupported arrays and options, and names them."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pengi_rt.kernels.beam_step_cpu import BeamState, beam_step_cpu

PLAIN: dict[str, Any] = {"temperature": 1.0, "stop_id": 3, "pad_id": 0}
LOGITS = np.zeros((2, 3, 10), np.float32)
STATE = BeamState(np.zeros((2, 3)), np.ones((2, 3), np.int32), np.zeros((2, 3), np.bool_))


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (LOGITS.astype(np.float64), r"float32 \[\*, \*, \*\], got float64 \[2, 3, 10\]"),
        (LOGITS.astype(np.float16), "got float16"),
        (LOGITS.astype(np.dtype(np.float32).newbyteorder()), "must be C-contiguous float32"),
        (LOGITS[0], r"got float32 \[3, 10\]"),
        (LOGITS[..., ::2], "got strided float32"),
        (np.asfortranarray(LOGITS), "got strided float32"),
        (np.zeros(241, np.uint8)[1:].view(np.float32).reshape(2, 3, 10), "got strided float32"),
    ],
)
def test_bad_logits(logits: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        beam_step_cpu(logits, STATE, beam_size=3, **PLAIN)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "scores",
            np.zeros((2, 3), np.float32),
            r"scores must be .* float64 .*, got float32",
        ),
        ("scores", np.zeros((2, 4)), r"scores must be .*\[2, 3\], got float64 \[2, 4\]"),
        ("scores", np.zeros((3, 2)).T, "scores must be .* got strided float64"),
        ("scores", np.full((2, 3), np.nan), "score or length: clip 0, beam 0"),
        ("scores", np.full((2, 3), np.inf), "score or length: clip 0, beam 0"),
        ("lengths", np.ones((2, 3), np.int64), "lengths must be .* int32"),
        ("lengths", np.ones(6, np.int32), r"lengths must be .*\[2, 3\], got int32 \[6\]"),
        ("lengths", np.full((2, 3), -1, np.int32), "score or length: clip 0, beam 0"),
        ("finished", np.zeros((2, 3), np.uint8), "finished must be .* bool"),
        ("finished", np.zeros((2, 1), np.bool_), r"finished must be .*\[2, 3\], got bool \[2, 1\]"),
    ],
)
def test_bad_state(field: str, value: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        beam_step_cpu(LOGITS, STATE._replace(**{field: value}), beam_size=3, **PLAIN)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("beam_size", 0),
        ("beam_size", 31),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", 1e-39),
        ("temperature", np.inf),
        ("temperature", np.nan),
        ("pad_id", -1),
        ("pad_id", 10),
    ],
)
def test_bad_options(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} must be"):
        beam_step_cpu(LOGITS, STATE, **{"beam_size": 3, **PLAIN, option: value})
