"""One answer, token by token as it is written."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pengi_rt.backends.protocol import F32, Backend
from pengi_rt.config.decode import DecodeOptions, SampleOptions, check_fits
from pengi_rt.decoding.beam import best
from pengi_rt.decoding.loop import Ended, steps
from pengi_rt.decoding.sampling import drawn
from pengi_rt.errors import UsageError
from pengi_rt.kernels.beam_step_cpu import BeamStep


class Token(NamedTuple):
    """A token and its log-probability, as :class:`~pengi_rt.decoding.backtrack.Hypothesis` has."""

    id: int
    logprob: float


def stream_tokens(
    backend: Backend,
    prefix: F32,
    options: DecodeOptions | SampleOptions,
    *,
    ended: Ended | None = None,
) -> Iterator[Token]:
    """The tokens that a search with one beam, or one sample, answers ``prefix`` with.

    A forward pass is made when the next token is asked for. The last token is the stop token, or
    the one with which ``ended`` is true, or number ``max_new_tokens``. What can be refused is
    refused by the call.

    Args:
        backend: runs the decoder. Its cache is the stream's until that is closed.
        prefix: ``[P, n_embd]`` float32.
        options: greedy (``beam_size`` 1) or sampled (``samples`` 1).
        ended: as :func:`pengi_rt.decoding.beam.search` has it.

    Raises:
        UsageError: there is more than one beam or sample, or the prefix and ``max_new_tokens``
            pass the decoder's positions.
        ValueError: the backend's logits hold NaN; from the iterator.
    """
    check_single(options)
    check_fits(len(prefix), options, backend.config.decoder)
    choose = best(options) if isinstance(options, DecodeOptions) else drawn(options)
    return _tokens(steps(backend, [prefix], options, choose, ended))


def check_single(options: DecodeOptions | SampleOptions) -> None:
    """Refuse what cannot be streamed.

    Raises:
        UsageError: there is more than one beam or sample.
    """
    if options.width != 1:
        name = "beam_size" if isinstance(options, DecodeOptions) else "samples"
        raise UsageError(
            f"beams are ranked only when all are finished: stream with {name} 1, "
            f"got {options.width}"
        )


def _tokens(chosen: Iterable[BeamStep]) -> Iterator[Token]:
    before = 0.0
    for count, step in enumerate(chosen, 1):
        total = step.averages.item() * count
        yield Token(step.tokens.item(), min(total - before, 0.0))
        before = total
