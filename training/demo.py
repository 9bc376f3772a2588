"""Make the demo model from scratch: sounds, tokenizers, five training runs, plan, scores.

``python -m pengi_rt.training.demo`` does whatever is not done yet in ``runs/demo``, then puts the
checkpoint and the plan where they ship. An interrupted stage is resumed. ``--variants`` also trains
and scores the paper's variants, with a smaller budget of their own.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pengi_rt.errors import UsageError
from pengi_rt.export.checkpoint_reader import load_model
from pengi_rt.export.export import export_plan
from pengi_rt.models.checkpoint_writer import TOKENIZERS, save_checkpoint
from pengi_rt.plan.builtin import LOCATION
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.command import exit_code, write_json
from pengi_rt.training.config import read_config
from pengi_rt.training.loop import train
from pengi_rt.training.manifest import read_manifest
from pengi_rt.training.run_folder import CHECKPOINT, CONFIG, STATES
from pengi_rt.training.scenes.evaluate import Scores, compare, table
from pengi_rt.training.scenes.write import write_clips, write_text
from pengi_rt.training.state import has_states
from pengi_rt.training.vocabulary import write_vocabulary

logger = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
RECIPES = HERE / "recipes" / "demo"
SHIPPED = HERE / "checkpoints" / "demo.safetensors"
RUNS = Path("runs/demo")

STAGES = ("contrastive", "reading", "language_model", "notes", "captioning")
VARIANTS = ("short", "frozen", "exp_a", "exp_b", "shuffled")

TRAIN_SEED, VALIDATION_SEED, TEXT_SEED = 1, 2, 3
TRAIN_CLIPS, VALIDATION_CLIPS, TEXT_CLIPS = 40_000, 960, 40_000
VOCABULARY_ROWS = 40_000
HELD_OUT, VARIANTS_HELD_OUT = 1000, 300


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the return value is the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pengi_rt.training.demo",
        description="Make the demo model: sounds, tokenizers, five runs, plan, scores.",
    )
    parser.add_argument("--variants", action="store_true", help="also train the paper's variants")
    parser.add_argument("--workers", type=int, default=2, help="processes that make sounds")
    options = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    return exit_code(lambda: make_demo(options.workers, variants=options.variants))


def make_demo(workers: int, *, variants: bool) -> None:
    """Do whatever is not done yet, in order.

    Raises:
        UsageError: the current directory is not the repository's root, to which the recipes' paths
            are relative.
    """
    if Path.cwd() != HERE.parent:
        raise UsageError(f"run this in {HERE.parent}: the recipes' paths are relative to it")
    make_data(workers)
    *_, demo = [run_recipe(name) for name in STAGES]
    columns = compare([make_plan(demo)], HELD_OUT, silence=True)
    _keep(columns)
    ship(demo)
    if variants:
        others = [make_plan(run_recipe(f"variants/{name}")) for name in VARIANTS]
        columns |= compare(others, VARIANTS_HELD_OUT) | {"chance": columns["chance"]}
        _keep(columns)
    print(table(columns))


def _keep(columns: Mapping[str, Scores]) -> None:
    write_json(RUNS / "scores.json", columns)


def make_data(workers: int) -> None:
    """Make the clips for training and validation, the texts, and the tokenizers."""
    sets = (
        (RUNS / "train", TRAIN_SEED, TRAIN_CLIPS),
        (RUNS / "validation", VALIDATION_SEED, VALIDATION_CLIPS),
    )
    for folder, seed, count in sets:
        if not (folder / "manifest.jsonl").exists():
            logger.info("%s: making %d clips", folder, count)
            write_clips(folder, seed, 0, count, workers, progress=True)
            write_text(folder, seed, 0, count)
    texts = (
        (RUNS / "text", TEXT_SEED, TEXT_CLIPS),
        (RUNS / "text_validation", VALIDATION_SEED, VALIDATION_CLIPS),
    )
    for folder, seed, count in texts:
        if not (folder / "manifest.jsonl").exists():
            write_text(folder, seed, 0, count, audio=False)
    if not (RUNS / TOKENIZERS / "text.json").exists():
        tasks = load_tasks(RECIPES / "tasks.toml")
        text = RUNS / "text" / "manifest.jsonl"
        rows = read_manifest(text, tasks, need_audio=False)[:VOCABULARY_ROWS]
        size = read_config(RECIPES / "contrastive.toml").model
        assert size is not None
        write_vocabulary(rows, RUNS / TOKENIZERS, size.decoder.vocab_size)


def run_recipe(name: str) -> Path:
    """Train one recipe to its end, resuming if it was started; returns the checkpoint.

    Raises:
        UsageError: the checkpoint is there, but from another version of the recipe.
    """
    config = read_config(RECIPES / f"{name}.toml")
    checkpoint = Path(config.output_dir) / CHECKPOINT
    if checkpoint.exists():
        if checkpoint.with_name(CONFIG).read_text() != config.to_json():
            raise UsageError(
                f"{checkpoint.parent} was made by another version of {name}.toml: remove it and "
                "the runs that started from it"
            )
        return checkpoint
    logger.info("%s: training", config.output_dir)
    return train(config, resume=has_states(checkpoint.with_name(STATES)))


def make_plan(checkpoint: Path) -> Path:
    """Export the checkpoint to a plan beside it, named after the run, with fp16 weights."""
    plan = checkpoint.parent / f"{checkpoint.parent.name}.plan"
    if not plan.exists():
        export_plan(checkpoint, plan, weights="fp16")
    return plan


def ship(checkpoint: Path) -> None:
    """Put the checkpoint, with float16 weights, and its plan where the project ships them."""
    model, read = load_model(checkpoint)
    assert read.tokenizers is not None
    tokenizers = {
        name: (read.tokenizers / f"{name}.json").read_bytes() for name in ("text", "decoder")
    }
    SHIPPED.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model, SHIPPED, tokenizers, dtype=torch.float16)
    LOCATION.parent.mkdir(parents=True, exist_ok=True)
    export_plan(SHIPPED, LOCATION, weights="fp16")


if __name__ == "__main__":
    sys.exit(main())
