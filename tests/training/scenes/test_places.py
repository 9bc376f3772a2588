"""Places have steady noise, and respond to a sound as large or small spaces do."""

from itertools import pairwise

import numpy as np
import pytest

from pengi_rt.training.scenes.facts import PLACES
from pengi_rt.training.scenes.places import PLACES as MADE
from pengi_rt.training.scenes.places import background, reverberated
from pengi_rt.training.scenes.synthesis import F32, F64

CLIP = 64_000
QUARTER = CLIP // 4


def noise(place: str, seed: int = 0) -> F32:
    return background(place, np.random.default_rng(seed), CLIP)


def echo_power(place: str) -> float:
    """Mean power of the response to an input of power 1."""
    echoes = [MADE[place].echo(np.random.default_rng(seed)) for seed in range(20)]
    return float(np.mean([np.sum(echo.astype(float) ** 2) for echo in echoes]))


def echo_seconds(place: str) -> float:
    echoes = [MADE[place].echo(np.random.default_rng(seed)) for seed in range(20)]
    return float(np.mean([len(echo) for echo in echoes])) / 16_000


def test_every_place_is_made() -> None:
    assert sorted(MADE) == sorted(PLACES)


@pytest.mark.parametrize("place", PLACES)
def test_noise_has_power_one_throughout(place: str) -> None:
    for seed in range(5):
        sound = noise(place, seed)
        assert sound.shape == (CLIP,)
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()
        assert np.mean(sound.astype(float) ** 2) == pytest.approx(1, abs=1e-4)
        quarters = np.mean(sound.reshape(4, QUARTER).astype(float) ** 2, axis=1)
        # Swells are a few decibels: no quarter is 6 dB from another.
        assert quarters.max() < 4 * quarters.min()


def test_noises_differ_in_their_spectra() -> None:
    edges = [0, 150, 400, 1000, 2500, 5000, 8000]
    hertz = np.fft.rfftfreq(CLIP, 1 / 16_000)

    def shares(place: str) -> F64:
        power = np.abs(np.fft.rfft(noise(place))) ** 2
        parts = [power[(hertz >= a) & (hertz < b)].sum() for a, b in pairwise(edges)]
        share: F64 = np.array(parts) / power.sum()
        return share

    found = [shares(place) for place in PLACES]
    for i, one in enumerate(found):
        for other in found[:i]:
            # At least a fifth of the power is elsewhere.
            assert np.abs(one - other).sum() / 2 > 0.2


def test_halls_reverberate_long_and_open_places_hardly() -> None:
    assert echo_seconds("hall") > 2 * echo_seconds("room")
    for dry in ("forest", "street"):
        assert echo_power(dry) < 0.1 < echo_power("room")
    assert echo_power("hall") > 0.3


@pytest.mark.parametrize("sizes", [(1, 1), (13_001, 3200), (24_000, 16_001)])
def test_reverberation_is_the_sound_and_its_convolution(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    sound, echo = (rng.normal(size=size).astype(np.float32) for size in sizes)
    wet = np.convolve(sound.astype(float), echo.astype(float))
    wet[: len(sound)] += sound
    # float32 transforms: 1e-6 of the largest value, sqrt(16 000) for Gaussian noise
    np.testing.assert_allclose(reverberated(sound, echo), wet, atol=1e-3)
