"""The host's loop behind every way of decoding: a forward pass, a choice, the next forward pass.

Each step the backend gives logits for the rows of all clips and a :data:`Choice` says what every
row continues and with which token; the backend then continues the histories of those sources.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from pengi_rt.backends.protocol import F32, Backend, Searched
from pengi_rt.config.decode import DecodeOptions, SampleOptions
from pengi_rt.decoding.padding import pad
from pengi_rt.kernels.beam_step_cpu import BeamState, BeamStep

Choice = Callable[[F32, BeamState], BeamStep]
"""The next tokens of all rows, from their logits ``[B, W, V]`` and their state ``[B, W]``; ``W`` is
1 in the first step, whatever the width is afterwards."""

Ended = Callable[[Sequence[int]], bool]
"""Whether a row that has written these tokens is finished, as by the stop token."""

_Written = list[list[tuple[int, ...]]]  # the tokens of every row of every clip


def steps(
    backend: Backend,
    prefixes: Sequence[F32],
    options: DecodeOptions | SampleOptions,
    choose: Choice,
    ended: Ended | None = None,
) -> Iterator[BeamStep]:
    """The rows after one token, two, and so on; each forward pass is made when it is asked for.

    Ends when all rows are finished, or have written ``max_new_tokens``.
    """
    lengths = np.array([len(prefix) for prefix in prefixes], np.int64)
    cache, logits = backend.prefill(
        pad(prefixes, lengths),
        lengths,
        width=options.width,
        max_new_tokens=options.max_new_tokens,
    )
    state = BeamState.start(len(prefixes))
    written: _Written = [[()]] * len(prefixes)
    for count in range(1, options.max_new_tokens + 1):
        step = choose(logits.reshape(*state.scores.shape, -1), state)
        if ended is not None:
            written = _continued(written, step)
            step = _finished(step, written, ended)
        yield step
        state = step.state
        if count == options.max_new_tokens or state.finished.all():
            return
        logits = backend.step(cache, step.tokens.reshape(-1), step.sources.reshape(-1))


def searched(chosen: Iterable[BeamStep]) -> Searched:
    """All steps as a backend's own search gives them."""
    history = list(chosen)
    done = np.stack([step.state.finished.all(axis=1) for step in history])
    return Searched(
        tokens=np.stack([step.tokens for step in history]).astype(np.int32),
        sources=np.stack([step.sources for step in history]).astype(np.int32),
        lengths=np.stack([step.state.lengths for step in history]),
        averages=np.stack([step.averages for step in history]),
        done=np.where(done.any(axis=0), done.argmax(axis=0) + 1, 0).astype(np.int32),
    )


def _continued(written: _Written, step: BeamStep) -> _Written:
    return [
        [(*rows[source], token) for source, token in zip(sources, tokens, strict=True)]
        for rows, sources, tokens in zip(
            written, step.sources.tolist(), step.tokens.tolist(), strict=True
        )
    ]


def _finished(step: BeamStep, written: _Written, ended: Ended) -> BeamStep:
    """``step``, the rows that ``ended`` names finished too."""
    finished = step.state.finished.copy()
    for clip, row in np.argwhere(~finished).tolist():
        finished[clip, row] = ended(written[clip][row])
    return step._replace(state=step.state._replace(finished=finished))
