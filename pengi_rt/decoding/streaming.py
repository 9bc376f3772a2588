"""One text, token by token as it is generated."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pengi_rt.backends.protocol import F32, Backend
from pengi_rt.config.decode import DecodeOptions, SampleOptions, check_fits
from pengi_rt.decoding.beam import beam_choice
from pengi_rt.decoding.loop import StopTest, decode_steps, require_decoder
from pengi_rt.decoding.sampling import sample_choice
from pengi_rt.errors import UsageError
from pengi_rt.kernels.beam_step_cpu import BeamStep


class Token(NamedTuple):
    """A token and its log-probability, as in :class:`~pengi_rt.decoding.backtrack.Hypothesis`."""

    id: int
    logprob: float


def stream_tokens(
    backend: Backend,
    prefix: F32,
    options: DecodeOptions | SampleOptions,
    *,
    is_finished: StopTest | None = None,
) -> Iterator[Token]:
    """Yield the tokens that greedy search, or a single sample, generates after ``prefix``.

    Each forward pass runs when the next token is requested. The last token is the stop token, the
    one that makes ``is_finished`` true, or number ``max_new_tokens``. The call itself checks all
    arguments.

    Args:
        backend: runs the decoder. The cache lives until the stream is closed.
        prefix: ``[P, n_embd]`` float32.
        options: greedy (``beam_size`` 1) or sampled (``samples`` 1).
        is_finished: as for :func:`pengi_rt.decoding.beam.search`.

    Raises:
        UsageError: there is more than one beam or sample, the plan has no decoder, or the prefix
            and ``max_new_tokens`` exceed its positions.
        ValueError: the backend's logits hold NaN (raised while iterating).
    """
    check_single(options)
    check_fits(len(prefix), options, require_decoder(backend).config)
    choose = beam_choice(options) if isinstance(options, DecodeOptions) else sample_choice(options)
    return _tokens(decode_steps(backend, [prefix], options, choose, is_finished))


def check_single(options: DecodeOptions | SampleOptions) -> None:
    """Refuse options that cannot be streamed.

    Raises:
        UsageError: there is more than one beam or sample.
    """
    if options.width != 1:
        name = "beam_size" if isinstance(options, DecodeOptions) else "samples"
        raise UsageError(
            f"beams are ranked only when all of them are finished: stream with {name} 1, "
            f"got {options.width}"
        )


def _tokens(steps: Iterable[BeamStep]) -> Iterator[Token]:
    before = 0.0
    for count, step in enumerate(steps, 1):
        total = step.averages.item() * count
        yield Token(step.tokens.item(), min(total - before, 0.0))
        before = total
