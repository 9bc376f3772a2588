"""The fast building blocks equal their plain definitions, sample by sample or line by line."""

import numpy as np
import pytest

from pengi_rt.training.scenes import synthesis
from pengi_rt.training.scenes.synthesis import F32, F64

RATE = 16_000


def spectrum_at(sound: F32 | F64, hertz: float) -> float:
    """The magnitude of one line, from its own Hann-windowed Fourier sum."""
    t = np.arange(len(sound)) / RATE
    window = np.hanning(len(sound))
    return float(abs(np.sum(window * sound * np.exp(-2j * np.pi * hertz * t))))


@pytest.mark.parametrize("count", [1, 2, 99, 12_345, 64_000])
def test_modes_are_damped_sines(count: int) -> None:
    hertz, size, life, start = [110.0, 1234.5, 7000.0], [1.0, 0.5, 0.2], [0.5, 0.05, 3.0], 0.7
    t = np.arange(count) / RATE
    direct = sum(
        a * np.exp(-t / tau) * np.sin(2 * np.pi * f * t + start)
        for f, a, tau in zip(hertz, size, life, strict=True)
    )
    made = synthesis.modes(hertz, size, life, count, start)
    assert made.dtype == np.float32
    # A sum of six float32 products of up to 1.
    np.testing.assert_allclose(made, direct, atol=2e-6)


def test_modes_above_the_band_are_left_out() -> None:
    assert not synthesis.modes([7900.0, 9000.0], 1.0, 1.0, 100).any()


def test_tone_is_a_sum_of_sines() -> None:
    amplitudes = 1 / np.arange(1, 21)
    cycles = np.arange(9_000) * 321.7 / RATE
    direct = sum(a * np.sin(2 * np.pi * k * cycles) for k, a in enumerate(amplitudes, 1))
    made = synthesis.tone((cycles % 1).astype(np.float32), amplitudes)
    # Linear reading of a table of 2048: a (pi k / 2048)^2 / 2 for harmonic k, 0.0017 in sum at most
    np.testing.assert_allclose(made, direct, atol=2e-3)


@pytest.mark.parametrize("edge", [0.0, np.nextafter(np.float32(1), np.float32(0)), 1.0])
def test_tone_takes_a_phase_rounded_to_the_end_of_the_period(edge: float) -> None:
    made = synthesis.tone(np.array([edge], np.float32), [1.0])
    np.testing.assert_allclose(made, 0, atol=1e-5)


def test_phase_of_a_long_glide_does_not_drift() -> None:
    glide = np.linspace(500, 7000, 64_000)
    cycles = synthesis.phase(glide, len(glide))
    exact = np.cumsum(glide / RATE)
    apart = np.abs((cycles - exact + 0.5) % 1 - 0.5)
    assert apart.max() < 1e-6
    assert cycles.min() >= 0
    assert cycles.max() <= 1


def karplus_strong(burst: F64, count: int) -> F64:
    """The loop itself, one sample at a time: the average of two neighbors one period ago."""
    period = len(burst)
    sound = np.concatenate([[0.0], burst, np.zeros(count)])
    for n in range(period + 1, len(sound)):
        sound[n] = 0.5 * (sound[n - period] + sound[n - period - 1])
    return sound[1 : count + 1]


@pytest.mark.parametrize("harmonic", [1, 4, 9, 16])
def test_plucked_string_dies_as_the_loop_of_karplus_and_strong(harmonic: int) -> None:
    period, count = 100, 12_000
    pitch = RATE / (period + 0.5)  # the average delays by half a sample
    rng = np.random.default_rng(0)
    loop = karplus_strong(rng.normal(size=period), count)
    made = synthesis.plucked(rng, pitch, count, damping=1.0)

    def lost(sound: F32 | F64) -> float:
        early, late = sound[:3000], sound[6000:9000]
        hertz = harmonic * pitch
        return 20 * float(np.log10(spectrum_at(early, hertz) / spectrum_at(late, hertz)))

    other = 20 * np.log10(np.e) * 0.002 * pitch * 6000 / RATE  # the rest of a round's loss, in dB
    # The loop's overtones are sharp by up to a cent, and its burst is not periodic: a few percent.
    assert lost(made) - other == pytest.approx(lost(loop), rel=0.05, abs=0.3)


@pytest.mark.parametrize("count", [640, 12_801, 64_000])
def test_band_noise_stays_in_its_band(count: int) -> None:
    noise = synthesis.band_noise(np.random.default_rng(1), count, 1000, 2000)
    assert noise.shape == (count,)
    assert noise.dtype == np.float32
    assert np.sqrt(np.mean(noise.astype(float) ** 2)) == pytest.approx(1, abs=1e-4)
    power = np.abs(np.fft.rfft(noise)) ** 2
    hertz = np.fft.rfftfreq(count, 1 / RATE)
    inside = power[(hertz >= 1000) & (hertz <= 2000)].sum() / power.sum()
    f = np.arange(1.0, 8000.0)
    butterworth = 1 / ((1 + (f / 2000) ** 4) * (1 + (1000 / f) ** 4))
    wanted = butterworth[999:2000].sum() / butterworth.sum()
    # Random power: the share of n lines varies by about 0.5 / sqrt(n); three times that here.
    assert inside == pytest.approx(wanted, abs=1.5 / np.sqrt(count / 16))


def test_moving_noise_follows_its_center() -> None:
    center = np.linspace(500, 3000, 32_000)
    noise = synthesis.moving_noise(np.random.default_rng(2), center, 100)
    for start in range(0, 32_000, 4000):
        piece = noise[start : start + 4000]
        power = np.abs(np.fft.rfft(piece * np.hanning(4000))) ** 2
        mean = np.sum(power * np.fft.rfftfreq(4000, 1 / RATE)) / power.sum()
        # Within half of the center's movement in this quarter of a second, 310 Hz.
        assert mean == pytest.approx(center[start : start + 4000].mean(), abs=150)


@pytest.mark.parametrize(("count", "rate"), [(1, 3.0), (16_000, 0.7), (22_857, 90.0)])
def test_curve_stays_between_its_bounds(count: int, rate: float) -> None:
    line = synthesis.curve(np.random.default_rng(3), count, rate, -2.0, 5.0)
    assert line.shape == (count,)
    assert -2 <= line.min() <= line.max() <= 5
    # Linear from one value to the next: no step is longer than the whole range in a segment.
    assert np.abs(np.diff(line)).max(initial=0) <= 7 / (RATE // rate - 1)


@pytest.mark.parametrize("count", [1, 7, 641, 12_801, 64_000, 120_000])
def test_fast_length_is_long_enough_even_and_smooth(count: int) -> None:
    length = synthesis.fast_length(count)
    assert count <= length <= 1.2 * count + 2
    assert length % 2 == 0
    for prime in (2, 3, 5):
        while length % prime == 0:
            length //= prime
    assert length == 1


def test_placed_cuts_at_the_end() -> None:
    one = np.ones(8000, np.float32)
    whole = synthesis.placed(16_000, [(0.25, one), (0.75, one), (2.0, one)])
    assert whole.sum() == 12_000
    assert whole[:4000].max() == 0


def test_faded_edges_start_and_end_at_nothing() -> None:
    shaped = synthesis.faded(np.ones(100, np.float32), attack=1.0, release=0.001)
    assert shaped[0] == shaped[-1] == 0
    assert np.all(np.diff(shaped[:50]) > 0)
