"""Runs the command line in this process."""

from pathlib import Path

import pytest

from pengi_rt.cli.main import main

Capture = pytest.CaptureFixture[str]
Argument = str | Path | int


def run(capsys: Capture, *arguments: Argument) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def assert_refused(capsys: Capture, arguments: list[Argument], expected: int, message: str) -> None:
    """The exit code, after checking that nothing but one line with ``message`` was printed."""
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (expected, "")
    assert err.startswith("pengi-rt: ")
    assert err.count("\n") == 1
    assert message in err
