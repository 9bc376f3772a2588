"""Formats that need the extra ``formats``, told by how they begin."""

_BEGINNINGS = (
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", "asf"),
    (0, b"#!AMR", "amr"),
    (0, b"caff", "caf"),
    (0, b"\x0b\x77", "ac3"),
)


def foreign_format(head: bytes) -> str:
    """FFmpeg's name of a format that libsndfile does not read; empty for all others."""
    for offset, magic, name in _BEGINNINGS:
        if head.startswith(magic, offset):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE4 and head[1] >> 3 & 3 != 1:
        return "mp3" if 0 < head[2] >> 4 < 15 and head[2] >> 2 & 3 < 3 else ""  # layer II
    return ""
