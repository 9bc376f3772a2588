"""Options that several verbs share."""

from typing import get_args

import pytest

from pengi_rt.cli.main import build_parser, main
from pengi_rt.cli.verbs import generate
from pengi_rt.config import backend as registry
from pengi_rt.config.choices import WEIGHTS_NAMES, LongAudio


@pytest.mark.parametrize("way", get_args(LongAudio))
def test_policies_for_long_audio_are_those_of_the_engine(way: str) -> None:
    command = ["generate", "--engine", "e", "a", "--long-audio", way]
    assert build_parser().parse_args(command).run is generate.run


def test_help_says_what_is_not_installed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "not in this version: tensorrt" in shown
    names = ("auto", *(spec.name for spec in registry.backends()))
    for choices in (names, ("auto", *registry.devices()), ("auto", *registry.precisions())):
        assert f"{{{','.join(choices)}}}" in shown


def test_precisions_are_the_types_that_plans_can_store() -> None:
    assert sorted(registry.precisions()) == sorted(WEIGHTS_NAMES)


@pytest.mark.parametrize("command", [["generate", "--engine", "e", "a.wav"], ["export", "c.pth"]])
@pytest.mark.parametrize("threads", ["0", "-3"])
def test_threads_below_one(
    command: list[str], threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--threads", threads]) == 2
    assert capsys.readouterr().err == f"pengi-rt: --threads must be at least 1, got {threads}\n"


@pytest.mark.parametrize("option", ["--task", "--question", "--text"])
@pytest.mark.parametrize("verb", ["generate", "explain"])
def test_an_option_given_twice_is_refused(
    verb: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [verb, "a.wav", option, "one"]
    assert build_parser().parse_args(command)
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args([*command, "b.wav", option, "two"])
    assert caught.value.code == 2
    assert f"argument {option}: is given twice" in capsys.readouterr().err


def test_verbs_with_one_prompt_refuse_two(capsys: pytest.CaptureFixture[str]) -> None:
    twice = ["a.wav", "--prompt", "one", "--prompt", "two"]
    assert build_parser().parse_args(["generate", *twice]).prompt == ["one", "two"]
    for verb in ("classify", "explain"):
        with pytest.raises(SystemExit):
            build_parser().parse_args([verb, *twice])
        assert "argument --prompt: is given twice" in capsys.readouterr().err
