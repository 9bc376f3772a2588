"""Under --quiet, libraries print nothing, but the command still can."""

import subprocess
import sys

CODE = """
import logging, os, sys
from pengi_rt.cli.native_stderr import libraries_silenced
os.write(2, b"before ")
with libraries_silenced():
    os.write(2, b"a library ")
    os.system("echo a child >&2")
    print("Python", file=sys.stderr)
    logging.error("logged")
logging.error("later")
os.write(2, b"after ")
print("end", file=sys.stderr)
"""


def run(code: str, *, closed: bool = False) -> str:
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh"] if closed else []
    done = subprocess.run(
        [*shell, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    return done.stderr


def test_only_python_writes_to_standard_error() -> None:
    assert run(CODE) == "before Python\nERROR:root:logged\nERROR:root:later\nafter end\n"


def test_without_a_standard_error() -> None:
    code = """
from pengi_rt.cli.native_stderr import libraries_silenced
with libraries_silenced():
    pass
"""
    assert run(code, closed=True) == ""
