"""``pengi-rt train``: run one stage of the training recipe from a TOML file."""

import argparse
from pathlib import Path

from pengi_rt.errors import BackendError, missing_module
from pengi_rt.system.quote import one_line
from pengi_rt.system.streams import emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Run one stage (contrastive, captioning, language_model) as its TOML file "
        "says, and write a checkpoint that the next stage and export read. On several GPUs: "
        "torchrun --nproc-per-node N -m pengi_rt train CONFIG. See docs/training.md."
    )
    parser.add_argument("config", type=Path, help="TOML file of the run")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the newest complete state in the run's output_dir",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, and print the path of the checkpoint."""
    try:
        from pengi_rt.training.config import read_config
        from pengi_rt.training.loop import train
    except ModuleNotFoundError as error:
        raise BackendError(
            f"train needs {missing_module(error)}, which the runtime does not: "
            "pip install 'pengi-rt[train]'"
        ) from None
    checkpoint = train(read_config(arguments.config), resume=arguments.resume)
    emit(one_line(str(checkpoint)))
    return 0
