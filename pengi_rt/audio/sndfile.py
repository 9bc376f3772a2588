"""libsndfile as a :class:`~pengi_rt.audio.decode.SoundReader`."""

import io
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pengi_rt.audio.containers.common import OPT_IN, Container
from pengi_rt.audio.parts import Parts
from pengi_rt.errors import AudioError

F32 = NDArray[np.float32]

_UNKNOWN_LENGTH = 1 << 62  # frames; libsndfile announces more for a stream that does not say
_LENIENT_BLOCK = 4_096  # frames; what stands in a block before the damage is lost


class SndFileReader:
    """A file, or the parts of it that :func:`check_container` found; see SoundReader."""

    def __init__(self, file: BinaryIO, container: Container, name: str) -> None:
        import soundfile

        self._name = name
        self._file = file
        self.lenient, self.cut = container.lenient, container.cut
        self._parts = Parts(file, container.parts)
        self._error: type[Exception] = soundfile.LibsndfileError
        try:
            self._sound = soundfile.SoundFile(
                io.BufferedReader(self._parts, 1 << 16), **_bare(container)
            )
        except soundfile.LibsndfileError as error:
            raise self._damaged(error) from None
        # soundfile seeks after every block if it can: wasted work, inexact in MP3, and an error at
        # the end of a FLAC of unknown length.
        self._sound.seekable = lambda: False
        self.rate = int(self._sound.samplerate)
        self.channels = int(self._sound.channels)
        known = self._sound.frames < _UNKNOWN_LENGTH
        self.frames = container.frames or (int(self._sound.frames) if known else None)
        self._skip = container.skip
        self._left = container.frames if container.skip else None

    def read(self, frames: int, /) -> F32:
        """See SoundReader."""
        while self._skip:
            passed = len(self._decode(min(self._skip, frames)))
            self._skip = self._skip - passed if passed else 0
        if self._left is None:
            return self._decode(frames)
        block = self._decode(min(self._left, frames))
        self._left -= len(block)
        return block

    def close(self) -> None:
        """See SoundReader."""
        self._sound.close()
        self._file.close()

    def _decode(self, frames: int) -> F32:
        blocks = [self._block(frames)]
        if self.lenient:
            while len(blocks[-1]) == _LENIENT_BLOCK and (left := frames - _frames(blocks)):
                blocks.append(self._block(left))
        if self._parts.error is not None:
            why = self._parts.error
            raise AudioError(f"{self._name}: cannot be read: {why.strerror or why}")
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def _block(self, frames: int) -> F32:
        frames = min(frames, _LENIENT_BLOCK) if self.lenient else frames
        try:
            block: F32 = self._sound.read(frames, dtype="float32", always_2d=True)
        except self._error as error:
            damaged = self._damaged(error)
            if not self.lenient:
                raise damaged from None
            self.cut = self.cut or str(damaged).removeprefix(f"{self._name}: ")
            return np.empty((0, self.channels), np.float32)
        return block

    def _damaged(self, error: Any) -> AudioError:
        why = error.error_string.removeprefix("Error : ").rstrip(".")
        hint = "" if self.lenient else f"; {OPT_IN}"
        return AudioError(f"{self._name}: damaged or cut short: {why}{hint}")


def _frames(blocks: list[F32]) -> int:
    return sum(map(len, blocks))


def _bare(container: Container) -> dict[str, Any]:
    """How soundfile is told of samples without a header."""
    if container.raw is None:
        return {}
    rate, channels, subtype, endian = container.raw
    return {
        "samplerate": rate,
        "channels": channels,
        "subtype": subtype,
        "endian": endian,
        "format": "RAW",
    }
