"""AU (Sun, NeXT): the header is read here, libsndfile is given nothing but the samples."""

import struct

from pengi_rt.audio.containers.common import (
    Container,
    Raw,
    Source,
    bare_samples,
    check_rest,
    samples_at,
)

_MAGICS = {b".snd": ">", b"dns.": "<"}
_SUBTYPES = {
    1: "ULAW",
    2: "PCM_S8",
    3: "PCM_16",
    4: "PCM_24",
    5: "PCM_32",
    6: "FLOAT",
    7: "DOUBLE",
    27: "ALAW",
}
_UNKNOWN = 0xFFFF_FFFF


def is_au(head: bytes) -> bool:
    """Whether a file begins like AU."""
    return head[:4] in _MAGICS


def check_au(source: Source) -> Container:
    """Read the head, and compare the size that it gives with the file's.

    Raises:
        AudioError: another codec, samples missing, another recording at the end.
    """
    head = source.at(0, 24)
    if len(head) < 24:
        raise source.refuse("cut short: its header is not complete")
    order = _MAGICS[head[:4]]
    start, size, code, rate, channels = struct.unpack_from(f"{order}5I", head, 4)
    if code not in _SUBTYPES:
        known = "PCM, float, A-law, mu-law"
        raise source.refuse(f"AU with encoding {code}; supported: {known}")
    span = samples_at(source, start, size, streamed=size == _UNKNOWN, chunked=False)
    if span.start + span.size < source.size:
        check_rest(source, span.start + span.size, "AU")
    raw = Raw(rate, channels, _SUBTYPES[code], "BIG" if order == ">" else "LITTLE")
    return bare_samples(source, [span], raw)
