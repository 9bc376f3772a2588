"""What the decoder is told: the tokens nearest to each vector of its prefix, by cosine.

Source: paper, appendix B.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pengi_rt.backends.protocol import F32, F64, I64
from pengi_rt.config.checked import whole
from pengi_rt.config.options import ExplainOptions
from pengi_rt.errors import UsageError
from pengi_rt.results.window_range import WindowRange
from pengi_rt.session.batches import Batch, split_by_recording
from pengi_rt.session.session import Session
from pengi_rt.tasks.embed import unit
from pengi_rt.tasks.prepare import PreparedPrompt

Part = Literal["audio", "prompt", "text"]

_TOKENS = 4096  # embeddings compared at once: 12 MB of GPT-2's
_VECTORS = 512  # compared with them at once: 17 MB of cosines, however long a recording is


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A token of the decoder's vocabulary near a vector."""

    token: int
    text: str
    cosine: float


@dataclass(frozen=True, slots=True)
class PrefixVector:
    """One vector of the prefix, and its neighbours, nearest first."""

    part: Part
    position: int  # within its part
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True)
class ExplainedWindow:
    """The vectors that stand for a window and its prompt, in the decoder's order."""

    start: float  # seconds into the recording
    end: float  # seconds
    vectors: tuple[PrefixVector, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The prefixes of a recording, window by window, behind which ``prompt`` is answered."""

    audio: str
    prompt: str
    windows: tuple[ExplainedWindow, ...]
    prompt_truncated: bool
    audio_truncated: bool
    options: ExplainOptions
    audio_warnings: tuple[str, ...] = ()  # why it may be no sound
    window_range: WindowRange | None = None
    """Which windows of the recording these are (``partial_results``); None if all."""


def explain(
    session: Session,
    batches: Iterable[Batch],
    question: PreparedPrompt,
    options: ExplainOptions,
    *,
    partial_results: bool = False,
) -> Iterator[Explanation]:
    """Explain every recording in turn, with the ``options.k`` nearest tokens of each vector.

    ``partial_results``: a part of the recording comes with every batch.

    Raises:
        UsageError: ``k`` is below 1 or above the vocabulary; the prefix passes the decoder's
            positions.
        BackendError: the session is closed.
    """
    config = session.config
    vocab, positions = config.decoder.vocab_size, config.decoder.n_positions
    rows = config.audio_mapper.prefix_length + len(question)
    if rows > positions:
        raise UsageError(
            f"a prefix of {rows} rows passes the decoder's {positions} positions: shorten the text"
        )
    k = whole("k", options.k, 1, vocab)
    run = _Explainer(session, question, k).windows
    found = split_by_recording(batches, run, partial_results=partial_results)
    return (
        Explanation(
            audio=part.recording.name,
            prompt=question.prompt,
            windows=tuple(part.outputs),
            prompt_truncated=question.truncated,
            audio_truncated=part.recording.truncated,
            options=options,
            audio_warnings=part.recording.warnings,
            window_range=part.window_range,
        )
        for part in found
    )


class _Explainer:
    """A question, and the neighbours of the vectors that it puts behind every recording's."""

    def __init__(self, session: Session, question: PreparedPrompt, k: int) -> None:
        self._session = session
        self._k = k
        self._parts = _parts(session, question)
        self._shared = _neighbours(session, question.prefix(), k)

    def windows(self, batch: Batch) -> list[ExplainedWindow]:
        """The vectors of every window of a batch."""
        prefixes = self._session.encode_audio(batch.windows).prefix
        rows, length, size = prefixes.shape
        found = _neighbours(self._session, prefixes.reshape(rows * length, size), self._k)
        near = (found[at : at + length] for at in range(0, len(found), length))
        windows = zip(batch.spans, near, strict=True)
        return [ExplainedWindow(*span, self._vectors(each)) for span, each in windows]

    def _vectors(self, heard: list[tuple[Neighbour, ...]]) -> tuple[PrefixVector, ...]:
        found = zip(self._parts, heard + self._shared, strict=True)
        return tuple(PrefixVector(*part, neighbours) for part, neighbours in found)


def _parts(session: Session, question: PreparedPrompt) -> list[tuple[Part, int]]:
    """What every vector of a whole prefix stands for."""
    audio = session.config.audio_mapper.prefix_length
    text = len(question.suffix)
    prompt = len(question) - text
    lengths: list[tuple[Part, int]] = [("audio", audio), ("prompt", prompt), ("text", text)]
    return [(part, position) for part, length in lengths for position in range(length)]


def _neighbours(session: Session, vectors: F32, k: int) -> list[tuple[Neighbour, ...]]:
    """Of each of ``vectors`` ``[n, n_embd]``; equally near tokens in the order of their ids."""
    parts = (vectors[start : start + _VECTORS] for start in range(0, len(vectors), _VECTORS))
    return [found for part in parts for found in _nearest(session, unit(part), k)]


def _nearest(session: Session, vectors: F32, k: int) -> Iterator[tuple[Neighbour, ...]]:
    """As :func:`_neighbours`, of some vectors of length 1."""
    vocab = session.config.decoder.vocab_size
    cosines: F64 = np.empty((len(vectors), 0))
    tokens: I64 = np.empty((len(vectors), 0), np.int64)
    for start in range(0, vocab, _TOKENS):
        ids = range(start, min(start + _TOKENS, vocab))
        table = unit(session.embed_tokens(ids))
        cosines = np.concatenate([cosines, vectors.astype(np.float64) @ table.T], axis=1)
        tokens = np.concatenate([tokens, np.broadcast_to(ids, (len(vectors), len(ids)))], axis=1)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        cosines = np.take_along_axis(cosines, best, axis=1)
        tokens = np.take_along_axis(tokens, best, axis=1)
    for row in zip(tokens.tolist(), cosines.tolist(), strict=True):
        yield tuple(
            Neighbour(token, session.tokenizer.piece(token), cosine)
            for token, cosine in zip(*row, strict=True)
        )
