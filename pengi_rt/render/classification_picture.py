"""A picture of one recording's classification: bars, or scores over time if it is long."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile, gettempdir

import numpy as np

from pengi_rt.audio.recording import Recording
from pengi_rt.audio.resample import F32
from pengi_rt.errors import InputError
from pengi_rt.render import score_pictures
from pengi_rt.results.classification import Classification, LabelScore


def draw_classification(
    result: Classification, recording: Recording, sample_rate: int, path: Path
) -> None:
    """Draw the ``result`` of a whole recording into the PNG file ``path``.

    Raises:
        InputError: the picture cannot be written, or there is no room for the samples.
        BackendError: matplotlib is not installed.
    """
    axis = "cosine" if result.method == "text-matching" else "probability"
    title = f"{result.audio}: {result.prompt}"
    whole = _scores(result.labels)
    if len(result.windows) == 1:
        score_pictures.bar_picture(list(whole.items()), path, title=title, axis=axis)
        return
    windows = [_scores(window.labels) for window in result.windows]
    timeline = score_pictures.Timeline(
        spans=[(window.start, window.end) for window in result.windows],
        labels=list(whole),
        scores=np.array([[scores[label] for label in whole] for scores in windows]),
    )
    with _on_disk(recording) as samples:
        score_pictures.timeline_picture(
            samples, sample_rate, timeline, path, title=title, axis=axis
        )


@contextmanager
def _on_disk(recording: Recording) -> Iterator[F32]:
    """All samples ``[frames]``, in a temporary file: few samples of a long recording are used.

    Raises:
        InputError: there is no room for the file.
    """
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


def _scores(labels: Sequence[LabelScore]) -> dict[str, float]:
    """Probabilities if there are any, otherwise scores."""
    return {
        each.label: each.score if each.probability is None else each.probability for each in labels
    }
