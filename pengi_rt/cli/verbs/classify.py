"""``pengi-rt classify``: which of given labels fit recordings, by either of the paper's methods."""

import argparse
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import TYPE_CHECKING

from pengi_rt.cli.named import named_recordings
from pengi_rt.cli.options import (
    add_engine,
    add_options,
    add_prompt,
    add_reading,
    add_recordings,
    add_search,
    open_engine,
    options_of,
    protect_inputs,
)
from pengi_rt.cli.output import add_output, add_resume, check_place, check_resumable
from pengi_rt.cli.run import Run
from pengi_rt.config.options import ClassifyOptions, ReadOptions
from pengi_rt.errors import AudioError, InputError, UsageError
from pengi_rt.render.classification import CLASSIFICATION_COLUMNS, ClassificationRows

if TYPE_CHECKING:
    from pengi_rt.audio.recording import Recording
    from pengi_rt.audio.resample import F32
    from pengi_rt.config.family import FamilyConfig
    from pengi_rt.engine import Engine
    from pengi_rt.results.classification import Classification, LabelScore
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
    add_search(parser, drawn=False)
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
    group.add_argument(
        "--top-k", type=int, dest="best", metavar="K", help="show the K best labels (default: all)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Classify every recording; one that cannot be read is reported and skipped."""
    check_resumable(arguments)
    if arguments.resume and arguments.plot is not None:
        raise UsageError("--plot draws a new result, and --resume may give none: leave one out")
    labels = _labels(arguments)
    if arguments.best is not None and arguments.best < 1:
        raise UsageError(f"--top-k must be at least 1, got {arguments.best}")
    names = named_recordings(arguments)
    protect_inputs(arguments, names)
    if arguments.plot is not None:
        _check_plot(arguments.plot, names, arguments.output)
    with open_engine(arguments) as engine:
        return _classify(engine, labels, names, arguments)


def _classify(
    engine: "Engine",
    labels: "list[str] | dict[str, str]",
    names: list[str],
    arguments: argparse.Namespace,
) -> int:
    options = options_of(arguments, ClassifyOptions)
    run = Run(arguments, names)
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
    about = {"labels": labels, "prompt": arguments.prompt, "best": arguments.best}
    run.mark_rows(engine, options, {"verb": "classify", **about})
    rows = ClassificationRows(arguments.format, best=arguments.best, headed=len(names) > 1)
    code = run.write_output(
        picture.keep_result(results),
        rows,
        columns=CLASSIFICATION_COLUMNS,
        line=rows.line,
        count=lambda windows: windows + (windows > 1),
    )
    picture.draw()
    return code


def _labels(arguments: argparse.Namespace) -> "list[str] | dict[str, str]":
    if (arguments.labels is None) == (arguments.labels_file is None):
        given = "neither" if arguments.labels is None else "both"
        raise UsageError(f"give either --labels or --labels-file; got {given}")
    if arguments.labels is not None:
        texts: str = arguments.labels
        return texts.split(",")
    from pengi_rt.tasks.classify.labels import read_labels

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
        if self._path is None:
            yield from run
            return
        from pengi_rt.session.batches import read_recording

        rng = random.Random(self._options.seed)  # noqa: S311 - a crop, reproducible
        for source in run:
            try:
                self._recording = read_recording(source, self._config, self._options, rng)
            except AudioError as error:
                run.on_error(source, error)
            else:
                yield self._recording

    def keep_result(self, results: "Iterable[Classification]") -> "Iterator[Classification]":
        """Pass the results on, and remember the one to draw."""
        for result in results:
            self._result = result
            yield result

    def draw(self) -> None:
        """Draw the picture, if it was requested and the recording could be read."""
        if self._path is None or self._recording is None or self._result is None:
            return
        import numpy as np

        from pengi_rt.render.score_pictures import Timeline, bar_picture, timeline_picture

        result = self._result
        axis = "cosine" if result.method == "text-matching" else "probability"
        title = f"{result.audio}: {result.prompt}"
        whole = _scores(result.labels)
        if len(result.windows) == 1:
            bar_picture(list(whole.items()), self._path, title=title, axis=axis)
            return
        windows = [_scores(window.labels) for window in result.windows]
        timeline = Timeline(
            spans=[(window.start, window.end) for window in result.windows],
            labels=list(whole),
            scores=np.array([[scores[label] for label in whole] for scores in windows]),
        )
        with _on_disk(self._recording) as samples:
            timeline_picture(
                samples, self._config.sample_rate, timeline, self._path, title=title, axis=axis
            )


@contextmanager
def _on_disk(recording: "Recording") -> "Iterator[F32]":
    """All samples ``[frames]``, in a temporary file: few samples of a long recording are used.

    Raises:
        InputError: there is no room for the file.
    """
    import numpy as np

    with ExitStack() as files:
        try:
            file = files.enter_context(TemporaryFile(prefix="pengi-rt-"))
            for block in recording.blocks():
                file.write(block.tobytes())
            file.flush()
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"cannot draw: {gettempdir()}: {why}; set TMPDIR to another") from None
        yield np.memmap(file, np.float32, "r")


def _scores(labels: "Sequence[LabelScore]") -> dict[str, float]:
    """Probabilities if there are any, otherwise scores."""
    return {
        each.label: each.score if each.probability is None else each.probability for each in labels
    }
