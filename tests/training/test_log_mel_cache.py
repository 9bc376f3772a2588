"""Log-mels on disk equal fresh ones, are computed once, and recomputed for changed files."""

import errno
import logging
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from training_run import RATE, Workshop, outcome, train, variant

from pengi_rt.audio.recording import load_windows
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.models.mel import LogMel
from pengi_rt.models.tiny import make_tokenizers
from pengi_rt.training import log_mel_cache
from pengi_rt.training.config import DataConfig, _model
from pengi_rt.training.data import ClipData
from pengi_rt.training.errors import TrainingError
from pengi_rt.training.examples import RowEncoder
from pengi_rt.training.log_mel_cache import LogMelCache
from pengi_rt.training.manifest import Row

CONFIG = PengiConfig.from_dict(_model(variant("released")))
MEL = LogMel(CONFIG).eval()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Loud, faint, silent and short recordings: none longer than a clip."""
    rng = np.random.default_rng(0)
    found = []
    for index, (gain, samples) in enumerate(((0.9, 8000), (1e-4, 8000), (0.0, 8000), (0.5, 3000))):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, gain * rng.uniform(-1, 1, samples), RATE, subtype="FLOAT")
        found.append(path)
    return found


def fresh(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with torch.no_grad():
        return MEL.log_mel(torch.from_numpy(load_windows(path, CONFIG).samples))[0].numpy()


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize("chunk", [1, 3, 32])
def test_it_holds_what_a_fresh_transform_gives(
    chunk: int, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_mel_cache, "CHUNK", chunk)
    cache = LogMelCache(paths, MEL, CONFIG, tmp_path / "log_mel")
    for path in reversed(paths):
        found, expected = cache.read(path), fresh(path)
        assert found.dtype == np.float32
        # float16 has 11 bits: half of 2^-10 of the value, and -100 dB is off by at most 0.03. The
        # transform of a batch differs from that of one clip by 1e-4 dB.
        np.testing.assert_allclose(found, expected, rtol=2.0**-11, atol=2e-4)
    assert cache.read(paths[2]).max() == -100.0


def test_it_is_reused(paths: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "log_mel"
    LogMelCache(paths, MEL, CONFIG, root)
    assert "writing the log-mels of 4 clips" in caplog.text
    (name,) = files(root)
    before = (root / name).stat().st_mtime_ns
    caplog.clear()
    LogMelCache(paths, MEL, CONFIG, root)
    assert caplog.text == ""
    assert files(root) == [name]
    assert (root / name).stat().st_mtime_ns == before


def test_it_is_made_again_for_another_file(paths: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "log_mel"
    before = LogMelCache(paths, MEL, CONFIG, root).read(paths[0])
    status = paths[0].stat()
    samples = np.random.default_rng(9).uniform(-1, 1, 8000)
    soundfile.write(paths[0], samples, RATE, subtype="FLOAT")
    # As long as before; only its time shows that it has changed.
    assert paths[0].stat().st_size == status.st_size
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = LogMelCache(paths, MEL, CONFIG, root).read(paths[0])
    np.testing.assert_allclose(after, fresh(paths[0]), rtol=2.0**-11, atol=2e-4)
    assert not np.allclose(after, before, atol=1)
    assert len(files(root)) == 2


def test_it_is_made_again_for_another_front_end(paths: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "log_mel"
    LogMelCache(paths, MEL, CONFIG, root)
    other = replace(CONFIG, mel=replace(CONFIG.mel, fmax=5000.0))
    mel = LogMel(other)
    cache = LogMelCache(paths, mel, other, root)
    assert len(files(root)) == 2
    assert not np.allclose(cache.read(paths[0]), fresh(paths[0]), atol=0.1)
    LogMelCache(paths[:2], MEL, CONFIG, root)
    LogMelCache([paths[1], paths[0]], MEL, CONFIG, root)
    assert len(files(root)) == 4


def test_a_recording_longer_than_a_clip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(8001), RATE)
    with pytest.raises(UsageError, match=r"long.wav: is longer than a clip \(0.5 s\)"):
        LogMelCache([path], MEL, CONFIG, tmp_path / "log_mel")
    assert files(tmp_path / "log_mel") == []


def test_a_missing_recording(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"no.wav: cannot be read: No such file"):
        LogMelCache([tmp_path / "no.wav"], MEL, CONFIG, tmp_path / "log_mel")


@pytest.mark.parametrize("call", ["pathlib.Path.open", "pathlib.Path.replace"])
def test_a_full_disk_leaves_nothing(
    call: str, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "log_mel").mkdir()
    monkeypatch.setattr(call, full)
    with pytest.raises(TrainingError, match=r"cannot be written \(No space left on device\)"):
        LogMelCache(paths, MEL, CONFIG, tmp_path / "log_mel")
    assert files(tmp_path / "log_mel") == []


def test_a_worker_maps_it_again(paths: list[Path], tmp_path: Path) -> None:
    cache = LogMelCache(paths, MEL, CONFIG, tmp_path / "log_mel")
    data = pickle.dumps(cache)
    assert len(data) < (tmp_path / "log_mel" / files(tmp_path / "log_mel")[0]).stat().st_size
    assert np.array_equal(pickle.loads(data).read(paths[0]), cache.read(paths[0]))


def test_batches_equal_those_without_it(paths: list[Path], tmp_path: Path) -> None:
    """A gain in decibels is added to the decibels."""
    cache = LogMelCache(paths, MEL, CONFIG, tmp_path / "log_mel")
    row = Row(1, paths[0], "caption", "generate audio caption", "a dog")
    encoder = RowEncoder(CONFIG, make_tokenizers(CONFIG), 77)
    data = ClipData([row], encoder, DataConfig(), seed=0, cache=cache, gain_db=6.0)
    plain = ClipData([row], encoder, DataConfig(), seed=0, gain_db=6.0)
    found, waves = data[[0, 1, 2]], plain[[0, 1, 2]].wave
    assert found.wave is None
    assert found.log_mel is not None
    assert waves is not None
    with torch.no_grad():
        expected = MEL.log_mel(waves)
    # Both draw the same gain at a position; float16 tolerance as above.
    torch.testing.assert_close(found.log_mel, expected, rtol=2.0**-11, atol=0.02)
    assert len({float(clip.mean()) for clip in found.log_mel}) == 3


def test_a_run_with_a_cache(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """The cache is next to the run's folder, for the next stage; the losses are nearly equal."""
    workshop = Workshop(tmp_path_factory.mktemp("cached"))
    for path in workshop.manifest.parent.glob("*.wav"):
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples[: CONFIG.clip_samples], rate)
    data = {"manifests": [str(workshop.manifest)], "cache_log_mel": True}
    for output in ("first", "second"):
        train(workshop.config("captioning", output, data=data))
    plain = workshop.config("captioning", "plain")
    train(plain)
    assert len(list((workshop.root / "log_mel").glob("*.npy"))) == 1
    writing = [r for r in caplog.records if "writing the log-mels" in r.getMessage()]
    assert len(writing) == 1
    assert writing[0].levelno == logging.WARNING
    losses = [
        [record["loss"] for record in outcome(workshop.config("captioning", name, **c))[1]]
        for name, c in (("first", {"data": data}), ("second", {"data": data}), ("plain", {}))
    ]
    assert losses[0] == losses[1]
    np.testing.assert_allclose(losses[0], losses[2], rtol=1e-4)
    assert losses[0] != losses[2]
