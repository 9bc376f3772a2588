"""Beam search without the host between steps: prefill and steps replayed from CUDA graphs."""

from typing import NamedTuple

import torch
from torch import Tensor

from pengi_rt.backends.failures import explained
from pengi_rt.backends.protocol import F32, I64, Encoded, SearchTrace
from pengi_rt.backends.triton.audio import AudioEncoding
from pengi_rt.backends.triton.cuda_graph import Lane, Replayed, rounded_up
from pengi_rt.backends.triton.encoders import TritonEncoders, on_host
from pengi_rt.backends.triton.gpt2 import Decoding, Shape
from pengi_rt.backends.triton.weights import DecoderWeights
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.errors import BackendError
from pengi_rt.kernels.beam_history import BeamHistory
from pengi_rt.kernels.vocab_tiles import MAX_BEAM_SIZE
from pengi_rt.system.lru import LRU

STEPS = 4
"""Tokens generated per graph replay; between replays, the host checks whether to continue."""

KEPT_SHAPES = 8
"""Shapes whose buffers and graphs are kept."""

PREFIX_ROWS = 16
"""Buffer lengths are multiples of this, so that texts of similar length share buffers."""

_explained = explained("the triton backend")


class _Run(NamedTuple):
    """The buffers and graphs that searches of one shape replay."""

    decoding: Decoding
    start: Replayed
    more: Replayed
    done: Tensor
    """A host copy of ``history.done`` after the last replay."""


class TritonSearch:
    """Implements :class:`pengi_rt.backends.protocol.DeviceSearch`."""

    def __init__(self, encoders: TritonEncoders, weights: DecoderWeights, lane: Lane) -> None:
        """``lane`` is the lane in which ``encoders`` run audio."""
        self._encoders, self._weights, self._lane = encoders, weights, lane
        self._device = lane.device
        self._runs: LRU[Shape, _Run] = LRU(KEPT_SHAPES)

    @_explained
    @torch.inference_mode()
    def search_prefix(self, prefix: F32, lengths: I64, options: DecodeOptions) -> SearchTrace:
        run = self._run_for(prefix.shape[0], prefix.shape[1], options)
        run.decoding.put_prefix(torch.from_numpy(prefix.copy()), torch.from_numpy(lengths.copy()))
        return self._search(run, options)

    @_explained
    @torch.inference_mode()
    def search_audio(self, windows: F32, text_prefix: F32, options: DecodeOptions) -> SearchTrace:
        rows = torch.from_numpy(text_prefix.copy()).to(self._device)  # waits; the audio need not
        return self._search_after(self._encoders.run_audio(windows), rows, options)

    @_explained
    @torch.inference_mode()
    def search_new_prompt(
        self, windows: F32, ids: I64, suffix: F32, options: DecodeOptions
    ) -> tuple[Encoded, SearchTrace]:
        rows = torch.from_numpy(suffix.copy()).to(self._device)
        text = self._encoders.run_text(ids)
        audio = self._encoders.run_audio(windows)
        self._encoders.join_text()
        rows = torch.cat([text.prefix[0].float(), rows])
        trace = self._search_after(audio, rows, options)
        return on_host(text.embedding, text.prefix), trace

    def warm_up(self, prefix: int, clips: int, options: DecodeOptions) -> dict[str, Replayed]:
        """Compile and capture the searches for this many clips and prefix rows."""
        run = self._run_for(clips, prefix, options)
        return {"prefill": run.start, f"{STEPS} steps": run.more}

    def close(self) -> None:
        """Drop buffers, graphs and weights."""
        self._runs.clear()
        self.__dict__.pop("_weights", None)

    def _search_after(
        self, audio: AudioEncoding, rows: Tensor, options: DecodeOptions
    ) -> SearchTrace:
        """Search after encoded audio and then ``rows`` [n, n_embd]."""
        audio_rows = audio.prefix.shape[1]
        length = audio_rows + len(rows)
        run = self._run_for(len(audio.prefix), length, options)
        prefix = run.decoding.prefix
        prefix[:, :audio_rows].copy_(audio.prefix)
        prefix[:, audio_rows:length].copy_(rows)
        prefix[:, length:].zero_()  # NaN times a weight of 0 is NaN
        run.decoding.prefix_lengths.fill_(length)
        return self._search(run, options)

    def _search(self, run: _Run, options: DecodeOptions) -> SearchTrace:
        """Search after the prefixes in the buffers."""
        decoding = run.decoding
        decoding.temperature.fill_(options.divisor)
        for end, token in zip(decoding.ends, (options.stop_id, options.pad_id), strict=True):
            end.fill_(token)  # a copy from the host would wait for all work in the stream
        run.start()
        generated = 1
        while generated < options.max_new_tokens and not self._all_done(run):
            run.more()
            generated += STEPS
        return _trace(decoding.history)

    def _run_for(self, clips: int, prefix: int, options: DecodeOptions) -> _Run:
        if options.beam_size > MAX_BEAM_SIZE:
            raise BackendError(
                f"the triton backend searches with at most {MAX_BEAM_SIZE} beams, "
                f"got {options.beam_size}"
            )
        positions = len(self._weights.positions)
        rows = min(rounded_up(prefix, PREFIX_ROWS), positions)
        steps = max(rounded_up(options.max_new_tokens - 1, STEPS), STEPS)
        shape = Shape(clips, options.beam_size, rows, steps)
        return self._runs.get_or_make(shape, lambda: self._new_run(shape))

    def _new_run(self, shape: Shape) -> _Run:
        decoding = Decoding(self._weights, shape)
        done = torch.zeros(shape.clips, dtype=torch.int32, pin_memory=self._device.type == "cuda")

        def start() -> None:
            decoding.prefill()
            decoding.first_logits()
            decoding.first_choice()
            done.copy_(decoding.history.done, non_blocking=True)

        def more() -> None:
            for _ in range(STEPS):
                decoding.step()
                decoding.choose()
            done.copy_(decoding.history.done, non_blocking=True)

        return _Run(decoding, Replayed(start, self._lane), Replayed(more, self._lane), done)

    def _all_done(self, run: _Run) -> bool:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return bool(run.done.all())


def _trace(history: BeamHistory) -> SearchTrace:
    """Copy a history to the host in one transfer, so the host waits only once."""
    kept = (
        history.broken,
        history.tokens,
        history.sources,
        history.lengths,
        history.averages,
        history.done,
    )
    copies = [tensor.to("cpu", non_blocking=True) for tensor in kept]
    if history.done.is_cuda:
        torch.cuda.current_stream(history.done.device).synchronize()
    broken, *rest = (tensor.numpy() for tensor in copies)
    if broken.any():
        raise ValueError(f"logits with NaN or without a finite maximum: clip {broken.argmax()}")
    return SearchTrace(*rest)
