"""The menu is complete, and reports what is missing before it sets anything up."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from import_graph import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make; the interpreter it would set up does not exist, so it cannot get far."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "--no-print-directory", "PYTHON=no-such-python", *arguments],
        cwd=ROOT,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )


def test_menu_is_the_default_and_lists_every_target() -> None:
    done = make()
    assert done.returncode == 0
    targets = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    listed = re.findall(r"^  make (\w+)", done.stdout, re.MULTILINE)
    assert {*listed, "reference"} == set(targets[0].split())


@pytest.mark.parametrize("folder", ["", "no/such/folder", "Makefile"])
def test_parity_needs_the_reference_folder(folder: str) -> None:
    done = make("parity", f"REFERENCE={folder}")
    assert done.returncode != 0
    assert "REFERENCE" in done.stderr.splitlines()[0]
    assert done.stdout == ""


def test_set_up_says_which_python_it_needs(tmp_path: Path) -> None:
    done = make("--makefile", str(ROOT / "Makefile"), "--directory", str(tmp_path), ".venv/.made")
    assert done.returncode != 0
    first = "make: no-such-python is not Python 3.11 or newer; name one that is"
    assert done.stderr.startswith(first)
    assert not (tmp_path / ".venv").exists()


def test_clean_removes_only_what_git_ignores() -> None:
    removed = make("--dry-run", "clean").stdout.split()
    assert removed[:2] == ["rm", "-rf"]
    tracked = subprocess.run(
        ["git", "ls-files", "--", *removed[2:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tracked.stdout == ""


def test_demo_needs_no_torch() -> None:
    """A new user sees this after a minute."""
    commands = make("--dry-run", "--always-make", "demo", "SOUNDS=a.wav 'b c.mp3'").stdout
    assert "torch" not in commands
    assert "'.[plot]'" in commands
    last = commands.splitlines()[-1]
    assert last.endswith("-m pengi_rt.training.scenes.demo .demo a.wav 'b c.mp3'")
