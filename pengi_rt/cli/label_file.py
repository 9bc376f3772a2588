"""The file of ``classify --labels-file``."""

from pathlib import Path

from pengi_rt.errors import UsageError
from pengi_rt.system.text_file import text_lines


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
