"""What verbs that hear recordings share: their options, and the engine that these ask for."""

import argparse
import logging
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pengi_rt.cli.arguments import (
    Once,
    add_backend,
    add_threads,
    check_threads,
)
from pengi_rt.cli.output import STDIO, refuse_overwriting, refuse_precious
from pengi_rt.cli.resume import saved_rows
from pengi_rt.plan.builtin import builtin_plan

if TYPE_CHECKING:
    from pengi_rt.engine import Engine

logger = logging.getLogger(__name__)

Container = argparse._ActionsContainer  # noqa: SLF001 - parsers and their groups have no other name


class Asked(Protocol):
    """A result, which knows the prompt that it is about."""

    @property
    def prompt(self) -> str:
        """What was asked."""

    @property
    def prompt_truncated(self) -> bool:
        """Its end did not fit."""


AnyAsked = TypeVar("AnyAsked", bound=Asked)


def add_recordings(parser: Container, *, required: bool = True) -> None:
    """Add the recordings themselves; a verb may also do without (``required``)."""
    parser.add_argument(
        "audio",
        nargs="+" if required else "*",
        metavar="AUDIO",
        help="audio files (WAV, FLAC, OGG, MP3 and others), folders of them, quoted patterns "
        '("s/**/*.wav"), @LIST files with a name a line (# begins a remark); - is standard input',
    )


def add_prompt(parser: Container, *, several: bool = False, default: str) -> None:
    """Add what is asked; the verb's own prompt is ``default``."""
    group = parser.add_argument_group("what is asked")
    more = "; again for several" if several else ""
    group.add_argument(
        "--prompt",
        action="append" if several else Once,
        metavar="TEXT",
        help=f"({default}{more})",
    )
    group.add_argument(
        "--task", action=Once, metavar="NAME",
        help="a task's prompt instead: caption, qa, events, scene, emotion, sentiment, music, "
        "note, metadata",
    )  # fmt: skip
    group.add_argument("--question", action=Once, metavar="TEXT", help="what the task qa asks")
    add_text(group)


def add_text(parser: Container) -> None:
    """Add what stands behind the prompt."""
    parser.add_argument(
        "--text", action=Once, default="",
        help="additional text, which the answer continues; without a space at its end",
    )  # fmt: skip


def add_search(parser: Container, *, drawn: bool = True) -> None:
    """Add how answers are found; ``drawn``: the options of answers drawn at random as well."""
    title = "beam search (defaults: the plan's own, as released 5, 67, 1)"
    group = parser.add_argument_group(f"{title}, or answers drawn at random" if drawn else title)
    group.add_argument("--beam-size", type=int, metavar="N", help="hypotheses kept; 1 is greedy")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="the longest answer")
    group.add_argument("--temperature", type=float, metavar="T",
                       help="divides the logits; 0 or less counts as 1, as released")  # fmt: skip
    group.add_argument("--stop", metavar="TEXT",
                       help="end answers at TEXT's first token instead of the plan's")  # fmt: skip
    group.add_argument(
        "--stop-string", action="append", default=[], metavar="TEXT", dest="stop_strings",
        help="end answers where TEXT appears, and cut it off; again for several",
    )  # fmt: skip
    if drawn:
        _add_draw(group)


def _add_draw(group: Container) -> None:
    group.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="draw N answers (--seed); text and CSV show the best, JSON all",
    )
    group.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    group.add_argument("--top-p", type=float, metavar="P",
                       help="draw from the likeliest that have probability P together")  # fmt: skip


def add_reading(parser: Container) -> None:
    """Add how recordings are read."""
    group = parser.add_argument_group("long recordings")
    group.add_argument(
        "--long-audio",
        choices=["windows", "first", "center", "random", "compat"],
        default="windows",
        help="recordings longer than a clip: all windows, one of them, or exactly what the "
        "released wrapper does (default: %(default)s)",
    )
    group.add_argument("--hop", type=float, metavar="SECONDS",
                       help="between the starts of windows (default: a clip's length)")  # fmt: skip
    group.add_argument(
        "--no-resample",
        action="store_true",
        help="take the samples as they are, whatever the file's rate (with --long-audio compat)",
    )
    group.add_argument(
        "--allow-truncated",
        action="store_true",
        help="hear what is there of a file that is cut short or damaged (audio_truncated)",
    )
    group.add_argument("--seed", type=int, default=0,
                       help="of random crops and drawn answers (default: %(default)s)")  # fmt: skip
    add_strict(parser)


def add_strict(parser: Container) -> None:
    """Add what refuses where otherwise there is a warning."""
    parser.add_argument(
        "--strict", action="store_true",
        help="refuse text over the encoder's limit, and recordings that seem to hold no sound or "
        "samples of another scale, instead of warning",
    )  # fmt: skip


def add_engine(parser: Container) -> None:
    """Add what runs it all."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        metavar="PLAN",
        help="file made by pengi-rt export (default: the built-in demo model)",
    )
    add_backend(group)
    add_threads(group)
    group.add_argument("--batch-size", type=int, default=8, metavar="N",
                       help="windows answered together (default: %(default)s)")  # fmt: skip


def prompt_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_prompt` asks for, but for the prompt itself, as the engine's options."""
    names = ("task", "question", "text", "strict")
    return {name: getattr(arguments, name) for name in names}


def decode_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_search` asks for, and the seed of draws, as the engine's options."""
    names = ("beam_size", "max_new_tokens", "temperature", "stop", "stop_strings", "samples",
             "top_k", "top_p", "seed")  # fmt: skip
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def open_engine(arguments: argparse.Namespace) -> "Engine":
    """The engine that the options name.

    Raises:
        PlanError, BackendError: it is not to be had.
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
    """Check that no output is a file that is read here, and that no companion of it is one.

    Those are the plan, the recordings ``names``, the lists that these stand in, and files of labels
    or texts. Nor does an output replace another recording, plan or checkpoint without ``--force``.

    Raises:
        UsageError: it is, or does.
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
    if hasattr(arguments, "resume"):
        refuse_overwriting(saved_rows(arguments.output), inputs)
        refuse_precious(saved_rows(arguments.output), arguments)
    refuse_precious(arguments.output, arguments)


def warned(results: Iterable[AnyAsked], engine: "Engine") -> Iterator[AnyAsked]:
    """The results; the first about each prompt that was cut is a warning."""
    told = set()
    for result in results:
        if result.prompt_truncated and result.prompt not in told:
            told.add(result.prompt)
            logger.warning(
                "the prompt is longer than the text encoder reads (%d tokens) and was cut as "
                "released; --strict refuses instead: %.40r ...",
                engine.config.text.max_length,
                result.prompt,
            )
        yield result
