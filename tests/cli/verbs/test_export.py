"""``pengi-rt export`` fails fast instead of after minutes, and destroys nothing."""

import sys
from pathlib import Path
from typing import Any

import pytest

from pengi_rt.cli.main import main
from pengi_rt.plan.reader import Plan

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file; reaching the exporter fails the test."""
    monkeypatch.setitem(sys.modules, "pengi_rt.export.export", None)
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"weights")
    return path


def refused(capsys: Capture, *arguments: str | Path) -> str:
    assert main(["export", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_checkpoint_is_not_overwritten(checkpoint: Path, capsys: Capture) -> None:
    link = checkpoint.with_name("link")
    link.symlink_to(checkpoint)
    for output in (checkpoint, link):
        assert "would overwrite" in refused(capsys, checkpoint, "-o", output)
    assert checkpoint.read_bytes() == b"weights"


def test_a_checkpoint_named_plan_is_not_overwritten(checkpoint: Path, capsys: Capture) -> None:
    named = checkpoint.rename(checkpoint.with_suffix(".plan"))
    assert "would overwrite" in refused(capsys, named)
    assert named.read_bytes() == b"weights"


def test_output_folders(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    missing = tmp_path / "no" / "a.plan"
    assert f"there is no folder {missing.parent}" in refused(capsys, checkpoint, "-o", missing)
    assert "there is no folder" in refused(capsys, checkpoint, "-o", checkpoint / "a.plan")
    assert f"for example {tmp_path}/pengi.plan" in refused(capsys, checkpoint, "-o", tmp_path)


@pytest.mark.parametrize("name", [".", "/"])
def test_a_folder_is_not_a_checkpoint(checkpoint: Path, name: str, capsys: Capture) -> None:
    assert main(["export", name]) == 3
    assert "is a folder; name the checkpoint in it" in capsys.readouterr().err


def test_without_the_export_packages(checkpoint: Path, capsys: Capture) -> None:
    assert main(["export", str(checkpoint)]) == 5
    assert "pip install 'pengi-rt[export]'" in capsys.readouterr().err


def test_exports_beside_the_checkpoint(
    tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    output = tmp_path / "tiny.plan"
    assert main(["export", str(tiny_checkpoint), "-o", str(output), "--threads", "1"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"{output}  ")
    assert last.endswith("MB  self-test passed")
    assert all(line.endswith("  ok") for line in table[1:])
    with Plan.open(output) as plan:
        assert plan.config.name == "tiny"


@pytest.mark.parametrize(
    ("options", "weights", "backends"),
    [
        ([], "fp32", ["onnx", "torch", "native"]),
        (["--weights", "fp16"], "fp16", ["onnx", "torch", "native"]),
        (["--weights", "int8", "--backend", "triton"], "int8", ["triton"]),
        (["--backend", "triton", "--backend", "onnx"], "fp32", ["triton", "onnx"]),
    ],
)
def test_stores_weights_as_asked(
    options: list[str],
    weights: str,
    backends: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    def export_plan(_checkpoint: Path, output: Path, **options: Any) -> tuple[()]:
        asked.update(options)
        output.write_bytes(b"plan")
        return ()

    monkeypatch.setattr("pengi_rt.export.export.export_plan", export_plan)
    checkpoint = tmp_path / "mine.safetensors"
    assert main(["export", str(checkpoint), *options]) == 0
    assert asked["weights"] == weights
    assert list(asked["backends"]) == backends


@pytest.mark.parametrize(
    ("option", "value", "possible"),
    [
        ("--weights", "int4", ("fp32", "fp16", "bf16", "int8")),
        ("--backend", "tensorrt", ("onnx", "torch", "triton")),
        ("--backend", "auto", ("onnx", "torch", "triton")),
    ],
)
def test_refuses_unknown_weights_and_backends(
    option: str, value: str, possible: tuple[str, ...], checkpoint: Path, capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", str(checkpoint), option, value])
    assert caught.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert f"argument {option}: invalid choice: '{value}' (choose from " in line
    assert all(choice in line for choice in possible)
