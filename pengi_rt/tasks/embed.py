"""Embeddings and prefixes of recordings and texts."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pengi_rt.backends.protocol import F32
from pengi_rt.config.checked import listed
from pengi_rt.config.options import ReadOptions
from pengi_rt.errors import UsageError
from pengi_rt.results.embedding import AudioEmbedding, TextEmbedding
from pengi_rt.session.batches import Batch, OutputsByRecording
from pengi_rt.session.session import Session

TEXT_BATCH = 64


def embed_recordings(
    session: Session,
    batches: Iterable[Batch],
    options: ReadOptions,
    *,
    partial_results: bool = False,
) -> Iterator[AudioEmbedding]:
    """Embed each recording in turn; with ``partial_results``, each batch of windows separately.

    Raises:
        BackendError: the session is closed (raised by the call or while iterating).
    """
    session.plan.require("embed")
    with session.exclusive():
        return _embedded(session, batches, options, partial_results=partial_results)


def _embedded(
    session: Session, batches: Iterable[Batch], options: ReadOptions, *, partial_results: bool
) -> Iterator[AudioEmbedding]:
    by_recording = OutputsByRecording[tuple[F32, F32]](partial_results=partial_results)
    for batch in batches:
        encoded = list(zip(*session.encode_audio(batch.windows), strict=True))
        for part in by_recording.add(batch, encoded):
            embedding, prefix = map(np.stack, zip(*part.outputs, strict=True))
            starts, ends = zip(*part.spans, strict=True)
            yield AudioEmbedding(
                audio=part.recording.name,
                starts=starts,
                ends=ends,
                embedding=embedding,
                prefix=prefix,
                audio_truncated=part.recording.truncated,
                options=options,
                audio_warnings=part.recording.warnings,
                window_range=part.window_range,
            )


def embed_texts(
    session: Session, texts: Sequence[str], *, strict: bool = False
) -> list[TextEmbedding]:
    """Embed texts, in batches.

    Raises:
        UsageError: the plan has no text encoder, or ``texts`` is one string.
        PromptError: a text is invalid, or is too long (``strict``).
        BackendError: the session is closed.
    """
    session.plan.require("embed texts")
    if isinstance(texts, str):
        raise UsageError(f"texts must be a list of strings, got one string: {texts[:40]!r}")
    tokenizer, texts = session.prompt_tokenizer, listed("texts", texts)
    prompts = [tokenizer.encode(text, strict=strict) for text in texts]
    found = []
    for start in range(0, len(texts), TEXT_BATCH):
        batch = prompts[start : start + TEXT_BATCH]
        encoded = session.encode_texts(tokenizer.pad([prompt.ids for prompt in batch]))
        named = zip(texts[start : start + TEXT_BATCH], batch, *encoded, strict=True)
        found += [
            TextEmbedding(text, embedding, prefix, prompt.truncated)
            for text, prompt, embedding, prefix in named
        ]
    return found


def unit(vectors: NDArray[Any]) -> F32:
    """Scale ``vectors`` ``[..., d]`` to length 1; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normalized: F32 = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return normalized
