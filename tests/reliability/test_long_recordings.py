"""Long recordings use little memory, however they arrive.

Nothing is answered before the whole recording is known to be readable.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

MINUTES = 20
"""Longer than what is kept at the tiny plan's 16 kHz; more windows would only take longer."""

MEGABYTES = 90
"""Allowed beyond the memory of an engine that has answered a batch.

Measured: 50, most of it the three minutes that are kept of a recording before it is known to be
long; mixed and held in one piece, it is over 150.
"""

CODE = """
import sys, pengi_rt, numpy as np

def megabytes(what):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024

with pengi_rt.load(sys.argv[1], threads=1) as engine:
    config, options = engine.config, {"max_new_tokens": 1, "beam_size": 1}
    batch = np.ones(8 * config.clip_samples, np.float32)
    engine.generate((batch, config.mel.sample_rate), **options)
    list(pengi_rt.load_windows(sys.argv[3], config))
    for name in ("-", sys.argv[2]):
        before = megabytes("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")
        windows = 0
        for result in engine.iter_generate([name], partial_results=True, **options):
            windows += len(result.windows)
        print(windows, round(megabytes("VmHWM") - before))
"""


@pytest.fixture(scope="module")
def flac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 minutes of stereo, nearly silent: 154 MB of samples, 77 MB mixed."""
    path = tmp_path_factory.mktemp("long") / "long.flac"
    block = np.zeros((60 * 16_000, 2), np.int16)
    block[::1000] = 40
    with soundfile.SoundFile(path, "w", 16_000, 2, "PCM_16", format="FLAC") as file:
        for _ in range(MINUTES):
            file.write(block)
    return path


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux measures it")
def test_memory(flac: Path, tiny_plan: Path, sounds: Path) -> None:
    """Through a pipe, then as a file, in one process: starting one takes most of the time."""
    command = [
        sys.executable,
        "-c",
        CODE,
        str(tiny_plan),
        str(flac),
        str(sounds / "front_center.wav"),
    ]
    with flac.open("rb") as file:
        cat = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
        run = subprocess.run(command, stdin=cat.stdout, capture_output=True, text=True, check=False)
        cat.stdout.close()  # type: ignore[union-attr]
        cat.wait()
    assert run.returncode == 0, run.stderr
    found = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
    assert [windows for windows, _ in found] == [MINUTES * 60 // 2] * 2
    assert all(megabytes < MEGABYTES for _, megabytes in found), found
