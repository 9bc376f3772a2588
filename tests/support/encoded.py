"""Audio files made in memory."""

import io

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from pengi_rt.audio.decode import read_blocks
from pengi_rt.audio.source import open_recording
from pengi_rt.errors import AudioError

F32 = NDArray[np.float32]


def encode(samples: F32, rate: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """``[frames]`` or ``[frames, channels]`` as the bytes of an audio file.

    Written one second at a time at most, because libsndfile crashes on long blocks of Vorbis.
    """
    frames = samples.reshape(len(samples), -1)
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", rate, frames.shape[1], subtype=subtype, format=kind
    ) as sound:
        for start in range(0, len(frames), rate):
            sound.write(frames[start : start + rate])
    return file.getvalue()


def noise(frames: int, channels: int = 1, *, seed: int = 0) -> F32:
    """White noise in [-0.5, 0.5], float32 ``[frames, channels]``."""
    uniform = np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, channels))
    return uniform.astype(np.float32)


def heard(data: bytes, *, allow_truncated: bool = False) -> tuple[F32, str]:
    """All samples ``[frames, channels]`` of a file, and why it is incomplete, if it is."""
    source = open_recording(data, "x", allow_truncated=allow_truncated)
    with source.open() as decoder:
        blocks = [block.T for block in read_blocks(decoder, "x")]
        return np.concatenate(blocks), decoder.cut


def refusal(data: bytes) -> str:
    """The one line that says why a file is not read."""
    with pytest.raises(AudioError) as caught:
        heard(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)
