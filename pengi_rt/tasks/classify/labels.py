"""The labels to choose from, and the text for each."""

from collections.abc import Iterable, Mapping, Sequence

from pengi_rt.config.checked import listed
from pengi_rt.config.options import LABEL
from pengi_rt.errors import PromptError, UsageError

Labels = Sequence[str] | Mapping[str, str]
"""Labels, or a mapping from labels to their texts."""


def check_labels(labels: Labels, template: str = LABEL) -> dict[str, str]:
    """Every label, stripped, with its text, inserted into ``template``.

    Raises:
        UsageError: there are no labels; one is empty; or two are equal or have equal texts.
        PromptError: a label is not a string.
    """
    if isinstance(labels, str):
        raise UsageError(f"labels must be a list of strings, got one string: {labels[:40]!r}")
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
        checked[label] = template.replace(LABEL, text)
        other = by_text.setdefault(checked[label], label)
        if other != label:
            raise UsageError(f"labels {other!r} and {label!r} have the same text: {text!r}")
    if not checked:
        raise UsageError("there are no labels: give at least one")
    return checked


def _stripped(text: object, number: int) -> str:
    if not isinstance(text, str):
        raise PromptError(f"label {number} must be a string, got {type(text).__name__}")
    if not text.strip():
        raise UsageError(f"label {number} is empty: leave it out")
    return text.strip()
