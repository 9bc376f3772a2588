"""Training curves: draw the ``metrics.jsonl`` of some runs as one picture.

``python -m pengi_rt.training.curves RUN_DIR ... -o curves.png`` draws one row of panels per run:
its losses, its learning rate, and its speed in clips per second.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pengi_rt.errors import InputError
from pengi_rt.render.pictures import new_figure, save_picture
from pengi_rt.system.quote import one_line
from pengi_rt.system.regular import open_regular
from pengi_rt.training.command import exit_code
from pengi_rt.training.run_folder import CONFIG, METRICS

RATE, SPEED, UNSEEN = "rate", "clips_per_second", "validation_"
"""Names in the records; all other names are training losses."""

SMOOTHING = 0.02  # time constant of the smoothed training losses, as a fraction of the run
_PANEL, _ROW = 4.2, 2.6  # inches

_NO_RECORD = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""Errors that an invalid line can cause."""

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity of a run: its values at the given steps, in order."""

    steps: F64
    values: F64


def read_metrics(folder: Path) -> dict[str, Curve]:
    """Every quantity that a run recorded, by name. An unfinished last line is ignored.

    Raises:
        InputError: the folder has no records, or a line is invalid; the message names file and
            line.
    """
    path = folder / METRICS
    where = one_line(str(path))
    try:
        with open_regular(path) as file:
            lines = file.read().decode("utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or one_line(str(error))
        raise InputError(f"{where}: cannot be read ({reason}); name a run's output_dir") from None
    points: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for number, line in enumerate(lines, start=1):
        if line.endswith("\n"):
            for name, step, value in _record(line, f"{where}:{number}"):
                points[name].append((step, value))
    if not points:
        raise InputError(f"{where}: holds no records; the first comes after run.log_every steps")
    return {name: Curve(*np.array(found, np.float64).T) for name, found in points.items()}


def smoothed(curve: Curve) -> F64:
    """An exponential moving average with a time constant of :data:`SMOOTHING` of the run.

    Its weights are normalized from the start, so it does not lag behind a steep first drop.
    """
    span = max(curve.steps[-1] - curve.steps[0], 1.0) * SMOOTHING
    total = weight = 0.0
    means = np.empty_like(curve.values)
    before = curve.steps[0]
    for index, (step, value) in enumerate(zip(curve.steps, curve.values, strict=True)):
        kept = np.exp((before - step) / span)
        total, weight = kept * total + value, kept * weight + 1.0
        means[index], before = total / weight, step
    return means


def draw_curves(folders: Sequence[Path], path: Path) -> None:
    """Draw the runs in ``folders``, one row each, into the PNG file ``path``.

    Raises:
        InputError: a run has no records, or ``path`` cannot be written.
        BackendError: matplotlib is not installed.
    """
    runs = [(folder, read_metrics(folder)) for folder in folders]
    figure = new_figure(3 * _PANEL, _ROW * len(runs) + 0.2)
    panels = figure.subplots(len(runs), 3, squeeze=False)
    for row, (folder, curves) in zip(panels, runs, strict=True):
        losses, rate, speed = row
        _draw_losses(losses, curves)
        losses.set_title(_title(folder), fontsize=10, loc="left", parse_math=False)
        _draw(rate, curves, RATE, "learning rate")
        _draw(speed, curves, SPEED, "clips (or rows) a second")
        for panel in row:
            panel.set_xlabel("step", fontsize=8)
            panel.tick_params(labelsize=8)
            panel.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    save_picture(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pengi_rt.training.curves", description="Draw what training runs recorded."
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN_DIR", help="output_dir of each run"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture, a PNG file")
    options = parser.parse_args(argv)
    return exit_code(lambda: draw_curves(options.runs, options.output))


def _record(line: str, where: str) -> list[tuple[str, float, float]]:
    """Name, step and value of every quantity in a line."""
    try:
        record = json.loads(line)
        step = float(record.pop("step"))
        return [(name, step, float(value)) for name, value in record.items()]
    except _NO_RECORD as error:
        raise InputError(f"{where}: is not a record of a run ({type(error).__name__})") from None


def _config(folder: Path) -> Any:
    with open_regular(folder / CONFIG) as file:
        return json.loads(file.read())


def _title(folder: Path) -> str:
    """The run's folder, and its stage if its config is there."""
    name = folder.resolve().name
    try:
        stage = _config(folder)["stage"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return name
    return name if stage == name else f"{name} ({stage})"


def _draw_losses(panel: Any, curves: dict[str, Curve]) -> None:
    """Training losses faint and smoothed; losses on unseen examples dashed, in the same color."""
    names = [name for name in curves if name not in (RATE, SPEED)]
    kinds = list(dict.fromkeys(name.removeprefix(UNSEEN) for name in names))
    for number, kind in enumerate(kinds):
        color = f"C{number}"
        if kind in curves:
            seen = curves[kind]
            panel.plot(seen.steps, seen.values, color=color, alpha=0.25, linewidth=0.8)
            panel.plot(seen.steps, smoothed(seen), color=color, label=kind)
        if unseen := curves.get(UNSEEN + kind):
            label = f"{kind}, unseen"
            panel.plot(unseen.steps, unseen.values, "o--", color=color, markersize=3, label=label)
    _logarithmic(panel, [curves[name] for name in names])
    panel.set_ylabel("loss", fontsize=8)
    panel.legend(fontsize=7)


def _logarithmic(panel: Any, curves: Sequence[Curve]) -> None:
    """Use a logarithmic axis if the losses span more than a decade."""
    values = np.concatenate([curve.values for curve in curves]) if curves else np.ones(1)
    if values.min() > 0 and values.max() > 10 * values.min():
        panel.set_yscale("log")


def _draw(panel: Any, curves: dict[str, Curve], name: str, label: str) -> None:
    if curve := curves.get(name):
        panel.plot(curve.steps, curve.values, color="black", linewidth=1)
    panel.set_ylim(bottom=0)
    panel.set_ylabel(label, fontsize=8)


if __name__ == "__main__":
    sys.exit(main())
