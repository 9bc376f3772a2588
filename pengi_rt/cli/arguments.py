"""Options that several verbs share."""

import argparse
from typing import Any, NamedTuple

from pengi_rt.backends.registry import backends, devices, precisions
from pengi_rt.errors import UsageError


class Choice(NamedTuple):
    """The values of an option: those of this version, and those it only knows by name."""

    here: tuple[str, ...]
    later: tuple[str, ...]


class Once(argparse.Action):
    """Stores a value; a second one is refused, where argparse would forget the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's own signature
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """Store ``values``.

        Raises:
            ArgumentError: there is a value already.
        """
        given: set[str] = vars(namespace).setdefault("given_once", set())
        if self.dest in given:
            raise argparse.ArgumentError(self, "is given twice: run the command once for each")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def add_choice(parser: "argparse._ActionsContainer", option: str, choice: Choice) -> None:
    """Add an option whose default is the first choice. Those of later versions parse.

    The engine then refuses them, in words of its own.
    """
    later = f"; not in this version: {', '.join(choice.later)}" if choice.later else ""
    parser.add_argument(
        option,
        choices=[*choice.here, *choice.later],
        default=choice.here[0],
        metavar=f"{{{','.join(choice.here)}}}",
        help=f"(default: %(default)s{later})",
    )


def add_backend(parser: "argparse._ActionsContainer") -> None:
    """Add which backend runs the plan, where, and what it computes in."""
    later = tuple(spec.name for spec in backends(later=True))
    add_choice(parser, "--backend", Choice(("auto", *(spec.name for spec in backends())), later))
    add_choice(parser, "--device", Choice(("auto", *devices()), ()))
    add_precision(parser)


def add_precision(parser: "argparse._ActionsContainer") -> None:
    """Add what the backend computes in."""
    add_choice(parser, "--precision", Choice(("auto", *precisions()), ()))


def add_threads(parser: "argparse._ActionsContainer", purpose: str = "") -> None:
    """Add ``--threads``, to be checked by :func:`check_threads`."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help=f"{purpose}(default: all we may use)"
    )


def check_threads(arguments: argparse.Namespace) -> None:
    """Check ``--threads``.

    Raises:
        UsageError: it is below 1.
    """
    if arguments.threads is not None and arguments.threads < 1:
        raise UsageError(f"--threads must be at least 1, got {arguments.threads}")


def add_verbosity(parser: argparse.ArgumentParser, default: bool | str) -> None:
    """Add ``--quiet`` and ``--verbose``, before the verb and behind it.

    Behind it, ``default`` is SUPPRESS: not given says nothing about the one before.
    """
    group = parser.add_mutually_exclusive_group()
    for names, explanation in (
        (("-q", "--quiet"), "errors only on stderr"),
        (("-v", "--verbose"), "say more on stderr"),
    ):
        group.add_argument(*names, action="store_true", default=default, help=explanation)
