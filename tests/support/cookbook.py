"""Run a document's snippets in order, and compare what they print with what the document says.

A ``python`` block shares its namespace with all blocks before it; the ``text`` block after it is
its output, and without one it must print nothing. In a ``console`` block, lines that begin with
``$`` are commands and the others their output; ``...`` in a line stands for anything.
"""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pengi_rt.cli.main import main

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


class Step(NamedTuple):
    """A snippet, its line, and what it prints."""

    line: int
    kind: str
    code: str
    printed: str


def steps(document: str) -> Iterator[Step]:
    blocks = list(_FENCED.finditer(document))
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        kind, code = block.groups()
        line = document[: block.start()].count("\n") + 2
        if kind == "python":
            adjacent = after is not None and not document[block.end() : after.start()].strip()
            text = after[2] if after is not None and adjacent and after[1] == "text" else ""
            yield Step(line, kind, code, text)
        elif kind == "console":
            yield from _commands(code, line)


def _commands(code: str, line: int) -> Iterator[Step]:
    command, printed, start = "", "", line
    for number, each in enumerate(code.splitlines(keepends=True), line):
        if each.startswith("$ "):
            if command:
                yield Step(start, "console", command, printed)
            command, printed, start = each[2:], "", number
        else:
            printed += each
    yield Step(start, "console", command, printed)


def run(step: Step, namespace: dict[str, Any]) -> str:
    """What the step prints on standard output; a command must exit with code 0."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if step.kind == "python":
            exec(compile(step.code, f"line {step.line}", "exec"), namespace)
        else:
            _run_command(step.code)
    return printed.getvalue()


def agrees(printed: str, expected: str) -> bool:
    """Compare line by line, ignoring trailing spaces and whatever ``...`` stands for."""
    pattern = re.escape(expected.rstrip()).replace(re.escape("..."), ".*?")
    lines = "\n".join(line.rstrip() for line in printed.rstrip().splitlines())
    return re.fullmatch(pattern, lines) is not None


def _run_command(command: str) -> None:
    words, redirect, file = (*command.partition(" > "),)
    arguments = [found for word in shlex.split(words) for found in _expanded(word, words)]
    if arguments[0] == "pengi-rt":
        code = main(arguments[1:])
        assert code == 0, f"exit code {code}: {command}"
        return
    assert arguments[0] == "python", command
    process = subprocess.run(
        [sys.executable, "-P", *arguments[1:]], capture_output=True, text=True, check=True
    )
    if redirect:
        Path(file.strip()).write_text(process.stdout, "utf-8")
    else:
        print(process.stdout, end="")


def _expanded(word: str, command: str) -> list[str]:
    """Expand as a shell does, where it is not quoted."""
    bare = "*" in word and f'"{word}"' not in command
    return sorted(map(str, Path().glob(word))) if bare else [word]
