"""Beam search over any backend, several clips at a time.

Each step the backend gives logits for the rows of all clips and
:func:`~pengi_rt.kernels.beam_step_cpu.beam_step` chooses the next beams; the backend then continues
the histories of the chosen beams' sources. Tokens are kept as chosen, ``(source, token)`` a beam
and step, and a hypothesis is read backwards from its last token once its clip is done.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pengi_rt.backends.protocol import (
    F32,
    I64,
    Backend,
    Searched,
    SearchingBackend,
)
from pengi_rt.config import DecoderConfig
from pengi_rt.decoding.hypotheses import Hypotheses, hypotheses
from pengi_rt.decoding.options import DecodeOptions
from pengi_rt.errors import UsageError
from pengi_rt.kernels.beam_step_cpu import BeamState, BeamStep, beam_step


def search(
    backend: Backend,
    prefixes: Sequence[F32],
    options: DecodeOptions,
    *,
    on_step: Callable[[int], None] | None = None,
) -> list[Hypotheses]:
    """Answer every prefix: Pengi's beam search, ranked by the mean log-probability per token.

    Clips do not influence each other. One whose beams are all finished has its answer; its rows
    idle along until the last clip is done.

    Args:
        backend: runs the decoder.
        prefixes: one ``[P, n_embd]`` float32 array a clip; ``P`` may differ.
        options: see :class:`DecodeOptions`.
        on_step: called after each token with their number so far. What it raises ends the search.

    Raises:
        UsageError: a prefix and ``max_new_tokens`` pass the decoder's positions, or ``beam_size``
            its vocabulary.
        ValueError: the backend's logits hold NaN.
    """
    if not prefixes:
        return []
    lengths = np.array([len(prefix) for prefix in prefixes], np.int64)
    check_fits(int(lengths.max()), options, backend.config.decoder)
    padded = _pad(prefixes, lengths)
    if on_step is None and isinstance(backend, SearchingBackend):
        return _answers(backend.search(padded, lengths, options), options)
    return _searched_by_steps(backend, padded, lengths, options, on_step)


def answer(
    backend: SearchingBackend, wave: F32, rows: F32, options: DecodeOptions
) -> list[Hypotheses]:
    """As :func:`search` behind every clip's audio prefix and then ``rows``, all by the backend.

    Args:
        backend: runs the audio side and searches.
        wave: ``[B, clip_samples]``.
        rows: ``[n, n_embd]``, behind the audio prefix of every clip.
        options: see :class:`DecodeOptions`.

    Raises:
        UsageError, ValueError: as :func:`search`.
    """
    config = backend.config
    check_fits(config.audio_mapper.prefix_length + len(rows), options, config.decoder)
    return _answers(backend.answer(wave, rows, options), options)


def _searched_by_steps(
    backend: Backend,
    prefix: F32,
    lengths: I64,
    options: DecodeOptions,
    on_step: Callable[[int], None] | None,
) -> list[Hypotheses]:
    steps = _steps(backend, prefix, lengths, options)
    history: list[BeamStep] = []
    answers: dict[int, Hypotheses] = {}
    while len(answers) < len(prefix):
        history.append(next(steps))
        if on_step is not None:
            on_step(len(history))
        done = history[-1].state.finished.all(axis=1) | (len(history) == options.max_new_tokens)
        for clip in np.flatnonzero(done).tolist():
            if clip not in answers:
                answers[clip] = _answer(history, clip)
    return [answers[clip] for clip in range(len(prefix))]


def _steps(
    backend: Backend, prefix: F32, lengths: I64, options: DecodeOptions
) -> Iterator[BeamStep]:
    """The beams after one token, two, and so on; each forward pass is made when it is asked for."""
    state = BeamState.start(len(prefix))
    cache, logits = backend.prefill(
        prefix, lengths, width=options.beam_size, max_new_tokens=options.max_new_tokens
    )
    while True:
        step = beam_step(
            logits.reshape(*state.scores.shape, -1),
            state,
            beam_size=options.beam_size,
            temperature=options.divisor,
            stop_id=options.stop_id,
            pad_id=options.pad_id,
        )
        yield step
        state = step.state
        logits = backend.step(cache, step.tokens.reshape(-1), step.sources.reshape(-1))


def check_fits(prefix: int, options: DecodeOptions, decoder: DecoderConfig) -> None:
    """Refuse a search that no decoder of this size can finish.

    Raises:
        UsageError: ``prefix`` rows and the new tokens pass its positions, or the beams its tokens.
    """
    if prefix + options.max_new_tokens > decoder.n_positions:
        raise UsageError(
            f"a prefix of {prefix} rows and max_new_tokens {options.max_new_tokens} pass the "
            f"decoder's {decoder.n_positions} positions: shorten the text or ask for fewer tokens"
        )
    if options.beam_size > decoder.vocab_size:
        raise UsageError(
            f"beam_size must be at most the vocabulary's {decoder.vocab_size} tokens, "
            f"got {options.beam_size}"
        )


def _pad(prefixes: Sequence[F32], lengths: I64) -> F32:
    """``[B, P, n_embd]``: the prefixes, zeros behind the shorter ones."""
    padded = np.zeros((len(prefixes), lengths.max(), prefixes[0].shape[1]), np.float32)
    for row, prefix in zip(padded, prefixes, strict=True):
        row[: len(prefix)] = prefix
    return padded


def _answers(found: Searched, options: DecodeOptions) -> list[Hypotheses]:
    """Of every clip, at the token where it was done or may not go on."""
    answers = []
    for clip, done in enumerate(found.done.tolist()):
        steps = min(done or options.max_new_tokens, options.max_new_tokens)
        tokens, sources = found.tokens[:steps, clip], found.sources[:steps, clip]
        last = found.lengths[steps - 1, clip], found.averages[steps - 1, clip]
        answers.append(hypotheses(tokens, sources, *last))
    return answers


def _answer(history: Sequence[BeamStep], clip: int) -> Hypotheses:
    last = history[-1]
    return hypotheses(
        np.stack([step.tokens[clip] for step in history]),
        np.stack([step.sources[clip] for step in history]),
        last.state.lengths[clip],
        last.averages[clip],
    )
