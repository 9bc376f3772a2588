"""``pengi-rt export``: turn a checkpoint into a plan."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pengi_rt.cli.flags import add_force, add_threads, check_threads
from pengi_rt.cli.output_checks import is_folder, refuse_overwriting, refuse_precious
from pengi_rt.config.backend import backends
from pengi_rt.config.choices import WEIGHTS_NAMES
from pengi_rt.errors import BackendError, CheckpointError, UsageError, missing_module
from pengi_rt.system.quote import one_line, printable
from pengi_rt.system.streams import emit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pengi_rt.export.self_test import Check

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Turn a checkpoint (published .pth, or our own .safetensors) into one engine "
        "file, and compare the engine file with the PyTorch model."
    )
    parser.add_argument(
        "checkpoint", type=Path, help="base.pth, base_no_text_enc.pth, or NAME.safetensors"
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="the plan to write (default: CHECKPOINT.plan)"
    )
    parser.add_argument(
        "--tokenizers",
        type=Path,
        metavar="DIR",
        help="folder with gpt2/ and clip/ (default: beside our own checkpoint, else the Hugging "
        "Face cache or hub)",
    )
    parser.add_argument(
        "--weights",
        default=WEIGHTS_NAMES[0],
        choices=WEIGHTS_NAMES,
        help="how the weights are stored: fp16 and bf16 round them and halve the file, int8 also "
        "stores the decoder's matrices in 8 bits; the CPU computes in float32 with any of them "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--backend",
        action="append",
        choices=[spec.name for spec in backends()],
        help=_backends_help(),
    )
    add_force(parser)
    add_threads(parser, "for the self-test ")
    parser.set_defaults(run=run)


def _backends_help() -> str:
    known = backends()
    graphs = " or ".join(spec.name for spec in known if spec.needs_graphs)
    weights = " and ".join(spec.name for spec in known if not spec.needs_graphs)
    default = " and ".join(spec.name for spec in known if "cpu" in spec.devices)
    return (
        f"a backend that the plan is for (repeat for more); without {graphs} the plan holds no "
        f"graphs, only the weights that {weights} read (default: {default})"
    )


def run(arguments: argparse.Namespace) -> int:
    """Export, and print the self-test's table."""
    check_threads(arguments)
    checkpoint: Path = arguments.checkpoint
    output = _output(checkpoint, arguments.output, arguments.tokenizers)
    refuse_precious(output, arguments)
    try:
        from pengi_rt.export.export import DEFAULT_BACKENDS, count_steps, export_plan
    except ModuleNotFoundError as error:
        raise BackendError(
            f"export needs {missing_module(error)}, which the runtime does not: "
            "pip install 'pengi-rt[export]'"
        ) from None
    from tqdm import tqdm

    backends = arguments.backend or DEFAULT_BACKENDS
    quiet = arguments.quiet or not sys.stderr.isatty()
    with tqdm(
        total=count_steps(backends),
        disable=quiet,
        bar_format="{desc:<28} {bar} {n}/{total} {elapsed}",
    ) as bar:

        def progress(step: str) -> None:
            logger.info("%s", step)
            bar.set_description_str(step)
            bar.update()

        checks = export_plan(
            checkpoint,
            output,
            tokenizers=arguments.tokenizers,
            weights=arguments.weights,
            backends=backends,
            threads=arguments.threads,
            progress=progress,
        )
    emit(table(checks))
    emit(printable(f"{output}  {output.stat().st_size / 1e6:.1f} MB  self-test passed"))
    return 0


def _output(checkpoint: Path, named: Path | None, tokenizers: Path | None) -> Path:
    """The plan to write. What would fail after minutes of work is refused here."""
    if is_folder(checkpoint):
        name = one_line(str(checkpoint))
        raise CheckpointError(f"{name}: is a folder; name the checkpoint in it")
    output = named or checkpoint.with_suffix(".plan")
    if is_folder(output):
        raise UsageError(
            f"--output {output} is a folder; name a file, for example {output / 'pengi.plan'}"
        )
    if not is_folder(output.parent):
        raise UsageError(f"--output {output}: there is no folder {output.parent}; create it first")
    beside = sorted(checkpoint.parent.glob("tokenizers/*.json"))
    named_files = sorted(tokenizers.glob("*/tokenizer.json")) if tokenizers else []
    refuse_overwriting(output, [checkpoint, *beside, *named_files])
    return output


def table(checks: "Sequence[Check]") -> str:
    """The self-test's checks as a text table."""
    lines = [f"{'backend':<7} {'stage':<26} {'batch':>5} {'difference':>11} {'allowed':>9}"]
    lines += [
        f"{check.backend:<7} {check.stage:<26} {check.batch:>5} {check.difference:>11.2g} "
        f"{check.tolerance:>9.2g}  {'ok' if check.passed else 'FAILED'}"
        for check in checks
    ]
    return "\n".join(lines)
