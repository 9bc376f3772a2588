"""Ctrl-C at any moment of a run is one line: during import, load, answers and exit."""

import signal
import subprocess
import sys
import time
from pathlib import Path

# A shell that starts the tests in the background ignores SIGINT, and children inherit that. The
# process reports when it can handle one: we do not control how Python itself starts.
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pengi_rt.__main__ import main
from pengi_rt.system import interrupt
remember = interrupt.remember_interrupts
def remember_and_say():
    remember()
    print(flush=True)
interrupt.remember_interrupts = remember_and_say
sys.exit(main())
"""


def run(arguments: list[str | Path], delay: float | None) -> tuple[int, str, float]:
    """Exit code, standard error and run time in seconds, interrupted after ``delay``."""
    command = [sys.executable, "-P", "-c", START, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        started = time.monotonic()
        if delay is not None:
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    return process.returncode, err, time.monotonic() - started


def test_an_interrupt_at_any_moment_is_one_line(sounds: Path, rounds: int) -> None:
    arguments: list[str | Path] = ["-q", "generate", min(sounds.glob("*.wav"))]
    code, err, seconds = run(arguments, None)
    assert (code, err) == (0, "")
    moments = 6 * rounds
    for moment in range(moments):
        code, err, _ = run(arguments, seconds * moment / moments)
        assert (code, err) in {(130, "pengi-rt: interrupted\n"), (0, "")}, moment
