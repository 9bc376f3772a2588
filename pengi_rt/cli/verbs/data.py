"""``pengi-rt data``: check manifests, convert public datasets to manifests, list tasks."""

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pengi_rt.cli.flags import add_force
from pengi_rt.cli.output_checks import is_folder, refuse_overwriting, refuse_precious
from pengi_rt.cli.parser import Parser, add_verbosity
from pengi_rt.errors import InputError, UsageError
from pengi_rt.render.output import open_output
from pengi_rt.system.quote import message, one_line
from pengi_rt.system.streams import STDIO, emit, say

if TYPE_CHECKING:
    from pengi_rt.training.datasets.registry import Conversion
    from pengi_rt.training.manifest_check import ManifestCheck

DATASETS = (
    "audiocaps",
    "audioset",
    "clotho",
    "clotho_aqa",
    "fsd50k",
    "macs",
    "nsynth",
    "wavtext5k",
)
MAX_SECONDS = 60.0
MAX_PROBLEMS = 100
MAX_MISSING = 0.5

_TABLES = (".csv", ".json", ".yaml", ".tsv", ".txt")  # files of published datasets

_TASKS_HELP = "add the tasks of a TOML file (docs/data.md); repeatable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Training data: manifests, which are JSON Lines files of recordings and their texts."
    )
    actions = parser.add_subparsers(
        title="actions", metavar="ACTION", required=True, parser_class=Parser
    )
    _add_check(actions)
    _add_convert(actions)
    _add_tasks(actions)
    for action in actions.choices.values():
        add_verbosity(action, default=argparse.SUPPRESS)


def _add_check(actions: "argparse._SubParsersAction[Parser]") -> None:
    parser = actions.add_parser(
        "check",
        help="find everything wrong with a manifest",
        description="Print every problem of the manifests as FILE:LINE: message, recordings "
        "included. Exits with 3 if there are any.",
    )
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    parser.add_argument("--tasks", type=Path, action="append", metavar="FILE", help=_TASKS_HELP)
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=MAX_SECONDS,
        metavar="S",
        help="maximum length of a recording (default: %(default)g)",
    )
    parser.add_argument(
        "--max-problems",
        type=int,
        default=MAX_PROBLEMS,
        metavar="N",
        help="maximum number of problems to print; the rest is counted (default: %(default)s)",
    )
    parser.add_argument(
        "--text-only", action="store_true", help="rows may have no audio (language model stage)"
    )
    parser.set_defaults(run=run_check)


def _add_convert(actions: "argparse._SubParsersAction[Parser]") -> None:
    parser = actions.add_parser(
        "convert",
        help="make a manifest from a public dataset",
        description="Make a manifest from a public dataset in the layout of its archives. "
        "Recordings that are not on the disk are left out and counted.",
    )
    parser.add_argument("dataset", choices=DATASETS, metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the dataset")
    parser.add_argument("--split", metavar="S", help="part of the dataset; a wrong name lists them")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT.jsonl",
        help="the manifest; paths of recordings below its folder are relative, others absolute",
    )
    parser.add_argument(
        "--max-missing",
        type=float,
        default=MAX_MISSING,
        metavar="SHARE",
        help="maximum share of missing recordings (default: %(default)g)",
    )
    add_force(parser)
    _add_copy_options(parser)
    parser.set_defaults(run=run_convert)


def _add_copy_options(parser: argparse.ArgumentParser) -> None:
    """Add options for unusual copies of a dataset."""
    parser.add_argument(
        "--audio", type=Path, metavar="DIR", help="the recordings, if not in their usual place"
    )
    parser.add_argument(
        "--audio-pattern",
        action="append",
        default=[],
        metavar="NAME",
        help="file names of recordings, such as 'Y{youtube_id}.*'; may be given again (audiocaps, "
        "audioset)",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="AudioSet's class_labels_indices.csv, if elsewhere (audioset), or for its names "
        "(fsd50k)",
    )


def _add_tasks(actions: "argparse._SubParsersAction[Parser]") -> None:
    parser = actions.add_parser(
        "tasks",
        help="list the tasks and their prompts",
        description="List the tasks: name, prompt, target.",
    )
    parser.add_argument("--tasks", type=Path, action="append", metavar="FILE", help=_TASKS_HELP)
    parser.set_defaults(run=run_tasks)


def run_check(arguments: argparse.Namespace) -> int:
    """Check the manifests: problems on stdout, a summary of each on stderr."""
    from pengi_rt.text.prompts import load_tasks
    from pengi_rt.training.manifest_check import ManifestCheck

    if not arguments.max_seconds > 0:
        raise UsageError(f"--max-seconds must be above 0, got {arguments.max_seconds:g}")
    if arguments.max_problems < 1:
        raise UsageError(f"--max-problems must be at least 1, got {arguments.max_problems}")
    tasks = load_tasks(*(arguments.tasks or ()))
    left, total = arguments.max_problems, 0
    for path in arguments.manifests:
        check = ManifestCheck(
            path, tasks, arguments.max_seconds, need_audio=not arguments.text_only
        )
        printed, found = _print_problems(check, left)
        left -= printed
        total += found
        if not arguments.quiet:
            hidden = f" ({found - printed} not printed)" if found > printed else ""
            say(f"{_contents(check)}, {_count(found, 'problem')}{hidden}")
    return InputError.exit_code if total else 0


def _print_problems(check: "ManifestCheck", limit: int) -> tuple[int, int]:
    """Print up to ``limit`` problems; returns how many were printed, and how many there are."""
    problems = check.problems()
    printed = 0
    for problem in islice(problems, limit):
        emit(message(str(problem)))
        printed += 1
    return printed, printed + sum(1 for _ in problems)


def _contents(check: "ManifestCheck") -> str:
    hours = sum(check.clips.values()) / 3600
    clips = f"{_count(len(check.clips), 'recording')}, {hours:.2f} h"
    return f"{one_line(str(check.path))}: {_count(check.rows, 'row')}, {clips}"


def run_convert(arguments: argparse.Namespace) -> int:
    """Convert a dataset; the manifest is written completely or not at all."""
    from pengi_rt.training.datasets.common import Options
    from pengi_rt.training.datasets.registry import convert_dataset, manifest_line

    if not 0 <= arguments.max_missing <= 1:
        raise UsageError(f"--max-missing must be in [0, 1], got {arguments.max_missing:g}")
    output: str = arguments.output
    folder = Path() if output == STDIO else Path(output).parent
    if not is_folder(folder):
        raise UsageError(f"--output {output}: there is no folder {folder}; make it first")
    _protect_dataset(arguments)
    conversion = convert_dataset(
        arguments.dataset,
        arguments.root,
        arguments.split,
        Options(arguments.audio, tuple(arguments.audio_pattern), arguments.labels),
        max_missing=arguments.max_missing,
    )
    with open_output(output) as stream:
        for row in conversion.rows:
            stream.write(manifest_line(row, folder) + "\n")
    if output == STDIO:
        if not arguments.quiet:
            say(_summary(conversion))
    else:
        emit(f"{one_line(output)}  {_summary(conversion)}")
    return 0


def _protect_dataset(arguments: argparse.Namespace) -> None:
    """Refuse to overwrite files of the dataset or, without ``--force``, other precious files."""
    output: str = arguments.output
    place = Path(output).resolve()
    ours = place.suffix not in _TABLES or not place.is_relative_to(arguments.root.resolve())
    if output != STDIO and not ours and place.is_file():
        raise UsageError(f"--output {output} would overwrite a table of the dataset; name another")
    refuse_overwriting(output, [arguments.labels] if arguments.labels else [])
    refuse_precious(output, arguments)


def _summary(conversion: "Conversion") -> str:
    clips = f"{conversion.clips} of {_count(conversion.clips + conversion.missing, 'recording')}"
    parts = [_count(len(conversion.rows), "row"), clips, f"{conversion.missing} missing"]
    if conversion.textless:
        parts.append(f"{_count(conversion.textless, 'row')} without text left out")
    return ", ".join(parts)


def run_tasks(arguments: argparse.Namespace) -> int:
    """List the tasks."""
    from pengi_rt.text.prompts import load_tasks

    tasks = load_tasks(*(arguments.tasks or ())).values()
    lines = [[one_line(text) for text in (task.name, task.prompt, task.target)] for task in tasks]
    names = max(len(name) for name, _, _ in lines)
    prompts = max(len(prompt) for _, prompt, _ in lines)
    for name, prompt, target in lines:
        emit(f"{name:<{names}}  {prompt:<{prompts}}  {target}")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
