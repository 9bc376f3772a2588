"""Beam search over any backend, several clips at a time.

The kernel :mod:`pengi_rt.kernels.beam_step_cpu` chooses the next beams. Each choice is stored as
``(source, token)`` per beam and step, and a hypothesis is read backwards from its last token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pengi_rt.backends.protocol import F32, I64, Backend, DeviceSearch, Encoded
from pengi_rt.config.decode import DecodeOptions, SampleOptions, check_fits
from pengi_rt.config.family import GenerativeConfig, generative
from pengi_rt.decoding.backtrack import Hypotheses, read_hypotheses
from pengi_rt.decoding.loop import (
    Choice,
    StopTest,
    decode_steps,
    pad,
    require_decoder,
    stack_steps,
)
from pengi_rt.kernels.beam_step_cpu import beam_step_cpu


def search(
    backend: Backend,
    prefixes: Sequence[F32],
    options: DecodeOptions,
    *,
    is_finished: StopTest | None = None,
) -> list[Hypotheses]:
    """Search after every prefix: Pengi's beam search, ranked by mean log-probability per token.

    Clips do not influence each other. Once all beams of a clip are finished, its hypotheses are
    final and its rows idle until the last clip is done. With ``is_finished``, the host runs
    every step, even where the device could search by itself.

    Args:
        backend: runs the decoder.
        prefixes: one ``[P, n_embd]`` float32 array per clip; ``P`` may differ.
        options: see :class:`DecodeOptions`.
        is_finished: called with every unfinished beam's tokens after each token; True ends it.

    Raises:
        UsageError: the plan has no decoder, a prefix and ``max_new_tokens`` exceed its positions,
            or ``beam_size`` its vocabulary.
        ValueError: the backend's logits hold NaN.
    """
    if not prefixes:
        return []
    lengths = np.array([len(prefix) for prefix in prefixes], np.int64)
    check_fits(int(lengths.max()), options, require_decoder(backend).config)
    if is_finished is None and backend.device_search is not None:
        trace = backend.device_search.search_prefix(pad(prefixes, lengths), lengths, options)
    else:
        choose = beam_choice(options)
        trace = stack_steps(list(decode_steps(backend, prefixes, options, choose, is_finished)))
    return read_hypotheses(trace, options.max_new_tokens)


@dataclass(frozen=True)
class FusedSearch:
    """Audio encoding and beam search in one go, all on the device.

    Its methods raise like :func:`search`.
    """

    device: DeviceSearch
    config: GenerativeConfig
    options: DecodeOptions

    def search_audio(self, windows: F32, text_prefix: F32) -> list[Hypotheses]:
        """Search after the audio prefix of each window and then ``text_prefix``.

        Args:
            windows: ``[B, clip_samples]``.
            text_prefix: ``[n, n_embd]``, the same after every window.
        """
        self._check_fits(len(text_prefix))
        trace = self.device.search_audio(windows, text_prefix, self.options)
        return read_hypotheses(trace, self.options.max_new_tokens)

    def search_new_prompt(
        self, windows: F32, ids: I64, suffix: F32
    ) -> tuple[Encoded, list[Hypotheses]]:
        """Also encode the prompt, and search after the window, the prompt and ``suffix``.

        Args:
            windows: ``[B, clip_samples]``.
            ids: ``[1, T]``, the prompt's token ids.
            suffix: the additional text, ``[n, n_embd]``.

        Returns:
            The encoded prompt, and every clip's hypotheses.
        """
        self._check_fits(self.config.prompt_rows(ids.shape[1]) + len(suffix))
        text, trace = self.device.search_new_prompt(windows, ids, suffix, self.options)
        return text, read_hypotheses(trace, self.options.max_new_tokens)

    def _check_fits(self, rows: int) -> None:
        rows += self.config.audio_prefix_length
        check_fits(rows, self.options, self.config.decoder)


def fused_search(
    backend: Backend,
    options: DecodeOptions | SampleOptions,
    is_finished: StopTest | None = None,
) -> FusedSearch | None:
    """The backend's own search from recordings to hypotheses, if it has one for these options."""
    device = backend.device_search
    if device is None or is_finished is not None or not isinstance(options, DecodeOptions):
        return None
    return FusedSearch(device, generative(backend.config), options)


def beam_choice(options: DecodeOptions) -> Choice:
    """Choose the beams with the best averages."""
    return partial(
        beam_step_cpu,
        beam_size=options.beam_size,
        temperature=options.divisor,
        stop_id=options.stop_id,
        pad_id=options.pad_id,
    )
