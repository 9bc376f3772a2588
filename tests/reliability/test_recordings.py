"""Damaged recordings of every accepted format: answered or refused, in bounded memory and time."""

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTATIONS = ROOT / "tests" / "support" / "mutations.py"


def run(*arguments: str, timeout: int) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # libmpg123 reports wrong bits inside a frame, and cannot be silenced.
    lines = [line for line in done.stderr.splitlines() if "libmpg123/layer3.c" not in line]
    assert [line for line in lines if not line.startswith("x: audio stream")] == []
    return done.stdout


def test_mutated_recordings(rounds: int, rng: random.Random) -> None:
    for _ in range(rounds):
        outcomes = json.loads(run(str(MUTATIONS), str(rng.randrange(2**32)), "400", timeout=120))
        assert sum(outcomes.values()) == 400
        assert min(outcomes.values()) > 10


FRAME = b"\xff\xf3\x18\xc0" + bytes(32)  # 8 kbit/s, the smallest frames at 16 kHz
PAGE = struct.pack("<4sBBqIIIBB", b"OggS", 0, 0, 0, 1, 0, 0, 1, 1) + b"a"
FILLED = {
    "chunks": (b"RIFF\0\0\0\0WAVE", b"JUNK\0\0\0\0"),
    "zeros in RIFF": (b"RIFF\0\0\0\0WAVE", bytes(8)),
    "AIFF chunks": (b"FORM\0\0\0\0AIFF", b"ANNO\0\0\0\0"),
    "CAF chunks": (b"caff\0\1\0\0", b"free" + bytes(8)),
    "MP4 boxes": (b"\0\0\0\x08ftyp", b"\0\0\0\x08free"),
    "MP3 frames": (b"", FRAME),
    "MP3 frames and gaps": (b"", FRAME * 3 + b"TAG" + bytes(125)),
    "MP3 syncs": (FRAME * 3, b"\xff\xf3"),
    "AAC frames": (b"", b"\xff\xf1\x50\x80\0\xff\xfc"),
    "AMR frames": (b"#!AMR\n", b"\x7c"),
    "Ogg pages": (b"", PAGE),
    "FLAC blocks": (b"fLaC" + bytes(38), bytes(4)),
    "zeros": (b"", bytes(8)),
}

CHECK = """
import io, resource, sys
from pengi_rt.audio.container import check_container
from pengi_rt.errors import AudioError
start, unit, size = bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2]), int(sys.argv[3])
data = start + unit * (size // len(unit))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
most = used + 8 * size + (1 << 26)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for allow in (False, True):
    try:
        check_container(io.BytesIO(data), "x", allow_truncated=allow)
    except AudioError as error:
        assert len(str(error)) < 500
"""


@pytest.mark.parametrize("kind", FILLED)
def test_endless_small_structures(kind: str, rounds: int) -> None:
    """2 MB in a normal run, 64 MB in an attack; 64 MB once took more than 12 seconds."""
    start, unit = FILLED[kind]
    size = min(64, 2 * rounds) << 20
    run("-c", CHECK, start.hex(), unit.hex(), str(size), timeout=60)
