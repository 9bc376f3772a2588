"""What follows ``--`` is a name, in every verb; options have one spelling."""

from pathlib import Path

import pytest
from clips import write_clip
from command_line import Capture, run

from pengi_rt.cli.main import build_parser, main
from pengi_rt.cli.parser import names_marked


def parsed(*arguments: str) -> dict[str, object]:
    return vars(build_parser().parse_args(names_marked(arguments)))


def refused(capsys: Capture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("verb", ["generate", "describe", "classify", "explain", "embed"])
@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["--", "z.wav", "-oX1.wav"], ["z.wav", "-oX1.wav"]),
        (["--", "-dash.wav"], ["-dash.wav"]),
        (["a.wav", "--strict", "b.wav", "--", "-q", "@l"], ["a.wav", "b.wav", "-q", "@l"]),
        (["--", "a.wav", "--", "-o", "--output=x"], ["a.wav", "--", "-o", "--output=x"]),
        (["--", "--"], ["--"]),
        (["--", "-h", "--help", "--version"], ["-h", "--help", "--version"]),
        (["--", "-1", "-"], ["-1", "-"]),
    ],
)
def test_recordings_whose_names_look_like_options(
    verb: str, given: list[str], names: list[str]
) -> None:
    needed = ["-o", "x.npy"] if verb == "embed" else []
    given = [each for each in given if verb != "describe" or each != "--strict"]
    found = parsed(verb, *needed, *given)
    assert found["audio"] == names
    assert all(type(name) is str for name in names)
    assert found["output"] == (needed[1] if needed else None)
    assert found["quiet"] is False


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["search", "--", "-i", "-loud", "--by"], {"index": "-i", "text": ["-loud", "--by"]}),
        (["search", "i", "a", "--", "-b"], {"index": "i", "text": ["a", "-b"]}),
        (["search", "-k", "3", "--", "i", "-k"], {"index": "i", "text": ["-k"], "k": 3}),
        (["index", "--", "-folder"], {"folder": "-folder"}),
        (["export", "--", "-x.pth"], {"checkpoint": Path("-x.pth")}),
        (["inspect", "--verify", "--", "--verify"], {"plan": Path("--verify"), "verify": True}),
        (["inspect", "--"], {"plan": None}),
        (["train", "--", "--resume"], {"config": Path("--resume"), "resume": False}),
        (["pull", "--", "base"], {"model": "base"}),
        (["doctor", "--"], {"format": "text"}),
        (["data", "check", "--", "-m", "--"], {"manifests": [Path("-m"), Path("--")]}),
        (["data", "convert", "-oX", "--", "macs", "-r"], {"root": Path("-r"), "output": "X"}),
        (["--", "generate", "-x.wav"], {"audio": ["-x.wav"]}),
        (["-v", "--", "data", "check", "-q"], {"manifests": [Path("-q")], "verbose": True}),
        (["embed", "-ox.npy", "--texts", "a", "--", "-c"], {"texts": ["a"], "audio": ["-c"]}),
        (["embed", "-ox.npy", "--texts", "a", "b", "--"], {"texts": ["a", "b"], "audio": []}),
        (["warmup", "--batch-size", "1", "2", "--"], {"batch_size": [1, 2]}),
        (["generate", "a", "--prompt=-x"], {"prompt": ["-x"], "audio": ["a"]}),
        (["generate", "a", "--prompt=--", "b"], {"prompt": ["--"], "audio": ["a", "b"]}),
    ],
)
def test_other_names(given: list[str], expected: dict[str, object]) -> None:
    found = parsed(*given)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["generate", "--"], "the following arguments are required: AUDIO"),
        (["doctor", "--", "-x"], "unrecognized arguments: -x"),
        (["pull", "--", "-base"], "invalid choice: '-base'"),
        (["--", "--version"], "invalid choice: '--version'"),
        (["generate", "a", "--prompt", "-x"], "is written OPTION=VALUE"),
        (["generate", "a", "-o", "--", "b"], "argument -o/--output: expected one argument"),
        (["generate", "a", "--out", "b"], "unrecognized arguments: --out"),
        (["generate", "a", "--res"], "unrecognized arguments: --res"),
        (["--vers"], "VERB"),
        (
            ["generate", "a", "-\x1b[31m\nforged:ok"],
            r"unrecognized arguments: -\x1b[31m\nforged:ok",
        ),
        (["generate", "--format", "x" * 10**6, "a"], "invalid choice"),
    ],
)
def test_refused(given: list[str], message: str, capsys: Capture) -> None:
    said = refused(capsys, *given)
    assert message in said
    assert said.isprintable()
    assert len(said) < 5000


def test_a_recording_named_like_an_option_is_not_overwritten(
    tiny_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(Path("z.wav"), 0)
    for name in ("X1.wav", "-oX1.wav"):
        write_clip(Path(name), 1)
    before = Path("X1.wav").read_bytes()
    fast = ("--engine", tiny_plan, "--beam-size", 1, "--max-new-tokens", 3)
    code, out, _ = run(capsys, "generate", *fast, "--", "z.wav", "-oX1.wav")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["z.wav", "-oX1.wav"]
    assert Path("X1.wav").read_bytes() == before
