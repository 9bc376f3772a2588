"""Recordings to batches of windows, and outputs back to recordings: nothing lost or early."""

import dataclasses
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pengi_rt.audio.audio_like import is_several
from pengi_rt.audio.recording import AudioLike, Recording, load_windows
from pengi_rt.config.options import ReadOptions
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.session.batches import Batch, OutputsByRecording, RecordingOutputs, window_batches

CONFIG = PengiConfig.preset("tiny")
RATE, CLIP = CONFIG.mel.sample_rate, CONFIG.clip_samples


def options(**changes: Any) -> ReadOptions:
    return ReadOptions(**changes)


def sound(seed: int, windows: int) -> tuple[np.ndarray, int]:
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, windows * CLIP).astype(np.float32), RATE


SIZES = [1, 3, 1, 1, 7, 2]
SOUNDS = [sound(seed, size) for seed, size in enumerate(SIZES)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_batches_are_full_and_hold_every_window_in_its_place(size: int) -> None:
    batches = list(window_batches(SOUNDS, CONFIG, options(batch_size=size)))
    counts = [len(batch) for batch in batches]
    assert counts[:-1] == [size] * (len(counts) - 1)
    assert 0 < counts[-1] <= size
    assert sum(counts) == sum(SIZES)
    samples = np.concatenate([load_windows(each, CONFIG).samples for each in SOUNDS])
    np.testing.assert_array_equal(np.concatenate([batch.windows for batch in batches]), samples)
    for batch in batches:
        assert batch.slices[0].rows.start == 0
        for share in batch.slices:
            count = share.rows.stop - share.rows.start
            expected = share.recording.windows(share.first, share.first + count)
            np.testing.assert_array_equal(batch.windows[share.rows], expected)
        assert len(list(batch.spans)) == len(batch)


def by_recording(
    batches: Iterator[Batch], *, partial_results: bool = False
) -> Iterator[RecordingOutputs[float]]:
    """The first sample of every window, by recording."""
    outputs = OutputsByRecording[float](partial_results=partial_results)
    for batch in batches:
        yield from outputs.add(batch, [float(window[0]) for window in batch.windows])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_outputs_come_back_by_recording(size: int) -> None:
    expected = [[float(window[0]) for window in load_windows(each, CONFIG)] for each in SOUNDS]
    whole = list(by_recording(window_batches(SOUNDS, CONFIG, options(batch_size=size))))
    assert [list(part.outputs) for part in whole] == expected
    assert all(part.is_last and part.window_range is None for part in whole)
    batches = window_batches(SOUNDS, CONFIG, options(batch_size=size))
    found: list[list[float]] = []
    for part in by_recording(batches, partial_results=True):
        if part.first == 0:
            found.append([])
        assert len(found[-1]) == part.first
        found[-1] += part.outputs
        assert part.is_last == (len(found[-1]) == len(part.recording))
        assert len(list(part.spans)) == len(part.outputs) <= size
    assert found == expected


def test_a_recording_given_twice_is_two() -> None:
    recording = load_windows(SOUNDS[1], CONFIG)
    batches = window_batches([recording, recording], CONFIG, options(batch_size=4))
    assert [len(part.outputs) for part in by_recording(batches)] == [3, 3]


def test_recordings_are_drawn_as_they_are_needed() -> None:
    drawn = []

    def source() -> Iterator[tuple[np.ndarray, int]]:
        for number, each in enumerate(SOUNDS):
            drawn.append(number)
            yield each

    batches = window_batches(source(), CONFIG, options(batch_size=3))
    assert drawn == []
    next(batches)
    assert drawn == [0, 1]


def test_recordings_read_before_an_error_are_a_batch() -> None:
    batches = window_batches([SOUNDS[0], SOUNDS[2], b"no sound", SOUNDS[3]], CONFIG, options())
    assert len(next(batches)) == 2
    with pytest.raises(AudioError, match="<bytes>"):
        next(batches)
    with pytest.raises(AudioError):
        next(window_batches([b"no sound"], CONFIG, options()))


def test_an_error_that_a_listener_takes_does_not_end_the_run() -> None:
    told: list[tuple[object, str]] = []
    sources: list[AudioLike] = [SOUNDS[0], b"no sound", SOUNDS[2]]
    batches = window_batches(
        sources, CONFIG, options(), on_error=lambda source, error: told.append((source, str(error)))
    )
    assert [len(batch) for batch in batches] == [2]
    ((source, message),) = told
    assert source == b"no sound"
    assert message.startswith("<bytes>: ")


def test_reading_is_timed_where_recordings_are_drawn_too() -> None:
    def slow() -> Iterator[Recording]:
        time.sleep(0.01)
        yield load_windows(SOUNDS[0], CONFIG)

    (batch,) = window_batches(slow(), CONFIG, options())
    assert batch.read_seconds >= 0.01


def test_one_seed_draws_all_crops() -> None:
    def crops(*sounds: int) -> list[float]:
        chosen = [SOUNDS[number] for number in sounds]
        batches = window_batches(chosen, CONFIG, options(long_audio="random", seed=4, batch_size=1))
        return [share.recording.starts[0] for batch in batches for share in batch.slices]

    assert crops(1, 4) == crops(1, 4)
    assert crops(1, 4)[0] == crops(1)[0]
    assert crops(4, 4)[0] != crops(4, 4)[1]


@pytest.mark.parametrize("size", [0, -1, 1.5, "3", None])
def test_invalid_batch_sizes(size: object) -> None:
    with pytest.raises(UsageError, match="batch_size must be a whole number of at least 1"):
        window_batches(SOUNDS, CONFIG, options(batch_size=size))


@pytest.mark.parametrize(
    "one", ["a.wav", Path("a.wav"), b"RIFF", bytearray(b"RIFF"), SOUNDS[0], io.BytesIO(b"RIFF")]
)
def test_one_recording_is_not_several(one: Any) -> None:
    """Iterating over a path gives letters, and over a file lines: neither are recordings."""
    with pytest.raises(UsageError, match="must be a list or an iterator of them, got"):
        window_batches(one, CONFIG, options())


def test_windows_of_another_plan_are_refused() -> None:
    other = dataclasses.replace(CONFIG, clip_seconds=CONFIG.clip_seconds / 2)
    recording = load_windows(SOUNDS[0], other)
    with pytest.raises(UsageError, match=f"windows of {CLIP // 2} samples for another plan"):
        list(window_batches([recording], CONFIG, options()))


def test_the_listener_must_be_callable() -> None:
    told: Any = []
    with pytest.raises(UsageError, match=r"on_error must be a function or None, got \[\]"):
        window_batches([], CONFIG, options(), on_error=told)


def test_several_recordings_are_recognized() -> None:
    assert is_several([])
    assert is_several(["a", "b"])
    assert is_several((SOUNDS[0], SOUNDS[1]))
    assert not any(map(is_several, ["a", b"a", SOUNDS[0], Path("a"), io.BytesIO()]))
