"""Log-likelihood: the label that the decoder would most likely have written.

Source: paper, section 4.2, which leaves open how labels of different lengths compare.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pengi_rt.backends.protocol import F32, F64
from pengi_rt.config.options import Normalize
from pengi_rt.decoding.likelihood import Likelihoods, likelihoods
from pengi_rt.errors import UsageError
from pengi_rt.session.session import Session
from pengi_rt.tasks.classify.by_matching import SEPARATOR


class Scorer:
    """Labels as tokens.

    An answer begins right behind the prefix: labels are scored without a space before them, as the
    model was trained to write them. Behind additional text, which an answer goes on from, they have
    one.
    """

    def __init__(self, session: Session, labels: Mapping[str, str], *, continues: bool) -> None:
        """Tokenise the texts of ``labels``; ``continues``: behind additional text.

        Raises:
            UsageError: a label has no tokens, or two have the same.
            PromptError: a label cannot be read.
        """
        self._session = session
        space = " " if continues else ""
        texts = list(labels.values())
        self._names = tuple(labels)
        self._candidates = [session.tokenizer.encode(space + text) for text in texts]
        self._characters = np.array([len(text) for text in texts])
        known: dict[tuple[int, ...], str] = {}
        for label, tokens in zip(labels, self._candidates, strict=True):
            if not tokens:
                raise UsageError(f"the label {label!r} has no tokens: leave it out")
            other = known.setdefault(tuple(tokens), label)
            if other != label:
                raise UsageError(f"labels {other!r} and {label!r} have the same tokens")
        self._inner = [session.tokenizer.encode(" " + text) for text in texts]

    def check_fits(self, rows: int) -> None:
        """Check that every label fits behind a prefix of so many rows.

        Raises:
            UsageError: prefix, label and stop token pass the decoder's positions.
        """
        label, longest = max(zip(self._names, map(len, self._candidates), strict=True),
                             key=lambda pair: pair[1])  # fmt: skip
        positions = self._session.config.decoder.n_positions
        if rows + longest + 1 > positions:
            raise UsageError(
                f"a prefix of {rows} rows and the {longest + 1} tokens of the label {label[:40]!r} "
                f"pass the decoder's {positions} positions: shorten the text or the label"
            )

    def scores(self, prefixes: Sequence[F32], normalize: Normalize) -> F64:
        """``[n, labels]``, behind each prefix ``[P, n_embd]`` (:meth:`check_fits`).

        Raises:
            BackendError: the session is closed, or the decoder's output is no numbers.
        """
        stop = self._session.config.stop_id
        found = self._likelihoods(prefixes, self._candidates, stop)
        if normalize == "sum":
            return found.sums
        return found.means if normalize == "mean" else found.sums / self._characters

    def lists(self, prefixes: Sequence[F32]) -> tuple[F64, list[list[int]]]:
        """Several labels: those of the list that the decoder writes, one likeliest after another.

        After a label come the stop token or a comma, whichever is likelier, and after the comma the
        likeliest of the labels that are not there yet. A list ends, too, where not every label
        would fit behind it any more. A label's score is the sum of its log-probabilities, followed
        by either, in the round where it is highest of those in which it may be chosen.

        Raises:
            BackendError: as :meth:`scores`.
        """
        scores = np.full((len(prefixes), len(self._candidates)), -np.inf)
        chosen: list[list[int]] = [[] for _ in prefixes]
        written = list(prefixes)
        going = list(range(len(prefixes)))
        candidates = self._candidates
        while going:
            over, more = self._round([written[clip] for clip in going], candidates)
            fits = np.logaddexp(over, more)
            still = []
            for row, clip in enumerate(going):
                fits[row, chosen[clip]] = -np.inf
                best = int(fits[row].argmax())
                chosen[clip].append(best)
                rows = len(written[clip]) + len(candidates[best]) + 1
                goes_on = more[row, best] > over[row, best] and self._fits(rows)
                if goes_on and len(chosen[clip]) < len(candidates):
                    written[clip] = self._written(written[clip], candidates[best])
                    still.append(clip)
            scores[going] = np.maximum(scores[going], fits)
            going, candidates = still, self._inner
        return scores, chosen

    def _fits(self, rows: int) -> bool:
        """Whether any further label does behind so many rows, and its stop token or comma."""
        longest = max(map(len, self._inner)) + 1
        return rows + longest <= self._session.config.decoder.n_positions

    def _round(self, prefixes: Sequence[F32], labels: Sequence[Sequence[int]]) -> tuple[F64, F64]:
        """``[n, labels]`` each: of every label with the stop token behind it, and with a comma."""
        both = [[*label, last] for last in (self._session.config.stop_id, self._comma)
                for label in labels]  # fmt: skip
        sums = self._likelihoods(prefixes, both, None).sums
        return sums[:, : len(labels)], sums[:, len(labels) :]

    def _written(self, prefix: F32, label: Sequence[int]) -> F32:
        return np.concatenate([prefix, self._session.embed_tokens([*label, self._comma])])

    @property
    def _comma(self) -> int:
        return self._session.tokenizer.encode(SEPARATOR)[0]

    def _likelihoods(
        self, prefixes: Sequence[F32], candidates: Sequence[Sequence[int]], end: int | None
    ) -> Likelihoods:
        with self._session.exclusive_decoding():
            return likelihoods(self._session.backend, prefixes, candidates, end=end)
