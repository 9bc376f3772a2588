"""Whether a file is one that nobody can make again: a recording, a plan or a checkpoint.

Told from its first and last bytes alone, and rather too often than too seldom: what is asked is
whether it may be overwritten.
"""

import os
import re
from pathlib import Path
from stat import S_ISREG

from pengi_rt.audio.containers.common import Probe
from pengi_rt.audio.containers.mp3 import find_mp3

_HEAD = 4096  # bytes
_TAIL = 1 << 16  # bytes; a ZIP archive's directory ends the file

_RECORDING = re.compile(
    rb"""
    (RIFF|RIFX|RF64|BW64).{4}(WAVE|AVI\ )
    | riff\x2e\x91\xcf\x11      # W64
    | FORM.{4}AIF[FC]
    | caff\0 | \.snd\0 | dns\..\0  # CAF, AU and its little-endian twin
    | fLaC | OggS\0 | ID3[\2-\4]
    | \xff[\xe0-\xfd]           # MPEG audio, ADTS; UTF-16 text begins FF FE, JPEG FF D8
    | APETAGEX                  # a tag before MPEG audio
    | .{4}(ftyp|moov|mdat|wide) # MP4, QuickTime: m4a, video
    | \x1a\x45\xdf\xa3          # Matroska, WebM
    | \x30\x26\xb2\x75          # WMA
    | \#!AMR | wvpk | MAC\ .\x0f | MPCK | TTA1 | DSD\  | FRM8 | NIST_1A | \x0b\x77
    | FLV\x01 | \0\0\x01[\xb3\xba] | G.{187}G.{187}G  # MPEG video; a transport stream
    | Creative\ Voice | FORM.{4}(8SVX|16SV) | \.RMF | \.ra\xfd | \x7f\xfe\x80\x01 | \ paf
    | \x64\xa3[\1-\4]\0 | [\1-\4]\xa3\x64\0 | \0[\1-\4]\xa3\x64  # IRCAM
    """,
    re.DOTALL | re.VERBOSE,
)
_CHECKPOINT = re.compile(
    rb"""
    # safetensors; those that pengi-rt embed writes hold vectors, and it can write them again
    .{4}\0{4}\{(?!"__metadata__":\ \{"plan":\ )
    | \x80[\x02-\x05]                                    # a pickle, as torch.save once wrote
    | \x08[\x01-\x7f][\x12\x1a\x22\x28\x32\x3a\x42]      # an ONNX graph
    | \x89HDF\r\n | GGUF
    """,
    re.DOTALL | re.VERBOSE,
)
_PLAN = re.compile(rb"PK\x03\x04.{26}(weights\.bin|graphs/|tokenizers/|licences/)", re.DOTALL)


def precious_kind(path: str | os.PathLike[str]) -> str | None:
    """What a regular file reads as, of the three kinds; else, and if there is none, ``None``.

    Raises:
        OSError: it cannot be read.
    """
    try:
        status = Path(path).stat()
    except OSError:
        return None
    if not S_ISREG(status.st_mode):
        return None
    with Path(path).open("rb") as file:
        head = file.read(_HEAD)
        file.seek(max(0, status.st_size - _TAIL))
        if kind := _kind(head, file.read(_TAIL)):
            return kind
        # A capture that began in mid-frame: three frames in a row look like nothing else.
        return "a recording" if find_mp3(Probe(file, str(path), lenient=True)) >= 0 else None


def _kind(head: bytes, tail: bytes) -> str | None:
    if head.startswith(b"PK\3\4"):
        if b"data.pkl" in head or b"data.pkl" in tail:
            return "a checkpoint"
        return "a plan" if _PLAN.match(head) or b"plan.json" in tail else None
    if re.match(rb"[fp]trt", head):
        return "a TensorRT plan"
    if _RECORDING.match(head):
        return "a recording"
    return "a checkpoint" if _CHECKPOINT.match(head) else None
