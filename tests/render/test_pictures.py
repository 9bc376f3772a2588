"""Pictures: the spectrogram shows what sounds where, and texts and files stay whole."""

import builtins
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pengi_rt.errors import BackendError, InputError, UsageError
from pengi_rt.render import pictures
from pengi_rt.render.pictures import (
    FLOOR,
    N_MELS,
    answer_picture,
    draw_time,
    mel_spectrogram,
    new_figure,
    shortened,
)

RATE = 16_000


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def size(path: Path) -> tuple[int, int]:
    """Width and height from a PNG's header."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return int(width), int(height)


def band(hertz: float, rate: int) -> float:
    """The position of a frequency among the bands, from the definition of the mel scale."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    return float(2595 * np.log10(1 + hertz / 700) / top * (N_MELS + 1) - 1)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 96_000])
@pytest.mark.parametrize("hertz", [60.0, 440.0, 3_000.0])
def test_a_tone_is_loudest_in_its_band(hertz: float, rate: int) -> None:
    image = mel_spectrogram(tone(hertz, rate=rate), rate)
    assert image.dtype == np.float32
    middle = image[:, image.shape[1] // 2]
    # Bins are 25 Hz apart, wider than the lowest bands: off by one bin, or one band.
    slack = abs(band(hertz + 25, rate) - band(hertz, rate)) + 1
    assert abs(int(middle.argmax()) - band(hertz, rate)) <= slack
    assert image.max() == 0.0


def test_time_runs_to_the_right() -> None:
    silence = np.zeros(RATE, np.float32)
    image = mel_spectrogram(np.concatenate([silence, tone(1000), silence]), RATE)
    assert image.shape == (N_MELS, 300)
    loud = image.max(axis=0)
    assert (loud[:95] == FLOOR).all()
    assert (loud[105:195] > -3).all()
    assert (loud[205:] == FLOOR).all()


@pytest.mark.parametrize("length", [1, 63, 640, 641, 40 * 60 * RATE // 100])
def test_any_length_and_silence(length: int) -> None:
    image = mel_spectrogram(np.zeros(length, np.float32), RATE)
    assert (image == FLOOR).all()
    assert 1 <= image.shape[1] <= 2000


def test_the_same_picture_again(tmp_path: Path) -> None:
    answers = [("generate audio caption", "a dog barks")]
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in pictures:
        answer_picture(tone(440), RATE, answers, path, "dog.wav")
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    answer_picture(tone(440), RATE, [("generate audio caption", "a cat")], pictures[1], "dog.wav")
    assert pictures[0].read_bytes() != pictures[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == pictures


def test_long_texts_make_it_higher_not_wider(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 60):
        path = tmp_path / f"{count}.png"
        text = " ".join(["word"] * count)
        answer_picture(tone(440), RATE, [(text, text), ("x" * count, "")], path, text)
        sizes.append(size(path))
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] < sizes[1][1] < 3 * sizes[0][1]


Placed = tuple[str, float, float, float, float]


def drawn(
    answers: Sequence[tuple[str, str]], path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Placed]:
    """The picture's texts, and where matplotlib put them, as fractions of it: x0, y0, x1, y1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found: list[Placed] = []

    def measure(figure: Figure, _path: Path) -> None:
        FigureCanvasAgg(figure)
        whole = figure.bbox
        for text in figure.texts:
            box = text.get_window_extent()
            ends = (box.x0 / whole.x1, box.y0 / whole.y1, box.x1 / whole.x1, box.y1 / whole.y1)
            found.append((text.get_text(), *ends))

    monkeypatch.setattr(pictures, "save_picture", measure)
    answer_picture(tone(440), RATE, answers, path, "title")
    return found


def test_texts_are_whole_inside_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = "question: what comes after the very first of the sounds that are heard here?"
    answer = "an engine runs loudly, then a dog barks, then glass breaks quietly, in a factory " * 3
    answers = [(prompt, answer), ("music analysis", "W" * 150), ("$5 or $6?", "$x_1$"), ("p", "")]
    texts = drawn(answers, tmp_path / "a.png", monkeypatch)
    left = [box for box in texts if box[1] < 0.2 and box[0]]
    right = [box for box in texts if box[1] >= 0.2 and box[0]]
    assert "".join(box[0] for box in right).replace(" ", "") == "".join(
        reply or "(nothing)" for _, reply in answers
    ).replace(" ", "")
    assert " ".join(box[0] for box in left) == " ".join(asked for asked, _ in answers)
    assert max(box[3] for box in left) < min(box[1] for box in right)
    for _, x0, y0, x1, y1 in (box for box in texts if box[0]):
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
    for column in (left, right):
        for above, below in pairwise(column):
            assert below[4] <= above[2] + 1e-6


@pytest.mark.parametrize(
    ("seconds", "label", "ticks"),
    [
        (119.9, "time (s)", None),
        (120, "time (min:s)", [f"{s // 60}:{s % 60:02}" for s in range(0, 121, 15)]),
        (3599.9, "time (min:s)", [f"{minute}:00" for minute in range(0, 60, 10)]),
        (3600, "time (h:min)", [f"0:{minute}0" for minute in range(6)] + ["1:00"]),
        (
            5000,
            "time (h:min)",
            ["0:00", "0:10", "0:20", "0:30", "0:40", "0:50", "1:00", "1:10", "1:20"],
        ),
        (86_400, "time (h:min)", [f"{hour}:00" for hour in range(0, 25, 3)]),
    ],
)
def test_time_from_two_minutes_on_is_a_clock(
    seconds: float, label: str, ticks: list[str] | None
) -> None:
    axes = new_figure(9, 3).add_subplot()
    draw_time(axes, seconds)
    assert axes.get_xlabel() == label
    assert axes.get_xlim() == (0, seconds)
    if ticks is not None:
        assert [text.get_text() for text in axes.get_xticklabels()] == ticks
        clock = [60 * float(tick.split(":")[0]) + float(tick.split(":")[1]) for tick in ticks]
        unit = 1 if seconds < 3600 else 60
        assert [unit * place for place in clock] == axes.get_xticks().tolist()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("exactly 10", "exactly 10"),
        ("eleven long", "eleven lo\u2026"),
        ("word  in\nit", "word in it"),
        ("spaces go  here", "spaces go\u2026"),
        ("ends in a blank", "ends in a\u2026"),
        ("\udcff\U0001f415", "\ufffd\U0001f415"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert shortened(text, 10) == line


def test_characters_without_a_glyph_give_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    answer_picture(tone(440), RATE, [("\u6c34 \u2028", "\U0001f415\x07 dog\n")], path, "\u6c34")
    assert size(path)[0] > 0


def test_global_matplotlib_settings_are_unchanged(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    answer_picture(tone(440), RATE, [("p", "a")], tmp_path / "a.png", "t")
    assert dict(mpl.rcParams) == before


def test_a_picture_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.mkdir()
    with pytest.raises(InputError, match=r"cannot write .*a\.png"):
        answer_picture(tone(440), RATE, [], path, "t")
    with pytest.raises(InputError, match="No such file"):
        answer_picture(tone(440), RATE, [], tmp_path / "no" / "a.png", "t")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.zeros((2, 8), np.float32)])
def test_invalid_recordings(samples: NDArray[np.float32], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="samples"):
        answer_picture(samples, RATE, [], tmp_path / "a.png", "t")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(
        name: str,
        namespace: Mapping[str, object] | None = None,
        local: Mapping[str, object] | None = None,
        names: Sequence[str] | None = (),
        level: int = 0,
    ) -> object:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, namespace, local, names or (), level)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(BackendError) as caught:
        answer_picture(tone(440), RATE, [], tmp_path / "a.png", "t")
    assert str(caught.value) == (
        "pictures need matplotlib, which the runtime does not: pip install 'pengi-rt[plot]'"
    )
    assert not list(tmp_path.iterdir())
