"""A clip is as loud, and its sounds are as prominent, as its facts say."""

from dataclasses import replace

import numpy as np
import pytest

from pengi_rt.training.scenes.facts import (
    EVENTS,
    INSTRUMENTS,
    PLACES,
    Event,
    Facts,
    Note,
    draw,
)
from pengi_rt.training.scenes.mix import mix, render_clip, tracks
from pengi_rt.training.scenes.synthesis import F32

CLIP = 64_000


def scene(name: str, place: str, snr: float, onset: float = 0.37, duration: float = 1.3) -> Facts:
    return Facts(place=place, events=(Event(name=name, onset=onset, duration=duration, snr=snr),))


def note(instrument: str, place: str, snr: float) -> Facts:
    return Facts(
        place=place,
        note=Note(instrument=instrument, pitch=64, velocity=75, detune=3.0, duration=2.2, snr=snr),
    )


def measured_snr(sound: F32, background: F32, onset: float, end: float) -> float:
    """In dB, as the docstring of `mix` defines it, frame by frame."""
    first, last = round(onset * 16_000), min(round(end * 16_000), CLIP)
    powers = [
        float(np.sum(sound[start : start + 320].astype(float) ** 2)) / 320
        for start in range(first, last - 319, 320)
    ]
    heard = [power for power in powers if 10 * np.log10(power + 1e-30) >= peak_db(powers) - 30]
    noise = float(np.mean(background.astype(float) ** 2))
    return float(10 * np.log10(np.mean(heard) / noise))


def peak_db(powers: list[float]) -> float:
    return float(10 * np.log10(max(powers)))


# Tolerance of 0.1 dB: a frame exactly at -30 dB may round to either side.
@pytest.mark.parametrize("snr", [-5.0, 7.5, 20.0])
@pytest.mark.parametrize("name", EVENTS)
def test_an_event_has_the_requested_signal_to_noise_ratio(name: str, snr: float) -> None:
    for seed, place in enumerate(PLACES):
        background, sound = tracks(scene(name, place, snr), np.random.default_rng(seed))
        assert measured_snr(sound, background, 0.37, 1.67) == pytest.approx(snr, abs=0.1)


@pytest.mark.parametrize("name", EVENTS)
def test_a_cut_event_has_the_requested_signal_to_noise_ratio(name: str) -> None:
    facts = scene(name, "hall", 5.0, onset=2.8, duration=1.5)
    background, sound = tracks(facts, np.random.default_rng(0))
    assert measured_snr(sound, background, 2.8, 4.3) == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_a_note_has_the_requested_signal_to_noise_ratio(instrument: str) -> None:
    for seed, place in enumerate(PLACES):
        background, sound = tracks(note(instrument, place, 2.0), np.random.default_rng(seed))
        assert measured_snr(sound, background, 0.0, 2.2) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("name", EVENTS)
def test_nothing_sounds_before_its_onset(name: str) -> None:
    _, sound = tracks(scene(name, "hall", 10.0), np.random.default_rng(0))
    assert not sound[: round(0.37 * 16_000)].any()


def test_clip_is_its_tracks_at_one_level() -> None:
    facts = draw(0, 1)
    parts = tracks(facts, np.random.default_rng(5))
    assert len(parts) == 1 + (len(facts.events) or 1)
    clip, whole = mix(facts, np.random.default_rng(5)), np.sum(parts, axis=0, dtype=float)
    scale = float(np.dot(clip, whole) / np.dot(whole, whole))
    np.testing.assert_allclose(clip, scale * whole, atol=1e-6)


def test_peaks_spread_from_minus_20_to_minus_1_dbfs() -> None:
    peaks = [float(np.abs(render_clip(9, index)[1]).max()) for index in range(80)]
    levels = 20 * np.log10(peaks)
    assert -20.001 <= levels.min() < -17
    assert -4 < levels.max() <= -0.999


def test_a_clip_is_finite_and_depends_on_seed_and_index_alone() -> None:
    clips = [render_clip(seed, index) for seed, index in ((1, 0), (1, 1), (2, 0), (1, 0))]
    for _, clip in clips:
        assert clip.shape == (CLIP,)
        assert clip.dtype == np.float32
        assert np.isfinite(clip).all()
    assert clips[0][0] == clips[3][0] == draw(1, 0)
    np.testing.assert_array_equal(clips[0][1], clips[3][1])
    assert not np.array_equal(clips[0][1], clips[1][1])
    assert not np.array_equal(clips[0][1], clips[2][1])


@pytest.mark.parametrize("onset", [0.05, 2.8])
def test_earliest_and_latest_onset(onset: float) -> None:
    for name in EVENTS:
        facts = scene(name, "room", 0.0, onset=onset, duration=1.5)
        assert np.isfinite(mix(facts, np.random.default_rng(0))).all()


def test_velocity_changes_the_timbre_not_the_level() -> None:
    soft, hard = (
        tracks(replace(facts, note=replace(facts.note, velocity=velocity)), rng(0))[1]
        for velocity in (25, 127)
        if (facts := note("piano", "room", 6.0)).note
    )
    centroids = []
    for sound in (soft, hard):
        power = np.abs(np.fft.rfft(sound)) ** 2
        centroids.append(float(power @ np.fft.rfftfreq(CLIP, 1 / 16_000) / power.sum()))
    assert centroids[1] > 1.2 * centroids[0]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
