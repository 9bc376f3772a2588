"""Text matching: the label whose embedding is nearest, by cosine, to the embedding of the answer.

Source: paper, figure 3; the text encoder is the model's own.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from pengi_rt.backends.protocol import F32, F64
from pengi_rt.errors import UsageError
from pengi_rt.results.embedding import TextEmbedding
from pengi_rt.session.session import Session
from pengi_rt.tasks.embed import embed_texts, unit

logger = logging.getLogger(__name__)

DIGITS: Final = 6

Span = tuple[int, int]
"""A run of consecutive parts of an answer, as start and stop indices."""

SEPARATOR: Final = ","
"""Separates the sounds of an answer that names several (table 1, sound event targets)."""


class Matcher:
    """Compares answers with the embeddings of labels.

    A text longer than the text encoder reads is truncated, with a warning for every such label and
    for the first such answer. ``strict`` refuses only labels: the user did not choose the model's
    answer.
    """

    def __init__(self, session: Session, labels: Mapping[str, str], *, strict: bool) -> None:
        """Embed the texts of ``labels``.

        Raises:
            UsageError: the text encoder cannot tell two labels apart.
            PromptError: a label is not valid text, or is too long (``strict``).
        """
        self._session = session
        self._has_warned = False
        known: dict[bytes, str] = {}
        for label, text in labels.items():
            tokens = session.prompt_tokenizer.encode(text, strict=strict)
            if tokens.truncated:
                self._warn("the label", label)
            other = known.setdefault(tokens.ids.tobytes(), label)
            if other != label:
                raise UsageError(
                    f"the text encoder cannot tell labels {other!r} and {label!r} apart"
                )
        texts = tuple(labels.values())
        self._most = 1 + max(text.count(SEPARATOR) for text in texts)
        self._labels = session.cached(
            ("labels", texts), lambda: _units(embed_texts(session, texts))
        )

    def scores(self, answers: Sequence[str]) -> F64:
        """Cosines of every answer with every label, ``[answers, labels]``; 0 for an empty answer.

        Rounded to the precision of float32 embeddings: an answer that equals a label has the cosine
        1 on every backend.
        """
        cosines = np.zeros((len(answers), len(self._labels)))
        places = [place for place, text in enumerate(answers) if text]
        if places:
            found = embed_texts(self._session, [answers[place] for place in places])
            self._check_whole(found)
            units = _units(found).astype(np.float64)
            cosines[places] = (units @ self._labels.T.astype(np.float64)).round(DIGITS)
        return cosines

    def multi_label(self, answers: Sequence[str]) -> tuple[F64, list[list[int]]]:
        """Like :meth:`scores`, for answers that name several sounds; also gives the chosen labels.

        An answer is split at its commas; if labels contain commas, consecutive parts may belong
        together. The best split is the one nearest to the labels, with equal weight per part, and
        each of its runs of parts chooses its nearest label. A label's score is its best cosine with
        any run.
        """
        parts = [[part.strip() for part in text.split(SEPARATOR)] for text in answers]
        runs = [self._runs([part for part in each if part]) for each in parts]
        texts = [f"{SEPARATOR} ".join(run) for each in runs for run in each.values()]
        flat = iter(self.scores(texts))
        scores = np.zeros((len(answers), len(self._labels)))
        chosen: list[list[int]] = []
        for row, each in zip(scores, runs, strict=True):
            found = {run: next(flat) for run in each}
            if found:
                row[:] = np.max(list(found.values()), axis=0)
            best = _segmented({run: float(cosines.max()) for run, cosines in found.items()})
            chosen.append(list(dict.fromkeys(int(found[run].argmax()) for run in best)))
        return scores, chosen

    def _runs(self, parts: Sequence[str]) -> dict[Span, Sequence[str]]:
        """All runs of parts, up to the length of the longest label, by start and stop."""
        return {
            (first, last): parts[first:last]
            for first in range(len(parts))
            for last in range(first + 1, min(first + self._most, len(parts)) + 1)
        }

    def _check_whole(self, answers: Sequence[TextEmbedding]) -> None:
        """Warn, once, that an answer was truncated."""
        cut = next((answer.text for answer in answers if answer.truncated), None)
        if cut is not None and not self._has_warned:
            self._has_warned = True
            self._warn("an answer", cut)

    def _warn(self, what: str, text: str) -> None:
        logger.warning(
            "%s is longer than the text encoder reads (%d tokens) and is matched without its "
            "end: %.40r ...",
            what,
            self._session.prompt_tokenizer.max_length,
            text,
        )


def _units(found: Sequence[TextEmbedding]) -> F32:
    """The embeddings scaled to length 1, ``[n, d_proj]``."""
    return unit(np.stack([each.embedding for each in found]))


def _segmented(weights: Mapping[Span, float]) -> list[Span]:
    """The runs, end to end, with the largest sum of weight times length; ties go to longer runs."""
    ends = sorted({last for _, last in weights})
    best: dict[int, tuple[float, list[Span]]] = {0: (0.0, [])}
    for end in ends:
        ways = [
            (best[first][0] + weight * (last - first), [*best[first][1], (first, last)])
            for (first, last), weight in sorted(weights.items())
            if last == end
        ]
        best[end] = max(ways, key=lambda way: way[0])
    return best[ends[-1]][1] if ends else []
