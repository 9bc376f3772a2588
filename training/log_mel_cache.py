"""A disk cache of each clip's log-mel, so that each recording is decoded and transformed once.

The cache is one float16 array [clips, frames, n_mels] in dB (float16 is exact to 0.06 at -100), in
a file named after a hash of its inputs: the recordings' paths, sizes and modification times, and
the config of the front end.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pengi_rt.audio.recording import load_windows
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.models.mel import LogMel
from pengi_rt.system.files import replacing
from pengi_rt.system.quote import one_line
from pengi_rt.system.regular import Regular
from pengi_rt.training.errors import TrainingError

logger = logging.getLogger(__name__)

F16 = NDArray[np.float16]
CHUNK = 32  # clips transformed at a time


class LogMelCache:
    """The log-mels of ``paths``, computed on first use and memory-mapped.

    Raises:
        UsageError: a recording is longer than a clip; the cache would freeze which part is used.
        AudioError: a recording cannot be read.
        TrainingError: the file cannot be written.
    """

    def __init__(self, paths: Sequence[Path], mel: LogMel, config: PengiConfig, root: Path) -> None:
        self.shape = (len(paths), config.mel_frames, config.mel.n_mels)
        self._index = {path: index for index, path in enumerate(paths)}
        self.file = root / f"{_key(paths, config)}.npy"
        if not self.file.exists():
            name = one_line(str(self.file))
            logger.warning("%s: writing the log-mels of %d clips", name, len(paths))
            _write(self.file, paths, mel, config, self.shape)
        self._clips = _mapped(self.file, self.shape)

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the clips, which a spawned worker maps again."""
        return {name: value for name, value in vars(self).items() if name != "_clips"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._clips = _mapped(self.file, self.shape)

    def read(self, path: Path) -> NDArray[np.float32]:
        """The log-mel [frames, n_mels] of one recording, in dB."""
        log_mel: NDArray[np.float32] = self._clips[self._index[path]].astype(np.float32)
        return log_mel


def _mapped(file: Path, shape: tuple[int, ...]) -> F16:
    """Map the clips of a file into memory. Raises TrainingError."""
    try:
        clips: F16 = np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        clips = np.empty(0, np.float16)
        why = one_line(str(error))
    else:
        why = f"it holds {clips.dtype} {clips.shape}"
    if clips.shape != shape or clips.dtype != np.float16:
        raise TrainingError(f"{one_line(str(file))}: is damaged ({why}); remove it")
    return clips


def _key(paths: Sequence[Path], config: PengiConfig) -> str:
    digest = hashlib.sha256(repr((asdict(config.mel), config.clip_seconds)).encode())
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise AudioError(
                f"{one_line(str(path))}: cannot be read: {error.strerror or error}"
            ) from None
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _write(
    file: Path, paths: Sequence[Path], mel: LogMel, config: PengiConfig, shape: tuple[int, ...]
) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Not through mapped memory: writing to it when the disk is full raises SIGBUS.
        with replacing(file) as out:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            for start in tqdm(range(0, len(paths), CHUNK), desc="log-mels", disable=None):
                waves = [_whole_clip(path, config) for path in paths[start : start + CHUNK]]
                with torch.no_grad():
                    chunk = mel.log_mel(torch.from_numpy(np.stack(waves)))
                out.write(chunk.half().numpy().astype("<f2").tobytes())
    except OSError as error:
        raise TrainingError(
            f"{one_line(str(file))}: cannot be written ({error.strerror or error}); free space, "
            "or leave data.cache_log_mel out"
        ) from None


def _whole_clip(path: Path, config: PengiConfig) -> NDArray[np.float32]:
    recording = load_windows(Regular(path), config, long_audio="first")
    if recording.truncated:
        raise UsageError(
            f"{one_line(str(path))}: is longer than a clip ({config.clip_seconds:g} s); "
            "data.cache_log_mel keeps whole clips: cut the recordings, or leave it out"
        )
    samples: NDArray[np.float32] = recording.samples[0]
    return samples
