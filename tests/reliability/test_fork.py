"""A forked child may exit, close or load anew; using its parent's engine is a one-line error."""

import subprocess
import sys
from pathlib import Path

import pytest

PARENT = """
import os, sys, threading, time
import pengi_rt

def answer(engine):
    try:
        return engine.generate(sys.argv[2]).text
    except pengi_rt.PengiError as error:
        return type(error).__name__ + ": " + str(error)

child, threads = sys.argv[1], int(sys.argv[3])
engine = pengi_rt.load(threads=threads)
right = answer(engine)
stop = threading.Event()
def work():
    while not stop.is_set():
        engine.generate(sys.argv[2])
busy = threading.Thread(target=work)
if child == "busy":
    busy.start()
    time.sleep(0.1)
pid = os.fork()
if not pid:
    if child == "close":
        engine.close()
    elif child == "load":
        with pengi_rt.load(threads=threads) as own:
            print(answer(own) == right, flush=True)
    elif child != "leave":
        print(answer(engine), flush=True)
    sys.exit(0)
_, status = os.waitpid(pid, 0)
stop.set()
if busy.ident:
    busy.join()
assert answer(engine) == right
sys.exit(os.waitstatus_to_exitcode(status))
"""
REFUSAL = "was loaded before this process was forked"


# Without that refusal, two threads hang and four crash.
@pytest.mark.parametrize(
    ("child", "said", "threads"),
    [
        ("leave", "", 2),
        ("close", "", 4),
        ("call", REFUSAL, 4),
        ("busy", REFUSAL, 4),
        ("load", "True", 2),
    ],
)
def test_a_child_neither_hangs_nor_crashes(
    sounds: Path, child: str, said: str, threads: int, rounds: int
) -> None:
    sound = min(sounds.glob("*.wav"))
    for _ in range(min(rounds, 5)):
        command = [sys.executable, "-P", "-c", PARENT, child, str(sound), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        assert done.stdout.count("\n") == bool(said)
