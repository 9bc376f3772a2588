"""The command line as a user meets it: exit codes, one line per error, fast help."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import pengi_rt
from pengi_rt.cli.main import VERBS, build_parser, main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"pengi-rt {pengi_rt.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"usage: pengi-rt {verb}" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    """Keeps ``--help`` fast: no numpy, runtime or tokenizers are imported before a verb runs."""
    code = (
        "import sys\n"
        "from pengi_rt.cli.main import build_parser\n"
        "build_parser().format_help()\n"
        "print(*sorted({'numpy', 'onnxruntime', 'torch', 'tokenizers', 'tqdm'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_no_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "VERB" in capsys.readouterr().err


def test_running_imports_neither_torch_nor_transformers(tiny_plan: Path, sounds: Path) -> None:
    code = (
        "import sys\n"
        "from pengi_rt.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'onnx'}\n"
        "print(code, *sorted(heavy & set(sys.modules)))"
    )
    sound = min(path for path in sounds.iterdir() if path.suffix == ".wav")
    arguments = ["generate", "--engine", str(tiny_plan), str(sound), "--format", "jsonl"]
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    *rows, last = run.stdout.splitlines()
    assert last == "0"
    assert json.loads(rows[0])["audio"] == str(sound)


@pytest.mark.parametrize("command", [["-q", "doctor"], ["doctor", "-q"], ["-q", "doctor", "-q"]])
def test_quiet_before_and_after_the_verb(command: list[str]) -> None:
    arguments = build_parser().parse_args(command)
    assert (arguments.quiet, arguments.verbose) == (True, False)


def test_verbose_before_the_verb_is_obeyed(
    tiny_plan: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[int] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: levels.append(options["level"]))
    for option in ([], ["-v"], ["-q"]):
        assert main([*option, "inspect", str(tiny_plan)]) == 0
    assert levels == [logging.WARNING, logging.INFO, logging.ERROR]


def test_quiet_and_verbose_contradict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-q", "doctor", "-v"]) == 2
    assert "--quiet and --verbose contradict" in capsys.readouterr().err


def test_an_interrupt_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tiny_plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pengi_rt.engine.load", interrupted)
    assert main(["generate", "--engine", str(tiny_plan), "a.wav"]) == 130
    assert capsys.readouterr().err == "pengi-rt: interrupted\n"


@pytest.mark.parametrize("error", [RecursionError(), AttributeError("save_nargs")])
def test_an_interrupt_may_surface_as_another_exception(
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    tiny_plan: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pengi_rt.engine.load", load)
    arguments = ["generate", "--engine", str(tiny_plan), "a.wav"]
    with pytest.raises(type(error)):
        main(arguments)
    monkeypatch.setattr("pengi_rt.cli.main.was_interrupted", lambda: True)
    assert main(arguments) == 130
    assert capsys.readouterr().err == "pengi-rt: interrupted\n"


def test_a_closed_pipe_is_not_an_error(tiny_plan: Path, sounds: Path) -> None:
    """``pengi-rt generate ... | head -0`` ends quietly."""
    sound = min(path for path in sounds.iterdir() if path.suffix == ".wav")
    process = subprocess.Popen(
        [sys.executable, "-m", "pengi_rt", "generate", "--engine", tiny_plan, *[sound] * 3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 0
    process.stderr.close()
