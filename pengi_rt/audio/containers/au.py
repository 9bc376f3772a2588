"""AU (Sun, NeXT)."""

import struct

from pengi_rt.audio.containers.chunks import raw_container, sample_span
from pengi_rt.audio.containers.common import Container, Probe, Raw, check_trailing

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
    """Whether a file begins like AU: the magic number, and less than 2^24 bytes before the samples.

    (Text may begin with ``dns.``, too.)
    """
    return head[:5] == b".snd\0" or (head[:4] == b"dns." and head[7:8] == b"\0")


def check_au(probe: Probe) -> Container:
    """Check that the file holds one complete recording.

    Raises:
        AudioError: an unsupported codec, samples missing, another recording at the end.
    """
    head = probe.read_at(0, 24)
    if len(head) < 24:
        raise probe.error("cut short: its header is not complete")
    order = _MAGICS[head[:4]]
    start, size, code, rate, channels = struct.unpack_from(f"{order}5I", head, 4)
    if code not in _SUBTYPES:
        known = "PCM, float, A-law, mu-law"
        raise probe.error(f"AU with encoding {code}; supported: {known}")
    span = sample_span(probe, start, size, streamed=size == _UNKNOWN, chunked=False)
    if span.start + span.size < probe.size:
        check_trailing(probe, span.start + span.size, "AU")
    raw = Raw(rate, channels, _SUBTYPES[code], "BIG" if order == ">" else "LITTLE")
    return raw_container(probe, [span], raw)
