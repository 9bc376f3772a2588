"""Search an index for the recordings nearest to a text or to an example recording."""

import logging
import os
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
from pengi_rt.results.search import Hit
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
"""Gives the scores and numbers of the best rows for every query, [Q, rows], for a row count."""

_SETTINGS = {
    "prompt": str,
    "text": str,
    "beam_size": int,
    "max_new_tokens": int,
    "temperature": float,
    "stop_id": int,
    "stop_strings": list,
    "hop": float,
}


class Query(NamedTuple):
    """What to look for: either a text or an example recording."""

    text: str | None = None
    like: AudioLike | Recording | None = None


def search_index(
    session: Session,
    index: str | os.PathLike[str] | Index,
    query: Query,
    options: SearchOptions,
) -> list[Hit]:
    """The ``k`` recordings nearest to a query, best first; fewer if the index has no more.

    A recording's score is that of its nearest window, compared with the nearest window of the
    example, if there is one. The example is read and captioned with the settings of the index.

    Args:
        session: the plan that the index was made with.
        index: the index, or its folder.
        query: a text, or an example recording.
        options: see :class:`SearchOptions`. By default, a text is compared with captions and an
            example with sounds. A text cannot be compared with sounds: after training, their
            embeddings share no space. ``approximate`` may miss a recording.

    Raises:
        UsageError: an argument is invalid; or the index was made with a different plan, or lacks
            the files for ``approximate``.
        PromptError, AudioError: the query cannot be read.
        InputError: the index is damaged.
        BackendError: ``approximate`` is given, and faiss is missing.
    """
    session.plan.require("search")
    index = index if isinstance(index, Index) else Index.open(index)
    by = options.by or ("audio" if query.text is None else "captions")
    _check(session, index, query, by, approximate=options.approximate)
    example = _Example(session, index, query.like, options)
    return _hits(index, _finder(query, example, by), replace(options, by=by))


def _finder(query: Query, example: "_Example", by: By) -> Finder:
    """The function that finds rows for the query."""
    session, index = example.session, example.index
    if by == "words":
        text = " ".join(example.captions()) if query.text is None else query.text
        return partial(_by_words, index, text)
    if query.text is not None:
        vectors = _embedded(session, query.text, strict=example.options.strict)
    else:
        vectors = example.sounds() if by == "audio" else example.vectors()
    if example.options.approximate:
        return partial(nearest_approximate, index, vectors, matrix=by)
    matrix = index.captions if by == "captions" else index.audio
    assert matrix is not None
    return partial(nearest, matrix, vectors)


def _check(session: Session, index: Index, query: Query, by: By, *, approximate: bool) -> None:
    """Refuse a query that cannot be compared with the index. Raises UsageError."""
    if (query.text is None) == (query.like is None):
        raise UsageError("search for either a text or an example recording")
    if index.plan != session.plan.fingerprint:
        raise UsageError(
            f"{index.path}: was not made by {session.plan.path}: search with the plan that made "
            "it (--engine), or index the collection again with --rebuild"
        )
    if by == "audio" and query.text is not None:
        raise UsageError(
            "a text is compared with captions or words; to search sounds, give an example"
        )
    if by == "audio" and index.audio is None:
        raise UsageError(f"{index.path}: has no sounds to search: search the captions instead")
    if by == "words" and approximate:
        raise UsageError("a search by words is always exact: leave out approximate")


def _by_words(index: Index, text: str, rows: int) -> tuple[F32, I64]:
    """Rows that share words with ``text``, ``[1, rows]``; -1 where there are no more."""
    best_scores, best = index.words.nearest(text, rows)
    scores = np.full((1, min(rows, len(index.rows))), -np.inf, np.float32)
    numbers = np.full(scores.shape, -1, np.int64)
    scores[0, : len(best)], numbers[0, : len(best)] = best_scores, best
    return scores, numbers


def _embedded(session: Session, text: str, *, strict: bool) -> F32:
    """The embedding of a text, ``[1, d_proj]``; warns if the text was cut."""
    (embedded,) = embed_texts(session, [text], strict=strict)
    if embedded.truncated:
        logger.warning(
            "the query is longer than the text encoder reads (%d tokens) and was cut: %.40r ...",
            session.prompt_tokenizer.max_length,
            text,
        )
    return embedded.embedding[None]


@dataclass(frozen=True)
class _Example:
    """An example recording, read and captioned with the settings of the index."""

    session: Session
    index: Index
    like: Any
    options: SearchOptions

    def sounds(self) -> F32:
        """Audio embeddings of its windows, ``[windows, d_proj]``."""
        options = self._read_options()
        batches = window_batches([self.like], self.session.config, options)
        (embedded,) = embed_recordings(self.session, batches, options)
        return embedded.embedding

    def captions(self) -> list[str]:
        """Captions of its windows."""
        options = self._read_options()
        batches = window_batches([self.like], self.session.config, options)
        request = _request(self.session, self.index.settings, options)
        (result,) = iter_results(self.session, batches, request)
        return [window.text for window in result.windows]

    def vectors(self) -> F32:
        """Text embeddings of its captions, ``[windows, d_proj]``."""
        captions = embed_texts(self.session, self.captions())
        return np.stack([each.embedding for each in captions])

    def _read_options(self) -> GenerateOptions:
        """The options of the index. Raises InputError."""
        settings = self.index.settings
        if any(type(settings.get(name)) is not kind for name, kind in _SETTINGS.items()):
            raise InputError(
                f"{self.index.path}: its settings do not fit this version: index the collection "
                "again with --rebuild"
            )
        names = ("text", "beam_size", "max_new_tokens", "temperature", "stop_strings", "hop")
        same: dict[str, Any] = {name: settings[name] for name in names}
        own = self.options
        return GenerateOptions(**same, batch_size=own.batch_size, strict=own.strict)


def _request(session: Session, settings: Any, options: GenerateOptions) -> PreparedRequest:
    """The request that the recordings of the index were captioned with."""
    request = prepare(session, [settings["prompt"]], options)
    assert isinstance(request.decode, DecodeOptions)
    return replace(request, decode=replace(request.decode, stop_id=settings["stop_id"]))


def _hits(index: Index, find: Finder, options: SearchOptions) -> list[Hit]:
    """The best ``k`` recordings over all queries, each with its nearest window."""
    rows = k = options.k
    while True:
        scores, numbers = find(rows)
        hits = _recordings(index, scores, numbers, options)
        exhausted = rows >= len(index.rows) or bool((numbers[:, -1] < 0).all())
        if len(hits) >= k or exhausted:
            return hits
        rows *= 4  # a long recording has several rows


def _recordings(index: Index, scores: F32, numbers: I64, options: SearchOptions) -> list[Hit]:
    """Up to ``k`` recordings, down to the best score at which any query's list ends.

    Below that score, a row that is not in a list could belong among them.
    """
    if not scores.size:
        return []
    end = min(zip(-scores[:, -1], numbers[:, -1], strict=True))
    best: dict[str, Hit] = {}
    for place in np.lexsort((numbers.ravel(), -scores.ravel())).tolist():
        number, score = int(numbers.flat[place]), float(scores.flat[place])
        if number < 0 or (-score, number) > end or len(best) == options.k:
            break
        row = index.rows[number]
        if row.file not in best:
            path, only = Path(index.collection, row.file), _is_only_window(index, number)
            best[row.file] = Hit(
                row.file, row.start, row.end, row.caption, score, path, number, only, options
            )
    return list(best.values())


def _is_only_window(index: Index, number: int) -> bool:
    """Whether no other row is about the same recording, whose rows are consecutive."""
    near = index.rows[max(number - 1, 0) : number + 2]
    return sum(row.file == index.rows[number].file for row in near) == 1
