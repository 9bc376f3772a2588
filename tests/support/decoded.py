"""A whole recording decoded, as no part of the runtime does."""

import os
from typing import Any, NamedTuple

import numpy as np

from pengi_rt.audio.decode import F32, mix, read_blocks
from pengi_rt.audio.sound import Sound, sound_of


class Decoded(NamedTuple):
    samples: F32  # [channels, frames]
    rate: int


def _decoded(sound: Sound, name: str, *, mono: bool) -> Decoded:
    with sound.open() as reader:
        blocks = [mix(block)[None] if mono else block for block in read_blocks(reader, name)]
        return Decoded(np.concatenate(blocks, axis=1), reader.rate)


def read_path(path: str | os.PathLike[str], name: str, *, mono: bool) -> Decoded:
    return _decoded(sound_of(path, name), name, mono=mono)


def read_bytes(data: bytes, name: str, *, mono: bool) -> Decoded:
    return _decoded(sound_of(data, name), name, mono=mono)


def read_stream(file: Any, name: str, *, mono: bool) -> Decoded:
    return _decoded(sound_of(file, name), name, mono=mono)
