"""What an audio file's own framing says, read before and beside the decoder.

Decoders read what they find and stay silent about the rest: a WAV or OGG file cut short, the second
of two joined files, the end of an MP3 whose length was guessed. Here such files are noticed. Only
the formats that pengi-rt supports are let through to a decoder at all.
"""

from typing import BinaryIO

from pengi_rt.audio.containers.aiff import check_aiff, is_aiff
from pengi_rt.audio.containers.au import check_au, is_au
from pengi_rt.audio.containers.caf import check_caf, is_bare_caf, is_caf
from pengi_rt.audio.containers.common import Container, Source, tag_size
from pengi_rt.audio.containers.flac import check_flac, is_flac
from pengi_rt.audio.containers.foreign import check_foreign
from pengi_rt.audio.containers.mp3 import check_mp3, find_mp3
from pengi_rt.audio.containers.ogg import check_ogg, is_ogg
from pengi_rt.audio.containers.unread import unread_kind
from pengi_rt.audio.containers.wav import check_wav, is_wav
from pengi_rt.errors import AudioError

FORMATS = "WAV, FLAC, OGG, MP3, AIFF, CAF, AU"

_MAX_TAGS = 16  # before the recording

_BEGINNINGS = (
    (is_wav, check_wav),
    (is_aiff, check_aiff),
    (is_au, check_au),
    (is_ogg, check_ogg),
    (is_flac, check_flac),
)


class UnknownFormatError(AudioError):
    """Its beginning is no recording's."""


def check_container(file: BinaryIO, name: str, *, allow_truncated: bool = False) -> Container:
    """Recognise the format of a whole seekable file and check that all of it is there.

    It is read, never mapped: touching a page that another process has cut off kills us.

    Args:
        file: from its beginning.
        name: what messages call it.
        allow_truncated: what part of the recording is there is enough.

    Raises:
        AudioError: another format, a codec we do not support, bytes missing, several streams.
    """
    source = Source(file, name, lenient=allow_truncated)
    _skip_tags(source)
    head = source.at(0, 64)
    for is_one, check in _BEGINNINGS:
        if is_one(head):
            return check(source)
    if is_caf(head) and is_bare_caf(source):
        return check_caf(source)
    if (foreign := check_foreign(source, head)) is not None:
        return foreign
    if kind := unread_kind(head):
        raise UnknownFormatError(f"{name}: not {FORMATS}, but {kind}; convert it to WAV")
    if (found := find_mp3(source)) >= 0:
        return check_mp3(source, found)
    raise UnknownFormatError(
        f"{name}: not {FORMATS}, nor what the extra 'formats' reads; convert it to WAV"
    )


def _skip_tags(source: Source) -> None:
    """Pass over tags before the recording."""
    for _ in range(_MAX_TAGS):
        if not (size := tag_size(source.at(0, 32))):
            break
        source.begin_at(size)
