"""Pictures: a recording's spectrogram with answers below it. Needs the extra ``[plot]``."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pengi_rt.errors import BackendError, InputError, UsageError, missing_module
from pengi_rt.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
WIDTH = 9.0  # inches
N_MELS = 96
FLOOR = -80.0  # dB under the loudest band of the picture
_WINDOW, _HOP = 0.04, 0.01  # seconds; bins are 25 Hz apart
_FRAMES = 2000  # more would be wider than the picture: then the hop grows
_TICKS = (100, 250, 500, 1000, 2000, 4000, 8000, 16_000)  # Hz

_STEPS = (10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600)  # seconds between ticks

ACCENT = "#1f5fa8"
# "$" is a dollar, not the start of a formula.
FONT: dict[str, Any] = {"family": "monospace", "size": 9.0, "parse_math": False}
CHARACTER, LINE = 0.0753, 0.19  # inches: 0.602 em wide; what a line takes of the height
MARGIN, RIGHT = 0.75, 0.2  # inches: left of a spectrogram, right of every picture
AXIS, HEAD = 0.55, 0.4  # inches: below a time axis, above every picture
_SPECTROGRAM = 2.9  # inches
_PROMPT = 40  # characters of the left column
_ANSWER = int((WIDTH - MARGIN - RIGHT) / CHARACTER) - _PROMPT - 2


def answer_picture(
    samples: NDArray[np.float32],
    rate: int,
    answers: Sequence[tuple[str, str]],
    path: Path,
    title: str,
) -> None:
    """Draw the log-mel spectrogram of a recording, and below it each prompt with its answer.

    Args:
        samples: one channel [frames].
        rate: Hz.
        answers: prompts and answers, from top to bottom; long ones are wrapped.
        path: the PNG to write; one that is there is replaced. The same arguments (and the same
            matplotlib) make the same bytes.
        title: one line above the spectrogram.

    Raises:
        UsageError: there are no samples, or they are not one row.
        BackendError: matplotlib is not installed.
        InputError: ``path`` cannot be written.
    """
    require_recording(samples, rate)
    lines = _lines(answers)
    height = HEAD + _SPECTROGRAM + AXIS + LINE * len(lines) + 0.1
    figure = new_figure(WIDTH, height)
    axes = add_panel(figure, MARGIN, HEAD, _SPECTROGRAM)
    draw_spectrogram(axes, samples, rate)
    draw_time(axes, samples.size / rate)
    draw_title(axes, title)
    for number, (prompt, answer) in enumerate(lines):
        place = 1 - (HEAD + _SPECTROGRAM + AXIS + LINE * (number + 0.5)) / height
        left = MARGIN / WIDTH
        figure.text(left, place, prompt, color=ACCENT, va="center", **FONT)
        left += (_PROMPT + 2) * CHARACTER / WIDTH
        figure.text(left, place, answer, color="black", va="center", **FONT)
    save_picture(figure, path)


def require_recording(samples: NDArray[np.float32], rate: int) -> None:
    """Refuse samples that have no spectrogram.

    Raises:
        UsageError: there are no samples, or they are not one row.
    """
    if samples.ndim != 1 or not samples.size or rate < 1:
        raise UsageError(f"a picture needs samples [frames] at a rate, got {samples.shape}, {rate}")


def shortened(text: str, most: int) -> str:
    """``text`` on one line of at most ``most`` characters; a cut is marked by an ellipsis.

    Bytes of a file name that are not UTF-8 (lone surrogates) are drawn as U+FFFD.
    """
    line = _drawable(text)
    return line if len(line) <= most else line[: most - 1].rstrip() + "\u2026"


def _drawable(text: str) -> str:
    """``text`` on one line, without lone surrogates, which no font has."""
    replaced = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(replaced.split())


def new_figure(width: float, height: float) -> "Figure":
    """A new empty figure, sized in inches; pyplot and its global state are not touched.

    Raises:
        BackendError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise BackendError(
            f"pictures need {missing_module(error)}, which the runtime does not: "
            "pip install 'pengi-rt[plot]'"
        ) from None
    return Figure(figsize=(width, height), dpi=DPI)


def add_panel(figure: "Figure", left: float, top: float, height: float) -> Any:
    """New axes in a figure that is :data:`WIDTH` wide, placed in inches from its left and top."""
    whole = figure.get_figheight()
    width = WIDTH - left - RIGHT
    return figure.add_axes(
        (left / WIDTH, 1 - (top + height) / whole, width / WIDTH, height / whole)
    )


def save_picture(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, completely or not at all.

    Raises:
        InputError: ``path`` cannot be written.
    """
    drawn = BytesIO()
    with warnings.catch_warnings():
        # A character that the font lacks is drawn as a box; the table shows it correctly.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(drawn, format="png", metadata={"Software": None})
    try:
        with replacing(path) as file:
            file.write(drawn.getvalue())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def mel_spectrogram(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Power in :data:`N_MELS` bands, [N_MELS, frames], dB under the loudest, at least the floor.

    Only for display: the model's own spectrogram uses its ``MelConfig``.
    """
    size = max(64, round(_WINDOW * rate) // 2 * 2)
    hop = max(1, round(_HOP * rate), -(-samples.size // _FRAMES))
    frames = np.zeros((-(-samples.size // hop), size), np.float32)
    for frame, center in zip(frames, range(0, samples.size, hop), strict=True):
        start, stop = center - size // 2, min(center + size // 2, samples.size)
        frame[max(-start, 0) :][: stop - max(start, 0)] = samples[max(start, 0) : stop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size + 1)[:-1])) ** 2
    bands = _mel_bank(size, rate) @ power.T
    loudest = max(float(bands.max()), 1e-20)
    decibels = 10 * np.log10(np.maximum(bands / loudest, 10 ** (FLOOR / 10)))
    spectrogram: NDArray[np.float32] = decibels.astype(np.float32)
    return spectrogram


def _mel_bank(size: int, rate: int) -> NDArray[np.float64]:
    """Triangles that overlap by half, [N_MELS, size // 2 + 1]; none is narrower than a bin."""
    bins = np.fft.rfftfreq(size, 1 / rate)
    edges = _hertz(np.linspace(0, _mel(rate / 2), N_MELS + 2))
    low, center, high = (edges[start : start + N_MELS, None] for start in range(3))
    narrowest = rate / size
    rising = (bins - low) / np.maximum(center - low, narrowest)
    falling = (high - bins) / np.maximum(high - center, narrowest)
    bank = np.clip(np.minimum(rising, falling), 0, None)
    # A band between two bins would be empty: it takes its nearest bin.
    for band in np.flatnonzero(bank.sum(axis=1) == 0):
        bank[band, np.argmin(np.abs(bins - center[band]))] = 1.0
    means: NDArray[np.float64] = bank / bank.sum(axis=1, keepdims=True)
    return means


def _mel(hertz: Any) -> Any:
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def _hertz(mel: Any) -> Any:
    return 700 * (10 ** (np.asarray(mel) / 2595) - 1)


def draw_title(axes: Any, title: str) -> None:
    """Put one line above ``axes``, cut where they end."""
    size = 10.0
    most = int(axes.get_position().width * WIDTH / (CHARACTER * size / FONT["size"]))
    axes.set_title(shortened(title, most), loc="left", **(FONT | {"size": size}))


def draw_spectrogram(axes: Any, samples: NDArray[np.float32], rate: int) -> None:
    """Fill ``axes`` with a recording's log-mel spectrogram, over seconds; time has no label yet."""
    image = mel_spectrogram(samples, rate)
    top = float(_mel(rate / 2))
    extent = (0, samples.size / rate, 0, top)
    axes.imshow(image, origin="lower", aspect="auto", extent=extent, vmin=FLOOR, vmax=0)
    ticks = [hertz for hertz in _TICKS if hertz <= rate / 2]
    axes.set_yticks(_mel(ticks), [f"{hertz / 1000:g}" for hertz in ticks])
    axes.set_ylabel("frequency (kHz)", fontsize=8)
    axes.tick_params(labelsize=8)


def draw_time(axes: Any, seconds: float) -> None:
    """Label the time axis of a recording: in seconds or, from two minutes on, in clock time."""
    axes.set_xlim(0, seconds)
    axes.tick_params(labelsize=8)
    unit = "s"
    if seconds >= 120:
        hours = -(-seconds // 3600)
        step = next((step for step in _STEPS if seconds <= 10 * step), 3600 * -(-hours // 10))
        ticks = [int(tick) for tick in np.arange(0, seconds + 1e-3, step)]
        # From one hour on, ticks are whole minutes.
        part, unit = (60, "min:s") if seconds < 3600 else (3600, "h:min")
        labels = [f"{tick // part}:{tick % part * 60 // part:02}" for tick in ticks]
        axes.set_xticks(ticks, labels)
    axes.set_xlabel(f"time ({unit})", fontsize=8)


def _lines(answers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Both columns, wrapped, line by line."""
    rows: list[tuple[str, str]] = []
    for prompt, answer in answers:
        left = wrap(_drawable(prompt), _PROMPT)
        right = wrap(_drawable(answer), _ANSWER) or ["(nothing)"]
        rows += zip_longest(left, right, fillvalue="")
    return rows
