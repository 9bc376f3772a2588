"""Recognize unsupported files, so that a message can name their kind."""

_KINDS = (
    (b"wvpk", "WavPack"),
    (b"MAC ", "Monkey's Audio"),
    (b"MPCK", "Musepack"),
    (b"MP+", "Musepack"),
    (b"TTA1", "True Audio"),
    (b"ajkg", "Shorten"),
    (b"DSD ", "DSF"),
    (b"FRM8", "DSDIFF"),
    (b".RMF", "RealMedia"),
    (b".ra\xfd", "RealAudio"),
    (b"NIST_1A", "NIST Sphere"),
    (b"Creative Voice", "Creative Voice"),
    (b"\x0b\x77", "AC-3"),
    (b"FLV\x01", "Flash video"),
    (b"\0\0\1\xba", "MPEG video"),
    (b"MThd", "MIDI, notes without sound"),
    (b"#EXTM3U", "a playlist"),
    (b"[playlist]", "a playlist"),
    (b"%PDF", "a PDF"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
)


def unsupported_kind(head: bytes) -> str:
    """The kind of a file, by its first bytes; empty if unknown."""
    for magic, kind in _KINDS:
        if head[: len(magic)].lower() == magic.lower():
            return kind
    if head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE6 == 0xE4 and head[1] & 0x18 != 8:
        return "MPEG layer II"
    return ""
