"""Recordings that are not sound are detected: every case at its limit, with any block size."""

from typing import Any

import numpy as np
import pytest

from pengi_rt.audio.statistics import CANCELED, F32, LOUD, STILL, Statistics

RATE = 8_000
RNG = np.random.default_rng(3)
MUSIC = RNG.standard_normal(RATE) * 0.1
OTHER = RNG.standard_normal(RATE) * 0.1


def channels(*samples: Any) -> F32:
    return np.array(np.broadcast_arrays(*samples), np.float32)


def warnings(samples: F32, size: int = 1 << 18, *, mixed: bool = True) -> tuple[str, ...]:
    statistics = Statistics()
    for start in range(0, samples.shape[1], size):
        statistics.update(samples[:, start : start + size])
    return statistics.warnings(mixed=mixed)


ODD = {
    "zeros": (channels(np.zeros(99)), "silence: every sample is 0"),
    "zeros in stereo": (channels(np.zeros(99), np.zeros(99)), "silence: every sample is 0"),
    "dither": (
        channels(RNG.integers(-2, 3, 9999) / 2**15),
        "silence: its loudest sample is at -84",
    ),
    "int16 read as int32": (channels(MUSIC / 2**16), "silence: its loudest sample is at -1"),
    "constant": (channels(np.full(99, 0.5)), "no sound: its samples stay at one value (0.5)"),
    "two constants": (channels(np.full(99, 0.5), -0.5), "stay at one value (0.5, -0.5)"),
    "constant and dither": (channels(0.1 + RNG.integers(-2, 3, 99) / 2**15), "at one value (0.09"),
    "integers of 16 bits": (channels(np.rint(MUSIC * 2**15)), "divide them by 32768"),
    "integers, resampled": (channels(MUSIC * 2**15), "divide them by 32768"),
    "integers, very quiet": (channels(np.rint(MUSIC * 50)), "they look like integers"),
    "integers of 24 bits": (channels(np.rint(MUSIC * 2**23)), "divide them by 8388608"),
    "integers of 32 bits": (channels(np.rint(MUSIC * 2**31)), "divide them by 2147483648"),
    "anti-phase": (
        channels(MUSIC, -MUSIC),
        "anti-phase: their average, which the model hears, ke",
    ),
    "nearly anti-phase": (channels(MUSIC, -1.1 * MUSIC), "keeps -26 dB of them"),
    "anti-phase pairs": (channels(MUSIC, -MUSIC, OTHER, -OTHER), "anti-phase"),
    "anti-phase, constant": (channels(MUSIC + 0.5, 0.5 - MUSIC), "anti-phase"),
}

SOUNDS = {
    "music": channels(MUSIC),
    "stereo": channels(MUSIC, OTHER),
    "mono in stereo": channels(MUSIC, MUSIC),
    "one side": channels(MUSIC, np.zeros(RATE)),
    "one of 32": channels(MUSIC, *[np.zeros(RATE)] * 31),
    "32 of their own": RNG.standard_normal((32, RATE)).astype(np.float32),
    "wide stereo": channels(MUSIC + OTHER / 3, OTHER / 3 - MUSIC),
    "quiet field": channels(MUSIC / 400),
    "a second in a long silence": channels(np.concatenate([np.zeros(60 * RATE), MUSIC])),
    "a click": channels(np.eye(1, 9999, 5000)[0]),
    "a square of full scale": channels(np.tile([1.0, -1.0], 99)),
    "over full scale": channels(MUSIC * 20),
    "one channel constant": channels(MUSIC, np.full(RATE, 0.9)),
    "silent, then in anti-phase, then louder": channels(
        np.concatenate([MUSIC, 3 * OTHER]), np.concatenate([-MUSIC, 3 * OTHER])
    ),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("size", [1 << 18, 777])
def test_warnings_for_recordings_without_sound(name: str, size: int) -> None:
    samples, message = ODD[name]
    (warning,) = warnings(samples, size)
    assert message in warning
    assert "\n" not in warning


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("size", [1 << 18, 777])
def test_no_warning_for_normal_sounds(name: str, size: int) -> None:
    assert warnings(SOUNDS[name], size) == ()


def test_warning_thresholds() -> None:
    assert warnings(channels([0, STILL])) != ()
    assert warnings(channels([-2 * STILL, 1.5 * STILL])) == ()
    assert warnings(channels([0.1, -LOUD])) == ()
    assert warnings(channels([0.1, -LOUD * 1.001])) != ()
    for keeps, count in ((0.99 * CANCELED, 1), (1.01 * CANCELED, 0)):
        rest = 1 - 2 * keeps  # because it keeps (1 - g)^2 / 4 of (1 + g^2) / 2
        gain = (1 - (1 - rest**2) ** 0.5) / rest
        assert len(warnings(channels(MUSIC, -gain * MUSIC))) == count


def test_concatenated_channels_do_not_cancel() -> None:
    assert warnings(channels(MUSIC, -MUSIC), mixed=False) == ()
    assert warnings(channels(np.zeros(9), np.zeros(9)), mixed=False) != ()


def test_invalid_samples_raise_nothing_here() -> None:
    with np.errstate(all="raise"):
        for samples in ([np.nan, 1.0], [np.inf, -np.inf], [3e38, 3e38]):
            warnings(channels(samples, samples[::-1]))
    assert Statistics().warnings() == ()
