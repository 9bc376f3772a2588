"""Every event class renders, equally for equal seeds, and sounds where it should."""

import numpy as np
import pytest

from pengi_rt.training.scenes.events import RENDERERS
from pengi_rt.training.scenes.facts import EVENTS
from pengi_rt.training.scenes.synthesis import F32

RATE = 16_000
SHORTEST, LONGEST = 0.8, 1.5  # seconds, from facts.draw_scene
ROUNDS = 8

# Hz range with at least four fifths of a class's power, derived from its synthesis.
BANDS = {
    "alarm": (600, 7000),
    "bell": (150, 6000),
    "bird": (1800, 6700),
    "clicks": (1000, 7500),
    "drum": (40, 500),
    "glass": (1800, 8000),
    "insects": (4000, 7200),
    "knocking": (120, 1600),
    "rain": (1500, 8000),
    "thunder": (0, 600),
    "waves": (80, 3500),
    "whistle": (1700, 3900),
    "wind": (80, 1500),
}


def render(name: str, seed: int, seconds: float = 1.2) -> F32:
    return RENDERERS[name](np.random.default_rng(seed), seconds)


def test_every_class_has_a_renderer() -> None:
    assert sorted(RENDERERS) == sorted(EVENTS)


@pytest.mark.parametrize("seconds", [SHORTEST, 0.80003, 1.23457, LONGEST])
@pytest.mark.parametrize("name", EVENTS)
def test_renders_at_every_duration(name: str, seconds: float) -> None:
    for seed in range(ROUNDS):
        sound = render(name, seed, seconds)
        assert sound.shape == (round(seconds * RATE),)
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()
        assert np.abs(sound).max() > 1e-3


@pytest.mark.parametrize("name", EVENTS)
def test_seed_decides(name: str) -> None:
    np.testing.assert_array_equal(render(name, 1), render(name, 1))
    assert not np.array_equal(render(name, 1), render(name, 2))


@pytest.mark.parametrize("name", EVENTS)
def test_starts_at_its_onset(name: str) -> None:
    """An event that is asked about by its order must begin where the facts say it does.

    Slow ones (a wave) may take a while to swell: half of the shortest gap between two onsets.
    """
    for seed in range(ROUNDS):
        loud = np.abs(render(name, seed))
        first = np.argmax(loud > 0.1 * loud.max()) / RATE
        assert first < 0.35


@pytest.mark.parametrize("name", BANDS)
def test_power_lies_in_the_band_of_the_class(name: str) -> None:
    low, high = BANDS[name]
    hertz = np.fft.rfftfreq(round(1.2 * RATE), 1 / RATE)
    inside = (hertz >= low) & (hertz <= high)
    for seed in range(ROUNDS):
        power = np.abs(np.fft.rfft(render(name, seed))) ** 2
        assert power[inside].sum() / power.sum() > 0.8


def unevenness(sound: F32) -> float:
    """The power of the strongest 20 ms frame over that of the median one."""
    power = np.mean(sound[: len(sound) // 320 * 320].reshape(-1, 320).astype(float) ** 2, axis=1)
    return float(power.max() / (np.median(power) + 1e-12))


@pytest.mark.parametrize("name", ["clicks", "dog", "drum", "footsteps", "glass", "knocking"])
def test_short_sounds_come_and_go(name: str) -> None:
    assert min(unevenness(render(name, seed)) for seed in range(ROUNDS)) > 5


@pytest.mark.parametrize("name", ["alarm", "engine", "horn", "rain", "siren", "sweep"])
def test_steady_sounds_go_on(name: str) -> None:
    assert max(unevenness(render(name, seed)) for seed in range(ROUNDS)) < 5


def test_sweep_goes_one_way() -> None:
    for seed in range(ROUNDS):
        pieces = np.array_split(render("sweep", seed), 12)
        crossings = [np.count_nonzero(np.diff(np.signbit(piece))) for piece in pieces]
        steps = np.diff(crossings)
        assert np.all(steps > 0) or np.all(steps < 0)


def test_siren_goes_up_and_down() -> None:
    for seed in range(ROUNDS):
        pieces = np.array_split(render("siren", seed, LONGEST), 15)
        hertz = np.fft.rfftfreq(4096, 1 / RATE)
        heights = [hertz[np.argmax(np.abs(np.fft.rfft(piece, 4096)))] for piece in pieces]
        steps = np.sign(np.diff(heights))
        assert {-1, 1} <= set(steps)
        assert max(heights) > 1.5 * min(heights)
