"""``pengi-rt`` as a process: signals, full disks, closed streams, encodings, imports."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# A shell that starts the tests in the background ignores SIGINT, and children inherit that.
START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from pengi_rt.cli.main import main; sys.exit(main())"
)
COMMAND = [sys.executable, "-P", "-c", START]
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name not in {"PYTHONUNBUFFERED", "LC_ALL"}
} | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def run(
    *arguments: str | Path | bytes, redirect: str = "", **environment: str
) -> "subprocess.CompletedProcess[bytes]":
    """Run through a shell that redirects the streams."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", *COMMAND, *arguments],
        capture_output=True,
        check=False,
        env=ENVIRONMENT | environment,
    )


@pytest.fixture
def sound(sounds: Path) -> Path:
    return min(path for path in sounds.iterdir() if path.suffix == ".wav")


@contextmanager
def waiting(
    plan: Path, sound: Path, folder: Path, *options: str | Path
) -> "Iterator[subprocess.Popen[str]]":
    """A run that answers one recording and then waits for the next."""
    fifo = folder / "never.wav"
    os.mkfifo(fifo)
    command = [*COMMAND, "generate", "--engine", plan, sound, fifo, "--batch-size", "1", *options]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("form", ["json", "csv"])
def test_an_interrupt_keeps_what_was_answered_and_the_old_file(
    form: str, tiny_plan: Path, sound: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    part = tmp_path / "out.part"
    output.write_text("old")
    with waiting(tiny_plan, sound, tmp_path, "--format", form, "-o", output) as process:
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, err) == ("", f"pengi-rt: interrupted; the answers so far are in {part}\n")
    assert output.read_text() == "old"
    if form == "json":
        assert [row["audio"] for row in json.loads(part.read_text())] == [str(sound)]
    else:
        assert len(part.read_text().splitlines()) == 2


def test_an_interrupt_closes_json_on_standard_output(
    tiny_plan: Path, sound: Path, tmp_path: Path
) -> None:
    with waiting(tiny_plan, sound, tmp_path, "--format", "json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        text = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        text += process.stdout.read()
        assert process.stderr.read() == "pengi-rt: interrupted\n"
        assert process.wait(timeout=60) == 130
    assert [row["audio"] for row in json.loads(text)] == [str(sound)]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("redirect", [">/dev/full", ">&-"])
def test_standard_output_that_is_full(
    form: str, redirect: str, tiny_plan: Path, sound: Path
) -> None:
    done = run("generate", "--engine", tiny_plan, sound, "--format", form, redirect=redirect)
    assert done.returncode == 3
    assert done.stderr.startswith(b"pengi-rt: cannot write standard output: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("verb", [["doctor"], ["inspect", "PLAN", "--format", "json"], ["--help"]])
def test_every_verb_says_that_the_disk_is_full(verb: list[str], tiny_plan: Path) -> None:
    done = run(*[tiny_plan if word == "PLAN" else word for word in verb], redirect=">/dev/full")
    assert done.returncode == 3
    assert done.stderr == b"pengi-rt: cannot write standard output: No space left on device\n"


def test_help_on_a_full_disk_without_a_buffer() -> None:
    done = run("--help", redirect=">/dev/full", PYTHONUNBUFFERED="1")
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 1)


def test_a_full_output_file_is_one_line(tiny_plan: Path, sound: Path) -> None:
    for form in ("text", "json", "csv"):
        done = run("generate", "--engine", tiny_plan, sound, "--format", form, "-o", "/dev/full")
        assert done.returncode == 3
        assert (
            done.stderr == b"pengi-rt: cannot write --output /dev/full: No space left on device\n"
        )


@pytest.mark.parametrize("redirect", ["2>/dev/full", "2>&-"])
def test_exit_codes_without_a_standard_error(redirect: str, tiny_plan: Path) -> None:
    done = run("generate", "--engine", tiny_plan, "missing.wav", redirect=redirect)
    assert (done.returncode, done.stdout) == (3, b"")


def test_standard_input_that_is_empty_or_closed(tiny_plan: Path) -> None:
    for redirect in ("</dev/null", "<&-"):
        done = run("generate", "--engine", tiny_plan, "-", redirect=redirect)
        assert done.returncode == 3
        assert done.stderr.startswith(b"pengi-rt: <stdin>: ")
        assert done.stderr.count(b"\n") == 1


def test_the_file_on_standard_input_is_not_overwritten(
    tiny_plan: Path, sound: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copy(sound, tmp_path / "own.wav"))
    done = run("generate", "--engine", tiny_plan, "-", "-o", own, redirect=f"<'{own}'")
    assert done.returncode == 2
    assert own.read_bytes() == sound.read_bytes()


@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1:strict", "ascii:strict"])
def test_names_and_answers_that_an_encoding_lacks(
    encoding: str, tiny_plan: Path, sound: Path, tmp_path: Path
) -> None:
    names = [os.fsencode(tmp_path) + b"/bad\xff.wav", os.fsencode(tmp_path / "é\U0001f600.wav")]
    for name in names:
        shutil.copy(os.fsencode(sound), name)
    common: list[str | Path | bytes] = ["generate", "--engine", tiny_plan, *names]
    done = run(*common, "--format", "json", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    rows = json.loads(done.stdout.decode(encoding.removesuffix(":strict")))
    assert [os.fsencode(row["audio"]) for row in rows] == names
    for form in ("text", "csv"):
        done = run(*common, "--format", form, PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, b"")
        assert rb"bad\udcff.wav" in done.stdout
    done = run(*common, "-o", tmp_path / "out", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"bad\udcff.wav" in (tmp_path / "out").read_bytes()


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-m", "pengi_rt", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pengi_rt.cli.main" in imported
    heavy = {"numpy", "onnxruntime", "torch", "tokenizers", "tqdm", "soundfile", "soxr"}
    assert heavy & imported == set()
