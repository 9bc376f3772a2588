"""The labels to choose from, and the text for each."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pengi_rt.config.checked import listed
from pengi_rt.errors import PromptError, UsageError
from pengi_rt.system.text_file import text_lines

FIELD: Final = "{label}"

Labels = Sequence[str] | Mapping[str, str]
"""Labels, or a mapping from labels to their texts."""


def check_labels(labels: Labels, template: str = FIELD) -> dict[str, str]:
    """Every label, stripped, with its text, inserted into ``template``.

    Raises:
        UsageError: there are no labels; one is empty; two are equal or have equal texts; or the
            template has no ``{label}``.
        PromptError: a label is not a string.
    """
    if isinstance(labels, str):
        raise UsageError(f"labels must be a list of strings, got one string: {labels[:40]!r}")
    if FIELD not in template:
        raise UsageError(f"the template must hold {FIELD}, got {template!r}")
    if isinstance(labels, Mapping):
        pairs: Iterable[tuple[str, str]] = labels.items()
    else:
        pairs = ((each, each) for each in listed("labels", labels))
    checked: dict[str, str] = {}
    by_text: dict[str, str] = {}
    for number, pair in enumerate(pairs, 1):
        label, text = (_stripped(each, number) for each in pair)
        if label in checked:
            raise UsageError(f"label {number}, {label!r}, is a duplicate: remove one of the two")
        checked[label] = template.replace(FIELD, text)
        other = by_text.setdefault(checked[label], label)
        if other != label:
            raise UsageError(f"labels {other!r} and {label!r} have the same text: {text!r}")
    if not checked:
        raise UsageError("there are no labels: give at least one")
    return checked


def read_labels(path: Path) -> dict[str, str]:
    """The labels of a file: one per line, followed by a tab and its text if that differs.

    Empty lines and those that begin with ``#`` are skipped.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
        UsageError: a label is a duplicate, or the file has none; the message names file and line.
    """
    labels: dict[str, str] = {}
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        label, *texts = (each.strip() for each in line.split("\t"))
        if not label:
            raise UsageError(f"{path}: line {number}: there is no label before the tab")
        if len(texts) > 1 or texts == [""]:
            raise UsageError(f"{path}: line {number}: write one text after one tab, or no tab")
        if label in labels:
            raise UsageError(f"{path}: line {number}: the label {label!r} is a duplicate")
        labels[label] = texts[0] if texts else label
    if not labels:
        raise UsageError(f"{path}: the file has no labels: write one per line")
    return labels


def _stripped(text: object, number: int) -> str:
    if not isinstance(text, str):
        raise PromptError(f"label {number} must be a string, got {type(text).__name__}")
    if not text.strip():
        raise UsageError(f"label {number} is empty: leave it out")
    return text.strip()
