"""Runs to interrupt, with everything random at once, and what uninterrupted ones produce."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from training_run import AUGMENT, Workshop, train_until

from pengi_rt.training import run_folder
from pengi_rt.training.config import TrainConfig

Outcome = tuple[bytes, list[dict[str, float]]]
"""The checkpoint's bytes, and the records."""

# All that is random, at once; and losses recorded every three steps, saved every two: a state
# falls between two records.
COMMON: dict[str, Any] = {
    "augment": AUGMENT | {"spec_augment": True},
    "optimizer": {"name": "adamw", "weight_decay": 0.1, "clip_norm": 1.0, "schedule": "cosine"},
    "run": {
        "steps": 7,
        "accumulate": 2,
        "save_every": 2,
        "log_every": 3,
        "validate_every": 4,
        "validation_batches": 2,
    },
}
STAGES: dict[str, dict[str, Any]] = {
    "contrastive": {"contrastive": {"tagging": 0.5}},
    "captioning": {"data": {"rows_per_clip": 2}},
    "language_model": {
        "train": ["decoder", "text_mapper", "text_encoder"],
        "language_model": {"reading": True, "prompts": ["encoder", "tokens"]},
    },
}


def described(workshop: Workshop, stage: str, output: str, workers: int = 0) -> TrainConfig:
    data = {"workers": workers, "validation": [str(workshop.manifest)]}
    changes = {**COMMON, **STAGES[stage]}
    changes["data"] = data | changes.get("data", {})
    return workshop.config(stage, output, **changes)


def changed_run(config: TrainConfig, **run: Any) -> TrainConfig:
    return replace(config, run=replace(config.run, **run))


def break_off(config: TrainConfig, kills: Sequence[int]) -> None:
    """Start a run and kill it before each of these steps; it resumes if it can."""
    for kill in kills:
        train_until(config, kill, resume=(Path(config.output_dir) / run_folder.STATES).exists())


def newest(config: TrainConfig) -> Path:
    return max((Path(config.output_dir) / run_folder.STATES).iterdir())
