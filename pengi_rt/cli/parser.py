"""The parser: argparse, but everything after ``--`` is a name, and options have one spelling."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn, Self

from pengi_rt.system.quote import message
from pengi_rt.system.streams import standard_output

END_OF_OPTIONS = "--"

_NO_VALUE = "expected one argument"  # argparse's own words, in every Python so far


class Name(str):
    """An argument after ``--``: never an option, whatever it begins with.

    argparse forgets where ``--`` was once it has looked for options. So it is shown text that does
    not look like an option, and :meth:`Parser._get_value` puts ``text`` back.
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        """For the argument ``text``."""
        name = super().__new__(cls, f"\0{text}")
        name.text = text
        return name


class Parser(argparse.ArgumentParser):
    """Takes a verb's names before, between and after its options.

    argparse itself takes all of them in one place, and calls the others unrecognized. It would also
    accept ``--out`` for ``--output``, until another option begins the same way.
    """

    _mixing = False

    def __init__(self, **options: Any) -> None:
        """Like the base class; options cannot be abbreviated."""
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Like the base class."""
        found, rest = self.parse_known_args(args, namespace)
        if unknown := [_text(each) for each in rest if each != END_OF_OPTIONS]:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Like the base class, which calls this for a verb's own arguments."""
        if self._mixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False

    def error(self, text: str) -> NoReturn:
        """Like the base class, in one line after the usage."""
        if text.endswith(_NO_VALUE):
            text += " (one that begins with a dash is written OPTION=VALUE)"
        super().error(message(text))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Like the base class, which ignores a full disk."""
        if file is None or file is not sys.stdout:
            super()._print_message(message, file)
        else:
            standard_output().write(message)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Like the base class; a verb may follow ``--``, and arguments after the verb stay as is.

        In ``--option=--``, the value is also text, which the base class removes.
        """
        if action.nargs == argparse.PARSER:
            first = arg_strings[0] == END_OF_OPTIONS
            verb, *rest = arg_strings[first:]
            arg_strings = [_text(verb), *rest]
        elif action.option_strings:
            arg_strings = [Name(each) if each == END_OF_OPTIONS else each for each in arg_strings]
        return super()._get_values(action, arg_strings)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Like the base class, for the original argument."""
        if action.nargs != argparse.PARSER:
            arg_string = _text(arg_string)
        return super()._get_value(action, arg_string)


class VerbParser(Parser):
    """Parses one verb's arguments. Its module is imported only when there is something to parse."""

    def __init__(self, *, module: str, **options: Any) -> None:
        """Like the base class, for the verb in ``module``."""
        super().__init__(**options)
        self._module: str | None = module

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Like the base class."""
        if self._module is not None:
            import_module(self._module).add_arguments(self)
            add_verbosity(self, default=argparse.SUPPRESS)
            self._module = None
        return super().parse_known_args(args, namespace)


class Once(argparse.Action):
    """Stores a value, and refuses a second one; argparse would forget the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's own signature
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """Store ``values``.

        Raises:
            ArgumentError: the option already has a value.
        """
        given: set[str] = vars(namespace).setdefault("given_once", set())
        if self.dest in given:
            raise argparse.ArgumentError(self, "is given twice: run the command once for each")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def names_marked(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line, with those after the first ``--`` as :class:`Name`."""
    if END_OF_OPTIONS not in arguments:
        return list(arguments)
    end = arguments.index(END_OF_OPTIONS) + 1
    return [*arguments[:end], *map(Name, arguments[end:])]


def _text(argument: str) -> str:
    return argument.text if isinstance(argument, Name) else argument


def add_verbosity(parser: argparse.ArgumentParser, default: bool | str) -> None:
    """Add ``--quiet`` and ``--verbose``, before the verb and after it.

    After the verb, ``default`` is SUPPRESS, so that an absent flag does not override the first one.
    """
    group = parser.add_mutually_exclusive_group()
    for names, explanation in (
        (("-q", "--quiet"), "print only errors on stderr"),
        (("-v", "--verbose"), "print more on stderr"),
    ):
        group.add_argument(*names, action="store_true", default=default, help=explanation)
