"""Long recordings are read twice, block by block, with the same result as in one piece."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from encoded import encode, noise

from pengi_rt.audio import decode
from pengi_rt.audio import samples as samples_module
from pengi_rt.audio.recording import Recording, load_windows
from pengi_rt.audio.resample import SoxrResampler, TorchaudioResampler, resample_torchaudio
from pengi_rt.config.choices import LongAudio
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import AudioError

TINY = PengiConfig.preset("tiny")
RATE, CLIP = TINY.mel.sample_rate, TINY.clip_samples


@pytest.mark.parametrize("rate", [4_000, 11_025, 12_345, 44_100, 48_000, 44_101, 500_000])
@pytest.mark.parametrize("block", [1, 1000, 1 << 18])
def test_soxr_in_blocks_equals_soxr_in_one(rate: int, block: int) -> None:
    frames = 700 if block == 1 else 3 * rate + 17
    samples = noise(frames)[:, 0]
    stream = SoxrResampler(rate, 44_100)
    found = [stream.process(samples[start : start + block]) for start in range(0, frames, block)]
    whole = np.concatenate([*found, stream.flush()])
    expected = soxr.resample(samples, rate, 44_100, quality="VHQ") if rate != 44_100 else samples
    np.testing.assert_array_equal(whole, expected)
    assert SoxrResampler(rate, 44_100).output_length(frames) == whole.size


def test_soxr_output_lengths_are_known_in_advance() -> None:
    generator = random.Random(0)
    for _ in range(100):
        rate = generator.choice([4_000, 8_000, 22_050, 48_000, 88_200, 96_000, 192_000, 384_000])
        new_rate = generator.choice([16_000, 44_100])
        frames = generator.randrange(1, 3_000)
        got = soxr.resample(np.zeros(frames, np.float32), rate, new_rate, quality="VHQ")
        assert SoxrResampler(rate, new_rate).output_length(frames) == got.size, (
            rate,
            new_rate,
            frames,
        )


@pytest.mark.parametrize("rate", [8_000, 12_345, 16_000, 44_101, 48_000, 96_000])
def test_a_part_equals_the_same_part_of_the_whole(rate: int) -> None:
    samples = noise(rate)[:, 0]
    whole = resample_torchaudio(samples[None], rate, 16_000)[0]
    resampler = TorchaudioResampler(rate, 16_000)
    for start, stop in [(0, 1), (0, whole.size), (77, 5_000), (whole.size - 9, whole.size)]:
        first, last = resampler.input_span(start, stop)
        padded = np.pad(samples, (max(0, -first), max(0, last - samples.size)))
        got = resampler.outputs(padded[max(first, 0) :][: last - first], start, stop)
        np.testing.assert_array_equal(got, whole[start:stop])


def _both(monkeypatch: pytest.MonkeyPatch, source: Any, **options: Any) -> list[Recording]:
    """The same recording read in one piece, and again in small blocks."""
    found = []
    for kept, block in ((1 << 30, 1 << 18), (0, 3_001)):
        monkeypatch.setattr(samples_module, "KEPT", kept)
        monkeypatch.setattr(decode, "_BLOCK", block)
        found.append(load_windows(source, TINY, rng=random.Random(3), **options))
    return found


def _assert_equal(whole: Recording, streamed: Recording) -> None:
    for name in ("name", "starts", "ends", "seconds", "truncated", "warnings", "clip_samples"):
        assert getattr(whole, name) == getattr(streamed, name), name
    np.testing.assert_array_equal(streamed.samples, whole.samples)
    np.testing.assert_array_equal(np.stack(list(streamed)), whole.samples)
    for first, last in [(0, 1), (1, 3), (-1, None), (2, 2)]:
        np.testing.assert_array_equal(streamed.windows(first, last), whole.samples[first:last])


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 2), (RATE, 1), (44_100, 2)])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "array"])
def test_streamed_equals_whole(
    kind: str, rate: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = noise(int(4.3 * rate), channels)
    source = (samples, rate) if kind == "array" else encode(samples, rate, kind)
    _assert_equal(*_both(monkeypatch, source))


@pytest.mark.parametrize("hop", [2.0, 0.9, 0.137])
@pytest.mark.parametrize("frames", [CLIP // 2, CLIP + 1, 2 * CLIP + 5_000])
def test_streamed_equals_whole_with_every_hop(
    hop: float, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _assert_equal(*_both(monkeypatch, (noise(frames), RATE), hop=hop))


@pytest.mark.parametrize("policy", ["first", "center", "random", "compat"])
@pytest.mark.parametrize("rate", [RATE, 44_100])
@pytest.mark.parametrize("seconds", [0.7, 5.3])
def test_streamed_equals_whole_with_every_policy(
    policy: LongAudio, rate: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (noise(int(seconds * rate), 2), rate)
    whole, streamed = _both(monkeypatch, source, long_audio=policy)
    _assert_equal(whole, streamed)
    (kept,) = streamed.blocks()
    assert kept.size == CLIP


def test_compat_without_its_resampler(monkeypatch: pytest.MonkeyPatch) -> None:
    source = (noise(3 * CLIP, 3), 44_100)
    _assert_equal(*_both(monkeypatch, source, long_audio="compat", resample=False))


def test_several_readers_of_one_long_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(encode(noise(4 * CLIP), RATE, "FLAC"))
    _, streamed = _both(monkeypatch, path)
    expected = streamed.samples
    for one, other, want in zip(streamed, streamed, expected, strict=True):
        np.testing.assert_array_equal(one, want)
        np.testing.assert_array_equal(other, want)


@pytest.mark.parametrize("change", ["longer", "touched", "replaced", "gone"])
def test_a_file_that_changes_is_refused(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    data = encode(noise(4 * CLIP), RATE, "WAV")
    path.write_bytes(data)
    _, recording = _both(monkeypatch, path, name="a.wav")
    assert len(list(recording)) == 4
    if change == "replaced":
        other = tmp_path / "b.wav"
        other.write_bytes(data)
        other.replace(path)
    elif change == "gone":
        path.unlink()
    else:
        path.write_bytes(data + b"\0" * (change == "longer"))
    why = "there is no such file" if change == "gone" else "was changed while it was read"
    with pytest.raises(AudioError, match=rf"^a\.wav: {why}"):
        next(iter(recording))


def test_a_file_that_changes_during_the_last_pass_is_refused_at_its_last_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encode(noise(4 * CLIP), RATE, "WAV"))
    _, recording = _both(monkeypatch, path, name="a.wav")
    windows = iter(recording)
    for _ in range(3):
        next(windows)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(AudioError, match=r"^a\.wav: was changed while it was read"):
        next(windows)


def test_a_recording_damaged_at_its_end_gives_no_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samples_module, "KEPT", 1000)
    samples = noise(5 * CLIP)
    samples[-1] = np.nan
    with pytest.raises(AudioError, match=rf"sample {5 * CLIP - 1} .* is nan"):
        load_windows((samples, RATE), TINY)
    data = encode(noise(5 * CLIP), RATE, "FLAC")
    with pytest.raises(AudioError, match="cut short"):
        load_windows(data[:-50], TINY)
