"""Text matching: the label whose embedding is nearest to that of the model's answer.

Source: paper, figure 3; the text encoder is the model's own, and nearness is the cosine.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from pengi_rt.backends.protocol import F32, F64
from pengi_rt.embed import embed_texts, unit
from pengi_rt.errors import UsageError
from pengi_rt.session import Session

logger = logging.getLogger(__name__)

SEPARATOR: Final = ","
"""Between the sounds of an answer that names several, as in table 1's target of sound events."""


class Matcher:
    """Labels with their embeddings.

    Answers are cut where the text encoder's limit is; so are labels, with a warning.
    """

    def __init__(self, session: Session, labels: Mapping[str, str], *, strict: bool) -> None:
        """Embed the texts of ``labels``.

        Raises:
            UsageError: the plan has no text encoder, or one that reads two labels alike.
            PromptError: a label cannot be read, or is too long (``strict``).
        """
        if not session.joint_embeddings:
            raise UsageError(
                f"{session.plan.path} has no text encoder to match texts with: classify by "
                "log-likelihood instead (--method log-likelihood)"
            )
        self._session = session
        found = embed_texts(session, list(labels.values()), strict=strict)
        self._labels: F32 = unit(np.stack([each.embedding for each in found]))
        known: dict[bytes, str] = {}
        for label, text in zip(labels, found, strict=True):
            if text.truncated:
                logger.warning("the label %.40r ... is longer than the text encoder reads", label)
            tokens = session.prompt_tokenizer.encode(text.text).ids.tobytes()
            other = known.setdefault(tokens, label)
            if other != label:
                raise UsageError(f"labels {other!r} and {label!r} are one to the text encoder")

    def scores(self, answers: Sequence[str]) -> F64:
        """``[n, labels]``: the cosine of every answer and every label; of no answer, 0."""
        cosines = np.zeros((len(answers), len(self._labels)))
        places = [place for place, text in enumerate(answers) if text]
        if places:
            found = embed_texts(self._session, [answers[place] for place in places])
            texts = unit(np.stack([each.embedding for each in found])).astype(np.float64)
            cosines[places] = texts @ self._labels.T.astype(np.float64)
        return cosines

    def lists(self, answers: Sequence[str]) -> tuple[F64, list[list[int]]]:
        """As :meth:`scores` where an answer may name several sounds, and the labels of each.

        An answer is parted at its commas. A label's score is its best with any part, and every part
        chooses the label nearest to it.
        """
        parts = [[part.strip() for part in text.split(SEPARATOR)] for text in answers]
        parts = [[part for part in each if part] for each in parts]
        flat = self.scores([part for each in parts for part in each])
        scores = np.zeros((len(answers), len(self._labels)))
        chosen: list[list[int]] = []
        first = 0
        for row, each in zip(scores, parts, strict=True):
            own = flat[first : first + len(each)]
            first += len(each)
            if len(each):
                row[:] = own.max(axis=0)
            chosen.append(list(dict.fromkeys(own.argmax(axis=1).tolist())))
        return scores, chosen
