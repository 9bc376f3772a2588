"""Labels and their scores as rows, for each window and for the whole recording."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pengi_rt.render.fields import audio_fields, span, window_count
from pengi_rt.render.rows import FORMATS, ResultRows, Row
from pengi_rt.system.quote import printable

if TYPE_CHECKING:
    from pengi_rt.results.classification import Classification, ClassifiedWindow, LabelScore

CLASSIFICATION_COLUMNS: Final = (
    "audio",
    "scope",
    "start",
    "end",
    "label",
    "score",
    "probability",
    "chosen",
    "text",
    "prompt_truncated",
    "audio_truncated",
)


class ClassificationRows(ResultRows["Classification"]):
    """Makes rows of classifications, with only the ``top`` labels."""

    columns = CLASSIFICATION_COLUMNS

    def __init__(self, form: str, *, top: int | None, headed: bool) -> None:
        """Make rows for the format ``form``; ``headed`` text has the recording's name above it."""
        layouts = {"block": self._block, "flat": self._flat, "nested": self._nested}
        self._rows = layouts[FORMATS[form].layout]
        self._top = top
        self._headed = headed

    def __call__(self, result: "Classification") -> Iterator[Row]:
        """The rows of a recording."""
        return self._rows(result)

    def row_count(self, windows: int) -> int:
        """One per window, if there are several, and one for the whole recording."""
        return windows + (windows > 1)

    def _nested(self, result: "Classification") -> Iterator[Row]:
        """One row per window, if there are several, then one for the whole recording."""
        windows = result.windows
        for window in windows if window_count(result) > 1 else ():
            scope = {"scope": "window", "start": window.start, "end": window.end}
            scores = {"chosen": window.chosen, "labels": window.labels, "text": window.text}
            yield self._row(result, scope, scores)
        if result.window_range is not None and not result.window_range.is_last:
            return
        start = windows[0].start if result.window_range is None else 0.0
        whole = {"scope": "recording", "start": start, "end": windows[-1].end}
        text = windows[0].text if window_count(result) == 1 else None
        scores = {"chosen": result.chosen, "labels": result.labels, "text": text}
        yield self._row(result, whole, scores)

    def _row(self, result: "Classification", scope: Row, scores: Row) -> Row:
        return {
            "audio": result.audio,
            "prompt": result.prompt,
            "method": result.method,
            **scope,
            "text": scores["text"],
            "chosen": list(scores["chosen"]),
            "labels": [
                {"label": each.label, "score": each.score, "probability": each.probability}
                for each in scores["labels"][: self._top]
            ],
            "windows": window_count(result),
            "prompt_truncated": result.prompt_truncated,
            **audio_fields(result),
            "options": result.options.to_json(),
        }

    def _flat(self, result: "Classification") -> Iterator[Row]:
        """One row per label."""
        for row in self._nested(result):
            for scored in row["labels"]:
                yield {**row, **scored, "chosen": scored["label"] in row["chosen"]}

    def _block(self, result: "Classification") -> Iterator[Row]:
        """One row per recording: a line per window, if there are several, then the labels."""
        partial, windows = result.window_range, result.windows
        begins = partial is None or partial.is_first
        ends = partial is None or partial.is_last
        lines = [f"{result.audio}:"] if self._headed and begins else []
        if window_count(result) > 1:
            lines += map(_window, windows)
            lines += ["whole recording:"] if ends else []
        elif windows[0].text is not None:
            lines.append(f"answer: {windows[0].text}")
        table = _table(result.labels[: self._top], result.chosen) if ends else []
        yield {"block": "\n".join(map(printable, [*lines, *table]))}


def _window(window: "ClassifiedWindow") -> str:
    scored = {each.label: each for each in window.labels}
    chosen = [f"{label} {_fit(scored[label])}" for label in window.chosen]
    when = span({"start": window.start, "end": window.end})
    return f"{when}: {', '.join(chosen) or '(no answer)'}"


def _table(labels: "Sequence[LabelScore]", chosen: Sequence[str]) -> list[str]:
    """One line per label, best first, with the chosen ones marked."""
    width = max(len(each.label) for each in labels)
    return [
        f"{'*' if each.label in chosen else ' '} {each.label:<{width}}  {each.score:8.3f}"
        + ("" if each.probability is None else f"  {each.probability:6.1%}")
        for each in labels
    ]


def _fit(scored: "LabelScore") -> str:
    return f"{scored.score:.3f}" if scored.probability is None else f"{scored.probability:.1%}"
