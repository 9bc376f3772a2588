"""Recordings to windows: the released wrapper's way, our own, and what is refused."""

import dataclasses
import io
import random
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import golden
import numpy as np
import pytest
from decoded import read_path
from encoded import F32, encode, noise

from pengi_rt.audio import recording
from pengi_rt.audio.recording import MAX_WINDOWS, AudioLike, Recording, load_windows
from pengi_rt.config.choices import LongAudio
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.config.presets import PRESETS
from pengi_rt.errors import AudioError, UsageError

BASE = PengiConfig.preset("base")
TINY = PengiConfig.preset("tiny")
RATE = TINY.mel.sample_rate
CLIP = TINY.clip_samples
SOUNDS = Path(__file__).parents[1] / "data" / "sounds"


def _ramp(frames: int) -> F32:
    """Sample ``i`` has the value ``i``, so windows show where they were cut."""
    return np.arange(frames, dtype=np.float32)


def _compat(name: str, **options: Any) -> Recording:
    samples, rate = golden.loading_case(name.removesuffix("_noresample"))
    return load_windows((samples.T, rate), BASE, long_audio="compat", **options)


# Without a resampler between them the samples are equal; with it, to a few units of float32 near 1.
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("load_short_2p5s", 0),
        ("load_exact_7s", 0),
        ("load_stereo_2s", 0),
        ("load_16k_4s_noresample", 0),
        ("load_48k_5s", 4e-7),
        ("load_16k_4s", 4e-7),
    ],
)
def test_compat_equals_the_golden(name: str, tolerance: float) -> None:
    got = _compat(name, resample=not name.endswith("_noresample")).samples
    assert got.shape == (1, 308_700)
    assert got.dtype == np.float32
    arrays = golden.loading()
    parts = {"head": got[0, :256], "tail": got[0, -256:], "every997": got[0, ::997]}
    for part, samples in parts.items():
        if f"{name}/{part}" in arrays:
            want = arrays[f"{name}/{part}"]
            np.testing.assert_allclose(samples, want, rtol=0, atol=tolerance, err_msg=part)
    if f"{name}/stats" in arrays:
        stats = [got.mean(dtype=np.float64), got.std(dtype=np.float64), got.min(), got.max()]
        np.testing.assert_allclose(stats, arrays[f"{name}/stats"], rtol=1e-7, atol=tolerance)


@pytest.mark.parametrize("name", ["load_short_2p5s", "load_stereo_2s"])
def test_compat_seam_equals_the_golden(name: str) -> None:
    seam = golden.loading()[f"{name}/seam"]
    period = {"load_short_2p5s": 110_250, "load_stereo_2s": 176_400}[name]
    around = _compat(name).samples[0, period - seam.size // 2 : period + seam.size // 2]
    np.testing.assert_array_equal(around, seam)


@pytest.mark.parametrize("seed", range(5))
def test_compat_crop_golden(seed: int) -> None:
    samples, _ = golden.loading_case("load_long_9s")
    got = _compat("load_long_9s", rng=random.Random(seed))
    start = golden.loading()["load_long_9s/crop_starts_seed0to4"][seed]
    np.testing.assert_array_equal(got.samples[0], samples[0, start : start + 308_700])
    assert got.starts == (start / 44_100,)
    assert got.truncated


def test_compat_draws_crops_in_order() -> None:
    rng = random.Random(7)
    names = ("load_long_9s", "load_stereo_2s", "load_long_9s")
    starts = [_compat(name, rng=rng).starts[0] for name in names]
    random.seed(7)
    first, second = random.randrange(88_200), random.randrange(88_200)
    assert starts == [first / 44_100, 0, second / 44_100]


def test_compat_appends_channels() -> None:
    samples = noise(CLIP // 4, 3)
    got = load_windows((samples, RATE), TINY, long_audio="compat")
    np.testing.assert_array_equal(got.samples[0, : samples.size], samples.T.reshape(-1))
    assert got.seconds == samples.size / RATE


def test_compat_never_starts_at_the_last_position() -> None:
    got = [
        load_windows((_ramp(CLIP + 1), RATE), TINY, long_audio="compat", rng=random.Random(seed))
        for seed in range(20)
    ]
    assert {recording.starts for recording in got} == {(0.0,)}


def _unheard(frames: int, step: int) -> int:
    """Samples at the end that no window contains: fewer than a spectrogram hop, or zero."""
    tail = max(0, frames - CLIP) % step
    return tail if tail < TINY.mel.hop_length else 0


def _starts(frames: int, step: int) -> list[int]:
    last = max(0, frames - CLIP - _unheard(frames, step))
    return [*range(0, last, step), last]


@pytest.mark.parametrize(
    "frames",
    [1, 2, 160, CLIP - 1, CLIP, CLIP + 1, 2 * CLIP - 1, 2 * CLIP, 2 * CLIP + 1, 7 * CLIP, 60 * RATE]
    + [int(10 ** random.Random(seed).uniform(-2, np.log10(60)) * RATE) for seed in range(40)],
)
def test_windows_cover_all_of_the_audio(frames: int) -> None:
    got = load_windows((_ramp(frames), RATE), TINY)
    assert got.samples.shape == (len(_starts(frames, CLIP)), CLIP)
    assert got.samples.flags.c_contiguous
    assert got.samples.dtype == np.float32
    assert not got.truncated
    assert got.seconds == frames / RATE
    starts = [round(start * RATE) for start in got.starts]
    ends = [round(end * RATE) for end in got.ends]
    np.testing.assert_array_equal(np.unique(got.samples), _ramp(frames - _unheard(frames, CLIP)))
    assert (starts[0], ends[-1]) == (0, frames)
    assert starts == _starts(frames, CLIP)
    for window, start, end in zip(got.samples, starts, ends, strict=True):
        np.testing.assert_array_equal(window, np.resize(_ramp(frames)[start:end], CLIP))


@pytest.mark.parametrize("hop", [2, 1.5, 0.7, 0.037, 1 / RATE])
@pytest.mark.parametrize(
    "frames", [1, CLIP - 1, CLIP, CLIP + 1, CLIP + 700, 2 * CLIP, 3 * CLIP + 5]
)
def test_hop_lets_windows_overlap_and_covers_all(hop: float, frames: int) -> None:
    if hop * RATE < 2:  # a window starts at every sample: a shorter recording tests the same
        frames = min(frames, CLIP + 700)
    wave = _ramp(frames)
    got = load_windows((wave, RATE), TINY, hop=hop)
    starts = [round(start * RATE) for start in got.starts]
    ends = [round(end * RATE) for end in got.ends]
    step = round(hop * RATE)
    assert starts == _starts(frames, step)
    assert ends[-1] == frames
    assert all(0 < later - start <= step for start, later in pairwise(starts))
    assert got.seconds == frames / RATE
    assert not got.truncated
    assert len(got) == len(starts) == len(got.ends)
    for place in {0, len(got) // 2, len(got) - 1}:
        want = np.resize(wave[starts[place] : ends[place]], CLIP)
        np.testing.assert_array_equal(got.windows(place, place + 1), want[None])


def test_without_a_hop_windows_do_not_overlap() -> None:
    source = (noise(5 * CLIP // 2), RATE)
    plain, hopping = load_windows(source, TINY), load_windows(source, TINY, hop=CLIP / RATE)
    assert plain.starts == hopping.starts
    np.testing.assert_array_equal(plain.samples, hopping.samples)


def test_windows_can_be_sliced() -> None:
    got = load_windows((noise(4 * CLIP), RATE), TINY, hop=CLIP / RATE / 3)
    samples = got.samples
    assert samples.shape == (len(got), CLIP) == (10, CLIP)
    for first, last in [(0, None), (0, 4), (4, 8), (8, 12), (3, 3), (12, 20), (-1, None)]:
        some = got.windows(first, last)
        np.testing.assert_array_equal(some, samples[first:last])
        assert some.shape[1] == CLIP
        assert some.flags.c_contiguous
        assert some.dtype == np.float32


def test_windows_are_copies() -> None:
    got = load_windows((noise(2 * CLIP), RATE), TINY, hop=0.5)
    before = got.samples
    got.windows(0, 2)[:] = 0
    got.samples[:] = 0
    np.testing.assert_array_equal(got.samples, before)


def test_small_hops_cost_no_memory_until_they_are_read() -> None:
    wave = noise(20 * RATE)
    tracemalloc.start()
    got = load_windows((wave, RATE), TINY, hop=0.001)
    got.windows(0, 8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All windows together: 18,000 of 128 kB each.
    assert len(got) * CLIP * 4 > 2e9
    assert peak < 20e6


@pytest.mark.parametrize("policy", ["first", "center", "random", "compat"])
def test_one_window_keeps_nothing_else_in_memory(policy: LongAudio) -> None:
    got = load_windows((noise(9 * CLIP), RATE), TINY, long_audio=policy)
    (wave,) = got.blocks()
    whole = wave if wave.base is None else wave.base
    assert whole.size == wave.size == CLIP


@pytest.mark.parametrize("hop", [0, -1, -0.0, 2.001, 7, float("nan"), float("inf"), -float("inf")])
def test_hop_out_of_range(hop: float) -> None:
    with pytest.raises(UsageError) as caught:
        load_windows((_ramp(5), RATE), TINY, hop=hop)
    assert str(caught.value) == (
        f"hop must be above 0 and at most a window's length ({TINY.clip_seconds:g} s), so that all "
        f"of a recording is in some window; got {hop:g}"
    )


@pytest.mark.parametrize("policy", ["first", "center", "random", "compat"])
def test_hop_is_only_for_windows(policy: LongAudio) -> None:
    message = f"^hop is only for long_audio='windows', not '{policy}'$"
    with pytest.raises(UsageError, match=message):
        load_windows((_ramp(5), RATE), TINY, hop=1.0, long_audio=policy)


def test_hop_that_is_too_small() -> None:
    source = (_ramp(CLIP + MAX_WINDOWS), RATE)
    with pytest.raises(AudioError) as caught:
        load_windows(source, TINY, hop=1e-9)
    assert str(caught.value) == (
        "<array>: a hop of 6.25e-05 s gives 100001 windows, but the maximum is 100000; "
        "use a hop of at least 0.001 s"
    )
    assert len(load_windows((_ramp(CLIP + MAX_WINDOWS - 1), RATE), TINY, hop=1e-9)) == MAX_WINDOWS
    long = (np.zeros(20 * 60 * RATE, np.float32), RATE)
    with pytest.raises(AudioError, match=r"use a hop of at least ") as caught:
        load_windows(long, TINY, hop=0.001)
    named = float(str(caught.value).split()[-2])
    assert 0.95 * MAX_WINDOWS < len(load_windows(long, TINY, hop=named)) <= MAX_WINDOWS


def test_the_number_of_windows_is_only_limited_with_a_hop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_WINDOWS", 4)
    source = (_ramp(5 * CLIP), RATE)
    assert len(load_windows(source, TINY)) == 5
    assert len(load_windows(source, TINY, long_audio="first")) == 1
    with pytest.raises(AudioError, match=r" gives 5 windows, but the maximum is 4"):
        load_windows(source, TINY, hop=CLIP / RATE)


def test_short_clip_is_repeated_and_cut() -> None:
    got = load_windows((_ramp(3), RATE), TINY).samples[0]
    assert got[:7].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert got[-1] == (CLIP - 1) % 3


@pytest.mark.parametrize(("policy", "start"), [("first", 0), ("center", 750), ("random", None)])
def test_one_window_of_a_long_recording(policy: LongAudio, start: int | None) -> None:
    source = (_ramp(CLIP + 1501), RATE)
    got = load_windows(source, TINY, long_audio=policy, rng=random.Random(3))
    begin = int(got.samples[0, 0])
    assert start in (None, begin)
    assert got.truncated
    assert got.starts == (begin / RATE,)
    assert got.ends == ((begin + CLIP) / RATE,)
    np.testing.assert_array_equal(got.samples, _ramp(CLIP + 1501)[None, begin : begin + CLIP])


def test_random_window_follows_the_seed_and_reaches_both_ends() -> None:
    def start(seed: int) -> float:
        source = (_ramp(CLIP + 2), RATE)
        got = load_windows(source, TINY, long_audio="random", rng=random.Random(seed))
        assert got.truncated
        return got.starts[0]

    starts = [start(seed) for seed in range(40)]
    assert {round(begin * RATE) for begin in starts} == {0, 1, 2}
    assert starts == [start(seed) for seed in range(40)]


@pytest.mark.parametrize("policy", ["random", "compat"])
def test_without_a_generator_the_window_is_always_the_same(policy: LongAudio) -> None:
    source = (_ramp(5 * CLIP), RATE)
    first, second = (load_windows(source, TINY, long_audio=policy) for _ in range(2))
    assert first.starts == second.starts


@pytest.mark.parametrize("policy", get_args(LongAudio))
@pytest.mark.parametrize("frames", [CLIP - 1, CLIP])
def test_policies_agree_on_a_recording_of_one_clip(policy: LongAudio, frames: int) -> None:
    samples = noise(frames)
    got = load_windows((samples, RATE), TINY, long_audio=policy)
    np.testing.assert_array_equal(got.samples[0], np.resize(samples, CLIP))
    assert not got.truncated


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("policy", ["windows", "compat"])
def test_rates(rate: int, policy: LongAudio) -> None:
    time = np.arange(rate // 2) / rate
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    got = load_windows((tone, rate), TINY, long_audio=policy)
    # The input is up to half a sample short of half a second, and the output rounded.
    assert got.seconds == pytest.approx(0.5, abs=1 / 8_000)
    middle = np.arange(1000, 7000)
    want = 0.5 * np.sin(2 * np.pi * 440 * middle / RATE)
    # torchaudio's six zero crossings let a tone ripple by 1e-3; soxr would pass 1e-6.
    np.testing.assert_allclose(got.samples[0, middle], want, rtol=0, atol=2e-3)


def test_channels_are_averaged_before_the_windows() -> None:
    samples = noise(3 * CLIP, 2)
    got = load_windows((samples, RATE), TINY).samples
    assert got.shape == (3, CLIP)
    np.testing.assert_allclose(got.reshape(-1), samples.mean(axis=1), rtol=0, atol=1e-7)


def _sources(folder: Path, samples: F32) -> dict[str, AudioLike]:
    data = encode(samples, RATE, "WAV", "FLOAT")
    path = folder / "a.wav"
    path.write_bytes(data)
    return {
        "str": str(path),
        "path": path,
        "bytes": data,
        "file": io.BytesIO(data),
        "array": (samples, RATE),
    }


@pytest.mark.parametrize("kind", ["str", "path", "bytes", "file", "array"])
def test_every_kind_of_source(kind: str, tmp_path: Path) -> None:
    samples = noise(3 * CLIP // 2, 2)
    source = _sources(tmp_path, samples)[kind]
    got = load_windows(source, TINY)
    np.testing.assert_array_equal(got.samples, load_windows((samples, RATE), TINY).samples)
    names = {"bytes": "<bytes>", "file": "<BytesIO>", "array": "<array>"}
    assert got.name == names.get(kind, str(tmp_path / "a.wav"))
    if kind != "file":
        assert load_windows(source, TINY, name="dog").name == "dog"


def test_messages_use_the_name_of_an_open_file(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(encode(noise(100), RATE, "FLAC"))
    with path.open("rb") as file:
        assert load_windows(file, TINY).name == str(path)


class _Stdin:
    def __init__(self, data: bytes, *, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(data)
        self.isatty = lambda: terminal


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", _Stdin(encode(_ramp(10), RATE, "WAV", "FLOAT")))
    got = load_windows("-", TINY)
    assert got.name == "<stdin>"
    assert got.samples[0, :10].tolist() == list(range(10))


@pytest.mark.parametrize("stdin", [None, _Stdin(b"", terminal=True)])
def test_a_recording_is_not_read_from_a_terminal(
    monkeypatch: pytest.MonkeyPatch, stdin: _Stdin | None
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(AudioError, match=r"^<stdin>: '-' reads audio from a pipe"):
        load_windows("-", TINY)


@pytest.mark.parametrize(
    ("kind", "lowest", "highest"),
    [
        ("int8", -128, 127),
        ("uint8", 0, 255),
        ("int16", -(2**15), 2**15 - 1),
        ("int32", -(2**31), 2**31 - 1),
        (">i2", -(2**15), 2**15 - 1),
    ],
)
def test_integers_are_scaled(kind: str, lowest: int, highest: int) -> None:
    middle = (lowest + highest + 1) // 2
    samples = np.array([lowest, middle, highest], kind)
    got = load_windows((samples, RATE), TINY).samples[0, :3]
    step = 2 / (highest - lowest + 1)
    assert got.tolist() == [-1, 0, np.float32(1 - step)]


@pytest.mark.parametrize("kind", ["float32", "float64", ">f4"])
def test_floats_are_not_scaled(kind: str) -> None:
    samples = np.array([[0.5], [-3.0], [1e4]], kind)
    assert load_windows((samples, RATE), TINY).samples[0, :3].tolist() == [0.5, -3, 1e4]


def test_the_callers_array_is_not_modified() -> None:
    samples = noise(CLIP)
    before = samples.copy()
    load_windows((samples, RATE), TINY).samples[:] = 0
    np.testing.assert_array_equal(samples, before)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((_ramp(0), RATE), "it holds no samples"),
        ((np.zeros((0, 2)), RATE), "it holds no samples"),
        ((_ramp(10), 384_000), "too short: 10 samples at 384000 Hz are less than one at 16000 Hz"),
        ((np.array([0, np.nan]), RATE), "sample 1 (0.000 s) is nan; samples must be finite"),
        ((np.array([1e300]), RATE), "sample 0 (0.000 s) is inf; samples must be finite"),
        ((_ramp(5), 1), "sample rate 1 Hz; supported: 1000 to 1000000 Hz"),
        ((_ramp(5), -RATE), "sample rate -16000 Hz; supported"),
        ((_ramp(5), 16000.5), "the rate must be a whole number of Hz, got 16000.5"),
        ((_ramp(5), True), "the rate must be a whole number of Hz, got True"),
        ((_ramp(5), None), "the rate must be a whole number of Hz, got None"),
        ((np.zeros((2000, 1000)), RATE), "1000 channels; supported: 1 to 32"),
        ((np.zeros((2, 2000)), RATE), "2 frames of 2000 channels; samples are [frames, channels]"),
        ((np.zeros((2, 2, 2)), RATE), "samples must be [frames] or [frames, channels], got (2, 2"),
        ((np.zeros(()), RATE), "samples must be [frames] or [frames, channels], got"),
        ((np.zeros(5, np.int64), RATE), "samples of type int64; supported: float32, float64, int8"),
        ((np.zeros(5, bool), RATE), "samples of type bool; supported"),
        ((np.zeros(5, complex), RATE), "samples of type complex128; supported"),
        ((np.zeros(5, "U3"), RATE), "samples of type str96; supported"),
        ((RATE, _ramp(5)), "an array recording is (samples, rate); got (int, ndarray): in the ord"),
        ((_ramp(5),), "an array recording is (samples, rate); got (ndarray)"),
        (_ramp(5), "this is not a recording; give a path, bytes, a binary file or (samples, rate)"),
        (None, "this is not a recording; give"),
        (7, "this is not a recording; give"),
        (io.BytesIO(), "empty: there are no bytes"),
        (b"", "empty: there are no bytes"),
        ("", "this is a folder; name the audio files in it"),
    ],
)
def test_refused(source: Any, message: str) -> None:
    for policy in ("windows", "compat"):
        with pytest.raises(AudioError) as caught:
            load_windows(source, TINY, long_audio=policy)
        assert f": {message}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_text_file() -> None:
    source: Any = io.StringIO("RIFF")
    with pytest.raises(AudioError, match=r"^<StringIO>: reads as str; open it in binary mode$"):
        load_windows(source, TINY)


def test_rate_given_by_numpy() -> None:
    assert load_windows((_ramp(5), np.int64(RATE)), TINY).seconds == 5 / RATE  # type: ignore[arg-type]


def test_refusal_names_the_file_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(AudioError) as caught:
        load_windows(tmp_path / "a\nb.wav", TINY)
    assert str(caught.value).endswith(r"a\nb.wav': there is no such file")
    assert "\n" not in str(caught.value)


def test_unknown_policy() -> None:
    message = r"^long_audio must be one of windows, first, center, random, compat; got 'middle'$"
    with pytest.raises(UsageError, match=message):
        load_windows((_ramp(5), RATE), TINY, long_audio="middle")  # type: ignore[arg-type]


def test_only_compat_ignores_the_rate() -> None:
    with pytest.raises(UsageError, match=r"^only long_audio='compat' can ignore the file's rate"):
        load_windows((_ramp(5), RATE), TINY, resample=False)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("file", "rate", "channels", "seconds"),
    [
        ("front_center.wav", 48_000, 1, 1.428),
        ("bell.oga", 44_100, 2, 0.139),
        ("camera_shutter.oga", 96_000, 2, 0.872),
    ],
)
def test_real_recordings(file: str, rate: int, channels: int, seconds: float, preset: str) -> None:
    config = PengiConfig.preset(preset)
    sound = read_path(SOUNDS / file, file, mono=False)
    assert (sound.rate, sound.samples.shape[0]) == (rate, channels)
    got = load_windows(SOUNDS / file, config)
    assert got.samples.shape == (1, config.clip_samples)
    assert got.seconds == pytest.approx(seconds, abs=1e-3)
    assert 0.01 < np.abs(got.samples).max() <= 1.1


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_a_real_recording_in_other_formats_and_rates(kind: str, rate: int) -> None:
    path = SOUNDS / "front_center.wav"
    want = load_windows(path, TINY).samples
    mel = dataclasses.replace(TINY.mel, sample_rate=rate, hop_length=rate // 100)
    config = dataclasses.replace(TINY, mel=mel, clip_seconds=1.4)
    copy = load_windows(path, config, long_audio="first").samples[0]
    middle = slice(1600, 20_000)
    got = load_windows(encode(copy, rate, kind), TINY).samples[0, middle]
    error = np.linalg.norm(got - want[0, middle]) / np.linalg.norm(want[0, middle])
    # Measured: 16 bits and two resamplings 3e-4, Vorbis at its default quality 7e-2.
    assert error < (0.15 if kind == "OGG" else 3e-3)


def test_every_recording_has_its_license_beside_it() -> None:
    text = (SOUNDS / "LICENSES.md").read_text("utf-8")
    files = [path for path in SOUNDS.iterdir() if path.suffix in (".wav", ".oga")]
    assert len(files) == 3
    assert all(f"| `{path.name}` |" in text for path in files)
    assert sum(path.stat().st_size for path in SOUNDS.iterdir()) < 600_000


def test_importing_loads_no_heavy_library() -> None:
    code = (
        "import sys, pengi_rt.audio.recording, pengi_rt.text.tokenizers; "
        "print(*{'torch', 'soundfile', 'soxr', 'tokenizers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
