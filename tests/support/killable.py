"""Processes that are killed while they write, forked from one that has imported everything.

Run as a program it reads one job per line, ``{"argv": [...], "lives": N}``. A job is a command
line, or ``toy`` and the path for a plan. It runs in a child that is killed before it executes its
``N``-th line of the code that writes. The reply is ``{"lines": N, "code": exit code}``, where -9
means killed.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

WRITING = (
    "pengi_rt/system/files.py",
    "pengi_rt/render/output.py",
    "pengi_rt/render/resume.py",
    "pengi_rt/render/rows.py",
    "pengi_rt/render/vectors.py",
    "pengi_rt/plan/writer.py",
    "pengi_rt/tasks/search/folder.py",
    "pengi_rt/tasks/search/builder.py",
    "pengi_rt/tasks/search/journal.py",
    "pengi_rt/tasks/search/generation_writer.py",
)


class Mortal:
    """Counts the executed lines of the code that writes, and kills this process before one."""

    def __init__(self, lives: int) -> None:
        self.lines = 0
        self.lives = lives

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.endswith(WRITING):
            return None
        if event == "line":
            self.lines += 1
            if self.lines > self.lives:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


class Killable:
    """The process that forks the killable ones."""

    def __init__(self) -> None:
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )

    def run(self, *argv: object, lives: int = 10**9) -> tuple[int, int]:
        """Exit code (-9 if killed) and number of lines of a job."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"argv": [*map(str, argv)], "lives": lives}) + "\n")
        self._process.stdin.flush()
        done = json.loads(self._process.stdout.readline())
        return done["code"], done["lines"]

    def close(self) -> None:
        """Stop it."""
        self._process.communicate()


def serve() -> None:
    """Run jobs until there are no more."""
    import onnxruntime  # noqa: F401 - imported once, for all

    from pengi_rt.cli.main import main
    from pengi_rt.engine import load  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            # A killed process loses nothing that it gave the kernel, and fsync is slow.
            setattr(os, "fsync", lambda _: None)  # noqa: B010
            mortal = Mortal(job["lives"])
            sys.settrace(mortal)
            code = _do(main, job["argv"])
            sys.settrace(None)
            os.write(write, str(mortal.lines).encode())
            os._exit(code)
        os.close(write)
        _, status = os.waitpid(child, 0)
        lines = int(os.read(read, 20) or b"-1")
        os.close(read)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "lines": lines}), flush=True)


def _do(main: Any, argv: list[str]) -> int:
    if argv[0] != "toy":
        code: int = main(argv)
        return code
    import toy_plan

    toy_plan.write(Path(argv[1]))
    return 0


if __name__ == "__main__":
    serve()
