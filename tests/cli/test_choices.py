"""The lists that the command line repeats are those of the engine."""

from typing import get_args

import pytest

from pengi_rt.backends import registry
from pengi_rt.cli.main import build_parser, main
from pengi_rt.cli.options import BACKENDS, DEVICES, PRECISIONS, Choice
from pengi_rt.cli.verbs import generate
from pengi_rt.config import choices
from pengi_rt.config.choices import LongAudio
from pengi_rt.export import export


@pytest.mark.parametrize(
    ("choice", "known"),
    [
        (BACKENDS, choices.BACKENDS),
        (DEVICES, choices.DEVICES),
        (PRECISIONS, choices.PRECISIONS),
    ],
)
def test_choices_are_those_of_the_engine(choice: Choice, known: tuple[str, ...]) -> None:
    assert (*choice.here, *choice.later) == known


def test_backends_here_are_those_of_the_engine() -> None:
    assert BACKENDS.here == registry.HERE


def test_plans_are_stored_as_what_runs() -> None:
    assert PRECISIONS.here == choices.WEIGHTS_NAMES
    assert ("auto", *export.BACKENDS) == BACKENDS.here


@pytest.mark.parametrize("way", get_args(LongAudio))
def test_ways_with_long_audio_are_those_of_the_engine(way: str) -> None:
    command = ["generate", "--engine", "e", "a", "--long-audio", way]
    assert build_parser().parse_args(command).run is generate.run


def test_help_says_what_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for choice in (BACKENDS, DEVICES, PRECISIONS):
        if choice.later:
            assert f"not in this version: {', '.join(choice.later)}" in shown
        assert f"{{{','.join(choice.here)}}}" in shown


@pytest.mark.parametrize("command", [["generate", "--engine", "e", "a.wav"], ["export", "c.pth"]])
@pytest.mark.parametrize("threads", ["0", "-3"])
def test_threads_below_one(
    command: list[str], threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--threads", threads]) == 2
    assert capsys.readouterr().err == f"pengi-rt: --threads must be at least 1, got {threads}\n"


@pytest.mark.parametrize("option", ["--task", "--question", "--text"])
@pytest.mark.parametrize("verb", ["generate", "explain"])
def test_nothing_is_forgotten(verb: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [verb, "a.wav", option, "one"]
    assert build_parser().parse_args(command)
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args([*command, "b.wav", option, "two"])
    assert caught.value.code == 2
    assert f"argument {option}: is given twice" in capsys.readouterr().err


def test_one_prompt_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    twice = ["a.wav", "--prompt", "one", "--prompt", "two"]
    assert build_parser().parse_args(["generate", *twice]).prompt == ["one", "two"]
    for verb in ("classify", "explain"):
        with pytest.raises(SystemExit):
            build_parser().parse_args([verb, *twice])
        assert "argument --prompt: is given twice" in capsys.readouterr().err
