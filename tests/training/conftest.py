"""Runs shared by the tests of resuming."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from resumable import Outcome, break_off, described
from training_run import Workshop, outcome, train

from pengi_rt.training.config import TrainConfig


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="session")
def untouched(workshop: Workshop) -> Callable[[str], Outcome]:
    """The outcome of an uninterrupted run of a stage, without workers."""
    made: dict[str, Outcome] = {}

    def of(stage: str) -> Outcome:
        if stage not in made:
            config = described(workshop, stage, f"whole-{stage}")
            train(config)
            made[stage] = outcome(config)
        return made[stage]

    return of


@pytest.fixture(scope="session")
def killed(workshop: Workshop) -> tuple[TrainConfig, Path]:
    """A run killed before its last step, and a copy of its folder."""
    config = described(workshop, "captioning", "killed")
    break_off(config, (7,))
    copy = workshop.root / "killed-copy"
    shutil.copytree(config.output_dir, copy)
    return config, copy


@pytest.fixture
def broken_off(killed: tuple[TrainConfig, Path]) -> TrainConfig:
    """The killed run, in the state it was left in."""
    config, copy = killed
    shutil.rmtree(config.output_dir)
    shutil.copytree(copy, config.output_dir)
    return config
