"""Decodes a whole recording independently of the runtime."""

import os
from typing import Any, NamedTuple

import numpy as np

from pengi_rt.audio.decode import F32, mix, read_blocks
from pengi_rt.audio.source import SampleSource, open_recording


class Decoded(NamedTuple):
    samples: F32  # [channels, frames]
    rate: int


def _decoded(source: SampleSource, name: str, *, mono: bool) -> Decoded:
    with source.open() as decoder:
        blocks = [mix(block)[None] if mono else block for block in read_blocks(decoder, name)]
        return Decoded(np.concatenate(blocks, axis=1), decoder.rate)


def read_path(path: str | os.PathLike[str], name: str, *, mono: bool) -> Decoded:
    return _decoded(open_recording(path, name), name, mono=mono)


def read_bytes(data: bytes, name: str, *, mono: bool) -> Decoded:
    return _decoded(open_recording(data, name), name, mono=mono)


def read_stream(file: Any, name: str, *, mono: bool) -> Decoded:
    return _decoded(open_recording(file, name), name, mono=mono)
