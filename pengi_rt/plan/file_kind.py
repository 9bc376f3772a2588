"""Recognize what a file is by its first and last bytes: a plan, a checkpoint, a recording.

This answers two questions. What is a file that was given as a plan but is not one? (``.plan`` is
also TensorRT's extension, and a checkpoint is what people have before they export.) And is a file
irreplaceable, so that it must not be overwritten? There, a wrong yes is better than a wrong no.
"""

import os
import re
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from pengi_rt.audio.container import begins_like_audio
from pengi_rt.audio.containers.common import Probe
from pengi_rt.audio.containers.mp3 import find_mp3

HEAD = 4096  # bytes
_TAIL = 1 << 16  # bytes; a ZIP archive's directory ends the file
_LOCAL_HEADER = 30  # bytes before the name of a ZIP file's first entry
_EXPORT = "run pengi-rt export on it, and give the plan that it writes"
_OUR_VECTORS = re.compile(rb'.{8}\{"__metadata__": \{"plan": ', re.DOTALL)
"""A file written by ``pengi-rt embed``, which can write it again."""


class FileKind(NamedTuple):
    """A kind of file that is not a plan."""

    name: str
    start: re.Pattern[bytes]
    precious: str | None
    """What it is called in messages about overwriting."""
    refusal: str
    """The message when such a file is given as a plan, with what to do."""


_KINDS = (
    FileKind(
        "TensorRT engine",
        re.compile(rb"[fp]trt"),
        "a TensorRT plan",
        "a raw TensorRT engine, not a pengi-rt plan: make one with pengi-rt export",
    ),
    # Before the pickles: its first byte is the low byte of a length, which may be anything.
    FileKind(
        "safetensors",
        re.compile(rb".{4}\0{4}\{", re.DOTALL),
        "a checkpoint",
        f"a safetensors file, not a plan: {_EXPORT}",
    ),
    FileKind(
        "pickle",
        re.compile(rb"\x80[\x02-\x05]"),  # as torch.save once wrote
        "a checkpoint",
        f"a pickled PyTorch checkpoint, not a plan: {_EXPORT}",
    ),
    # ir_version (field 1), then the producer, the graph or the opset of a ModelProto.
    FileKind(
        "ONNX graph",
        re.compile(rb"\x08[\x01-\x7f][\x12\x1a\x22\x28\x32\x3a\x42]"),
        "a checkpoint",
        "an ONNX graph, not a plan: export the checkpoint with pengi-rt export",
    ),
    FileKind(
        "other checkpoint",
        re.compile(rb"\x89HDF\r\n|GGUF"),
        "a checkpoint",
        "another program's checkpoint, not a plan: export a Pengi checkpoint with pengi-rt export",
    ),
    FileKind(
        "HTML page",
        re.compile(rb"\s*<(!doctype html|html|head|\?xml)", re.IGNORECASE),
        None,
        "an HTML page, not a plan: the download went wrong; fetch it again",
    ),
    FileKind(
        "git-lfs pointer",
        re.compile(rb"version https://git-lfs"),
        None,
        "a git-lfs pointer, not the plan itself: run git lfs pull",
    ),
)
_PLAN = re.compile(rb"PK\x03\x04.{26}(weights\.bin|graphs/|tokenizers/|licences/)", re.DOTALL)
_UNREAD_RECORDING = re.compile(
    rb"""
    (RIFF|RIFX|RF64|BW64).{4}AVI\ | riff\x2e\x91\xcf\x11
    | ID3[\2-\4] | APETAGEX      # tags before MPEG audio
    | \xff[\xe0-\xfd]           # MPEG audio, ADTS; UTF-16 text begins FF FE, JPEG FF D8
    | wvpk | MAC\ .\x0f | MPCK | TTA1 | DSD\  | FRM8 | NIST_1A | \x0b\x77
    | FLV\x01 | \0\0\x01[\xb3\xba] | G.{187}G.{187}G  # MPEG video; a transport stream
    | Creative\ Voice | FORM.{4}(8SVX|16SV) | \.RMF | \.ra\xfd | \x7f\xfe\x80\x01 | \ paf
    | \x64\xa3[\1-\4]\0 | [\1-\4]\xa3\x64\0 | \0[\1-\4]\xa3\x64  # IRCAM
    """,
    re.DOTALL | re.VERBOSE,
)
"""Recordings and videos that :func:`begins_like_audio` does not know."""


def kind_of(head: bytes) -> FileKind | None:
    """The kind of a file that starts with ``head``; ``None`` if it has no name here."""
    return next((kind for kind in _KINDS if kind.start.match(head)), None)


def not_a_plan(head: bytes) -> str | None:
    """What a file that starts with ``head`` is; ``None`` if it may be a plan."""
    if head.startswith(b"PK\3\4"):
        name = head[_LOCAL_HEADER : _LOCAL_HEADER + head[26]] if len(head) > _LOCAL_HEADER else b""
        return f"a PyTorch checkpoint, not a plan: {_EXPORT}" if b"data.pkl" in name else None
    if kind := kind_of(head):
        return kind.refusal
    return f"not a plan: it starts with {head[:8]!r}, but a plan starts with {b'PK'!r}"


def precious_kind(path: str | os.PathLike[str]) -> str | None:
    """The kind of a file that must not be overwritten (recording, plan, checkpoint), or ``None``.

    Raises:
        OSError: the file exists and cannot be read.
    """
    try:
        status = Path(path).stat()
    except OSError:
        return None
    if not S_ISREG(status.st_mode):
        return None
    with Path(path).open("rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, status.st_size - _TAIL))
        if kind := _precious_kind(head, file.read(_TAIL)):
            return kind
        # A capture that began in mid-frame: nothing else looks like three frames in a row.
        return "a recording" if find_mp3(Probe(file, str(path), lenient=True)) >= 0 else None


def _precious_kind(head: bytes, tail: bytes) -> str | None:
    if head.startswith(b"PK\3\4"):
        if b"data.pkl" in head or b"data.pkl" in tail:
            return "a checkpoint"
        return "a plan" if _PLAN.match(head) or b"plan.json" in tail else None
    if begins_like_audio(head) or _UNREAD_RECORDING.match(head):
        return "a recording"
    kind = kind_of(head)
    return None if kind is None or _OUR_VECTORS.match(head) else kind.precious
