"""Recordings in groups, and their windows in batches: nothing lost, nothing read too early."""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pengi_rt.audio.recording import load_windows
from pengi_rt.config import ModelConfig
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.options import READ_DEFAULTS, ReadOptions
from pengi_rt.reading import is_batch, parted, read_groups, waves

CONFIG = ModelConfig.preset("tiny")
RATE, CLIP = CONFIG.mel.sample_rate, CONFIG.clip_samples


def options(**changes: Any) -> ReadOptions:
    return ReadOptions(**{**READ_DEFAULTS, **changes})  # type: ignore[typeddict-item]


def sound(seed: int, windows: int) -> tuple[np.ndarray, int]:
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, windows * CLIP).astype(np.float32), RATE


SIZES = [1, 3, 1, 1, 7, 2]
SOUNDS = [sound(seed, size) for seed, size in enumerate(SIZES)]


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 100])
def test_groups_fill_a_batch_and_batches_hold_every_window(batch: int) -> None:
    groups = list(read_groups(SOUNDS, CONFIG, options(batch_size=batch)))
    counts = [[len(read.recording) for read in group] for group in groups]
    assert [count for group in counts for count in group] == SIZES
    for sizes in counts[:-1]:
        assert sum(sizes) >= batch > sum(sizes[:-1])
    for group in groups:
        expected = np.concatenate([read.recording.samples for read in group])
        found = list(waves(group, batch))
        assert [len(each) for each in found[:-1]] == [batch] * (len(found) - 1)
        assert 0 < len(found[-1]) <= batch
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_recordings_are_drawn_as_they_are_needed() -> None:
    drawn = []

    def source() -> Iterator[tuple[np.ndarray, int]]:
        for number, each in enumerate(SOUNDS):
            drawn.append(number)
            yield each

    groups = read_groups(source(), CONFIG, options(batch_size=3))
    assert drawn == []
    next(groups)
    assert drawn == [0, 1]


def test_what_was_read_before_an_error_is_a_group() -> None:
    groups = read_groups([SOUNDS[0], SOUNDS[2], b"no sound", SOUNDS[3]], CONFIG, options())
    assert len(next(groups)) == 2
    with pytest.raises(AudioError, match="<bytes>"):
        next(groups)
    with pytest.raises(AudioError):
        next(read_groups([b"no sound"], CONFIG, options()))


def test_one_seed_draws_all_crops() -> None:
    def crops(*sounds: int) -> list[float]:
        chosen = [SOUNDS[number] for number in sounds]
        reads = read_groups(chosen, CONFIG, options(long_audio="random", seed=4, batch_size=1))
        return [read.recording.starts[0] for group in reads for read in group]

    assert crops(1, 4) == crops(1, 4)
    assert crops(1, 4)[0] == crops(1)[0]
    assert crops(4, 4)[0] != crops(4, 4)[1]


@pytest.mark.parametrize("size", [0, -1, 1.5, "3", None])
def test_batches_that_cannot_be(size: object) -> None:
    with pytest.raises(UsageError, match="batch_size must be a whole number of at least 1"):
        read_groups(SOUNDS, CONFIG, options(batch_size=size))


@pytest.mark.parametrize(
    "one", ["a.wav", Path("a.wav"), b"RIFF", bytearray(b"RIFF"), SOUNDS[0], io.BytesIO(b"RIFF")]
)
def test_one_recording_is_not_several(one: Any) -> None:
    """A path has letters and a file has lines: none of them are recordings."""
    with pytest.raises(UsageError, match="must be a list or an iterator of them, got"):
        read_groups(one, CONFIG, options())


def test_windows_of_another_plan_are_refused() -> None:
    other = dataclasses.replace(CONFIG, clip_seconds=CONFIG.clip_seconds / 2)
    recording = load_windows(SOUNDS[0], other)
    with pytest.raises(UsageError, match=f"windows of {CLIP // 2} samples for another plan"):
        list(read_groups([recording], CONFIG, options()))
    ((read,),) = read_groups([load_windows(SOUNDS[0], CONFIG)], CONFIG, options())
    assert read.seconds == 0


def test_windows_are_parted_by_recording() -> None:
    (group,) = read_groups(SOUNDS, CONFIG, options(batch_size=100))
    found = [(len(recording), own.start, own.stop) for recording, own in parted(group)]
    assert found == [(1, 0, 1), (3, 1, 4), (1, 4, 5), (1, 5, 6), (7, 6, 13), (2, 13, 15)]


def test_what_is_a_batch() -> None:
    assert is_batch([])
    assert is_batch(["a", "b"])
    assert is_batch((SOUNDS[0], SOUNDS[1]))
    assert not any(map(is_batch, ["a", b"a", SOUNDS[0], Path("a"), io.BytesIO()]))
