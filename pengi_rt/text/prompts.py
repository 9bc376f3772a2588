"""The tasks that a Pengi is trained on: templates for a prompt and a target (Pengi, table 1).

``prompts.toml`` holds the paper's tasks, and files of the same form add others.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pengi_rt.errors import UsageError
from pengi_rt.system.quote import one_line, shown
from pengi_rt.system.toml_file import read_toml

BUILT_IN = Path(__file__).with_name("prompts.toml")

RESERVED = ("audio", "task", "tags", "transcript", "meta")
"""Keys of a manifest row that are not allowed as template fields."""

_OPTIONAL = re.compile(r"(\[[^\[\]]*\])")
_FIELD = re.compile(r"\{([a-z][a-z0-9_]*)\}")


class _Part(NamedTuple):
    """A part of a template: ``pieces`` has literals at even indices and fields at odd ones."""

    pieces: tuple[str, ...]
    optional: bool

    @property
    def fields(self) -> tuple[str, ...]:
        return self.pieces[1::2]

    def filled(self, texts: Mapping[str, str]) -> str:
        """The text with its fields filled in; empty if any of them is empty."""
        if not all(texts[name] for name in self.fields):
            return ""
        return "".join(texts[p] if index % 2 else p for index, p in enumerate(self.pieces))


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt and its target.

    In a template, ``{field}`` is required, and ``[... {field} ...]`` is left out if a field in it
    is missing. A list is joined by ", "; runs of white space become one space.

    Raises:
        UsageError: a template has an unmatched bracket, nested brackets, brackets without a field,
            a field named like a reserved key, or no text at all.
    """

    name: str
    prompt: str
    target: str

    def __post_init__(self) -> None:
        for key in ("prompt", "target"):
            try:
                _parts(getattr(self, key))
            except UsageError as error:
                raise UsageError(f"{key} {error}") from None

    @property
    def fields(self) -> tuple[str, ...]:
        """The required fields, in the order of the templates."""
        return self._named(optional=False)

    @property
    def optional_fields(self) -> tuple[str, ...]:
        """The optional fields, in the order of the templates."""
        required = self.fields
        return tuple(name for name in self._named(optional=True) if name not in required)

    def prompt_for(self, fields: Mapping[str, object]) -> str:
        """The prompt with ``fields`` filled in; extra fields are ignored.

        Raises:
            UsageError: a required field is missing or blank, or a field is neither text, nor a
                number, nor a list of these.
        """
        return self._filled(self.prompt, fields)

    def target_for(self, fields: Mapping[str, object]) -> str:
        """The target with ``fields`` filled in. Raises like :meth:`prompt_for`."""
        return self._filled(self.target, fields)

    def _named(self, *, optional: bool) -> tuple[str, ...]:
        parts = (*_parts(self.prompt), *_parts(self.target))
        names = (name for part in parts if part.optional == optional for name in part.fields)
        return tuple(dict.fromkeys(names))

    def _filled(self, template: str, fields: Mapping[str, object]) -> str:
        parts = _parts(template)
        texts: dict[str, str] = {}
        for part in parts:
            for name in part.fields:
                texts[name] = _text(name, fields.get(name))
                if not (texts[name] or part.optional):
                    state = "empty" if fields.get(name) is not None else "missing"
                    raise UsageError(
                        f"task {shown(self.name)} needs the field {shown(name)}; it is {state}"
                    )
        return "".join(part.filled(texts) for part in parts)


def load_tasks(*extra: Path) -> dict[str, Task]:
    """The built-in tasks and those of ``extra``; the last task of a name counts.

    Raises:
        UsageError: a file cannot be read or is invalid; the message names the file and the key.
    """
    return {task.name: task for path in (BUILT_IN, *extra) for task in _read(path)}


def task_prompt(name: str, question: str | None = None) -> str:
    """The prompt of a built-in task, with its question if it takes one.

    Raises:
        UsageError: there is no such task, it takes no question, or it needs one.
    """
    tasks = load_tasks()
    if not isinstance(question, str | None):
        raise UsageError(f"the question must be one string, got {type(question).__name__}")
    if name not in tasks:
        raise UsageError(f"there is no task {shown(name)}; known: {', '.join(tasks)}")
    task = tasks[name]
    if question is None:
        return task.prompt_for({})
    if "{question}" not in task.prompt:
        raise UsageError(f"the task {name!r} takes no question; its prompt is {shown(task.prompt)}")
    return task.prompt_for({"question": question})


def _read(path: Path) -> Iterator[Task]:
    for name, table in read_toml(path).items():
        where = f"{one_line(str(path))}: [{one_line(name)}]"
        if not isinstance(table, dict):
            raise UsageError(f"{where} must be a table with prompt and target, got {shown(table)}")
        if unknown := sorted(table.keys() - {"prompt", "target"}):
            raise UsageError(f"{where}: unknown key {shown(unknown[0])}; known: prompt, target")
        for key in ("prompt", "target"):
            if not isinstance(table.get(key), str):
                got = shown(table[key]) if key in table else "nothing"
                raise UsageError(f"{where}: {key} must be a string, got {got}")
        try:
            yield Task(name, **table)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None


@cache
def _parts(template: str) -> tuple[_Part, ...]:
    """The parts of a template. Raises UsageError."""
    if not template.strip():
        raise UsageError("is empty; a template needs some text")
    texts = enumerate(_OPTIONAL.split(template))
    return tuple(_part(text, optional=bool(index % 2)) for index, text in texts if text)


def _part(text: str, *, optional: bool) -> _Part:
    inside = text[1:-1] if optional else text
    pieces = tuple(_FIELD.split(inside))
    for literal in pieces[::2]:
        if stray := re.search(r"[\[\]{}]", literal):
            raise UsageError(
                f"has a stray {stray[0]!r} in {shown(text)}; write {{field}} (lower case), or "
                "[text {field}], and no brackets inside brackets"
            )
    if optional and len(pieces) == 1:
        raise UsageError(
            f"has no field in {shown(text)}, so nothing decides whether to leave it out"
        )
    for name in pieces[1::2]:
        if name in RESERVED:
            raise UsageError(f"has a field {shown(name)}, a reserved key of manifests; rename it")
    return _Part(pieces, optional)


def _text(name: str, value: object) -> str:
    """A field's value as text; empty if it is None. Raises UsageError."""
    if isinstance(value, str):
        return " ".join(value.split())
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple) and not any(isinstance(v, list | tuple) for v in value):
        texts = [_text(name, item) for item in value]
        if all(texts):
            return ", ".join(texts)
        raise UsageError(f"field {shown(name)} has an empty item in its list; leave it out")
    raise UsageError(
        f"field {shown(name)} must be text, a number or a list of them, got {shown(value)}"
    )
