"""Log-likelihood: the label that the decoder would most likely generate.

Source: paper, section 4.2, which does not say how to compare labels of different lengths.
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
    """Scores labels as token sequences after a prefix.

    Labels directly after the prefix have no leading space, as in the model's training. After
    additional text, which an answer continues, they have one.
    """

    def __init__(self, session: Session, labels: Mapping[str, str], *, continues: bool) -> None:
        """Tokenize the texts of ``labels``; ``continues`` means after additional text.

        Raises:
            UsageError: a label has no tokens, or two labels have the same tokens.
            PromptError: a label is not valid text.
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
        self._after_comma = [session.tokenizer.encode(" " + text) for text in texts]

    def check_fits(self, rows: int) -> None:
        """Check that every label fits after a prefix of ``rows`` rows.

        Raises:
            UsageError: the prefix, a label and the stop token exceed the decoder's positions.
        """
        lengths = zip(map(len, self._candidates), self._names, strict=True)
        longest, label = max(lengths, key=lambda pair: pair[0])
        positions = self._session.generative.decoder.n_positions
        if rows + longest + 1 > positions:
            raise UsageError(
                f"a prefix of {rows} rows and the {longest + 1} tokens of the label {label[:40]!r} "
                f"exceed the decoder's {positions} positions: shorten the text or the label"
            )

    def scores(self, prefixes: Sequence[F32], normalize: Normalize) -> F64:
        """Score every label after each prefix ``[P, n_embd]``; call :meth:`check_fits` first.

        Returns:
            ``[prefixes, labels]``.

        Raises:
            BackendError: the session is closed, or the decoder's output is NaN.
        """
        stop = self._session.generative.stop_id
        label = self._likelihoods(prefixes, self._candidates, stop)
        if normalize == "sum":
            return label.sums
        return label.means if normalize == "mean" else label.sums / self._characters

    def multi_label(self, prefixes: Sequence[F32]) -> tuple[F64, list[list[int]]]:
        """Choose several labels as a comma-separated list, with the likeliest label at each place.

        After a label comes the stop token or a comma, whichever is likelier, and after a comma the
        likeliest label that is not in the list yet. A list also ends when some remaining label
        would no longer fit. A label's score is its log-probability, followed by the stop token or a
        comma, at its best place among those before it was chosen.

        Returns:
            Scores ``[prefixes, labels]``, and the indices of the labels chosen after each prefix.

        Raises:
            BackendError: as :meth:`scores`.
        """
        scores = np.full((len(prefixes), len(self._candidates)), -np.inf)
        chosen: list[list[int]] = [[] for _ in prefixes]
        lists = list(prefixes)  # each prefix with its list so far
        active = list(range(len(prefixes)))
        candidates = self._candidates
        while active:
            last, more = self._next_label([lists[clip] for clip in active], candidates)
            either = np.logaddexp(last, more)
            still_active = []
            for row, clip in enumerate(active):
                either[row, chosen[clip]] = -np.inf
                best = int(either[row].argmax())
                chosen[clip].append(best)
                rows = len(lists[clip]) + len(candidates[best]) + 1
                continues = more[row, best] > last[row, best] and self._has_room(rows)
                if continues and len(chosen[clip]) < len(candidates):
                    lists[clip] = self._extended(lists[clip], candidates[best])
                    still_active.append(clip)
            scores[active] = np.maximum(scores[active], either)
            active, candidates = still_active, self._after_comma
        return scores, chosen

    def _has_room(self, rows: int) -> bool:
        """Whether every remaining label, with its stop token or comma, fits after ``rows`` rows."""
        longest = max(map(len, self._after_comma)) + 1
        return rows + longest <= self._session.generative.decoder.n_positions

    def _next_label(
        self, prefixes: Sequence[F32], labels: Sequence[Sequence[int]]
    ) -> tuple[F64, F64]:
        """Log-likelihoods ``[n, labels]`` of each label before the stop token, or a comma."""
        ends = (self._session.generative.stop_id, self._comma)
        sequences = [[*label, end] for end in ends for label in labels]
        sums = self._likelihoods(prefixes, sequences, None).sums
        return sums[:, : len(labels)], sums[:, len(labels) :]

    def _extended(self, prefix: F32, label: Sequence[int]) -> F32:
        return np.concatenate([prefix, self._session.embed_tokens([*label, self._comma])])

    @property
    def _comma(self) -> int:
        return self._session.tokenizer.encode(SEPARATOR)[0]

    def _likelihoods(
        self, prefixes: Sequence[F32], candidates: Sequence[Sequence[int]], end: int | None
    ) -> Likelihoods:
        with self._session.exclusive_decoding():
            return likelihoods(self._session.backend, prefixes, candidates, end=end)
