r"""How likely given texts are: their log-probabilities after a prefix, over any backend.

For a candidate :math:`v_1 \dots v_n` after prefix :math:`x`

.. math:: \log p(v \mid x) = \sum_{i=1}^{n} \log p(v_i \mid x, v_1 \dots v_{i-1})

Candidates that begin with the same tokens share the work for them: together they form a trie, and
each step of the decoder computes one of its levels. The rows of a step are the level's inner nodes,
and ``parents`` its edges. The prefix is read once for all candidates.

Cost: one prefill, then a step for every token of the longest candidate except the last (nothing
follows it), each with as many rows per clip as the widest level has inner nodes.

Source: Pengi (NeurIPS 2023), section 4.2, compares log-likelihoods in closed tasks.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from pengi_rt.backends.protocol import F32, F64, I64, Backend, Decoder
from pengi_rt.config.parts import DecoderConfig
from pengi_rt.decoding.loop import pad, require_decoder
from pengi_rt.decoding.trie import Trie, tries, width
from pengi_rt.errors import UsageError

MAX_WIDTH: Final = 64
"""Rows per clip. Wider tries are split into parts, each scored as a separate clip."""

MAX_ROWS: Final = 128
"""Rows per step for all clips together: 26 MB of logits with GPT-2's vocabulary."""


class Likelihoods(NamedTuple):
    """Log-likelihoods of ``N`` candidates after each of ``B`` prefixes."""

    sums: F64
    """``[B, N]``: natural logarithms of the probabilities; ``-inf`` for probability 0."""
    counts: I64
    """``[N]``: tokens in each sum, including ``end``."""

    @property
    def means(self) -> F64:
        """``[B, N]``: per token."""
        return self.sums / self.counts


def likelihoods(
    backend: Backend,
    prefixes: Sequence[F32],
    candidates: Sequence[Sequence[int]],
    *,
    end: int | None,
) -> Likelihoods:
    """Score every candidate after every prefix. Clips do not influence each other.

    Args:
        backend: runs the decoder.
        prefixes: one ``[P, n_embd]`` float32 array per clip; ``P`` may differ.
        candidates: token ids; no empty or equal candidates.
        end: the token that must follow every candidate; None for any. Without it, a candidate's sum
            is never below that of a candidate that begins with it.

    Raises:
        UsageError: the plan has no decoder, there are no candidates, one is empty, two are equal, a
            token is not in the vocabulary, or a prefix and a candidate exceed the decoder's
            positions.
        ValueError: logits hold NaN or have no finite maximum (clip and candidate are named).
    """
    decoder = require_decoder(backend)
    _check(candidates, end, decoder.config)
    ending = () if end is None else (end,)
    sequences = [(*candidate, *ending) for candidate in candidates]
    counts = np.array([len(sequence) for sequence in sequences], np.int64)
    _check_fit(prefixes, counts, decoder.config)
    sums = np.zeros((len(prefixes), len(sequences)))
    parts = tries(sequences, MAX_WIDTH)
    jobs = [
        _Job(clip, prefixes[clip], part, sums[clip]) for clip in range(len(sums)) for part in parts
    ]
    size = MAX_ROWS // max(map(width, parts))
    for start in range(0, len(jobs), size):
        _score(decoder, jobs[start : start + size])
    return Likelihoods(sums, counts)


class _Job(NamedTuple):
    """A trie to score after a prefix, in a slot of the cache."""

    clip: int
    prefix: F32
    trie: Trie
    sums: F64  # [N], updated in place

    def add(self, depth: int, logits: F32) -> None:
        """Add the log-probabilities of the tokens that follow a level's nodes.

        Args:
            depth: the depth of the level.
            logits: ``[W, V]``: those of the nodes, then those of idle rows.
        """
        tokens, _, candidates, nodes, following = self.trie[depth]
        maxima, totals = np.array([_maximum_and_total(row) for row in logits[: len(tokens)]]).T
        broken = candidates[~np.isfinite(maxima[nodes])]
        if len(broken):
            raise ValueError(
                "logits with NaN or without a finite maximum: "
                f"clip {self.clip}, candidate {broken.min()}"
            )
        self.sums[candidates] += (logits[nodes, following] - maxima[nodes]) - totals[nodes]


def _score(decoder: Decoder, jobs: Sequence[_Job]) -> None:
    """Score jobs side by side, level by level."""
    lengths = np.array([len(job.prefix) for job in jobs], np.int64)
    depths = max(len(job.trie) for job in jobs)
    cache = decoder.new_cache(
        slots=len(jobs),
        width=max(width(job.trie) for job in jobs),
        prefix_rows=int(lengths.max()),
        new_tokens=depths,
    )
    prefixes = pad([job.prefix for job in jobs], lengths)
    logits = decoder.prefill(cache, np.arange(len(jobs)), prefixes, lengths)[:, None]
    for depth in range(depths):
        if depth > 0:
            logits = decoder.step(cache, *_rows(jobs, depth, cache.width))
        for job, rows in zip(jobs, logits, strict=True):
            if depth < len(job.trie):
                job.add(depth, rows)


def _rows(jobs: Sequence[_Job], depth: int, row_count: int) -> tuple[I64, I64]:
    """Tokens and parents of a step: every job's nodes, then idle rows that continue row 0."""
    tokens, parents = np.zeros((2, len(jobs), row_count), np.int64)
    for index, job in enumerate(jobs):
        if depth < len(job.trie):
            level = job.trie[depth]
            tokens[index, : len(level.tokens)] = level.tokens
            parents[index, : len(level.parents)] = level.parents
    return tokens, parents


def _maximum_and_total(logits: F32) -> tuple[float, float]:
    """The maximum of ``[V]``, and log-sum-exp minus it in float64; NaN if not finite."""
    maximum = float(logits.max())
    if not np.isfinite(maximum):
        return maximum, np.nan
    return maximum, float(np.log(np.exp(logits.astype(np.float64) - maximum).sum()))


def _check(candidates: Sequence[Sequence[int]], end: int | None, decoder: DecoderConfig) -> None:
    """Refuse candidates that cannot be scored after any prefix."""
    if not candidates:
        raise UsageError("there are no candidates to score: give at least one")
    if end is not None:
        _check_tokens("end", [end], decoder)
    known: dict[tuple[int, ...], int] = {}
    for index, candidate in enumerate(candidates):
        if len(candidate) == 0:
            raise UsageError(f"candidate {index} has no tokens: leave it out")
        _check_tokens(f"candidate {index}", candidate, decoder)
        first = known.setdefault(tuple(candidate), index)
        if first != index:
            raise UsageError(f"candidates {first} and {index} are the same: remove one of the two")


def _check_tokens(name: str, tokens: Sequence[int], decoder: DecoderConfig) -> None:
    for token in tokens:
        if not 0 <= token < decoder.vocab_size:
            raise UsageError(
                f"{name}: tokens must be in [0, {decoder.vocab_size - 1}], got {token}"
            )


def _check_fit(prefixes: Sequence[F32], counts: I64, decoder: DecoderConfig) -> None:
    rows, longest = max(map(len, prefixes), default=0), int(counts.argmax())
    if rows + counts[longest] > decoder.n_positions:
        raise UsageError(
            f"a prefix of {rows} rows and the {counts[longest]} tokens of candidate {longest} "
            f"exceed the decoder's {decoder.n_positions} positions: shorten the text or candidate"
        )
