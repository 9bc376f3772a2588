"""``pengi-rt classify``: which of given labels fit recordings, by either of the paper's methods."""

import argparse
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pengi_rt.cli.flags import (
    add_decoding,
    add_engine,
    add_options,
    add_output,
    add_prompt,
    add_reading,
    add_recordings,
    add_resume,
    open_engine,
    options_of,
)
from pengi_rt.cli.label_file import read_labels
from pengi_rt.cli.output_checks import check_place
from pengi_rt.cli.run import Run
from pengi_rt.config.options import ClassifyOptions, ReadOptions
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.render.classification import ClassificationRows

if TYPE_CHECKING:
    from pengi_rt import Classification, Engine, Recording
    from pengi_rt.config.family import FamilyConfig
    from pengi_rt.system.regular import Regular

PNG = ".png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Choose among given labels for each recording. A recording longer than the "
        "model's clip is classified window by window, and as a whole by the mean of its windows' "
        "scores."
    )
    add_recordings(parser)
    _add_labels(parser)
    add_prompt(parser, default='default: that of the task events, "this is a sound of"')
    add_decoding(parser, sampling=False)
    add_reading(parser)
    add_engine(parser)
    add_output(parser)
    add_resume(parser)
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PNG",
        help="draw one recording's scores as bars, or over time if it is long (extra [plot])",
    )
    parser.set_defaults(run=run)


def _add_labels(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("labels")
    group.add_argument(
        "--labels", metavar="A,B,C", help="labels to choose from; a label with a comma needs a file"
    )
    group.add_argument(
        "--labels-file",
        type=Path,
        metavar="FILE",
        help="UTF-8, one label per line, followed by a tab and its text if that differs",
    )
    names = ("method", "normalize", "calibrate", "multi_label", "template")
    add_options(group, ClassifyOptions, *names)
    group.add_argument("--top", type=int, metavar="K", help="show the K best labels (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Classify every recording; one that cannot be read is reported and skipped."""
    if arguments.resume and arguments.plot is not None:
        raise UsageError("--plot draws a new result, and --resume may give none: leave one out")
    labels = _labels(arguments)
    if arguments.top is not None and arguments.top < 1:
        raise UsageError(f"--top must be at least 1, got {arguments.top}")
    run = Run(arguments)
    if arguments.plot is not None:
        _check_plot(arguments.plot, run.names, arguments.output)
    options = options_of(arguments, ClassifyOptions)
    with open_engine(arguments) as engine:
        return _classify(engine, run, labels, options, arguments)


def _classify(
    engine: "Engine",
    run: Run,
    labels: "list[str] | dict[str, str]",
    options: ClassifyOptions,
    arguments: argparse.Namespace,
) -> int:
    picture = _Picture(arguments.plot, engine.config, options)
    # Options, labels and prompts are refused here, before the output is opened.
    results = engine.iter_classify(
        picture.keep_recording(run),
        labels,
        arguments.prompt,
        partial_results=arguments.plot is None,
        on_error=run.on_error,
        options=options,
    )
    about = {"labels": labels, "prompt": arguments.prompt, "best": arguments.top}
    run.mark_rows(engine, options, {"verb": "classify", **about})
    headed = len(run.names) > 1
    rows = ClassificationRows(arguments.format, top=arguments.top, headed=headed)
    code = run.write_output(picture.keep_result(results), rows)
    picture.draw()
    return code


def _labels(arguments: argparse.Namespace) -> "list[str] | dict[str, str]":
    if (arguments.labels is None) == (arguments.labels_file is None):
        given = "neither" if arguments.labels is None else "both"
        raise UsageError(f"give either --labels or --labels-file; got {given}")
    if arguments.labels is not None:
        texts: str = arguments.labels
        return texts.split(",")
    return read_labels(arguments.labels_file)


def _check_plot(path: Path, names: list[str], output: str | None) -> None:
    """Refuse at once a picture that could not be drawn in the end.

    Raises:
        UsageError: there are several recordings, or the name is not that of a picture or is that of
            ``output``.
        InputError: the picture cannot be written there.
        BackendError: matplotlib is not installed.
    """
    from pengi_rt.render.pictures import new_figure

    if len(names) > 1:
        raise UsageError(f"--plot draws one recording, got {len(names)}: run it once for each")
    if output is not None and Path(output).resolve() == path.resolve():
        raise UsageError(f"--plot and --output are the same file, {path}: name two files")
    check_place("--plot", path, [PNG])
    new_figure(1, 1)


class _Picture:
    """The picture of one recording: keeps the data it needs during classification."""

    def __init__(self, path: Path | None, config: "FamilyConfig", options: ReadOptions) -> None:
        self._path = path
        self._config = config
        self._options = options
        self._recording: Recording | None = None
        self._result: Classification | None = None

    def keep_recording(self, run: Run) -> "Iterator[str | Regular | Recording]":
        """The recordings of the run; the one to draw is loaded and kept."""
        for source in run:
            if self._path is None:
                yield source
                continue
            try:
                self._recording = self._load(source)
            except AudioError as error:
                run.on_error(source, error)
            else:
                yield self._recording

    def _load(self, source: "str | Regular") -> "Recording":
        from pengi_rt import load_windows

        names = ("long_audio", "hop", "resample", "allow_truncated", "strict")
        rng = random.Random(self._options.seed)  # noqa: S311 - a crop, reproducible
        read: dict[str, Any] = {name: getattr(self._options, name) for name in names}
        return load_windows(source, self._config, rng=rng, **read)

    def keep_result(self, results: "Iterable[Classification]") -> "Iterator[Classification]":
        """Pass the results on, and remember the one to draw."""
        for result in results:
            self._result = result
            yield result

    def draw(self) -> None:
        """Draw the picture, if it was requested and the recording could be read."""
        if self._path is None or self._recording is None or self._result is None:
            return
        from pengi_rt.render.classification_picture import draw_classification

        rate = self._config.sample_rate
        draw_classification(self._result, self._recording, rate, self._path)
