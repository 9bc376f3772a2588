"""FLAC: the header's claims are checked against the file, never trusted."""

import numpy as np
import pytest
from encoded import encode, heard, noise, refusal

RATE = 16_000
NOISE = noise(3 * RATE)
FLAC = encode(NOISE, RATE, "FLAC")


def with_total(data: bytes, total: int) -> bytes:
    """Set the number of frames in the header (36 bits after fields of 20, 3 and 5 bits)."""
    head = int.from_bytes(data[18:26], "big") >> 36 << 36 | total
    return data[:18] + head.to_bytes(8, "big") + data[26:]


@pytest.mark.parametrize("total", [0, 1, 1000, 3 * RATE])
def test_everything_is_decoded_whatever_the_header_says(total: int) -> None:
    np.testing.assert_array_equal(heard(with_total(FLAC, total))[0], heard(FLAC)[0])


def test_fewer_samples_than_the_header_says() -> None:
    data = with_total(FLAC, 6 * RATE)
    assert refusal(data).startswith("x: only 3.000 s of 6.000 s can be read: cut short")
    samples, cut = heard(data, allow_truncated=True)
    assert len(samples) == 3 * RATE
    assert cut.startswith("only 3.000 s")


@pytest.mark.parametrize("missing", [1, 3, 100, 20_000])
@pytest.mark.parametrize("total", [0, 3 * RATE])
def test_cut_short(missing: int, total: int) -> None:
    data = with_total(FLAC, total)[:-missing]
    assert "damaged or cut short: flac decoder lost sync" in refusal(data)
    samples, cut = heard(data, allow_truncated=True)
    assert RATE < len(samples) < 3 * RATE
    np.testing.assert_array_equal(samples, heard(FLAC)[0][: len(samples)])
    assert cut


@pytest.mark.parametrize(
    "rest", [b"TAG" + bytes(125), bytes(5000), b"APETAGEX" + bytes(4) + b"\x20" + bytes(19)]
)
def test_tags_and_padding_at_the_end(rest: bytes) -> None:
    np.testing.assert_array_equal(heard(FLAC + rest)[0], heard(FLAC)[0])


def test_a_second_file_at_the_end_is_refused() -> None:
    assert refusal(FLAC + FLAC).startswith(
        f"x: a second FLAC file follows the first, at byte {len(FLAC)}; split it"
    )
    samples, cut = heard(FLAC + FLAC, allow_truncated=True)
    assert len(samples) == 3 * RATE
    assert "second FLAC" in cut
    assert "damaged" in refusal(FLAC + b"\xff\x12" * 500)


def frames_from(data: bytes, number: int) -> int:
    """The offset at which the frame with this number (below 128) begins."""
    return data.index(data[data.index(b"\xff\xf8") :][:4] + bytes([number]))


def test_a_piece_of_a_longer_file_keeps_its_header() -> None:
    first, later = frames_from(FLAC, 0), frames_from(FLAC, 5)
    piece = FLAC[:first] + FLAC[later:]
    samples, _ = heard(piece)
    np.testing.assert_array_equal(samples, heard(FLAC)[0][-len(samples) :])
    assert "lost sync" in refusal(piece[:-10])


def test_endless_metadata() -> None:
    assert refusal(b"fLaC" + bytes(200_000)).startswith("x: damaged or cut short: ")
