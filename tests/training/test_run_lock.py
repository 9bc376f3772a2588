"""Two runs never train in one folder, and a refused one leaves no trace."""

import os
from pathlib import Path

import pytest
from training_run import Workshop, train

from pengi_rt.errors import UsageError
from pengi_rt.training import loop
from pengi_rt.training.errors import TrainingError
from pengi_rt.training.run_lock import only_run

HELD = "another run is training in it: wait for that one, or name another output_dir"


def test_the_second_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop = Workshop(tmp_path)
    config = workshop.config("language_model", "run", run={"steps": 2})
    refused: list[str] = []
    real = loop._step

    def step(*arguments: object) -> None:
        for resume in (False, True):
            with pytest.raises(UsageError) as caught:
                loop.train(config, resume=resume)
            refused.append(str(caught.value))
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_step", step)
    train(config)
    assert refused[0] == f"{tmp_path}/run: {HELD}"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1


def test_the_lock_goes_with_the_block(tmp_path: Path) -> None:
    root = tmp_path / "a" / "run"
    for _ in range(2):
        with only_run(root):
            assert root.is_dir()
            with pytest.raises(UsageError, match=HELD), only_run(root):
                pass
            assert root.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_stays(tmp_path: Path) -> None:
    with only_run(tmp_path):
        pass
    written = tmp_path / "run" / "model.safetensors"
    with only_run(tmp_path / "run"):
        written.touch()
    with pytest.raises(UsageError, match="already holds a run"), only_run(tmp_path / "run"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "model.safetensors"]


def test_a_worker_does_not_hold_it(tmp_path: Path) -> None:
    """A killed run may be resumed at once, while its workers are still noticing."""
    inside, outside = os.pipe(), os.pipe()
    with only_run(tmp_path):
        child = os.fork()
        if not child:
            os.write(inside[1], b"x")
            os.read(outside[0], 1)
            os._exit(0)
        os.read(inside[0], 1)
    with only_run(tmp_path):
        os.write(outside[1], b"x")
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("name", ["file", "file/run", "a" * 300, "a\0b"])
def test_invalid_folders(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot be written: "), only_run(tmp_path / name):
        pass


def test_other_processes_of_the_run_do_not_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with only_run(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with only_run(tmp_path):
            pass
