"""``pengi-rt index``: its output, its exit codes, and what remains after it is killed."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recordings import Spy, check_rows, write_folder, write_sound

import pengi_rt.cli.verbs.index as verb
from pengi_rt.cli.main import main
from pengi_rt.engine import Engine
from pengi_rt.tasks.search.index import Index

Capture = pytest.CaptureFixture[str]
FAST = ("--beam-size", "1", "--max-new-tokens", "5")


@pytest.fixture
def opened(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Make the verb use the open engine, without closing it."""
    monkeypatch.setattr(verb, "open_engine", lambda _: _Borrowed(engine))
    return engine


class _Borrowed:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Engine:
        return self._engine

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six recordings in ``sounds`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    return write_folder(Path("sounds"))


def run(capsys: Capture, *arguments: str | Path) -> tuple[int, str]:
    code = main(["index", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def test_messages_about_what_changed(opened: Engine, folder: Path, capsys: Capture) -> None:
    new = "0 changed, 0 moved, 0 deleted, 0 kept\n"
    assert run(capsys, folder, *FAST) == (0, f"pengi-rt: sounds.index: 6 new, {new}")
    assert len(Index.open("sounds.index").recordings) == 6
    write_sound(folder / "new.wav", 10)
    write_sound(folder / "a.wav", 11)
    (folder / "z.wav").rename(folder / "y.wav")
    (folder / "b/2.wav").unlink()
    (folder / "bad.wav").write_text("no sound")
    code, said = run(capsys, folder, *FAST)
    assert code == 4
    reason, summary = said.splitlines()
    assert reason.startswith("pengi-rt: sounds/bad.wav: not WAV")
    assert summary == (
        "pengi-rt: sounds.index: 1 new, 1 changed, 1 moved, 1 deleted, 3 kept; 1 failed"
    )
    assert run(capsys, folder, *FAST, "--quiet") == (4, f"{reason}\n")
    (folder / "bad.wav").unlink()
    assert run(capsys, folder, *FAST, "--quiet") == (0, "")


def test_nothing_could_be_indexed(opened: Engine, folder: Path, capsys: Capture) -> None:
    bad = folder / "only"
    bad.mkdir()
    (bad / "a.wav").write_text("no sound")
    code, said = run(capsys, bad)
    assert code == 3
    assert said.endswith("0 new, 0 changed, 0 moved, 0 deleted, 0 kept; 1 failed\n")


@pytest.mark.parametrize(
    ("named", "index"),
    [
        ("sounds", "sounds.index"),
        ("sounds/", "sounds.index"),
        ("sounds/b/..", "sounds.index"),
        ("./link", "link.index"),
    ],
)
def test_the_index_is_beside_the_folder(
    opened: Engine, folder: Path, capsys: Capture, named: str, index: str
) -> None:
    Path("link").symlink_to("sounds")
    assert run(capsys, named, *FAST)[0] == 0
    assert len(Index.open(index).recordings) == 6
    others = {path.name for path in Path().iterdir()} - {"sounds", "link", index}
    assert not others


def test_the_current_folder(
    opened: Engine, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert run(capsys, ".", *FAST)[0] == 0
    assert len(Index.open("../sounds.index").recordings) == 6


def test_the_root_folder_needs_an_output(capsys: Capture) -> None:
    code, said = run(capsys, "/")
    assert code == 2
    assert said == "pengi-rt: / has no parent folder for its index: name a folder with -o\n"


def test_options_reach_the_index(opened: Engine, folder: Path, capsys: Capture) -> None:
    options = shlex.split(
        "--beam-size 2 --max-new-tokens 4 --temperature 2 --hop 1.5 --text 'a dog' --stop t "
        "--stop-string x --stop-string yz --prompt 'this is a sound of'"
    )
    assert run(capsys, folder, "-o", "i", *options)[0] == 0
    assert Index.open("i").settings == {
        "prompt": "this is a sound of",
        "text": "a dog",
        "beam_size": 2,
        "max_new_tokens": 4,
        "temperature": 2.0,
        "stop_id": opened.tokenizer.stop_id("t"),
        "stop_strings": ["x", "yz"],
        "hop": 1.5,
    }


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("sounds", "--beam-size", "2"), 2, "was made with beam_size 1, not 2"),
        (("other", "-o", "sounds.index"), 2, "is the index of"),
        (("sounds", "-o", "sounds"), 2, "holds other files"),
        (("sounds", "-o", "sounds/a.wav"), 2, "is a file, not an index"),
        (("empty",), 3, "empty/: no audio in this folder"),
        (("nope",), 3, "nope: is not a folder"),
        (("sounds/a.wav",), 3, "is not a folder"),
        (("sounds", "--hop", "3"), 2, "hop must be"),
        (("sounds", "--task", "caption", "--prompt", "a"), 2, "contradict each other"),
        (("sounds", "--batch-size", "0"), 2, "batch_size must be"),
        (("sounds", "--prompt", "a dog " * 40, "--strict"), 3, "the text encoder reads"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    opened: Engine,
    folder: Path,
    capsys: Capture,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    run(capsys, folder, *FAST)
    write_sound(Path("other/a.wav"), 0)
    Path("empty").mkdir()
    got, said = run(capsys, *FAST, *arguments)
    assert (got, said.count("\n")) == (code, 1)
    assert message in said
    assert main(["search", "sounds.index", "a dog", "-q", "--engine", str(opened.plan.path)]) == 0


def test_a_damaged_index(opened: Engine, folder: Path, capsys: Capture) -> None:
    run(capsys, folder, *FAST)
    (path,) = Path("sounds.index").rglob("captions.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, said = run(capsys, folder, *FAST)
    assert (code, said.count("\n")) == (3, 1)
    assert "is damaged" in said
    assert run(capsys, folder, *FAST, "--rebuild")[0] == 0


def test_a_cut_prompt_is_reported_at_once(
    opened: Engine, folder: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(capsys, folder, *FAST, "--prompt", "a dog " * 40)[0] == 0
    assert "the prompt is longer than the text encoder reads" in caplog.text


def test_progress_on_a_terminal(
    opened: Engine, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Any] = []

    def bar(**options: Any) -> Any:
        made = SimpleNamespace(options=options, updates=0, closed=False)
        made.update = lambda: setattr(made, "updates", made.updates + 1)
        made.close = lambda: setattr(made, "closed", True)
        bars.append(made)
        return made

    monkeypatch.setattr("tqdm.tqdm", bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    (folder / "bad.wav").write_text("no sound")
    run(capsys, folder, *FAST)
    run(capsys, folder, *FAST, "--quiet")
    (folder / "bad.wav").unlink()
    run(capsys, folder, *FAST)
    assert [made.options for made in bars] == [
        {"total": 7, "unit": "clip", "disable": False},
        {"total": 1, "unit": "clip", "disable": True},
        {"total": 0, "unit": "clip", "disable": True},
    ]
    assert [made.updates for made in bars] == [7, 1, 0]
    assert all(made.closed for made in bars)


def test_without_faiss(
    opened: Engine, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    code, said = run(capsys, folder, "--approximate")
    assert code == 5
    assert said == (
        "pengi-rt: approximate search needs faiss (exact search does not): "
        "pip install 'pengi-rt[faiss]'\n"
    )
    assert not Path("sounds.index").exists()


def test_with_faiss(opened: Engine, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss")
    assert main(["index", "sounds", "--approximate", *FAST]) == 0
    # Anything faiss itself prints would show up here too.
    assert capfd.readouterr().err.count("\n") == 1
    assert len(list(Path("sounds.index").rglob("*.ivf"))) == 2


def test_an_unreadable_folder(
    opened: Engine, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def closed(path: Any) -> Any:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    (folder / "a.wv").touch()
    code, said = run(capsys, folder, *FAST)
    assert code == 4
    assert said == (
        "pengi-rt: sounds/b: the folder cannot be read: Permission denied\n"
        "pengi-rt: sounds/: 1 file skipped that is audio of other kinds: 1 .wv\n"
        "pengi-rt: sounds.index: 3 new, 0 changed, 0 moved, 0 deleted, 0 kept\n"
    )
    assert run(capsys, folder / "b", *FAST) == (
        3,
        "pengi-rt: sounds/b: the folder cannot be read: Permission denied\n",
    )


# A shell that starts the tests in the background ignores SIGINT, and children inherit that.
START = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from pengi_rt.cli.main import main
from pengi_rt.session import batches

load = batches.read_recording

def waiting(path, *arguments, **options):
    if str(path).endswith("zz.wav"):
        with open("fifo", "rb"):
            while True:  # a blocking call could sleep through a signal that comes just before it
                time.sleep(0.01)
    return load(path, *arguments, **options)

batches.read_recording = waiting
sys.exit(main())
"""


@contextmanager
def stuck(plan: Path, folder: Path) -> "Iterator[subprocess.Popen[str]]":
    """A process that has indexed six recordings, and waits before it reads the seventh."""
    os.mkfifo("fifo")
    (folder / "zz.wav").touch()
    path = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-c",
            START,
            "index",
            folder,
            "--engine",
            plan,
            *FAST,
            "--batch-size",
            "1",
        ],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            pipe = _writer(process)
            yield process
            os.close(pipe)
        finally:
            process.kill()


def _writer(process: "subprocess.Popen[str]") -> int:
    """Open the pipe for writing, as soon as the process reads it."""
    while True:
        assert process.poll() is None
        with suppress(OSError):  # the process does not read it yet
            return os.open("fifo", os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_killed(
    number: signal.Signals,
    opened: Engine,
    tiny_plan: Path,
    folder: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stuck(tiny_plan, folder) as process:
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.read()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert said == (
            "pengi-rt: interrupted; the finished work stays in sounds.index, "
            "and the next run continues it\n"
        )
    write_sound(folder / "zz.wav", 9)
    spy = Spy(opened, monkeypatch)
    assert run(capsys, folder, *FAST, "--batch-size", "1")[0] == 0
    assert spy.windows == 1
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*[vgc]")]
    check_rows(Path("sounds.index"), folder, files)


def test_another_process_writes(
    opened: Engine, tiny_plan: Path, folder: Path, capsys: Capture
) -> None:
    with stuck(tiny_plan, folder):
        code, said = run(capsys, folder, *FAST)
    assert (code, said.count("\n")) == (2, 1)
    assert "sounds.index: another process is writing to it" in said
