"""Pictures of classifications: a recording's best labels as bars, or labels over time.

There is one row per label, with the best mean on top. Of more than :data:`ROWS` labels, only the
best are drawn, and the picture says how many there are; over time, labels that are the best in most
windows come first. A label, title or axis that is too long is cut, with an ellipsis. The same
arguments (and the same matplotlib) make the same bytes. Needs the extra ``[plot]``.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import floor, log10
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pengi_rt.errors import UsageError
from pengi_rt.render.pictures import (
    ACCENT,
    AXIS,
    CHARACTER,
    FONT,
    HEAD,
    MARGIN,
    RIGHT,
    WIDTH,
    add_panel,
    draw_spectrogram,
    draw_time,
    draw_title,
    new_figure,
    require_recording,
    save_picture,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 40

_EDGE, _GAP = 0.2, 0.1  # inches: left of the labels, right of them
_LABEL, _NAME, _UNIT, _KEY_UNIT = 36, 28, 60, 24  # characters, at most
_BAR, _TWO_LINES, _APART = 0.25, 0.4, 0.15  # inches: a bar's row, by its label's lines; of a line
_OTHERS = "#a9c3e0"  # bars that are not the best
_FAINT = "#555555"

_SPECTROGRAM, _BETWEEN, _ROW = 2.2, 0.075, 0.25  # inches
_BELOW, _KEY, _SWATCH, _SCALE = 0.35, 0.2, 0.25, 1.2  # inches: the lines below, and the key's parts
_COLORS, _MARK, _BLANK = "Blues", "#e66100", "#e8e8e8"


class Timeline(NamedTuple):
    """Scores of every label in every window of a recording."""

    spans: Sequence[tuple[float, float]]  # start and end in seconds, in order
    labels: Sequence[str]
    scores: NDArray[np.floating[Any]]  # [windows, labels], more is better


def bar_picture(scores: Sequence[tuple[str, float]], path: Path, *, title: str, axis: str) -> None:
    """Draw the scores of one recording's labels as bars from zero; negative ones run to the left.

    Args:
        scores: labels and scores, in any order; labels of equal scores keep theirs.
        path: the PNG to write; one that is there is replaced.
        title: one line above the bars.
        axis: what the scores are ("probability", "cosine").

    Raises:
        UsageError: there are no scores, or one is not finite.
        BackendError: matplotlib is not installed.
        InputError: ``path`` cannot be written.
    """
    _require_scores(np.array([score for _, score in scores], np.float64))
    best = sorted(scores, key=lambda pair: -pair[1])[:ROWS]
    labels = [_two_lines(label) for label, _ in best]
    row = _TWO_LINES if any("\n" in label for label in labels) else _BAR
    counted = _counted(len(best), len(scores))
    left = _column([*labels, counted])
    bottom = HEAD + row * len(best)
    figure = new_figure(WIDTH, bottom + _BELOW)
    axes = add_panel(figure, left, HEAD, row * len(best))
    _draw_bars(axes, [float(score) for _, score in best], WIDTH - left - RIGHT)
    _write_labels(figure, labels, left, HEAD, row)
    draw_title(axes, title)
    _write(figure, left, bottom + _BELOW / 2, shortened(axis, _UNIT), color=_FAINT)
    _write(figure, left - _GAP, bottom + _BELOW / 2, counted, color=_FAINT, ha="right")
    save_picture(figure, path)


def timeline_picture(
    samples: NDArray[np.float32],
    rate: int,
    timeline: Timeline,
    path: Path,
    *,
    title: str,
    axis: str = "score",
) -> None:
    """Draw a spectrogram, and below it each label's score in each window, the best one marked.

    A window is drawn until the next one starts, or until its own end where that is sooner.

    Args:
        samples: one channel [frames].
        rate: Hz.
        timeline: windows, labels and scores.
        path: the PNG to write; one that is there is replaced.
        title: one line above the spectrogram.
        axis: what the scores are ("probability", "cosine").

    Raises:
        UsageError: there are no samples, windows or labels, shapes do not fit, a score is not
            finite, or a window does not start after the one before it and inside the recording.
        BackendError: matplotlib is not installed.
        InputError: ``path`` cannot be written.
    """
    require_recording(samples, rate)
    _require_windows(timeline, samples.size / rate)
    save_picture(_timeline_figure(samples, rate, timeline, title, axis), path)


def _timeline_figure(
    samples: NDArray[np.float32], rate: int, timeline: Timeline, title: str, axis: str
) -> "Figure":
    spans, labels, scores = timeline
    rows = _rows(scores)
    names = [shortened(labels[row], _NAME) for row in rows]
    counted = _counted(len(rows), len(labels))
    left = max(MARGIN, _column([*names, counted]))
    top = HEAD + _SPECTROGRAM + _BETWEEN
    bottom = top + _ROW * len(rows)
    figure = new_figure(WIDTH, bottom + AXIS + _KEY)
    above = add_panel(figure, left, HEAD, _SPECTROGRAM)
    below = add_panel(figure, left, top, _ROW * len(rows))
    draw_spectrogram(above, samples, rate)
    cells = _cells(spans, samples.size / rate)
    limits = _draw_cells(below, cells, scores[:, rows])
    below.hlines(*_runs(cells, scores.argmax(axis=1), rows), color=_MARK, linewidth=3)
    for axes in (above, below):
        draw_time(axes, samples.size / rate)
    above.set_xlabel("")
    above.tick_params(labelbottom=False)
    draw_title(above, title)
    _write_labels(figure, names, left, top, _ROW)
    _write(figure, left - _GAP, bottom + AXIS, counted, color=_FAINT, ha="right")
    _draw_key(figure, left, bottom + AXIS, shortened(axis, _KEY_UNIT), limits)
    return figure


def _require_scores(scores: NDArray[np.floating[Any]]) -> None:
    """Refuse scores that make no picture."""
    if not scores.size:
        raise UsageError("a picture of scores needs one label or more, got none")
    if not np.isfinite(scores).all():
        worst = scores[~np.isfinite(scores)][0]
        raise UsageError(f"a picture of scores needs finite ones, got {worst}")


def _require_windows(timeline: Timeline, seconds: float) -> None:
    """Refuse windows that are not a timeline of a recording of ``seconds`` seconds."""
    spans, labels, scores = timeline
    if scores.shape != (len(spans), len(labels)):
        raise UsageError(
            f"scores must be [{len(spans)} windows, {len(labels)} labels], got {scores.shape}"
        )
    _require_scores(scores)
    starts = [-1.0, *(start for start, _ in spans)]
    for (before, start), (_, end) in zip(pairwise(starts), spans, strict=True):
        if not (before < start < end and 0 <= start < seconds):
            raise UsageError(
                f"window {start:g}-{end:g} s must start after the one before it, before its own "
                f"end, and inside the recording (0-{seconds:g} s)"
            )


def _draw_bars(axes: Any, scores: Sequence[float], inches: float) -> None:
    """Bars with their values at their ends, in axes that are ``inches`` wide."""
    low, high = min(0.0, *scores), max(0.0, *scores)
    values = [_number(score, max(high, -low)) for score in scores]
    beside = (_GAP + CHARACTER * max(map(len, values))) / inches  # share of the width for a value
    sides = (low < 0, high > 0 or low == 0)
    whole = (high - low or 1.0) / (1 - beside * sum(sides))
    axes.set_xlim(low - sides[0] * beside * whole, low - sides[0] * beside * whole + whole)
    axes.set_ylim(len(scores) - 0.5, -0.5)
    colors = [ACCENT] + [_OTHERS] * (len(scores) - 1)
    axes.barh(range(len(scores)), scores, height=0.7, color=colors)
    apart = _GAP / 2 / inches * whole
    for place, (score, value) in enumerate(zip(scores, values, strict=True)):
        shift, side = (-apart, "right") if score < 0 else (apart, "left")
        axes.text(score + shift, place, value, ha=side, va="center_baseline", **FONT)
    axes.axvline(0, color=_FAINT, linewidth=0.8, clip_on=False)
    axes.set_axis_off()


def _draw_cells(
    axes: Any, cells: NDArray[np.float64], scores: NDArray[np.floating[Any]]
) -> tuple[float, float]:
    """Draw the heat map of scores [windows, rows]; returns the range of its colors."""
    low, high = float(scores.min()), float(scores.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    # Between cells that do not touch, a column of NaN shows the color of the axes.
    edges, inverse = np.unique(cells, return_inverse=True)
    columns = np.full((scores.shape[1], len(edges) - 1), np.nan)
    columns[:, inverse.reshape(cells.shape)[:, 0]] = scores.T
    bounds = np.arange(scores.shape[1] + 1) - 0.5
    axes.set_facecolor(_BLANK)
    axes.pcolormesh(edges, bounds, columns, cmap=_COLORS, vmin=low, vmax=high)
    axes.hlines(bounds[1:-1], *cells[[0, -1], [0, 1]], color="white", linewidth=1)
    axes.set_ylim(bounds[-1], bounds[0])
    axes.set_yticks([])
    return low, high


def _runs(
    cells: NDArray[np.float64], best: NDArray[np.intp], rows: Sequence[int]
) -> tuple[list[int], list[float], list[float]]:
    """Place, start and end of each line: neighbors with the same best label share one line.

    A window whose best label has no row has no line.
    """
    apart = (best[1:] != best[:-1]) | (cells[1:, 0] != cells[:-1, 1])
    ends = np.flatnonzero([True, *apart]), np.flatnonzero([*apart, True])
    lines = [
        (best[first], cells[first, 0], cells[last, 1]) for first, last in zip(*ends, strict=True)
    ]
    lines = [(rows.index(label), start, end) for label, start, end in lines if label in rows]
    places, starts, stops = zip(*lines, strict=True)
    return list(places), list(starts), list(stops)


def _draw_key(
    figure: "Figure", left: float, place: float, axis: str, limits: tuple[float, float]
) -> None:
    """Draw the key below a timeline: the meaning of the marks and of the colors."""
    middle = add_panel(figure, left, place - 0.06, 0.12)
    width = WIDTH - left - RIGHT
    low, high = (_number(limit, max(map(abs, limits))) for limit in limits)
    end = width - CHARACTER * len(high) - _GAP / 2
    scale = np.linspace(*limits, 256)[None]
    middle.imshow(scale, cmap=_COLORS, aspect="auto", extent=(end - _SCALE, end, 0, 1))
    middle.hlines(0.5, 0, _SWATCH, color=_MARK, linewidth=3)
    frame = [end, end - _SCALE, end - _SCALE, end, end], [0, 0, 1, 1, 0]
    middle.plot(*frame, color=_FAINT, linewidth=0.8, clip_on=False)
    middle.set_xlim(0, width)
    middle.set_axis_off()
    _write(figure, left + _SWATCH + _GAP, place, "best of the window")
    _write(figure, WIDTH - RIGHT, place, high, ha="right")
    _write(figure, left + end - _SCALE - _GAP / 2, place, f"{axis}  {low}", ha="right")


def _cells(spans: Sequence[tuple[float, float]], seconds: float) -> NDArray[np.float64]:
    """The drawn start and end of each window, [windows, 2] in seconds."""
    cells = np.array(spans, np.float64)
    cells[:, 1] = np.minimum(cells[:, 1], [*cells[1:, 0], seconds])
    return cells


def _rows(scores: NDArray[np.floating[Any]]) -> list[int]:
    """The labels to draw, at most :data:`ROWS`, sorted by mean score."""
    means = scores.mean(axis=0, dtype=np.float64)
    wins = np.bincount(scores.argmax(axis=1), minlength=len(means))
    drawn = np.lexsort((-means, -wins))[:ROWS]
    return sorted(drawn.tolist(), key=lambda row: (-means[row], row))


def _column(labels: Sequence[str]) -> float:
    """Inches from the picture's left to the end of its labels and of the gap after them."""
    lines = [line for label in labels for line in label.split("\n")]
    return _EDGE + CHARACTER * max(map(len, lines)) + _GAP


def _two_lines(label: str) -> str:
    lines = wrap(shortened(label, len(label) + 1), _LABEL)
    return "\n".join([*lines[:1], shortened(" ".join(lines[1:]), _LABEL)]).rstrip()


def _number(value: float, largest: float) -> str:
    """``value`` with the decimals that ``largest`` needs for three digits, so that dots align."""
    size = floor(log10(largest)) if largest else 0
    text = f"{value:z.{max(0, 2 - size)}f}" if -4 < size < 6 else f"{value:.2e}"
    return text.replace("-", "\u2212")


def _counted(drawn: int, known: int) -> str:
    return f"{drawn} of {known} labels" if drawn < known else ""


def _write_labels(
    figure: "Figure", labels: Sequence[str], left: float, top: float, row: float
) -> None:
    for number, label in enumerate(labels):
        lines = label.split("\n")
        first = top + row * (number + 0.5) - _APART * (len(lines) - 1) / 2
        for below, line in enumerate(lines):
            _write(figure, left - _GAP, first + _APART * below, line, ha="right")


def _write(figure: "Figure", left: float, top: float, text: str, **style: Any) -> None:
    """Put text into a figure, at inches from its left and its top (the middle of the line)."""
    place = 1 - top / figure.get_figheight()
    figure.text(left / WIDTH, place, text, va="center_baseline", **FONT, **style)
