"""``pengi-rt inspect`` shows a plan's contents and names what is damaged."""

import argparse
import json
from pathlib import Path

import pytest
import toy_plan

from pengi_rt.cli.verbs import inspect
from pengi_rt.errors import PlanError
from pengi_rt.plan.manifest import MANIFEST, WEIGHTS
from pengi_rt.plan.reader import Plan
from pengi_rt.plan.writer import PlanWriter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return toy_plan.write(tmp_path / "toy.plan")


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    inspect.add_arguments(parser.add_subparsers().add_parser("inspect"))
    arguments = parser.parse_args(["inspect", *argv])
    code: int = arguments.run(arguments)
    return code


def damage(path: Path) -> None:
    """Damage the tensor ``ids``."""
    with Plan.open(path) as plan:
        needle = plan.tensor("ids").tobytes()
    path.write_bytes(path.read_bytes().replace(needle, b"\1" + needle[1:]))


def test_text(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(path)) == 0
    out = capsys.readouterr().out
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if " " in line)
    assert out.startswith(f"{path}: tiny, 0.1 MB, format 1\n")
    assert lines["model"].startswith("2 s clips at 16000 Hz, prefix 8 audio + 8 text, text clip, ")
    assert lines["defaults"].startswith("prompt 'generate audio caption', beam size 5, ")
    assert lines["weights"] == "fp32"
    assert lines["backends"] == "onnx, torch"
    assert lines["graphs"] == "audio, text, decoder"
    assert lines["tensors"].startswith("14, 12 of them distinct, ")
    assert lines["source"].startswith("tiny.pth, sha256 0123")
    assert lines["tools"] == "pengi-rt 0.1.0, torch 2.13.0"
    for name, content in toy_plan.contents(path).items():
        if name != "plan.json":
            assert lines[name].split()[0] == str(len(content))
    assert lines["self-test"] == "passed yes"
    assert lines["stage"].split() == ["batch", "difference", "tolerance", "passed"]
    assert "audio prefix  1      2e-07       0.0001     yes" in out


def test_json_is_the_manifest(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(path), "--format", "json") == 0
    shown = json.loads(capsys.readouterr().out)
    manifest = json.loads(toy_plan.contents(path)["plan.json"])
    assert shown == manifest | {"path": str(path), "size": path.stat().st_size}


def test_verify(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(path), "--verify") == 0
    lines = capsys.readouterr().out.splitlines()
    for name in (WEIGHTS, *toy_plan.ENTRIES):
        assert f"ok       {name}" in lines
    assert lines[-1] == "ok       14 of 14 tensors"


def test_verify_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(path), "--verify", "--format", "json") == 0
    verified = json.loads(capsys.readouterr().out)["verified"]
    assert len(verified) == 1 + len(toy_plan.ENTRIES) + len(toy_plan.tensors())
    assert all(verified.values())


def test_damage_is_located(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(path)
    with pytest.raises(PlanError) as caught:
        run(str(path), "--verify")
    assert caught.value.exit_code == 5
    assert str(caught.value) == (
        f"{path}: 2 of 21 checksums do not match: weights.bin, weights.bin[ids]"
    )
    lines = capsys.readouterr().out.splitlines()
    assert "DAMAGED  weights.bin" in lines
    assert "DAMAGED  weights.bin[ids]" in lines
    assert "ok       graphs/audio.onnx" in lines
    assert lines[-1] == "ok       13 of 14 tensors"


def test_damage_in_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(path)
    with pytest.raises(PlanError):
        run(str(path), "--verify", "--format", "json")
    verified = json.loads(capsys.readouterr().out)["verified"]
    assert [name for name, holds in verified.items() if not holds] == [
        WEIGHTS,
        f"{WEIGHTS}[ids]",
    ]


def test_damage_is_also_refused_without_verify(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(path)
    with pytest.raises(PlanError, match=r"entry weights\.bin is damaged"):
        run(str(path))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("option", [(), ("--verify",)])
def test_a_missing_plan(tmp_path: Path, option: tuple[str, ...]) -> None:
    with pytest.raises(PlanError, match="no such file"):
        run(str(tmp_path / "nope.plan"), *option)


def test_plan_with_nothing_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with PlanWriter(tmp_path / "bare.plan", toy_plan.CONFIG, backends=()) as writer:
        toy_plan.fill(writer)
        writer.seal()
        writer.commit()
    assert run(str(tmp_path / "bare.plan"), "--verify") == 0
    out = capsys.readouterr().out
    for line in ("source     not recorded", "tools      none", "self-test  none recorded"):
        assert line in out


def test_weights_of_an_fp16_plan(half_plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(half_plan)) == 0
    shown = capsys.readouterr().out
    assert "weights    fp16\n" in shown
    assert run(str(half_plan), "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["weights"] == "fp16"


def test_a_plan_without_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(toy_plan.write(tmp_path / "bare.plan", graphs=False))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "backends   torch, triton" in lines
    assert "graphs     none" in lines


def test_numbers_that_json_cannot_hold(path: Path) -> None:
    for number in ("1e400", "NaN", "1" * 5000):
        entries = toy_plan.contents(path)
        entries[MANIFEST] = entries[MANIFEST].replace(b"2e-07", number.encode())
        toy_plan.pack(path.with_name("odd.plan"), entries.items())
        for options in ((), ("--format", "json"), ("--verify",)):
            with pytest.raises(PlanError, match=r"plan\.json is not JSON: ") as caught:
                run(str(path.with_name("odd.plan")), *options)
            assert toy_plan.one_line(str(caught.value))


def test_a_huge_self_test_is_shortened(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{f"key {index}": "x" * 2000} for index in range(1000)]
    report = {"long": "x" * 9000, "list": ["y" * 900] * 100, "checks": rows}
    toy_plan.edit_manifest(path, lambda data: data.update(self_test=report))
    assert run(str(path)) == 0
    out = capsys.readouterr().out
    assert "and 900 more" in out
    assert len(out) < 1_000_000
    assert max(map(len, out.splitlines())) < 4000
