"""Explain the decoder's prefix: the tokens nearest to each of its vectors, by cosine.

Source: paper, appendix B.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from pengi_rt.backends.protocol import F32, F64, I64
from pengi_rt.config.checked import whole
from pengi_rt.config.options import ExplainOptions
from pengi_rt.errors import UsageError
from pengi_rt.results.explanation import (
    ExplainedWindow,
    Explanation,
    Neighbor,
    PrefixPart,
    PrefixVector,
)
from pengi_rt.session.batches import Batch, OutputsByRecording
from pengi_rt.session.session import Session
from pengi_rt.tasks.embed import unit
from pengi_rt.tasks.prepare import PreparedPrompt, one_prompt

_TOKENS = 4096  # embeddings compared at a time: 12 MB for GPT-2
_VECTORS = 512  # vectors compared with them at a time: at most 17 MB of cosines


def explain(
    session: Session,
    batches: Iterable[Batch],
    prompt: str | None,
    options: ExplainOptions,
    *,
    partial_results: bool = False,
) -> Iterator[Explanation]:
    """Explain each recording in turn, with the ``options.k`` tokens nearest to each vector.

    With ``partial_results``, each batch of windows is explained separately.

    Raises:
        UsageError: ``k`` exceeds the vocabulary, or the prefix exceeds the decoder's positions; or
            as for :func:`~pengi_rt.tasks.prepare.one_prompt`.
        PromptError: the prompt is not valid text, or is too long (``strict``).
        BackendError: the session is closed.
    """
    session.plan.require("explain")
    one = one_prompt(prompt, options, session.generative.generation.prompt, "explain")
    prepared = PreparedPrompt(session, one, options)
    _check_fits(session, prepared)
    k = whole("k", options.k, 1, session.generative.decoder.vocab_size)
    explainer = _Explainer(session, prepared, k)
    by_recording = OutputsByRecording[ExplainedWindow](partial_results=partial_results)
    return (
        Explanation(
            audio=part.recording.name,
            prompt=prepared.prompt,
            windows=tuple(part.outputs),
            prompt_truncated=prepared.truncated,
            audio_truncated=part.recording.truncated,
            options=options,
            audio_warnings=part.recording.warnings,
            window_range=part.window_range,
        )
        for batch in batches
        for part in by_recording.add(batch, explainer.explain(batch))
    )


def _check_fits(session: Session, prompt: PreparedPrompt) -> None:
    rows = session.generative.audio_prefix_length + len(prompt)
    positions = session.generative.decoder.n_positions
    if rows > positions:
        raise UsageError(
            f"a prefix of {rows} rows exceeds the decoder's {positions} positions: shorten the text"
        )


class _Explainer:
    """A prompt and the neighbors of its own vectors, which are the same for all recordings."""

    def __init__(self, session: Session, prompt: PreparedPrompt, k: int) -> None:
        self._session = session
        self._k = k
        self._places = _places(session, prompt)
        self._prompt_neighbors = _neighbors(session, prompt.prefix(), k)

    def explain(self, batch: Batch) -> list[ExplainedWindow]:
        """Explain every window of a batch."""
        prefixes = self._session.encode_audio(batch.windows).prefix
        count, length, size = prefixes.shape
        flat = _neighbors(self._session, prefixes.reshape(count * length, size), self._k)
        by_window = (flat[start : start + length] for start in range(0, len(flat), length))
        windows = zip(batch.spans, by_window, strict=True)
        return [ExplainedWindow(*span, self._vectors(audio)) for span, audio in windows]

    def _vectors(self, audio: list[tuple[Neighbor, ...]]) -> tuple[PrefixVector, ...]:
        vectors = zip(self._places, audio + self._prompt_neighbors, strict=True)
        return tuple(PrefixVector(*place, neighbors) for place, neighbors in vectors)


def _places(session: Session, prompt: PreparedPrompt) -> list[tuple[PrefixPart, int]]:
    """The part of the prefix that each vector belongs to, and its position there."""
    audio, suffix = session.generative.audio_prefix_length, len(prompt.suffix)
    lengths: list[tuple[PrefixPart, int]] = [
        ("audio", audio),
        ("prompt", len(prompt) - suffix),
        ("text", suffix),
    ]
    return [(part, position) for part, length in lengths for position in range(length)]


def _neighbors(session: Session, vectors: F32, k: int) -> list[tuple[Neighbor, ...]]:
    """The ``k`` nearest tokens of each of ``vectors`` ``[n, n_embd]``; ties by token id."""
    chunks = (vectors[start : start + _VECTORS] for start in range(0, len(vectors), _VECTORS))
    return [nearest for chunk in chunks for nearest in _nearest(session, unit(chunk), k)]


def _nearest(session: Session, vectors: F32, k: int) -> Iterator[tuple[Neighbor, ...]]:
    """Like :func:`_neighbors`, for a few vectors of length 1."""
    vocab = session.generative.decoder.vocab_size
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
            Neighbor(token, session.tokenizer.piece(token), cosine)
            for token, cosine in zip(*row, strict=True)
        )
