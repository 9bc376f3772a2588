"""FFmpeg (through PyAV, the extra ``formats``) as an AudioDecoder for compressed formats and video.

FFmpeg reads hundreds of formats, some of which refer to other files and addresses. So it is told
which format a file has, may use only the codecs listed here, and cannot open anything else.
"""

import io
import logging
from collections.abc import Generator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pengi_rt.audio.containers.common import OPT_IN, Container, SplicedFile
from pengi_rt.errors import AudioError
from pengi_rt.system.quote import shown

logger = logging.getLogger(__name__)

F32 = NDArray[np.float32]

NAMES = {
    "mov": "MP4 or QuickTime",
    "matroska": "Matroska or WebM",
    "aac": "AAC",
    "asf": "Windows Media",
    "amr": "AMR",
    "avi": "AVI",
    "caf": "compressed CAF",
    "ogg": "OGG other than Vorbis, Opus and FLAC",
}
"""FFmpeg's names of the formats that it may open, and our names for them."""

CODECS = (
    *("aac", "aac_latm", "ac3", "eac3", "alac", "amrnb", "amrwb", "flac", "mp1", "mp1float"),
    *("mp2", "mp2float", "mp3", "mp3float", "opus", "libopus", "vorbis", "libvorbis", "speex"),
    *("libspeex", "wmav1", "wmav2", "wmapro", "wmalossless", "libopencore_amrnb"),
    *("libopencore_amrwb", "pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s8"),
    *(f"pcm_{kind}{end}" for kind in ("s16", "s24", "s32", "f32", "f64") for end in ("le", "be")),
)
"""The decoders that FFmpeg may run."""

_SCALES = {"u8": (128, 128), "s16": (0, 2**15), "s32": (0, 2**31), "flt": (0, 1), "dbl": (0, 1)}
_GUESSED = ("aac", "amr")  # FFmpeg guesses their length: frames without a header
_KEEP_PADDING = 1 << 29  # AV_CODEC_FLAG2_SKIP_MANUAL: FFmpeg 8 would cut padding that ALAC has cut
_CLOCKED = ("matroska", "asf")  # the announced length is the end time of all streams
_SLACK = 0.05  # seconds: lengths are rounded, and may not include a decoder's delay
_ASF_SLACK = 1.0  # seconds; writers include time before and after the sound
_CAF_SLACK = 4096  # frames; the length may be rounded to whole packets


class FFmpegDecoder:
    """Decodes the default audio stream, or the first one."""

    def __init__(self, file: BinaryIO, container: Container, name: str) -> None:
        self._name = name
        self._file = file
        self._container = container
        self.lenient, self.cut = container.lenient, container.cut
        self._av = _import_av(name, container.demuxer)
        spliced = SplicedFile(file, container.parts)
        try:
            self._input = self._av.open(
                io.BufferedReader(spliced, 1 << 16),
                format=container.demuxer,
                options={"codec_whitelist": ",".join(CODECS)},
                metadata_errors="replace",
                io_open=_open_nothing,
            )
            self._stream = self._choose()
            self._stream.codec_context.thread_count = 1
            if container.demuxer == "caf" and self._stream.codec_context.name == "alac":
                self._stream.codec_context.flags2 |= _KEEP_PADDING
            self._stream.codec_context.open(strict=False)
        except (self._av.FFmpegError, ValueError) as error:
            raise self._damaged(error) from None
        self.rate = int(self._stream.codec_context.sample_rate or 0)
        self.channels = int(self._stream.codec_context.channels or 0)
        self.frames = self._announced()
        self._blocks = self._decode()
        self._held: F32 = np.empty((0, max(1, self.channels)), np.float32)

    def read(self, frames: int, /) -> F32:
        """The next ``[n, channels]`` samples; fewer than ``frames`` only at the end."""
        parts, size = [self._held], len(self._held)
        while size < frames and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            size += len(block)
        joined = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._held = joined[frames:]
        return joined[:frames]

    def close(self) -> None:
        """Close the stream and the file."""
        self._blocks.close()
        self._input.close()
        self._file.close()

    def _choose(self) -> Any:
        streams = list(self._input.streams.audio)
        if not streams:
            raise AudioError(f"{self._name}: it has no audio stream")
        chosen = self._input.streams.best("audio") or streams[0]
        codec = chosen.codec_context.name if chosen.codec_context else "?"
        if codec not in CODECS:
            raise AudioError(
                f"{self._name}: {NAMES[self._container.demuxer]} with codec {shown(codec)}; "
                "convert it to WAV"
            )
        if len(streams) > 1:
            number = streams.index(chosen) + 1
            logger.warning(
                "%s: audio stream %d of %d is answered", self._name, number, len(streams)
            )
        for stream in self._input.streams:
            if stream is not chosen:
                stream.discard = self._av.stream.Discard.all
        return chosen

    def _announced(self) -> int | None:
        """The number of frames required, allowing for rounded lengths."""
        stream, demuxer = self._stream, self._container.demuxer
        if demuxer in _GUESSED:
            return None
        if stream.duration and demuxer not in _CLOCKED:
            seconds = float(stream.duration * stream.time_base)
        elif self._input.duration and len(self._input.streams) == 1:
            seconds = self._input.duration / 1e6
            if demuxer in _CLOCKED:  # a piece of a longer recording keeps its original times
                seconds -= float((stream.start_time or 0) * stream.time_base)
        else:
            return None
        slack = _ASF_SLACK if demuxer == "asf" else _SLACK
        if demuxer == "caf":
            slack = max(slack, _CAF_SLACK / max(1, self.rate))
        return max(0, round((seconds - slack) * self.rate)) or None

    def _decode(self) -> Generator[F32, None, None]:
        """All frames in turn."""
        try:
            for packet in self._input.demux(self._stream):
                for frame in _whole(packet).decode():
                    yield self._samples(frame)
        except (self._av.FFmpegError, ValueError) as error:
            damaged = self._damaged(error)
            if not self.lenient:
                raise damaged from None
            self.cut = self.cut or str(damaged).removeprefix(f"{self._name}: ")

    def _samples(self, frame: Any) -> F32:
        if (frame.sample_rate, len(frame.layout.channels)) != (self.rate, self.channels):
            raise ValueError("the rate or number of channels changes within it")
        zero, scale = _SCALES[frame.format.name.removesuffix("p")]
        values = frame.to_ndarray()
        values = values.T if frame.format.is_planar else values.reshape(-1, self.channels)
        scaled: F32 = (values.astype(np.float32) - np.float32(zero)) / np.float32(scale)
        return scaled

    def _damaged(self, error: Exception) -> AudioError:
        why = getattr(error, "strerror", None) or str(error)
        hint = "" if self.lenient else f"; {OPT_IN}"
        return AudioError(f"{self._name}: damaged or cut short: {shown(why)[1:-1]}{hint}")


def _whole(packet: Any) -> Any:
    if packet.is_corrupt:
        raise ValueError("a packet is not complete")
    return packet


def _open_nothing(*_: object) -> Any:
    raise ValueError("it refers to another file")


def _import_av(name: str, demuxer: str) -> Any:
    try:
        import av
    except ImportError:
        raise AudioError(
            f"{name}: {NAMES[demuxer]} needs the extra 'formats': pip install 'pengi-rt[formats]'; "
            "or convert it to WAV"
        ) from None
    return av
