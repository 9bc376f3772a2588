"""Notes sound at their pitch, and as loud as they are played."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pengi_rt.training.scenes.facts import INSTRUMENTS, PITCHES, VELOCITIES, Note
from pengi_rt.training.scenes.instruments import RENDERERS, render_note
from pengi_rt.training.scenes.synthesis import F32

RATE = 16_000
C128 = NDArray[np.complex128]
LOWEST, HIGHEST = 130.8128, 987.7666  # Hz: C3 and B5 in equal temperament, A4 = 440 Hz
ENDS = [(PITCHES[0], LOWEST), (PITCHES[-1], HIGHEST)]
SHORTEST, LONGEST = 1.5, 3.5  # seconds, from facts.draw_note
SPEAK_SLOWLY = ("brass", "flute", "reed", "string")


def play(
    instrument: str,
    pitch: int = 60,
    velocity: int = 75,
    detune: float = 0.0,
    duration: float = 2.0,
    seed: int = 0,
) -> F32:
    note = Note(
        instrument=instrument,
        pitch=pitch,
        velocity=velocity,
        detune=detune,
        duration=duration,
        snr=0.0,
    )
    return render_note(note, np.random.default_rng(seed))


def partial(sound: F32, low: float, high: float) -> C128:
    """The analytic signal of the band between two frequencies."""
    spectrum = np.fft.fft(sound)
    hertz = np.fft.fftfreq(len(sound), 1 / RATE)
    kept: C128 = np.fft.ifft(np.where((hertz > low) & (hertz < high), spectrum, 0))
    return kept


def fundamental(sound: F32, near: float) -> float:
    """The mean frequency, by power, of the partial within a fifth of ``near``.

    It is the mean advance of phase from sample to sample. A peak of the spectrum would not do:
    vibrato can take the carrier's own line away and leave its sidebands.
    """
    z = partial(sound, near / 1.5, near * 1.5)
    return float(np.angle(np.vdot(z[:-1], z[1:])) * RATE / (2 * np.pi))


def cents(measured: float, wanted: float) -> float:
    return 1200 * float(np.log2(measured / wanted))


def power(sound: F32, low: float, high: float) -> float:
    return float(np.mean(np.abs(partial(sound, low, high)) ** 2))


def line(sound: F32, low: float, high: float) -> float:
    """The magnitude of the strongest line between two frequencies."""
    hertz = np.fft.rfftfreq(len(sound), 1 / RATE)
    magnitude = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(magnitude[(hertz > low) & (hertz < high)].max())


def test_every_instrument_has_a_renderer() -> None:
    assert sorted(RENDERERS) == sorted(INSTRUMENTS)


@pytest.mark.parametrize("duration", [SHORTEST, 1.50003, 2.34567, LONGEST])
@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_renders_at_the_limits(instrument: str, duration: float) -> None:
    for pitch in (PITCHES[0], PITCHES[-1]):
        for velocity in (VELOCITIES[0], VELOCITIES[-1]):
            sound = play(instrument, pitch, velocity, duration=duration)
            assert sound.shape == (round(duration * RATE),)
            assert sound.dtype == np.float32
            assert np.isfinite(sound).all()
            assert np.abs(sound).max() > 1e-3


@pytest.mark.parametrize("velocity", [VELOCITIES[0], VELOCITIES[-1]])
@pytest.mark.parametrize(("pitch", "hertz"), ENDS)
@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_fundamental_is_the_pitch(instrument: str, pitch: int, hertz: float, velocity: int) -> None:
    for seed in range(3):
        sound = play(instrument, pitch, velocity, seed=seed)
        assert abs(cents(fundamental(sound, hertz), hertz)) < 20
        # No line an octave lower could be mistaken for the pitch: all are 20 dB below it.
        assert line(sound, 20, hertz / 1.5) < 0.1 * line(sound, hertz / 1.5, hertz * 1.5)


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_detuning_moves_the_pitch(instrument: str) -> None:
    flat, sharp = (
        fundamental(play(instrument, 69, detune=detune), 440.0) for detune in (-15.0, 15.0)
    )
    # The same noise in both; it and the vibrato's rhythm move the estimate by a cent or two.
    assert cents(sharp, flat) == pytest.approx(30, abs=3)


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_velocity_makes_it_louder_and_brighter(instrument: str) -> None:
    soft, hard = (play(instrument, 60, velocity) for velocity in (25, 127))
    assert np.mean(hard**2) > 4 * np.mean(soft**2)

    def brightness(sound: F32) -> float:
        overtones = sum(power(sound, k * 261.63 * 0.97, k * 261.63 * 1.03) for k in range(2, 13))
        return overtones / power(sound, 261.63 * 0.97, 261.63 * 1.03)

    assert brightness(hard) > 1.2 * brightness(soft)


@pytest.mark.parametrize("instrument", SPEAK_SLOWLY)
def test_velocity_shortens_the_attack(instrument: str) -> None:
    def speaks(velocity: int) -> float:
        frames = play(instrument, 60, velocity)[:16_000].reshape(-1, 160)
        level = np.sqrt(np.mean(frames**2, axis=1))
        return float(np.argmax(level > 0.5 * np.median(level)))

    assert speaks(127) < speaks(25)


@pytest.mark.parametrize("instrument", ["bass", "mallet", "piano"])
def test_struck_strings_and_bars_die_away(instrument: str) -> None:
    sound = play(instrument, duration=LONGEST)
    assert np.mean(sound[-8000:] ** 2) < 0.1 * np.mean(sound[:8000] ** 2)


@pytest.mark.parametrize("instrument", ["brass", "flute", "organ", "reed", "string"])
def test_blown_and_bowed_instruments_sustain(instrument: str) -> None:
    sound = play(instrument, duration=LONGEST)
    assert np.mean(sound[-9600:-1600] ** 2) > 0.4 * np.mean(sound[16_000:24_000] ** 2)


def test_reed_has_odd_harmonics() -> None:
    sound = play("reed", 60, 127)
    lines = [power(sound, k * 261.63 - 20, k * 261.63 + 20) for k in range(1, 8)]
    assert min(lines[::2]) > 10 * max(lines[1::2])


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_seed_decides(instrument: str) -> None:
    np.testing.assert_array_equal(play(instrument, seed=1), play(instrument, seed=1))
    assert not np.array_equal(play(instrument, seed=1), play(instrument, seed=2))
