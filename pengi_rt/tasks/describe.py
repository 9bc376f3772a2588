"""The released ``describe``: a recording's caption, metadata and sound events in one text."""

from collections.abc import Iterable, Iterator
from typing import Final

from pengi_rt.config.options import DescribeOptions
from pengi_rt.results.description import Description
from pengi_rt.session.batches import Batch, OutputsByRecording
from pengi_rt.session.session import Session
from pengi_rt.tasks.generate import WindowAnswers, answer_batch, result_for
from pengi_rt.tasks.prepare import prepare

PROMPTS: Final = ("generate audio caption", "generate metadata", "this is a sound of")
"""The prompts of ``PengiWrapper.describe``, in its order."""


def describe(
    session: Session,
    batches: Iterable[Batch],
    options: DescribeOptions,
    *,
    partial_results: bool = False,
) -> Iterator[Description]:
    """Describe each recording in turn; with ``partial_results``, each batch of windows separately.

    Raises:
        UsageError, PromptError, BackendError: as for :func:`pengi_rt.tasks.prepare.prepare`.
    """
    session.plan.require("describe")
    request = prepare(session, PROMPTS, options)
    by_recording = OutputsByRecording[WindowAnswers](partial_results=partial_results)
    return (
        Description(*(result_for(request, number, part) for number in range(len(PROMPTS))))
        for batch in batches
        for part in by_recording.add(batch, answer_batch(session, request, batch))
    )
