"""The base of all options: fields that describe and check themselves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from inspect import Parameter, cleandoc, signature
from typing import Any, NamedTuple, Self, TypeVar, get_type_hints

from pengi_rt.config.checked import argument, whole
from pengi_rt.errors import UsageError
from pengi_rt.system.quote import shown

Call = TypeVar("Call", bound=Callable[..., Any])


class Option(NamedTuple):
    """A field's help text, flags and bounds."""

    help: str
    metavar: str | None = None
    flag: str | None = None
    """The command-line flags, if they are not ``--name-of-the-field``."""
    flag_help: str | None = None
    """The help of the flag, if the flag says the opposite of the keyword."""
    low: int | None = None
    """The smallest whole number allowed."""
    high: int | None = None
    """The largest whole number allowed."""


def option(default: Any, help: str, **more: Any) -> Any:  # noqa: A002 - argparse's word
    """A dataclass field with a default and an :class:`Option`."""
    return field(default=default, metadata={"option": Option(help, **more)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The base of every task's options.

    Raises:
        UsageError: a value has the wrong type, or is out of range.
        PromptError: a stop string is not a string.
    """

    def __post_init__(self) -> None:
        for name, (hint, default, about) in described(type(self)).items():
            value = getattr(self, name)
            if value is default:
                continue
            if about.low is None or (value is None and hint is not int):
                value = argument(name, value, hint)
            else:
                value = whole(name, value, about.low, about.high)
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Check how the values fit together; each is already of its type and within its bounds."""

    @classmethod
    def given(cls, options: Self | None, keywords: Mapping[str, Any], verb: str) -> Self:
        """``options`` (default: all defaults) with the values in ``keywords`` replaced.

        Raises:
            TypeError: ``options`` is of the wrong class, or a keyword is not a field.
            UsageError, PromptError: a value is invalid.
        """
        if unknown := sorted(set(keywords) - set(described(cls))):
            raise TypeError(f"{verb} has no option {', '.join(unknown)}")
        if options is None:
            return cls(**keywords)
        if type(options) is not cls:
            raise TypeError(f"{verb} takes {cls.__name__}, got {type(options).__name__}")
        return replace(options, **keywords) if keywords else options

    @classmethod
    def from_json(cls, request: object) -> Self:
        """Options from a decoded JSON object.

        Raises:
            UsageError: it is not an object, a key is unknown, or a value is invalid.
        """
        if not isinstance(request, Mapping):
            raise UsageError(f"options must be an object, got {type(request).__name__}")
        if unknown := sorted(set(request) - set(described(cls))):
            known = ", ".join(described(cls))
            raise UsageError(f"unknown options {shown(unknown)[1:-1]}; known: {known}")
        return cls(**request)

    def to_json(self) -> dict[str, Any]:
        """The options as a JSON-ready object, which :meth:`from_json` reads."""
        values = {name: getattr(self, name) for name in described(type(self))}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}


def option_of(cls: type["TaskOptions"], name: str) -> Any:
    """A dataclass field with the default and the :class:`Option` that ``cls`` declares for it."""
    _, default, about = described(cls)[name]
    return field(default=default, metadata={"option": about})


def described(cls: type) -> Mapping[str, tuple[Any, Any, Option]]:
    """Every field of an options class by name: its type, its default and its :class:`Option`."""
    return _described(cls)


@cache
def _described(cls: type) -> Mapping[str, tuple[Any, Any, Option]]:
    hints = get_type_hints(cls)
    return {
        each.name: (hints[each.name], each.default, each.metadata["option"]) for each in fields(cls)
    }


def keywords_of(cls: type[TaskOptions]) -> Callable[[Call], Call]:
    """Show the fields of ``cls`` in place of ``**keywords`` in a signature and docstring."""

    def show(call: Call) -> Call:
        own = signature(call)
        known = [each for each in own.parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
        shown_fields = [
            Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
            for each in fields(cls)
        ]
        call.__signature__ = own.replace(parameters=[*known, *shown_fields])  # type: ignore[attr-defined]
        told = (f"    {name}: {about.help}" for name, (_, _, about) in described(cls).items())
        call.__doc__ = "\n".join([cleandoc(call.__doc__ or ""), "", "Keywords:", *told])
        return call

    return show
