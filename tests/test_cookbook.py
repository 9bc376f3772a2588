"""The cookbook does what it says."""

import logging
from pathlib import Path
from typing import Any

import pytest
from cookbook import agrees, run, steps
from import_graph import ROOT

DOCUMENT = (ROOT / "docs" / "cookbook.md").read_text("utf-8")


def test_every_snippet_prints_what_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test, because every snippet builds on the ones before it."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for step in steps(DOCUMENT):
        printed = run(step, namespace)
        assert agrees(printed, step.printed), f"line {step.line}: {step.code}printed:\n{printed}"
    logging.getLogger().handlers.clear()


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("a\n", "a\n", True),
        ("a\nb\n", "a\n", False),
        ("a  \n", "a\n", True),
        ("score 0.123\n", "score ...\n", True),
        ("one\ntwo\n", "...\n", False),
        ("(a.b)", "(axb)", False),
        ("", "", True),
        ("x", "", False),
    ],
)
def test_what_agrees(printed: str, expected: str, same: bool) -> None:
    assert agrees(printed, expected) is same


def test_blocks_are_taken_apart() -> None:
    document = (
        "# x\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\nand\n\n```python\ny = 2\n```\nso\n"
        "\n```text\nno output\n```\n\n```console\n$ a b\nout\nput\n$ c\n```\n"
    )
    assert [(step.line, step.kind, step.code, step.printed) for step in steps(document)] == [
        (4, "python", "print(1)\n", "1\n"),
        (14, "python", "y = 2\n", ""),
        (23, "console", "a b\n", "out\nput\n"),
        (26, "console", "c\n", ""),
    ]
