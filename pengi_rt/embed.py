"""Vectors instead of answers: embeddings and prefixes of recordings and texts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pengi_rt.backends.protocol import F32
from pengi_rt.errors import UsageError
from pengi_rt.reading import Group, parted, waves
from pengi_rt.session import Session

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
    audio_warnings: tuple[str, ...] = ()  # why it may be no sound


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
    session: Session, groups: Iterable[Group], batch_size: int
) -> Iterator[AudioEmbedding]:
    """Every recording's vectors in turn.

    Raises:
        BackendError: the session is closed, now or meanwhile.
    """
    with session.in_use():
        return _embedded(session, groups, batch_size)


def _embedded(
    session: Session, groups: Iterable[Group], batch_size: int
) -> Iterator[AudioEmbedding]:
    for group in groups:
        embedding, prefix = heard(session, group, batch_size)
        for recording, own in parted(group):
            yield AudioEmbedding(
                audio=recording.name,
                starts=recording.starts,
                ends=recording.ends,
                embedding=embedding[own],
                prefix=prefix[own],
                audio_truncated=recording.truncated,
                audio_warnings=recording.warnings,
            )


def heard(session: Session, group: Group, batch_size: int) -> tuple[F32, F32]:
    """Embeddings ``[n, d_proj]`` and prefixes ``[n, a, n_embd]`` of all windows of a group."""
    encoded = []
    for wave in waves(group, batch_size):
        with session.in_use():
            encoded.append(session.backend.encode_audio(wave))
    embeddings, rows = zip(*encoded, strict=True)
    return np.concatenate(embeddings), np.concatenate(rows)


def embed_texts(
    session: Session, texts: Sequence[str], *, strict: bool = False
) -> list[TextEmbedding]:
    """The vectors of ``texts``, in batches.

    Raises:
        UsageError: the plan has no text encoder.
        PromptError: a text cannot be read, or is too long (``strict``).
        BackendError: the session is closed.
    """
    if not session.joint_embeddings:
        raise UsageError(
            f"{session.plan.path} has no text encoder, so texts have no embedding; "
            "export a checkpoint that has one (base)"
        )
    tokenizer = session.prompt_tokenizer
    prompts = [tokenizer.encode(text, strict=strict) for text in texts]
    found = []
    for start in range(0, len(texts), TEXT_BATCH):
        batch = prompts[start : start + TEXT_BATCH]
        with session.in_use():
            encoded = session.backend.encode_text(tokenizer.pad([prompt.ids for prompt in batch]))
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
