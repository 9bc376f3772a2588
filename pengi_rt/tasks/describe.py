"""The released ``describe``: a recording's caption, metadata and sound events in one text."""

from collections.abc import Iterable, Iterator
from typing import Final

from pengi_rt.config.options import DescribeOptions
from pengi_rt.results.description import Description
from pengi_rt.session.batches import Batch
from pengi_rt.session.session import Session
from pengi_rt.tasks.generate import answer_recordings, result_for
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
    answers = answer_recordings(session, batches, request, partial_results=partial_results)
    return (
        Description(*(result_for(request, number, part) for number in range(len(PROMPTS))))
        for part in answers
    )
