"""What verbs that read recordings share: their options, and the engine that these select."""

import argparse
import os
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pengi_rt.cli.output import refuse_overwriting, refuse_precious
from pengi_rt.cli.parser import Once
from pengi_rt.config.backend import backends, devices, precisions
from pengi_rt.config.options import GenerateOptions, PromptOptions, ReadOptions
from pengi_rt.config.task_options import TaskOptions, described
from pengi_rt.errors import UsageError
from pengi_rt.plan.builtin import builtin_plan
from pengi_rt.system.streams import STDIO

if TYPE_CHECKING:
    from pengi_rt.engine import Engine

Container = argparse._ActionsContainer  # noqa: SLF001 - parsers and their groups have no other name


class Choice(NamedTuple):
    """The values of an option: supported ones, and those of later versions, known only by name."""

    here: tuple[str, ...]
    later: tuple[str, ...]


AnyOptions = TypeVar("AnyOptions", bound=TaskOptions)


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


def add_search(parser: Container, *, drawn: bool = True) -> None:
    """Add the search options and, with ``drawn``, the sampling options."""
    title = "beam search (defaults: the plan's own, as released 5, 67, 1)"
    group = parser.add_argument_group(f"{title}, or sampling" if drawn else title)
    names = ("beam_size", "max_new_tokens", "temperature", "stop", "stop_strings")
    add_options(group, GenerateOptions, *names)
    if drawn:
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
    later = tuple(spec.name for spec in backends(later=True))
    add_choice(group, "--backend", Choice(("auto", *(spec.name for spec in backends())), later))
    add_choice(group, "--device", Choice(("auto", *devices()), ()))
    add_precision(group)
    add_threads(group)
    add_options(group, ReadOptions, "batch_size")


def add_precision(parser: Container) -> None:
    """Add the option for the precision of the backend."""
    add_choice(parser, "--precision", Choice(("auto", *precisions()), ()))


def add_choice(parser: Container, option: str, choice: Choice) -> None:
    """Add an option whose default is the first choice. Choices of later versions also parse.

    The engine then refuses them with its own message.
    """
    later = f"; not in this version: {', '.join(choice.later)}" if choice.later else ""
    parser.add_argument(
        option,
        choices=[*choice.here, *choice.later],
        default=choice.here[0],
        metavar=f"{{{','.join(choice.here)}}}",
        help=f"(default: %(default)s{later})",
    )


def add_threads(parser: Container, purpose: str = "") -> None:
    """Add ``--threads``, to be checked by :func:`check_threads`."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help=f"{purpose}(default: all we may use)"
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
    from pengi_rt.engine import load

    return load(
        arguments.engine,
        backend=arguments.backend,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
    )


def protect_inputs(arguments: argparse.Namespace, names: list[str]) -> None:
    """Check that writing the output destroys nothing.

    It must not overwrite inputs of this run: the plan, the recordings ``names``, the lists that
    name them, files of labels or texts. Without ``--force``, it must not replace any other
    recording, plan or checkpoint.

    Raises:
        UsageError: the output would do so.
    """
    engine_file = builtin_plan() if arguments.engine is None else arguments.engine
    given = (getattr(arguments, name, None) for name in ("labels_file", "texts_file"))
    lists = (
        name.removeprefix("@")
        for name in getattr(arguments, "audio", ())
        if name.startswith("@") and not os.path.lexists(name)
    )
    inputs = [engine_file, *names, *lists, *filter(None, given)]
    if getattr(arguments, "plot", None) is not None:
        refuse_overwriting(arguments.plot, inputs, "--plot")
        refuse_precious(arguments.plot, arguments, "--plot")
    if arguments.output in (None, STDIO):
        return
    refuse_overwriting(arguments.output, inputs)
    refuse_precious(arguments.output, arguments)
