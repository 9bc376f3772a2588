"""Recordings of every accepted format, damaged at random and read: run as a process of its own.

``python mutations.py SEED COUNT`` prints a line of JSON: how many were answered, answered in part,
and refused. Anything but an answer or one line of refusal is an exception, and ends it.
"""

import io
import json
import random
import resource
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from encoded import F32, encode, heard, noise

from pengi_rt.errors import AudioError

MEMORY = 1 << 29  # memory budget for reading a small recording, including the decoder
RATE = 16_000
SOUNDFILE = [
    *(("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16")),
    *(("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("CAF", "PCM_16"), ("AU", "ULAW")),
    *(("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)),
]
PYAV = [
    *(("ipod", "aac"), ("mov", "pcm_s16le"), ("webm", "libopus"), ("adts", "aac")),
    *(("asf", "wmav2"), ("avi", "libmp3lame"), ("caf", "alac")),
]


def sources() -> list[bytes]:
    """A small recording in each format, including those of the extra ``formats`` if installed."""
    samples = noise(RATE) * np.linspace(0, 1, RATE, dtype=np.float32)[:, None]
    made = [encode(samples, RATE, *kind) for kind in SOUNDFILE]
    try:
        import av  # noqa: F401
    except ImportError:
        return made
    return [*made, *(_with_pyav(samples, *kind) for kind in PYAV)]


def _with_pyav(samples: F32, kind: str, codec: str) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=kind) as output:
        stream: Any = output.add_stream(codec, rate=RATE, layout="mono")
        stream.bit_rate = 48_000
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), "fltp", "mono")
        frame.rate = RATE
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 8, 200))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _flip_head(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 6)):
        data[rng.randrange(min(128, len(data)))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))


def _field(data: bytearray, rng: random.Random) -> None:
    """Set a whole number in the header, little- or big-endian, to an absurd value."""
    at = 4 * rng.randrange(min(60, len(data) // 4))
    value = rng.choice((0, 1, 7, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF))
    data[at : at + 4] = struct.pack(rng.choice("<>") + "I", value)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 100, 3000))]


def _splice(data: bytearray, rng: random.Random) -> None:
    start, at = rng.randrange(len(data)), rng.randrange(len(data))
    data[at:at] = data[start : start + 2000]


def _zeros(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at : at + 500] = bytes(len(data[at : at + 500]))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _flip_head, _field, _cut, _remove, _splice, _zeros),
)


def attack(seed: int, count: int) -> dict[str, int]:
    """Read the given number of damaged recordings, half of them with ``allow_truncated``."""
    rng, every = random.Random(seed), sources()
    outcomes = {"answered": 0, "in part": 0, "refused": 0}
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in range(count):
        data = bytearray(rng.choice(every))
        for mutation in rng.choices(MUTATIONS, k=rng.choice((1, 1, 2))):
            if data:
                mutation(data, rng)
        try:
            _, cut = heard(bytes(data), allow_truncated=number % 2 == 0)
            outcomes["in part" if cut else "answered"] += 1
        except AudioError as error:
            message = str(error)
            outcomes["refused"] += 1
            if not message.isprintable() or len(message) > 500:
                raise ValueError(ascii(message)) from error
    return outcomes


if __name__ == "__main__":
    print(json.dumps(attack(int(sys.argv[1]), int(sys.argv[2]))))
