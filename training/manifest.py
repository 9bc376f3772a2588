"""Manifests: the training data, one JSON object per line (docs/data.md).

Reading stops at the first bad row and opens no audio file, so a million rows take seconds. Checking
(:mod:`pengi_rt.training.manifest_check`) reports every problem and opens every audio file.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pengi_rt.errors import InputError, UsageError
from pengi_rt.system.quote import one_line, shown
from pengi_rt.system.regular import open_regular
from pengi_rt.text.prompts import RESERVED, Task

_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST = sys.float_info.max  # JSON integers have no limit
_BOM = b"\xef\xbb\xbf"

LONGEST_LINE = 4 << 20
"""Maximum bytes of a row; parsing that much JSON takes some 100 MB of memory."""


class ManifestError(InputError):
    """A manifest cannot be read, or one of its rows cannot be used for training."""


class Tag(NamedTuple):
    """A sound in a recording, with its start and end in seconds; None: throughout."""

    name: str
    start: float | None
    end: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One example: a recording, a question, and the answer to learn.

    Attributes:
        line: its line in the manifest, from 1.
        audio: the recording; None only in manifests that may omit it.
        task: the task's name.
        prompt: the task's prompt, filled in.
        target: the task's target, filled in.
        tags: the sounds in the recording.
        transcript: the sounds as words, for the language model's reading task.
    """

    line: int
    audio: Path | None
    task: str
    prompt: str
    target: str
    tags: tuple[Tag, ...] = ()
    transcript: str = ""


def read_manifest(path: Path, tasks: Mapping[str, Task], *, need_audio: bool = True) -> list[Row]:
    """Read every row of a manifest. Blank lines are skipped; audio files are not opened.

    Args:
        path: the manifest; relative paths in its rows start at its folder.
        tasks: the known tasks (:func:`pengi_rt.text.prompts.load_tasks`).
        need_audio: refuse rows without ``audio``.

    Raises:
        ManifestError: it cannot be read, has no row, or has a bad one (named as FILE:LINE).
    """
    parser = RowParser(path.parent, tasks, need_audio=need_audio)
    rows = []
    for number, line in manifest_lines(path):
        try:
            rows.append(parser.row(number, parser.decoded(line)))
        except UsageError as error:
            raise ManifestError(f"{one_line(str(path))}:{number}: {error}") from None
    if not rows:
        where = one_line(str(path))
        raise ManifestError(f"{where}: the manifest has no rows; write one JSON object per line")
    return rows


def manifest_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers from 1. Raises ManifestError."""
    where = one_line(str(path))
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise ManifestError(
                        f"{where}: line {number} is longer than {LONGEST_LINE} bytes; a manifest "
                        "has one row on each line"
                    )
                if number == 1:
                    line = line.removeprefix(_BOM)  # some editors write one
                if not line.isspace():
                    yield number, line
    except OSError as error:
        raise ManifestError(f"{where}: cannot be read: {error.strerror or error}") from None


@dataclass(slots=True)
class RowParser:
    """Parses lines into rows. Methods raise :class:`UsageError` without file and line.

    Attributes:
        folder: where relative paths start.
        tasks: the known tasks.
        need_audio: refuse rows without ``audio``.
    """

    folder: Path
    tasks: Mapping[str, Task]
    need_audio: bool
    _paths: dict[str, Path] = field(default_factory=dict)  # rows about one clip share its Path
    _known: dict[str, frozenset[str]] = field(default_factory=dict)

    def decoded(self, line: bytes) -> dict[str, object]:
        """Parse the JSON object in a line."""
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"is not UTF-8 (byte {error.start + 1}); save the file as UTF-8"
            ) from None
        try:
            data = _DECODER.decode(text)
            surrogate = "\\u" in text and _SURROGATE.search(json.dumps(data, ensure_ascii=False))
        except RecursionError:
            raise UsageError("is not JSON: its brackets are nested too deeply") from None
        except ValueError as error:
            raise UsageError(
                f"is not JSON: {one_line(str(error))}; write one object per line"
            ) from None
        if not isinstance(data, dict):
            raise UsageError(f"must be a JSON object, got {shown(data)}")
        if surrogate:
            raise UsageError("has half a surrogate pair (\\ud800 to \\udfff); no text has that")
        return data

    def row(self, number: int, data: dict[str, object]) -> Row:
        """Parse the row in line ``number``."""
        task = self.task(data)
        self.check_keys(data, task)
        return Row(
            number,
            self.audio(data),
            task.name,
            task.prompt_for(data),
            task.target_for(data),
            read_tags(data),
            read_transcript(data),
        )

    def faults(self, data: dict[str, object]) -> list[str]:
        """All errors that :meth:`row` would raise, one after the other, as messages."""
        steps: list[Callable[[], object]] = [
            lambda: self.audio(data),
            lambda: read_tags(data),
            lambda: read_transcript(data),
        ]
        found = []
        try:
            task = self.task(data)
        except UsageError as error:
            found.append(str(error))
        else:
            steps[:0] = [
                lambda: self.check_keys(data, task),
                lambda: task.prompt_for(data),
                lambda: task.target_for(data),
            ]
        return found + [str(error) for error in _raised(steps)]

    def task(self, data: Mapping[str, object]) -> Task:
        """The task that a row names."""
        name = data.get("task")
        if isinstance(name, str) and name in self.tasks:
            return self.tasks[name]
        got = f"unknown task {shown(name)}" if "task" in data else "there is no 'task'"
        raise UsageError(f"{got}; known: {one_line(', '.join(self.tasks))}")

    def check_keys(self, data: Mapping[str, object], task: Task) -> None:
        """Refuse keys that the task does not have, and a ``meta`` that is not an object."""
        known = self._known.get(task.name)
        if known is None:
            names = (*task.fields, *task.optional_fields, *RESERVED)
            known = self._known[task.name] = frozenset(names)
        if not data.keys() <= known:
            unknown = next(key for key in data if key not in known)
            fields = one_line(", ".join((*task.fields, *task.optional_fields)))
            raise UsageError(
                f"unknown field {shown(unknown)}; task {shown(task.name)} has {fields}, and every "
                f"row may have {', '.join(RESERVED)}"
            )
        if not isinstance(data.get("meta", {}), dict):
            raise UsageError(f"'meta' must be an object, got {shown(data['meta'])}")

    def audio(self, data: Mapping[str, object]) -> Path | None:
        """The path of the recording, which is not opened."""
        name = data.get("audio")
        if name is None and not self.need_audio:
            return None
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            got = f"got {shown(name)}" if "audio" in data else "there is none"
            raise UsageError(f"'audio' must be the path of a recording, {got}")
        path = self._paths.get(name)
        if path is None:
            path = self._paths[name] = self.folder / name
        return path


def read_tags(data: Mapping[str, object]) -> tuple[Tag, ...]:
    """Parse a row's ``tags``. Raises UsageError."""
    tags = data.get("tags")
    if tags is None:
        return ()
    if not isinstance(tags, list):
        raise UsageError(f"'tags' must be a list of names or [name, start, end], got {shown(tags)}")
    return tuple(map(_tag, tags))


def read_transcript(data: Mapping[str, object]) -> str:
    """Parse a row's ``transcript``; empty if it has none. Raises UsageError."""
    transcript = data.get("transcript")
    if transcript is None:
        return ""
    if not isinstance(transcript, str):
        raise UsageError(f"'transcript' must be a string, got {shown(transcript)}")
    return " ".join(transcript.split())


def _tag(item: object) -> Tag:
    if isinstance(item, str) and item.strip():
        return Tag(item, None, None)
    if not isinstance(item, list) or len(item) != 3 or not isinstance(item[0], str):
        raise UsageError(f"a tag must be a name or [name, start, end], got {shown(item)}")
    name, start, end = item
    if not name.strip():
        raise UsageError(f"a tag must have a name, got {shown(item)}")
    if not (_is_number(start) and _is_number(end) and 0 <= start < end <= _LONGEST):
        raise UsageError(f"the times of a tag must be seconds, 0 <= start < end, got {shown(item)}")
    return Tag(name, float(start), float(end))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _raised(steps: Iterable[Callable[[], object]]) -> Iterator[UsageError]:
    for step in steps:
        try:
            step()
        except UsageError as error:
            yield error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse duplicate keys: ``json`` keeps the last, but two captions in a row are a mistake."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in made if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} occurs twice")
    return made


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    """Parse a number; refuse 1e400, which would be written again as Infinity, not JSON."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{shown(text)} is too large for a float64")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
