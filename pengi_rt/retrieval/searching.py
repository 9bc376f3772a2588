"""Queries to an index: a text, or a recording as an example, to the recordings nearest to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from pengi_rt.audio import AudioLike, Recording
from pengi_rt.backends.protocol import F32
from pengi_rt.embed import embed_recordings, embed_texts, unit
from pengi_rt.errors import UsageError
from pengi_rt.generate import answers, request
from pengi_rt.options import DEFAULTS, Options
from pengi_rt.reading import read_groups
from pengi_rt.retrieval.index import Index
from pengi_rt.retrieval.nearest import nearest
from pengi_rt.session import Session

By = Literal["captions", "audio"]
"""What of the index a query is compared with: the captions (paper, section 5.4), or the sounds
themselves. Text is near to sound only where a model was trained so (CLAP, the demo model).
"""


@dataclass(frozen=True, slots=True)
class Hit:
    """A recording that was found, and its window that is nearest to the query."""

    file: str  # relative to the collection
    start: float  # seconds into the recording
    end: float  # seconds
    caption: str
    score: float  # cosine


class Query(NamedTuple):
    """What to look for: exactly one of the two."""

    text: str | None
    like: AudioLike | Recording | None


def search_index(
    session: Session, index: Index, query: Query, k: int, *, by: By | None = None
) -> list[Hit]:
    """The ``k`` recordings nearest to a query, best first; fewer if the index has no more.

    A recording is as near as its nearest window, to the nearest window of an example.

    Args:
        session: the plan that the index was made by.
        index: open.
        query: a text, or a recording as an example.
        k: how many.
        by: what is compared; by default captions with a text, sounds with an example.

    Raises:
        UsageError: the query is not one of the two; the index is another plan's; ``k`` is below 1;
            ``by`` is unknown.
        PromptError, AudioError: the query cannot be read.
        InputError: the index is damaged.
    """
    if (query.text is None) == (query.like is None):
        raise UsageError("search for a text or for an example recording, one of them")
    by = by or ("audio" if query.text is None else "captions")
    matrix = _matrix(session, index, by)
    if query.text is not None:
        vectors = _embedded(session, [query.text])
    else:
        vectors = _example(session, index, query.like, by)
    return _hits(index, matrix, vectors, k)


def _example(session: Session, index: Index, like: Any, by: By) -> F32:
    """``[windows, d_proj]``: of an example's sound, or of what is written of it."""
    hop = float(index.settings["hop"])
    options = Options(**{**DEFAULTS, "hop": hop, "text": str(index.settings["text"])})
    groups = read_groups([like], session.config, options)
    if by == "audio":
        (heard,) = embed_recordings(session, groups, options["batch_size"])
        return heard.embedding
    asked = request(session, [str(index.settings["prompt"])], options)
    (written,) = answers(session, groups, asked)
    return _embedded(session, [window.text for window in written.windows])


def _embedded(session: Session, texts: list[str]) -> F32:
    return np.stack([each.embedding for each in embed_texts(session, texts)])


def _matrix(session: Session, index: Index, by: By) -> F32:
    """What to search in. Raises UsageError."""
    if index.plan != session.plan.fingerprint:
        raise UsageError(
            f"{index.path}: was made by another plan than {session.plan.path}: search with that "
            "one (--engine), or index the collection again with --rebuild"
        )
    if by not in get_args(By):
        raise UsageError(f"by must be one of {', '.join(get_args(By))}; got {by!r}")
    matrix = index.captions if by == "captions" else index.audio
    if matrix is None:
        raise UsageError(f"{index.path}: holds no sounds to search in: take by='captions'")
    return matrix


def _hits(index: Index, matrix: F32, queries: F32, k: int) -> list[Hit]:
    """The best ``k`` recordings over all queries, each by its nearest window."""
    wanted = k
    while True:
        scores, numbers = nearest(matrix, unit(queries), wanted)
        best: dict[str, Hit] = {}
        order = np.lexsort((numbers.ravel(), -scores.ravel()))
        for place in order.tolist():
            row = index.rows[int(numbers.ravel()[place])]
            score = float(scores.ravel()[place])
            best.setdefault(row.file, Hit(row.file, row.start, row.end, row.caption, score))
        if len(best) >= k or wanted >= len(matrix):
            return list(best.values())[:k]
        wanted *= 4  # long recordings take several places


def recording_path(index: Index, hit: Hit) -> Path:
    """Where the recording of a hit was when it was indexed."""
    return Path(index.collection) / hit.file
