"""Labels and their scores as rows: each window's, and the whole recording's."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pengi_rt.render.generation import about_audio, span, total
from pengi_rt.render.writer import Row
from pengi_rt.system.quote import printable

if TYPE_CHECKING:
    from pengi_rt.results.classification import Classification, ClassifiedWindow, LabelScore

LABEL_COLUMNS: Final = (
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


class Labelled:
    """Classifications as the rows of a format, their ``best`` labels alone."""

    def __init__(self, form: str, *, best: int | None, headed: bool) -> None:
        """Of the format ``form``; ``headed``: text has the recording's name above its lines."""
        self._rows = {"text": self._block, "csv": self._flat}.get(form, self._nested)
        self._best = best
        self._headed = headed

    def __call__(self, result: "Classification") -> Iterator[Row]:
        """The rows of a recording."""
        return self._rows(result)

    @staticmethod
    def line(row: Row) -> str:
        """A row of the format ``text`` as text."""
        block: str = row["block"]
        return block

    def _nested(self, result: "Classification") -> Iterator[Row]:
        """A row a window, then one for the whole recording; of a single window that one alone."""
        windows = result.windows
        for window in windows if total(result) > 1 else ():
            scope = {"scope": "window", "start": window.start, "end": window.end}
            scores = {"chosen": window.chosen, "labels": window.labels, "text": window.text}
            yield self._row(result, scope, scores)
        if result.window_range is not None and not result.window_range.is_last:
            return
        start = windows[0].start if result.window_range is None else 0.0
        whole = {"scope": "recording", "start": start, "end": windows[-1].end}
        text = windows[0].text if total(result) == 1 else None
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
                for each in scores["labels"][: self._best]
            ],
            "windows": total(result),
            "prompt_truncated": result.prompt_truncated,
            **about_audio(result),
            "options": result.options.to_json(),
        }

    def _flat(self, result: "Classification") -> Iterator[Row]:
        """A row a label."""
        for row in self._nested(result):
            for scored in row["labels"]:
                yield {**row, **scored, "chosen": scored["label"] in row["chosen"]}

    def _block(self, result: "Classification") -> Iterator[Row]:
        """A recording: a line a window if there are several, and the whole's table at its end."""
        window_range, windows = result.window_range, result.windows
        begins, ends = (
            window_range is None or window_range.is_first,
            window_range is None or window_range.is_last,
        )
        lines = [f"{result.audio}:"] if self._headed and begins else []
        if total(result) > 1:
            lines += map(_window, windows)
            lines += ["whole recording:"] if ends else []
        elif windows[0].text is not None:
            lines.append(f"answer: {windows[0].text}")
        table = _table(result.labels[: self._best], result.chosen) if ends else []
        yield {"block": "\n".join(map(printable, [*lines, *table]))}


def _window(window: "ClassifiedWindow") -> str:
    scored = {each.label: each for each in window.labels}
    chosen = [f"{label} {_fit(scored[label])}" for label in window.chosen]
    when = span({"start": window.start, "end": window.end})
    return f"{when}: {', '.join(chosen) or '(no answer)'}"


def _table(labels: "Sequence[LabelScore]", chosen: Sequence[str]) -> list[str]:
    """A line a label, best first, the chosen ones marked."""
    width = max(len(each.label) for each in labels)
    return [
        f"{'*' if each.label in chosen else ' '} {each.label:<{width}}  {each.score:8.3f}"
        + ("" if each.probability is None else f"  {each.probability:6.1%}")
        for each in labels
    ]


def _fit(scored: "LabelScore") -> str:
    return f"{scored.score:.3f}" if scored.probability is None else f"{scored.probability:.1%}"
