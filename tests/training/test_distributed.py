"""One batch in parts, or over two processes: the same weights except for rounding."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_run import (
    AUGMENT,
    Workshop,
    outcome,
    plain,
    start_world,
    states,
    train,
    weights,
)

from pengi_rt.training import run_folder
from pengi_rt.training.config import TRAINED, TrainConfig
from pengi_rt.training.initialize import make_model

STAGES = tuple(TRAINED)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("distributed"))


def trained(config: TrainConfig) -> dict[str, Tensor]:
    with plain():
        return load_file(train(config))


def assert_equal_but_rounding(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Sums of float32 in another order, over three steps of plain descent at a rate of 0.5.

    Weights are of order 0.1 and change by up to 0.1; halving one clip's share of the gradient would
    change them in the second digit.
    """
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6, msg=name)


def moved(workshop: Workshop, config: TrainConfig) -> float:
    """The largest change of any weight in a run."""
    before = weights(make_model(config)[0])
    after = load_file(Path(config.output_dir) / run_folder.CHECKPOINT)
    return max(
        (after[k] - before[k]).abs().max().item() for k in after if before[k].is_floating_point()
    )


def together(workshop: Workshop, stage: str, output: str, **run: Any) -> TrainConfig:
    """Three steps of four clips whose targets are four tokens each."""
    shown = [str(workshop.manifest)]
    changes: dict[str, Any] = {
        "data": {"max_target_tokens": 4, "only": ["caption"], "validation": shown},
        "optimizer": {"rate": 0.5, "schedule": "constant", "warmup_steps": 0},
        "run": {"steps": 3, "save_every": 3, "log_every": 1, **run},
    }
    if stage == "contrastive":
        changes |= {"contrastive": {"tagging": 0.5}}
    return workshop.config(stage, output, **changes)


@pytest.mark.parametrize("stage", ["captioning", "language_model"])
def test_accumulated_parts_equal_one_batch(stage: str, workshop: Workshop) -> None:
    whole = together(workshop, stage, f"whole-{stage}")
    expected = trained(whole)
    assert moved(workshop, whole) > 0.01
    for parts in (2, 4):
        config = together(workshop, stage, f"parts-{stage}-{parts}", accumulate=parts)
        assert_equal_but_rounding(trained(config), expected)
        losses = [[r["loss"] for r in outcome(c)[1]] for c in (config, whole)]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_equal_one_with_twice_the_batch(
    stage: str, workshop: Workshop, tmp_path: Path
) -> None:
    """The contrastive stage's negatives come from both; tags and captions are averaged."""
    validation = {"validate_every": 3, "validation_batches": 1}
    single = together(workshop, stage, f"one-{stage}", **validation)
    expected = trained(single)
    assert moved(workshop, single) > 0.01
    double = together(workshop, stage, f"two-{stage}", **validation)
    path = Path(f"{double.output_dir}.toml")
    wait(start_world(path, logs=tmp_path, undisturbed=True), tmp_path, 0)
    found = load_file(Path(double.output_dir) / run_folder.CHECKPOINT)
    assert_equal_but_rounding(found, expected)
    one, two = outcome(single)[1], outcome(double)[1]
    assert two[-1]["validation_loss"] == pytest.approx(one[-1]["validation_loss"], rel=1e-4)
    if stage == "contrastive":
        # Every process computes the loss of all clips.
        contrastive = [[r["contrastive"] for r in records[:3]] for records in (one, two)]
        np.testing.assert_allclose(contrastive[1], contrastive[0], rtol=1e-4)


def test_one_signal_stops_all_processes(workshop: Workshop, tmp_path: Path) -> None:
    """With everything on, one of two is asked to stop: both save, and resuming matches."""
    changes: dict[str, Any] = {
        "augment": AUGMENT | {"spec_augment": True},
        "contrastive": {"tagging": 0.5},
        "data": {"workers": 1},
        "run": {"steps": 4, "batch_size": 8, "accumulate": 2, "save_every": 9, "log_every": 3},
    }
    whole = workshop.config("contrastive", "world-whole", **changes)
    wait(start_world(Path(f"{whole.output_dir}.toml"), logs=tmp_path), tmp_path, 0)
    config = workshop.config("contrastive", "world", **changes)
    path = Path(f"{config.output_dir}.toml")
    processes = start_world(path, logs=tmp_path, hold=2)
    held = [tmp_path / f"held-{rank}" for rank in range(2)]
    for _ in range(3000):
        if all(file.exists() for file in held):
            break
        time.sleep(0.02)
    assert processes[1].pid is not None
    os.kill(processes[1].pid, signal.SIGTERM)
    time.sleep(0.1)
    for file in held:
        file.unlink()
    wait(processes, tmp_path, 130)
    assert states(config) == ["step-00000002"]
    wait(start_world(path, "--resume", logs=tmp_path), tmp_path, 0)
    assert outcome(config) == outcome(whole)


def wait(processes: Any, logs: Path, code: int) -> None:
    """Until both have ended; a process that waits for the other forever is killed."""
    for process in processes:
        process.join(60)
        process.kill()
        process.join()
    said = [(logs / f"log-{rank}").read_text() for rank in range(2)]
    assert [process.exitcode for process in processes] == [code, code], said


def test_a_batch_that_processes_cannot_divide(workshop: Workshop, tmp_path: Path) -> None:
    config = workshop.config("captioning", "odd", run={"batch_size": 3})
    wait(start_world(Path(f"{config.output_dir}.toml"), logs=tmp_path), tmp_path, 2)
    line = "run.batch_size (3) must be a multiple of accumulate (1) times processes (2)"
    assert line in (tmp_path / "log-0").read_text()
