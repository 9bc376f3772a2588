"""Recognize an audio file's format, and check its framing before it is decoded.

Decoders read what they can and silently drop the rest: the end of a truncated WAV or OGG file, the
second of two joined files, the end of an MP3 whose length was guessed. These files are detected
here, and only supported formats reach a decoder at all.
"""

from typing import BinaryIO

from pengi_rt.audio.containers.aiff import check_aiff, is_aiff
from pengi_rt.audio.containers.au import check_au, is_au
from pengi_rt.audio.containers.caf import check_caf, is_uncompressed_caf
from pengi_rt.audio.containers.common import Container, Probe, tag_size
from pengi_rt.audio.containers.ffmpeg_formats import check_ffmpeg_format, is_ffmpeg_format
from pengi_rt.audio.containers.flac import check_flac, is_flac
from pengi_rt.audio.containers.mp3 import check_mp3, find_mp3
from pengi_rt.audio.containers.ogg import check_ogg, is_ogg
from pengi_rt.audio.containers.unsupported import unsupported_kind
from pengi_rt.audio.containers.wav import check_wav, is_wav
from pengi_rt.errors import AudioError

FORMATS = "WAV, FLAC, OGG, MP3, AIFF, CAF, AU"

_MAX_TAGS = 16  # before the recording

_CHECKS = (
    (is_wav, check_wav),
    (is_flac, check_flac),
    (is_ogg, check_ogg),
    (is_aiff, check_aiff),
    (is_au, check_au),
    (is_uncompressed_caf, check_caf),
)


class UnknownFormatError(AudioError):
    """The file does not begin like any supported format."""


def begins_like_audio(head: bytes) -> bool:
    """Whether a file with this ``head`` (64 bytes) is in a format that can be read.

    MP3 and tags are not recognized: they can begin with almost anything.
    """
    return any(matches(head) for matches, _ in _CHECKS) or is_ffmpeg_format(head)


def check_container(file: BinaryIO, name: str, *, allow_truncated: bool = False) -> Container:
    """Recognize the format of a whole seekable file and check that the file is complete.

    The file is read, never mapped: touching a page that another process has truncated is fatal.

    Args:
        file: the whole file.
        name: what messages call it.
        allow_truncated: accept an incomplete recording.

    Raises:
        AudioError: the format or codec is unsupported, bytes are missing, or there are several
            streams.
    """
    probe = Probe(file, name, lenient=allow_truncated)
    head = probe.read_at(0, 64)
    for _ in range(_MAX_TAGS):
        if not (size := tag_size(head)):
            break
        probe.skip(size)
        head = probe.read_at(0, 64)
    for matches, check in _CHECKS:
        if matches(head):
            return check(probe)
    if (container := check_ffmpeg_format(probe, head)) is not None:
        return container
    if kind := unsupported_kind(head):
        raise UnknownFormatError(f"{name}: not {FORMATS}, but {kind}; convert it to WAV")
    if (found := find_mp3(probe)) >= 0:
        return check_mp3(probe, found)
    raise UnknownFormatError(
        f"{name}: not {FORMATS}, nor a format of the extra 'formats'; convert it to WAV"
    )
