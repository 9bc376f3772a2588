"""The engine that ships with pengi-rt: found, announced, or reported missing in one line."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pengi_rt
from pengi_rt.cli.main import main
from pengi_rt.errors import PlanError
from pengi_rt.plan import builtin

Capture = pytest.CaptureFixture[str]
WARNING = (
    "no engine given: using the built-in demo model, trained on synthesized sounds only "
    "(docs/demo-model.md)"
)


@pytest.fixture
def plan(tiny_plan: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the tiny model as the built-in one."""
    monkeypatch.setattr(builtin, "LOCATION", tiny_plan)
    return tiny_plan


@pytest.fixture
def missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "data" / "demo.plan"
    monkeypatch.setattr(builtin, "LOCATION", path)
    return path


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    path = tmp_path / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16_000), 16_000)
    return path


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_it_is_in_the_package() -> None:
    package = Path(pengi_rt.__file__).parent
    assert package / "plan" / "demo.plan" == builtin.LOCATION


def test_load_without_a_path(plan: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert builtin.builtin_plan() == plan
    with pengi_rt.load(threads=1) as engine:
        assert engine.plan.path == plan
    assert lines(caplog) == [WARNING]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_named_plan_is_used_without_a_message(
    tiny_plan: Path, missing: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pengi_rt.load(str(tiny_plan), threads=1) as engine:
        assert engine.plan.path == tiny_plan
    assert not caplog.records


def test_an_empty_name_is_not_the_built_in_plan(plan: Path, noise: Path, capsys: Capture) -> None:
    """``--engine "$ENGINE"`` with an empty variable."""
    with pytest.raises(PlanError, match="folder"):
        pengi_rt.load("")
    assert main(["generate", "--engine", "", str(noise), "-o", f"{noise}.txt"]) == 5
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("content", [None, "folder"])
def test_a_missing_built_in_plan(missing: Path, content: str | None) -> None:
    if content:
        missing.mkdir(parents=True)
    with pytest.raises(PlanError) as caught:
        pengi_rt.load()
    assert str(caught.value) == (
        f"no engine given, and this installation has no built-in one ({missing}): "
        "name a plan made by pengi-rt export (--engine PLAN)"
    )


def test_generate_uses_it_and_says_so_once(
    plan: Path, noise: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["generate", "--engine", str(plan), str(noise), str(noise)]) == 0
    expected = capsys.readouterr().out
    assert not caplog.records
    assert main(["generate", str(noise), str(noise)]) == 0
    assert capsys.readouterr().out == expected
    assert lines(caplog) == [WARNING]


def test_quiet_is_silent(
    plan: Path, noise: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    for options, expected in (([], f"pengi-rt: {WARNING}\n"), (["--quiet"], "")):
        monkeypatch.setattr(root, "handlers", [])
        monkeypatch.setattr(root, "level", logging.WARNING)
        assert main(["generate", str(noise), *options]) == 0
        captured = capsys.readouterr()
        assert captured.err == expected
        assert captured.out


@pytest.mark.parametrize("options", [[], ["-o", "answers.txt"]])
def test_generate_without_any(
    options: list[str],
    missing: Path,
    noise: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(noise.parent)
    assert main(["generate", str(noise), *options]) == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pengi-rt: no engine given, and this installation has no ")
    assert captured.err.count("\n") == 1
    assert list(noise.parent.iterdir()) == [noise]


def test_it_is_not_overwritten(plan: Path, noise: Path, capsys: Capture) -> None:
    before = plan.read_bytes()
    assert main(["generate", str(noise), "-o", str(plan)]) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert plan.read_bytes() == before


@pytest.mark.parametrize("options", [[], ["--verify"], ["--format", "json"]])
def test_inspect_without_a_path(plan: Path, options: list[str], capsys: Capture) -> None:
    assert main(["inspect", *options]) == 0
    shown = capsys.readouterr().out
    assert main(["inspect", str(plan), *options]) == 0
    assert capsys.readouterr().out == shown
    assert str(plan) in shown


def test_inspect_without_any(missing: Path, capsys: Capture) -> None:
    assert main(["inspect"]) == 5
    assert str(missing) in capsys.readouterr().err
