"""Vectors instead of answers: embeddings and prefixes of recordings and texts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pengi_rt.backends.protocol import F32
from pengi_rt.config.checked import listed
from pengi_rt.config.options import ReadOptions
from pengi_rt.errors import UsageError
from pengi_rt.results.window_range import WindowRange
from pengi_rt.session.batches import Batch, split_by_recording
from pengi_rt.session.session import Session

TEXT_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class AudioEmbedding:
    """A recording's vectors, window by window.

    ``embedding`` is what the mapping network reads, of length 1 (``[W, d_proj]``); ``prefix`` is
    what the decoder reads (``[W, prefix_length, n_embd]``). float32.
    """

    audio: str
    starts: tuple[float, ...]  # seconds
    ends: tuple[float, ...]  # seconds
    embedding: F32
    prefix: F32
    audio_truncated: bool
    options: ReadOptions
    audio_warnings: tuple[str, ...] = ()  # why it may be no sound
    window_range: WindowRange | None = None
    """Which windows of the recording these are (``partial_results``); None if all."""


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbedding:
    """A text's vectors: ``embedding`` ``[d_proj]``, ``prefix`` ``[prefix_length, n_embd]``.

    The embedding is as the model's mapping network reads it: of length 1 only where the model was
    trained and released so (``config.normalize_text``).
    """

    text: str
    embedding: F32
    prefix: F32
    truncated: bool


def embed_recordings(
    session: Session,
    batches: Iterable[Batch],
    options: ReadOptions,
    *,
    partial_results: bool = False,
) -> Iterator[AudioEmbedding]:
    """Every recording's vectors in turn; ``partial_results``: a part with every batch.

    Raises:
        BackendError: the session is closed, now or meanwhile.
    """
    with session.exclusive():
        return _embedded(session, batches, options, partial_results=partial_results)


def _embedded(
    session: Session, batches: Iterable[Batch], options: ReadOptions, *, partial_results: bool
) -> Iterator[AudioEmbedding]:
    def answer(batch: Batch) -> list[tuple[F32, F32]]:
        return list(zip(*session.encode_audio(batch.windows), strict=True))

    for part in split_by_recording(batches, answer, partial_results=partial_results):
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
    """The vectors of ``texts``, in batches.

    Raises:
        UsageError: the plan has no text encoder.
        PromptError: a text cannot be read, or is too long (``strict``).
        BackendError: the session is closed.
    """
    if not session.has_joint_embeddings:
        raise UsageError(
            f"{session.plan.path} has no text encoder, so texts have no embedding; "
            "export a checkpoint that has one (base)"
        )
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
    """``vectors`` ``[..., d]`` at length 1; a zero vector stays one."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normalised: F32 = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return normalised
