"""Beam search over any backend, several clips at a time.

:func:`~pengi_rt.kernels.beam_step_cpu.beam_step` chooses the next beams. Tokens are kept as chosen,
``(source, token)`` a beam and step, and a hypothesis is read backwards from its last token.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from pengi_rt.backends.protocol import F32, I64, Backend, Encoded, SearchingBackend
from pengi_rt.config.decode import DecodeOptions, check_fits
from pengi_rt.decoding.backtrack import Hypotheses, all_hypotheses
from pengi_rt.decoding.loop import Choice, Ended, searched, steps
from pengi_rt.decoding.padding import pad
from pengi_rt.kernels.beam_step_cpu import BeamStep, beam_step


def search(
    backend: Backend,
    prefixes: Sequence[F32],
    options: DecodeOptions,
    *,
    on_step: Callable[[int], None] | None = None,
    ended: Ended | None = None,
) -> list[Hypotheses]:
    """Answer every prefix: Pengi's beam search, ranked by the mean log-probability per token.

    Clips do not influence each other. One whose beams are all finished has its answer; its rows
    idle along until the last clip is done. With ``on_step`` or ``ended`` the host makes every step,
    also where the backend could search by itself.

    Args:
        backend: runs the decoder.
        prefixes: one ``[P, n_embd]`` float32 array a clip; ``P`` may differ.
        options: see :class:`DecodeOptions`.
        on_step: called after each token with their number so far. What it raises ends the search.
        ended: asked about every unfinished beam after each token; a beam for which it is true is
            finished as by the stop token.

    Raises:
        UsageError: a prefix and ``max_new_tokens`` pass the decoder's positions, or ``beam_size``
            its vocabulary.
        ValueError: the backend's logits hold NaN.
    """
    if not prefixes:
        return []
    lengths = np.array([len(prefix) for prefix in prefixes], np.int64)
    check_fits(int(lengths.max()), options, backend.config.decoder)
    if on_step is None and ended is None and isinstance(backend, SearchingBackend):
        found = backend.search(pad(prefixes, lengths), lengths, options)
    else:
        chosen = steps(backend, prefixes, options, best(options), ended)
        found = searched(chosen if on_step is None else _counted(chosen, on_step))
    return all_hypotheses(found, options.max_new_tokens)


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
    return all_hypotheses(backend.answer(wave, rows, options), options.max_new_tokens)


def ask(
    backend: SearchingBackend, wave: F32, ids: I64, rows: F32, options: DecodeOptions
) -> tuple[Encoded, list[Hypotheses]]:
    """As :func:`answer` behind a prompt that is yet to be encoded, and that prompt encoded.

    Args:
        backend: runs both sides, if it can at the same time, and searches.
        wave: ``[B, clip_samples]``.
        ids: ``[1, T]``, of the prompt.
        rows: ``[n, n_embd]``, behind the prompt's prefix.
        options: see :class:`DecodeOptions`.

    Raises:
        UsageError, ValueError: as :func:`search`.
    """
    config = backend.config
    length = config.audio_mapper.prefix_length + config.prompt_rows(ids.shape[1]) + len(rows)
    check_fits(length, options, config.decoder)
    text, found = backend.ask(wave, ids, rows, options)
    return text, all_hypotheses(found, options.max_new_tokens)


def best(options: DecodeOptions) -> Choice:
    """The beams of the best averages."""
    return partial(
        beam_step,
        beam_size=options.beam_size,
        temperature=options.divisor,
        stop_id=options.stop_id,
        pad_id=options.pad_id,
    )


def _counted(chosen: Iterable[BeamStep], on_step: Callable[[int], None]) -> Iterator[BeamStep]:
    for count, step in enumerate(chosen, 1):
        on_step(count)
        yield step
