"""Queries to an index: a text, or a recording as an example, to the recordings nearest to it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pengi_rt.audio.recording import AudioLike, Recording
from pengi_rt.backends.protocol import F32, I64
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.options import By, GenerateOptions, SearchOptions
from pengi_rt.errors import InputError, UsageError
from pengi_rt.session.batches import window_batches
from pengi_rt.session.session import Session
from pengi_rt.tasks.embed import embed_recordings, embed_texts
from pengi_rt.tasks.generate import iter_results
from pengi_rt.tasks.prepare import PreparedRequest, prepare
from pengi_rt.tasks.search.approximate import nearest_approximate
from pengi_rt.tasks.search.index import Index
from pengi_rt.tasks.search.nearest import nearest

logger = logging.getLogger(__name__)


Finder = Callable[[int], tuple[F32, I64]]
"""The best so many rows for every query, and their scores: [Q, rows]."""

_SETTINGS = {
    "prompt": str, "text": str, "beam_size": int, "max_new_tokens": int, "temperature": float,
    "stop_id": int, "stop_strings": list, "hop": float,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hit:
    """A recording that was found, and its window that is nearest to the query."""

    file: str  # relative to the collection
    start: float  # seconds into the recording
    end: float  # seconds
    caption: str
    score: float  # cosine; BM25 by words
    path: Path  # where it was when it was indexed
    row: int  # of the index


class Query(NamedTuple):
    """What to look for: exactly one of the two."""

    text: str | None = None
    like: AudioLike | Recording | None = None


def search_index(
    session: Session,
    index: Index,
    query: Query,
    options: SearchOptions,
) -> list[Hit]:
    """The ``k`` recordings nearest to a query, best first; fewer if the index has no more.

    A recording is as near as its nearest window, to the nearest window of an example, which is
    read, and for its captions request, as the index's recordings were.

    Args:
        session: the plan that the index was made by.
        index: open.
        query: a text, or a recording as an example.
        options: see :class:`SearchOptions`. By default captions are compared with a text, sounds
            with an example. A text has no place among sounds: the two share no space once a Pengi
            is trained. ``approximate`` may miss a recording.

    Raises:
        UsageError: an argument cannot be; the index is another plan's, or lacks what
            ``approximate`` needs.
        PromptError, AudioError: the query cannot be read.
        InputError: the index is damaged.
        BackendError: ``approximate`` without faiss.
    """
    session.plan.require("search")
    by = options.by or ("audio" if query.text is None else "captions")
    approximate = options.approximate
    _check(session, index, query, by, approximate=approximate)
    example = _Example(session, index, query.like, options.batch_size, options.strict)
    return _hits(index, _finder(query, example, by, approximate=approximate), options.k)


def _finder(query: Query, example: "_Example", by: By, *, approximate: bool) -> Finder:
    """What finds rows for the query."""
    session, index = example.session, example.index
    if by == "words":
        text = " ".join(example.captions()) if query.text is None else query.text
        return partial(_worded, index, text)
    if query.text is not None:
        vectors = _described(session, query.text, strict=example.strict)
    else:
        vectors = example.sounds() if by == "audio" else example.vectors()
    if approximate:
        return partial(nearest_approximate, index, vectors, matrix=by)
    matrix = index.captions if by == "captions" else index.audio
    assert matrix is not None
    return partial(nearest, matrix, vectors)


def _check(session: Session, index: Index, query: Query, by: By, *, approximate: bool) -> None:
    """Refuse what cannot be compared. Raises UsageError."""
    if (query.text is None) == (query.like is None):
        raise UsageError("search for a text or for an example recording, one of them")
    if index.plan != session.plan.fingerprint:
        raise UsageError(
            f"{index.path}: was made by another plan than {session.plan.path}: search with that "
            "one (--engine), or index the collection again with --rebuild"
        )
    if by == "audio" and query.text is not None:
        raise UsageError("a text is compared with captions or their words; sounds need an example")
    if by == "audio" and index.audio is None:
        raise UsageError(f"{index.path}: holds no sounds to search in: take captions")
    if by == "words" and approximate:
        raise UsageError("words are looked up exactly: leave approximate")


def _worded(index: Index, text: str, rows: int) -> tuple[F32, I64]:
    """The rows that have words of ``text``, ``[1, rows]``; -1 where there are no more."""
    found, places = index.words.nearest(text, rows)
    scores = np.full((1, min(rows, len(index.rows))), -np.inf, np.float32)
    numbers = np.full(scores.shape, -1, np.int64)
    scores[0, : len(found)], numbers[0, : len(found)] = found, places
    return scores, numbers


def _described(session: Session, text: str, *, strict: bool) -> F32:
    """``[1, d_proj]``: of a text; a warning is logged if its end did not fit."""
    (embedded,) = embed_texts(session, [text], strict=strict)
    if embedded.truncated:
        logger.warning(
            "the query is longer than the text encoder reads (%d tokens) and was cut: %.40r ...",
            session.config.text.max_length,
            text,
        )
    return embedded.embedding[None]


@dataclass(frozen=True)
class _Example:
    """A recording that is read, and for its captions request, as the index's were."""

    session: Session
    index: Index
    like: Any
    batch_size: int
    strict: bool

    def sounds(self) -> F32:
        """``[windows, d_proj]``: of its sound."""
        options = self._options()
        batches = window_batches([self.like], self.session.config, options)
        (heard,) = embed_recordings(self.session, batches, options)
        return heard.embedding

    def captions(self) -> list[str]:
        """What is written of its windows."""
        options = self._options()
        batches = window_batches([self.like], self.session.config, options)
        request = _asked(self.session, self.index.settings, options)
        (written,) = iter_results(self.session, batches, request)
        return [window.text for window in written.windows]

    def vectors(self) -> F32:
        """``[windows, d_proj]``: of what is written of it."""
        captions = embed_texts(self.session, self.captions())
        return np.stack([each.embedding for each in captions])

    def _options(self) -> GenerateOptions:
        """Raises InputError."""
        settings = self.index.settings
        if any(type(settings.get(name)) is not kind for name, kind in _SETTINGS.items()):
            raise InputError(
                f"{self.index.path}: its settings are not those of this version: index the "
                "collection again with --rebuild"
            )
        names = ("text", "beam_size", "max_new_tokens", "temperature", "stop_strings", "hop")
        same: dict[str, Any] = {name: settings[name] for name in names}
        return GenerateOptions(**same, batch_size=self.batch_size, strict=self.strict)


def _asked(session: Session, settings: Any, options: GenerateOptions) -> PreparedRequest:
    """What the index's recordings were asked."""
    request = prepare(session, [settings["prompt"]], options)
    assert isinstance(request.decode, DecodeOptions)
    return replace(request, decode=replace(request.decode, stop_id=settings["stop_id"]))


def _hits(index: Index, find: Finder, k: int) -> list[Hit]:
    """The best ``k`` recordings over all queries, each by its nearest window."""
    rows = k
    while True:
        scores, numbers = find(rows)
        hits = _recordings(index, scores, numbers, k)
        exhausted = rows >= len(index.rows) or bool((numbers[:, -1] < 0).all())
        if len(hits) >= k or exhausted:
            return hits
        rows *= 4  # long recordings take several places


def _recordings(index: Index, scores: F32, numbers: I64, k: int) -> list[Hit]:
    """Up to ``k`` recordings, as far down as no row that was not found can belong among them.

    That is to the first of the places at which the queries' lists end.
    """
    if not scores.size:
        return []
    end = min(zip(-scores[:, -1], numbers[:, -1], strict=True))
    best: dict[str, Hit] = {}
    for place in np.lexsort((numbers.ravel(), -scores.ravel())).tolist():
        number, score = int(numbers.flat[place]), float(scores.flat[place])
        if number < 0 or (-score, number) > end or len(best) == k:
            break
        row = index.rows[number]
        path = Path(index.collection, row.file)
        hit = Hit(row.file, row.start, row.end, row.caption, score, path, number)
        best.setdefault(row.file, hit)
    return list(best.values())
