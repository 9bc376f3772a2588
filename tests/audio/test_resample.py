"""The two resamplers: soxr, and the released wrapper's filter."""

import math

import golden
import numpy as np
import pytest
from encoded import noise
from numpy.typing import NDArray

from pengi_rt.audio.resample import F32, resample_soxr, resample_torchaudio


def dense(samples: F32, rate: int, new_rate: int) -> F32:
    """torchaudio's algorithm, unoptimized: every phase over every tap."""
    divisor = math.gcd(rate, new_rate)
    o, n = rate // divisor, new_rate // divisor
    base = 0.99 * min(o, n)
    width = math.ceil(6 * o / base)
    t = np.arange(-width, width + o)[None] / o
    t = t - (np.arange(n, dtype=np.float32) / np.float32(n)).astype(np.float64)[:, None]
    t = np.clip(t * base, -6, 6)
    kernel = (np.sinc(t) * np.cos(np.pi * t / 12) ** 2 * base / o).astype(np.float32)
    padded = np.pad(samples, ((0, 0), (width, width + o)))
    rows = samples.shape[1] // o + 1
    spans = np.stack([padded[:, i * o : i * o + 2 * width + o] for i in range(rows)], axis=1)
    out: F32 = (spans @ kernel.T).reshape(samples.shape[0], -1)
    return out[:, : math.ceil(np.float32(n * samples.shape[1] / o))]


@pytest.mark.parametrize("name", ["load_48k_5s", "load_16k_4s"])
def test_torchaudio_golden(name: str) -> None:
    samples, rate = golden.loading_case(name)
    got = np.resize(resample_torchaudio(samples, rate, 44_100)[0], 308_700)
    arrays = golden.loading()
    # float32 dot products of 16 terms near 1: a few units of 6e-8, in any order of summation.
    for part, want in (("head", got[:256]), ("tail", got[-256:]), ("every997", got[::997])):
        np.testing.assert_allclose(want, arrays[f"{name}/{part}"], rtol=0, atol=4e-7)


@pytest.mark.parametrize("frames", [1, 2, 7, 1001])
@pytest.mark.parametrize("rate", [4_000, 11_025, 12_345, 22_050, 48_000, 96_000, 384_000])
def test_torchaudio_equals_its_dense_form(rate: int, frames: int) -> None:
    samples = noise(frames, 3).T
    assert frames == 1 or not samples.flags.c_contiguous
    got, want = resample_torchaudio(samples, rate, 44_100), dense(samples, rate, 44_100)
    assert got.dtype == np.float32
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=4e-7)


def test_torchaudio_rounds_the_length_as_float32() -> None:
    # 441 * 112041 / 160 = 308813.00625: its ceiling is 308814, that of the nearest float32 308813.
    assert resample_torchaudio(noise(112_041).T, 16_000, 44_100).shape == (1, 308_813)


def test_torchaudio_rates_without_a_common_divisor_stay_small() -> None:
    # The dense kernel would be 44100 x 44115, 8 GB.
    got = resample_torchaudio(noise(4_410).T, 44_101, 44_100)
    assert got.shape == (1, 4_410)


def _tone(frames: int, rate: int) -> NDArray[np.float64]:
    return np.asarray(0.5 * np.sin(2 * np.pi * 1000 * np.arange(frames) / rate))


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000, 96_000])
def test_soxr_keeps_a_tone(rate: int) -> None:
    got = resample_soxr(_tone(rate, rate).astype(np.float32), rate, 44_100)
    assert got.dtype == np.float32
    assert got.shape == (44_100,)
    middle = slice(4_000, -4_000)  # away from the ends, where the filter sees silence
    # float32 samples near 0.5: a few units of 3e-8.
    np.testing.assert_allclose(got[middle], _tone(44_100, 44_100)[middle], rtol=0, atol=4e-7)


@pytest.mark.parametrize("resample", [resample_soxr, resample_torchaudio])
def test_equal_rates_change_nothing(resample: object) -> None:
    assert callable(resample)
    samples = noise(100).T
    assert resample(samples, 44_100, 44_100) is samples
