"""Pictures of scores: their content is read back from the figure, from the parts' positions."""

import struct
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from pengi_rt.errors import BackendError, InputError, UsageError
from pengi_rt.render import score_pictures
from pengi_rt.render.pictures import save_picture
from pengi_rt.render.score_pictures import ROWS, Timeline, bar_picture, timeline_picture

pytest.importorskip("matplotlib", reason="pictures need the extra [plot]")

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATE = 8_000
FUNNY = [
    "$5 or $x_1$",
    "snake_case^{2}",
    r"\frac{1}{2}",
    "\u6c34 \u05d0\u05d1 \U0001f415",
    "line\nbreak\u2028\tand\x07bell",
    "not utf-8: \udcff",
    "W" * 300,
    "a " * 200,
    "",
]

Draw = Callable[..., None]
Drawn = Callable[[Callable[[Path], None]], "Figure"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Drawn:
    """Calls a function that draws a picture into a path, and returns the figure it saved."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def call(draw: Callable[[Path], None]) -> Figure:
        figures: list[Figure] = []

        def keep(figure: Figure, path: Path) -> None:
            save_picture(figure, path)
            figures.append(figure)

        with monkeypatch.context() as patched:
            patched.setattr(score_pictures, "save_picture", keep)
            draw(tmp_path / "picture.png")
        (figure,) = figures
        FigureCanvasAgg(figure)
        return figure

    return call


def sound(seconds: float) -> NDArray[np.float32]:
    time = np.arange(round(seconds * RATE)) / RATE
    return np.sin(2 * np.pi * 440 * time).astype(np.float32)


def windows(seconds: float, size: float, hop: float) -> list[tuple[float, float]]:
    return [(float(start), float(start) + size) for start in np.arange(0, seconds, hop)]


def some_scores(count: int, labels: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, labels))


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return int(width), int(height)


def assert_texts_are_inside_and_apart(figure: "Figure") -> None:
    shown = list(figure.texts)
    for axes in figure.axes:
        shown += [*axes.texts, axes.title]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            # Ticks beyond the limits have texts too, which are not drawn.
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            shown += [axis.label, *(tick.label1 for tick in ticks)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        shown = [text for text in shown if text.get_text().strip() and text.get_visible()]
        boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    for text, box in boxes:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1, text
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1, text
    for (one, a), (other, b) in combinations(boxes, 2):
        # Half a pixel allows for rounding: the lines of a label are close together.
        gap = max(a.x0 - b.x1, b.x0 - a.x1, a.y0 - b.y1, b.y0 - a.y1)
        assert gap > -0.5, (one, other)


def labels_of(figure: "Figure", panel: int = 0) -> list[str]:
    """Texts to the left of a panel, from top to bottom."""
    axes = figure.axes[panel].bbox
    found = []
    for text in figure.texts:
        box = text.get_window_extent()
        if box.x1 < axes.x0 and axes.y0 < (box.y0 + box.y1) / 2 < axes.y1:
            found.append((-box.y0, text.get_text()))
    return [text for _, text in sorted(found)]


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.7, 0.2],
        [-3.0, -41.5, -12.25],
        [0.5, -0.25, 0.0, 1e-9],
        [0.0, 0.0],
        [0.3],
        [-2e-7, -1e-7],
        [3e9, -2e9],
    ],
)
def test_bars_are_the_scores_from_the_best_down(values: list[float], drawn: Drawn) -> None:
    scores = [(f"label {number}", value) for number, value in enumerate(values)]
    figure = drawn(lambda path: bar_picture(scores, path, title="t", axis="score"))
    (axes,) = figure.axes
    expected = [scores[number] for number in np.argsort(-np.array(values), kind="stable")]
    assert labels_of(figure) == [label for label, _ in expected]
    bars = sorted(axes.patches, key=lambda bar: -bar.get_window_extent().y1)
    for bar, text, (_, value) in zip(bars, axes.texts, expected, strict=True):
        box, beside = bar.get_window_extent(), text.get_window_extent()
        low, high = axes.transData.transform([(min(value, 0), 0), (max(value, 0), 0)])[:, 0]
        np.testing.assert_allclose([box.x0, box.x1], [low, high], atol=1e-6)
        said = float(text.get_text().replace("\u2212", "-"))
        # The largest value keeps three digits.
        assert abs(said - value) <= 0.0051 * max(map(abs, values))
        assert beside.x1 < low if value < 0 else beside.x0 > high
        assert abs((beside.y0 + beside.y1) - (box.y0 + box.y1)) < 6
    assert_texts_are_inside_and_apart(figure)


def test_a_tiny_negative_score_has_no_minus(drawn: Drawn) -> None:
    scores = [("a", 1.0), ("b", -1e-9)]
    figure = drawn(lambda path: bar_picture(scores, path, title="t", axis="a"))
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "0.00"]


def test_more_labels_than_rows(drawn: Drawn) -> None:
    values = np.random.default_rng(1).permutation(527) / 527
    scores = [(f"l{value:.4f}", float(value)) for value in values]
    figure = drawn(lambda path: bar_picture(scores, path, title="t", axis="a"))
    axes = figure.axes[0]
    best = [f"l{value:.4f}" for value in sorted(values)[::-1]]
    assert labels_of(figure) == best[:ROWS]
    assert f"{ROWS} of 527 labels" in [text.get_text() for text in figure.texts]
    assert min(bar.get_window_extent().height for bar in axes.patches) >= 16
    few = drawn(lambda path: bar_picture(scores[:ROWS], path, title="t", axis="a"))
    assert not [text for text in few.texts if " of " in text.get_text()]
    assert_texts_are_inside_and_apart(figure)


@pytest.mark.parametrize("funny", FUNNY)
def test_funny_texts_stay_whole_inside_and_apart(funny: str, drawn: Drawn) -> None:
    scores = [(text, 1 - number / 10) for number, text in enumerate(FUNNY)]
    figure = drawn(lambda path: bar_picture(scores, path, title=funny, axis=funny))
    assert_texts_are_inside_and_apart(figure)
    said = [text.get_text() for text in figure.texts]
    assert said[:3] == ["$5 or $x_1$", "snake_case^{2}", r"\frac{1}{2}"]
    assert {"line break and\x07bell", "not utf-8: \ufffd"} <= set(said)
    for letters in ("W" * 36, "W" * 35 + "\u2026", " ".join("a" * 18)):
        assert said.count(letters) == 1


def lookup(spans: Sequence[tuple[float, float]], moment: float) -> int | None:
    """The window that a timeline shows at a moment: the last one started, if still running."""
    started = [number for number, (start, _) in enumerate(spans) if start <= moment]
    return started[-1] if started and moment < spans[started[-1]][1] else None


def cell(axes: "Axes", moment: float, row: int) -> float:
    """The score that the heat map shows at a moment in a row; NaN if it shows none."""
    from matplotlib.collections import QuadMesh

    (mesh,) = [part for part in axes.collections if isinstance(part, QuadMesh)]
    edges = np.asarray(mesh.get_coordinates())[0, :, 0]
    values: NDArray[np.float64] = np.ma.filled(np.ma.asarray(mesh.get_array()), np.nan)
    place = int(np.searchsorted(edges, moment, side="right")) - 1
    return float(values[row, place]) if 0 <= place < len(edges) - 1 else float("nan")


def marked(axes: "Axes", moment: float) -> list[int]:
    """The rows in which the line of the best labels runs at a moment."""
    from matplotlib.collections import LineCollection

    lines = [part for part in axes.collections if isinstance(part, LineCollection)][-1]
    ends = [(float(a[0]), float(b[0]), float(a[1])) for a, b in lines.get_segments()]
    return [int(row) for start, end, row in ends if start <= moment < end]


@pytest.mark.parametrize(
    ("seconds", "spans"),
    [
        (4.0, [(0.0, 4.0)]),
        (4.0, [(0.0, 7.0)]),
        (10.0, windows(10, 4, 2)),
        (10.0, windows(10, 1, 1)),
        (10.0, windows(10, 1, 2.5)),
        (9.3, [(0.5, 2.0), (1.0, 8.0), (1.25, 1.5), (7.0, 7.5)]),
        (200.0, windows(200, 10, 0.4)),
    ],
)
def test_cells_and_lines_over_time(
    seconds: float, spans: list[tuple[float, float]], drawn: Drawn
) -> None:
    labels = ["dog", "rain", "a bell", "glass"]
    scores = some_scores(len(spans), 4)
    line = Timeline(spans, labels, scores)
    figure = drawn(lambda path: timeline_picture(sound(seconds), RATE, line, path, title="t"))
    above, below, _ = figure.axes
    order = sorted(range(4), key=lambda label: -scores[:, label].mean())
    assert labels_of(figure, 1) == [labels[label] for label in order]
    assert above.get_xlim() == below.get_xlim() == (0, seconds)
    assert (above.bbox.x0, above.bbox.x1) == (below.bbox.x0, below.bbox.x1)
    assert below.yaxis_inverted()
    # 0.013 keeps every moment off the edges.
    for moment in np.arange(0.013, seconds, seconds / 97):
        window = lookup(spans, moment)
        for row, label in enumerate(order):
            expected = np.nan if window is None else scores[window, label]
            np.testing.assert_equal(cell(below, moment, row), expected)
        best = [] if window is None else [order.index(int(scores[window].argmax()))]
        assert marked(below, moment) == best
    assert_texts_are_inside_and_apart(figure)


def test_ties_go_to_the_first_label(drawn: Drawn) -> None:
    line = Timeline([(0, 1), (1, 2)], ["a", "b"], np.array([[1.0, 1.0], [0.0, 0.5]]))
    figure = drawn(lambda path: timeline_picture(sound(2), RATE, line, path, title="t"))
    below = figure.axes[1]
    assert labels_of(figure, 1) == ["b", "a"]
    assert (marked(below, 0.5), marked(below, 1.5)) == ([1], [0])


def test_every_best_label_has_a_row_where_there_is_room(drawn: Drawn) -> None:
    labels = [f"label {number}" for number in range(100)]
    scores = np.tile(-np.arange(100.0), (20, 1))
    scores[3, 99] = scores[4, 98] = 1.0
    line = Timeline(windows(20, 1, 1), labels, scores)
    figure = drawn(lambda path: timeline_picture(sound(20), RATE, line, path, title="t"))
    below = figure.axes[1]
    rows = labels_of(figure, 1)
    assert rows == [f"label {number}" for number in [*range(ROWS - 2), 98, 99]]
    assert marked(below, 3.5) == [ROWS - 1]
    assert f"{ROWS} of 100 labels" in [text.get_text() for text in figure.texts]
    assert_texts_are_inside_and_apart(figure)


def test_a_best_label_without_a_row_has_no_line(drawn: Drawn) -> None:
    scores = np.eye(60)
    scores[-1, 0] = 2.0
    line = Timeline(windows(60, 1, 1), [str(number) for number in range(60)], scores)
    figure = drawn(lambda path: timeline_picture(sound(60), RATE, line, path, title="t"))
    assert [len(marked(figure.axes[1], moment + 0.5)) for moment in range(60)] == (
        [1] * ROWS + [0] * (59 - ROWS) + [1]
    )


@pytest.mark.parametrize("funny", FUNNY)
def test_funny_texts_over_time(funny: str, drawn: Drawn) -> None:
    # Limits of nine characters leave the least room for the name of the scores.
    line = Timeline(windows(3, 1, 1), FUNNY, -1e-5 - 1e-6 * some_scores(3, len(FUNNY)))
    figure = drawn(
        lambda path: timeline_picture(sound(3), RATE, line, path, title=funny, axis=funny)
    )
    assert_texts_are_inside_and_apart(figure)
    assert "W" * 27 + "\u2026" in labels_of(figure, 1)


def test_an_hour(drawn: Drawn) -> None:
    spans = windows(3600, 10, 5)
    line = Timeline(spans, [str(number) for number in range(60)], some_scores(len(spans), 60))
    hour = np.zeros(3600 * RATE, np.float32)
    figure = drawn(lambda path: timeline_picture(hour, RATE, line, path, title="t"))
    ticks = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert ticks == ["0:00", "0:10", "0:20", "0:30", "0:40", "0:50", "1:00"]
    assert figure.axes[1].get_xlabel() == "time (h:min)"
    assert_texts_are_inside_and_apart(figure)


def draw_bars(path: Path, values: Sequence[float] = (0.2, 0.8)) -> None:
    bar_picture([(f"l{value}", value) for value in values], path, title="t", axis="a")


def draw_timeline(path: Path, values: Sequence[float] = (0.2, 0.8)) -> None:
    labels = [f"l{value}" for value in values]
    line = Timeline([(0, 1)], labels, np.array([values], np.float32))
    timeline_picture(sound(1), RATE, line, path, title="t", axis="a")


BOTH = pytest.mark.parametrize("draw", [draw_bars, draw_timeline])


@BOTH
def test_the_same_picture_again(draw: Draw, tmp_path: Path) -> None:
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in pictures:
        draw(path)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    draw(pictures[1], (0.8, 0.3))
    assert pictures[0].read_bytes() != pictures[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == pictures


@BOTH
def test_more_rows_are_higher_not_wider(draw: Draw, tmp_path: Path) -> None:
    sizes = []
    for count in (1, 10, ROWS, 3 * ROWS):
        draw(tmp_path / "a.png", np.linspace(0, 1, count).tolist())
        sizes.append(png_size(tmp_path / "a.png"))
    assert {width for width, _ in sizes} == {1080}
    heights = [height for _, height in sizes]
    assert heights[0] < heights[1] < heights[2] == heights[3]


@BOTH
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"a picture of scores needs one label or more, got none"),
        ([0.5, np.nan], r"a picture of scores needs finite ones, got nan"),
        ([0.5, -np.inf], r"a picture of scores needs finite ones, got -inf"),
    ],
)
def test_invalid_scores(draw: Draw, values: list[float], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        draw(tmp_path / "a.png", values)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spans", "shape", "message"),
    [
        ([], (0, 2), "needs one label or more"),
        ([(0, 1)], (2, 2), r"scores must be \[1 windows, 2 labels\], got \(2, 2\)"),
        ([(0, 1)], (1, 3), r"scores must be \[1 windows, 2 labels\], got \(1, 3\)"),
        ([(0, 1)], (2,), r"got \(2,\)"),
        ([(0, 2), (0, 3)], (2, 2), r"window 0-3 s must start after the one before it"),
        ([(1, 2), (0, 3)], (2, 2), r"window 0-3 s must start after"),
        ([(1, 1)], (1, 2), r"window 1-1 s must start .* before its own end"),
        ([(-1, 1)], (1, 2), r"window -1-1 s .* inside the recording \(0-4 s\)"),
        ([(0, 1), (4, 8)], (2, 2), r"window 4-8 s .* inside the recording \(0-4 s\)"),
        ([(np.nan, 1)], (1, 2), r"window nan-1 s"),
        ([(0, np.nan)], (1, 2), r"window 0-nan s"),
    ],
)
def test_invalid_timelines(
    spans: list[tuple[float, float]], shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    line = Timeline(spans, ["a", "b"], np.zeros(shape))
    with pytest.raises(UsageError, match=message):
        timeline_picture(sound(4), RATE, line, tmp_path / "a.png", title="t")
    with pytest.raises(UsageError, match="samples"):
        timeline_picture(sound(0), RATE, line, tmp_path / "a.png", title="t")
    assert not list(tmp_path.iterdir())


@BOTH
def test_an_unwritable_path(draw: Draw, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        draw(tmp_path / "no" / "a.png")


@BOTH
def test_without_matplotlib(draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError, match=r"pip install 'pengi-rt\[plot\]'"):
        draw(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
