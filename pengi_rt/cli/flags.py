"""The flags that several verbs share, what they mean together, and the engine they select."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pengi_rt.cli.parser import Once
from pengi_rt.config.backend import backends, devices, precisions
from pengi_rt.config.options import GenerateOptions, PromptOptions, ReadOptions
from pengi_rt.config.task_options import TaskOptions, described
from pengi_rt.errors import UsageError
from pengi_rt.render.rows import FORMATS
from pengi_rt.system.streams import STDIO

if TYPE_CHECKING:
    from pengi_rt import Engine

Container = argparse._ActionsContainer  # noqa: SLF001 - parsers and their groups have no other name


AnyOptions = TypeVar("AnyOptions", bound=TaskOptions)

_OUTPUT_HELP: Final = (
    "write results to FILE (default or -: stdout). They are collected in FILE.part, which becomes "
    "FILE when complete. If the run ends early, FILE is unchanged and FILE.part holds the answers "
    "so far"
)


def add_recordings(parser: Container, *, required: bool = True) -> None:
    """Add the recordings themselves, which are optional for some verbs (``required``)."""
    parser.add_argument(
        "audio",
        nargs="+" if required else "*",
        metavar="AUDIO",
        help="audio files (WAV, FLAC, OGG, MP3 and others), folders of them, quoted patterns "
        '("s/**/*.wav"), @LIST files with one name per line (# starts a comment); - is standard '
        "input",
    )


def add_options(parser: Container, cls: type[TaskOptions], *names: str) -> None:
    """Add flags for fields of ``cls``, with the defaults and help texts of the fields."""
    for name in names:
        hint, default, about = described(cls)[name]
        shown = " (default: %(default)s)" if default or (default == 0 and hint is int) else ""
        parser.add_argument(
            *(about.flag or f"--{name.replace('_', '-')}").split(),
            dest=name,
            help=(about.flag_help or about.help).replace("%", "%%") + shown,
            **_argument(hint, default, about.metavar),
        )


def _argument(hint: Any, default: Any, metavar: str | None) -> dict[str, Any]:
    """The arguments for argparse that follow from a field's type."""
    if hint is bool:
        return {"action": "store_false" if default else "store_true"}
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    if get_origin(hint) is tuple:
        return {"action": "append", "default": list(default), "metavar": metavar}
    kind = kinds[0] if get_origin(hint) in (Union, UnionType) else hint
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind), "default": default}
    if kind is str:
        return {"action": Once, "default": default, "metavar": metavar}
    return {"type": kind, "default": default, "metavar": metavar}


def options_of(arguments: argparse.Namespace, cls: type[AnyOptions]) -> AnyOptions:
    """The options on a command line; a field without a flag keeps its default.

    Raises:
        UsageError, PromptError: a value is invalid.
    """
    given = vars(arguments)
    return cls(**{name: given[name] for name in described(cls) if name in given})


def add_prompt(parser: Container, *, several: bool = False, default: str) -> None:
    """Add the prompt options; ``default`` describes the verb's default prompt."""
    group = parser.add_argument_group("prompt")
    more = "; repeatable" if several else ""
    group.add_argument(
        "--prompt",
        action="append" if several else Once,
        metavar="TEXT",
        help=f"the prompt to answer ({default}{more})",
    )
    add_options(group, PromptOptions, "task", "question", "text")


def add_decoding(parser: Container, *, sampling: bool = True) -> None:
    """Add the options of the beam search and, with ``sampling``, those of sampling."""
    title = "beam search (defaults: the plan's own, as released 5, 67, 1)"
    group = parser.add_argument_group(f"{title}, or sampling" if sampling else title)
    names = ("beam_size", "max_new_tokens", "temperature", "stop", "stop_strings")
    add_options(group, GenerateOptions, *names)
    if sampling:
        add_options(group, GenerateOptions, "samples", "top_k", "top_p")


def add_reading(parser: Container) -> None:
    """Add the options for reading recordings."""
    group = parser.add_argument_group("long recordings")
    names = ("long_audio", "hop", "resample", "allow_truncated", "seed")
    add_options(group, ReadOptions, *names)
    add_options(parser, ReadOptions, "strict")


def add_engine(parser: Container) -> None:
    """Add the options of the engine."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        metavar="PLAN",
        help="engine file made by pengi-rt export (default: the built-in demo model)",
    )
    later = [spec.name for spec in backends(later=True)]
    _add_choice(group, "--backend", [spec.name for spec in backends()], later)
    _add_choice(group, "--device", devices())
    add_precision(group)
    add_threads(group)
    add_options(group, ReadOptions, "batch_size")


def add_precision(parser: Container) -> None:
    """Add the option for the precision of the backend."""
    _add_choice(parser, "--precision", precisions())


def _add_choice(
    parser: Container, option: str, names: Sequence[str], later: Sequence[str] = ()
) -> None:
    """Add an option with the values ``auto``, the default, and ``names``.

    The names of ``later`` versions also parse; the engine refuses them with its own message.
    """
    here = ["auto", *names]
    absent = f"; not in this version: {', '.join(later)}" if later else ""
    parser.add_argument(
        option,
        choices=[*here, *later],
        default="auto",
        metavar=f"{{{','.join(here)}}}",
        help=f"(default: %(default)s{absent})",
    )


def add_threads(parser: Container, purpose: str = "") -> None:
    """Add ``--threads``, to be checked by :func:`check_threads`."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help=f"{purpose}(default: all we may use)"
    )


def add_output(parser: argparse.ArgumentParser, formats: Iterable[str] = FORMATS) -> None:
    """Add ``--format``, ``--output`` and ``--force``."""
    parser.add_argument(
        "--format", choices=tuple(formats), default="text", help="(default: %(default)s)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help=_OUTPUT_HELP)
    add_force(parser)


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume``, to be checked by :func:`check_resumable`."""
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the rows in FILE and FILE.part (jsonl), and answer the rest: rows of recordings "
        "named now are replaced if their content, plan or settings differ; all other rows are "
        "kept in front",
    )


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``, which :func:`~pengi_rt.cli.output_checks.refuse_precious` checks."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="allow an output to replace a recording, a plan or a checkpoint",
    )


def check_threads(arguments: argparse.Namespace) -> None:
    """Check ``--threads``.

    Raises:
        UsageError: the value is below 1.
    """
    if arguments.threads is not None and arguments.threads < 1:
        raise UsageError(f"--threads must be at least 1, got {arguments.threads}")


def open_engine(arguments: argparse.Namespace) -> "Engine":
    """Load the engine that the options select.

    Raises:
        PlanError, BackendError: the plan cannot be opened, or the backend cannot run here.
        UsageError: ``--threads`` is below 1.
    """
    check_threads(arguments)
    from pengi_rt import load

    return load(
        arguments.engine,
        backend=arguments.backend,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
    )


def check_resumable(arguments: argparse.Namespace) -> None:
    """Refuse ``--resume`` where it cannot work.

    Raises:
        UsageError: the output is not a JSON Lines file, or crops are random.
    """
    output = arguments.output
    if not getattr(arguments, "resume", False):  # not every verb has the flag
        return
    if arguments.format != "jsonl" or output in (None, STDIO):
        raise UsageError("--resume continues a file of rows: give --format jsonl and -o FILE")
    if Path(output).exists() and not Path(output).is_file():
        raise UsageError(f"--resume continues a file of rows: --output {output} is not one")
    if arguments.long_audio in ("random", "compat"):
        raise UsageError(
            f"--long-audio {arguments.long_audio} draws crops in turn, which --resume would upset; "
            "take windows, first or center"
        )
