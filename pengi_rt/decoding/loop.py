"""The decoding loop on the host: a forward pass, a choice, the next forward pass.

After each pass, the decoder gives logits for the rows of all clips, and a :data:`Choice` says which
earlier row each new row continues and with which token.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pengi_rt.backends.protocol import F32, I64, Backend, Decoder, SearchTrace
from pengi_rt.config.decode import DecodeOptions, SampleOptions
from pengi_rt.errors import UsageError
from pengi_rt.kernels.beam_step_cpu import BeamState, BeamStep

Choice = Callable[[F32, BeamState], BeamStep]
"""Chooses the next tokens of all rows from their logits ``[B, W, V]`` and state ``[B, W]``; ``W``
is 1 in the first step, whatever the width is afterwards."""

StopTest = Callable[[Sequence[int]], bool]
"""Whether a row with these tokens is finished, as if by the stop token."""

_Histories = list[list[tuple[int, ...]]]  # the tokens of every row of every clip


def require_decoder(backend: Backend) -> Decoder:
    """The backend's decoder.

    Raises:
        UsageError: the plan has no decoder.
    """
    if backend.decoder is None:
        raise UsageError("this plan has no decoder: it cannot generate or score text")
    return backend.decoder


def decode_steps(
    backend: Backend,
    prefixes: Sequence[F32],
    options: DecodeOptions | SampleOptions,
    choose: Choice,
    is_finished: StopTest | None = None,
) -> Iterator[BeamStep]:
    """Yield the rows after one token, after two, and so on; each forward pass runs on demand.

    Ends when all rows are finished or have ``max_new_tokens`` tokens.
    """
    decoder = require_decoder(backend)
    lengths = np.array([len(prefix) for prefix in prefixes], np.int64)
    cache = decoder.new_cache(
        slots=len(prefixes),
        width=options.width,
        prefix_rows=int(lengths.max()),
        new_tokens=options.max_new_tokens,
    )
    clips = np.arange(len(prefixes))
    logits = decoder.prefill(cache, clips, pad(prefixes, lengths), lengths)[:, None]
    state = BeamState.start(len(prefixes))
    histories: _Histories = [[()]] * len(prefixes)
    for count in range(1, options.max_new_tokens + 1):
        step = choose(logits, state)
        if is_finished is not None:
            histories = _extended(histories, step)
            step = _finish(step, histories, is_finished)
        yield step
        state = step.state
        if count == options.max_new_tokens or state.finished.all():
            return
        logits = decoder.step(cache, step.tokens, step.sources)


def stack_steps(steps: Sequence[BeamStep]) -> SearchTrace:
    """All steps, in the same form as from a device's own search."""
    done = np.stack([step.state.finished.all(axis=1) for step in steps])
    return SearchTrace(
        tokens=np.stack([step.tokens for step in steps]).astype(np.int32),
        sources=np.stack([step.sources for step in steps]).astype(np.int32),
        lengths=np.stack([step.state.lengths for step in steps]),
        averages=np.stack([step.averages for step in steps]),
        done=np.where(done.any(axis=0), done.argmax(axis=0) + 1, 0).astype(np.int32),
    )


def pad(prefixes: Sequence[F32], lengths: I64) -> F32:
    """``[B, P, n_embd]``: the prefixes, padded with zeros to ``lengths.max()``."""
    padded = np.zeros((len(prefixes), lengths.max(), prefixes[0].shape[1]), np.float32)
    for row, prefix in zip(padded, prefixes, strict=True):
        row[: len(prefix)] = prefix
    return padded


def _extended(histories: _Histories, step: BeamStep) -> _Histories:
    return [
        [(*rows[source], token) for source, token in zip(sources, tokens, strict=True)]
        for rows, sources, tokens in zip(
            histories, step.sources.tolist(), step.tokens.tolist(), strict=True
        )
    ]


def _finish(step: BeamStep, histories: _Histories, is_finished: StopTest) -> BeamStep:
    """``step``, with the rows that pass the test also marked as finished."""
    finished = step.state.finished.copy()
    for clip, row in np.argwhere(~finished).tolist():
        finished[clip, row] = is_finished(histories[clip][row])
    return step._replace(state=step.state._replace(finished=finished))
