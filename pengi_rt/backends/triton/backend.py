"""The GPU backend: our Triton kernels on a CUDA device, replayed from CUDA graphs.

Everything from waveform to tokens is on the device; the host asks every few steps whether all clips
are done. In Triton's interpreter the same code runs on the CPU, for tests.
"""

import copy
from collections import OrderedDict
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from pengi_rt.backends.failures import explained
from pengi_rt.backends.protocol import F32, I64, Cache, Encoded, Searched, SearchOptions
from pengi_rt.backends.torch import model_of
from pengi_rt.backends.triton.audio import AudioEncoding, tables_of
from pengi_rt.backends.triton.cuda_graph import Lane, Replayed, rounded_up
from pengi_rt.backends.triton.decoder import Decoding, Shape
from pengi_rt.backends.triton.row_cache import RowCache
from pengi_rt.backends.triton.text import TextEncoding, encode_texts, length_of, usual_lengths
from pengi_rt.backends.triton.weights import decoder_weights
from pengi_rt.errors import BackendError
from pengi_rt.kernels.beam_history import BeamHistory
from pengi_rt.kernels.vocab_tiles import MAX_BEAM_SIZE
from pengi_rt.models.pengi import Pengi, Prefix
from pengi_rt.plan.reader import Plan
from pengi_rt.system.lru import remembered

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
          "int8": torch.float16}  # fmt: skip
"""Of activations, by the precision that is asked for."""

STEPS = 4
"""Of a graph: so many tokens are made before the host looks whether more are wanted."""

REMEMBERED = 8
"""Shapes whose buffers and graphs are kept."""

REMEMBERED_TEXTS = 32
"""Lengths of prompts, likewise: more than CLIP has."""

PREFIX_ROWS = 16
"""Buffers are made for a multiple of it, so that texts of about one length share theirs."""

_explained = explained("the triton backend")


class _Search(NamedTuple):
    """What one shape's searches replay."""

    decoding: Decoding
    start: Replayed
    more: Replayed
    done: Tensor
    """On the host: ``history.done`` as it was after the last replay."""


class TritonBackend:
    """Runs a model on one device."""

    name = "triton"

    def __init__(
        self, model: Pengi, *, device: torch.device | str = "cuda", precision: str = "fp16"
    ) -> None:
        """Over ``model``, which must stay as it is; ``precision`` is one of :data:`DTYPES`.

        With int8 the decoder's matrices are int8, everything else float16.
        """
        self.config = model.config
        self._device = torch.device(device)
        self._dtype = DTYPES[precision]
        self._tables = tables_of(model.audio_encoder.mel, self._device)
        self._weights = decoder_weights(
            model.decoder, self._device, self._dtype, int8=precision == "int8"
        )
        self._model = _without_decoder(model).to(self._device, self._dtype).eval()
        self._lane, self._text_lane = Lane(self._device), Lane(self._device)
        self._audio: OrderedDict[int, tuple[AudioEncoding, Replayed]] = OrderedDict()
        self._texts: OrderedDict[int, tuple[TextEncoding, Replayed]] = OrderedDict()
        self._searches: OrderedDict[Shape, _Search] = OrderedDict()

    @classmethod
    @_explained
    def from_plan(
        cls, plan: Plan, *, device: torch.device | str = "cuda", precision: str = "fp16"
    ) -> Self:
        """The model of an open plan.

        Raises:
            PlanError: the plan lacks a tensor of its own model, or one has another shape.
        """
        return cls(model_of(plan), device=device, precision=precision)

    @_explained
    @torch.inference_mode()
    def encode_audio(self, wave: F32) -> Encoded:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        heard = self._heard(wave)
        return _encoded(heard.embedding, heard.prefix)

    @_explained
    @torch.inference_mode()
    def encode_text(self, ids: I64) -> Encoded:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        found = self._read(ids)
        self._text_lane.join()
        return _encoded(found.embedding, found.prefix)

    @_explained
    @torch.inference_mode()
    def embed_tokens(self, ids: I64) -> F32:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        return _array(self._rows_of(torch.from_numpy(ids.copy()).to(self._device)))

    @_explained
    @torch.inference_mode()
    def prefill(
        self, prefix: F32, lengths: I64, *, width: int, max_new_tokens: int
    ) -> tuple[Cache, F32]:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        shape = Shape(len(prefix), width, prefix.shape[1], max_new_tokens)
        cache = RowCache(Decoding(self._weights, shape))
        _put_prefix(cache.decoding, prefix, lengths)
        cache.decoding.history.position.zero_()
        cache.decoding.prefill()
        logits = self._logits(len(prefix))
        cache.decoding.first_logits(logits)
        return cache, _array(logits)

    @_explained
    @torch.inference_mode()
    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        assert isinstance(cache, RowCache)
        cache.follow(torch.from_numpy(parents.copy()).to(self._device))
        rows = self._rows_of(torch.from_numpy(tokens.copy()).to(self._device))
        cache.decoding.residual.copy_(rows + self._weights.positions[cache.places()])
        logits = self._logits(len(tokens))
        cache.decoding.step(logits)
        cache.position += 1
        cache.decoding.history.position.add_(1)
        return _array(logits)

    @_explained
    @torch.inference_mode()
    def answer(self, wave: F32, rows: F32, options: SearchOptions) -> Searched:
        """See :class:`pengi_rt.backends.protocol.SearchingBackend`. Raises as :meth:`search`."""
        behind = torch.from_numpy(rows.copy()).to(self._device)  # waits; the audio need not yet
        return self._answer(self._heard(wave), behind, options)

    @_explained
    @torch.inference_mode()
    def ask(
        self, wave: F32, ids: I64, rows: F32, options: SearchOptions
    ) -> tuple[Encoded, Searched]:
        """See :class:`pengi_rt.backends.protocol.SearchingBackend`. Raises as :meth:`search`."""
        behind = torch.from_numpy(rows.copy()).to(self._device)
        text = self._read(ids)
        heard = self._heard(wave)
        self._text_lane.join()
        found = self._answer(heard, torch.cat([text.prefix[0].float(), behind]), options)
        return _encoded(text.embedding, text.prefix), found

    @_explained
    @torch.inference_mode()
    def search(self, prefix: F32, lengths: I64, options: SearchOptions) -> Searched:
        """See :class:`pengi_rt.backends.protocol.SearchingBackend`.

        Raises:
            BackendError: there are more beams than the kernels keep.
            ValueError: logits hold NaN.
        """
        run = self._search_of(prefix.shape[0], prefix.shape[1], options)
        _put_prefix(run.decoding, prefix, lengths)
        return self._run(run, options)

    def _heard(self, wave: F32) -> AudioEncoding:
        """The waves encoded, in buffers that the next as many will use again."""
        encoding, replay = remembered(self._audio, len(wave), self._new_audio, REMEMBERED)
        encoding.hear(wave)
        replay()
        return encoding

    def _read(self, ids: I64) -> Prefix:
        """Prompts encoded beside what else the device does, until their lane is joined.

        One alone is replayed, and is in buffers that the next one will use again. Several at once
        come in too many shapes; so do prompts that the decoder embeds, in a single launch.
        """
        text = self.config.text
        if len(ids) > 1 or text.kind == "decoder":
            with self._text_lane.forked():
                return encode_texts(self._model, ids, self._device)
        length = length_of(ids.shape[1], text)
        encoding, replay = remembered(self._texts, length, self._new_text, REMEMBERED_TEXTS)
        with self._text_lane.forked():
            encoding.read(ids)
            replay()
        return encoding.found

    def _answer(self, heard: AudioEncoding, rows: Tensor, options: SearchOptions) -> Searched:
        """Behind what was heard and ``rows`` [n, n_embd]."""
        audio = heard.prefix.shape[1]
        length = audio + len(rows)
        run = self._search_of(len(heard.prefix), length, options)
        prefix = run.decoding.prefix
        prefix[:, :audio].copy_(heard.prefix)
        prefix[:, audio:length].copy_(rows)
        prefix[:, length:].zero_()  # a NaN times a weight of 0 is one
        run.decoding.prefix_lengths.fill_(length)
        return self._run(run, options)

    def _search_of(self, clips: int, prefix: int, options: SearchOptions) -> _Search:
        if options.beam_size > MAX_BEAM_SIZE:
            raise BackendError(
                f"the triton backend searches with at most {MAX_BEAM_SIZE} beams, "
                f"got {options.beam_size}"
            )
        shape = self._shape(clips, prefix, options)
        return remembered(self._searches, shape, self._new_search, REMEMBERED)

    def _run(self, run: _Search, options: SearchOptions) -> Searched:
        """Behind the prefix that is there."""
        decoding = run.decoding
        decoding.temperature.fill_(options.divisor)
        for end, token in zip(decoding.ends, (options.stop_id, options.pad_id), strict=True):
            end.fill_(token)  # a copy from the host would wait for all that was put into the stream
        run.start()
        made = 1
        while made < options.max_new_tokens and not self._all_done(run):
            run.more()
            made += STEPS
        return _searched(decoding.history)

    @_explained
    @torch.inference_mode()
    def warm_up(self, prefix: int, clips: int, options: SearchOptions) -> dict[str, Replayed]:
        """Compile and capture what answers to so many clips and prefix rows will need.

        Of prompts the usual lengths; a longer one is captured when it is first asked.
        """
        parts = {"audio": remembered(self._audio, clips, self._new_audio, REMEMBERED)[1]}
        for length in usual_lengths(self.config.text):
            made = remembered(self._texts, length, self._new_text, REMEMBERED_TEXTS)
            parts[f"text of {length} ids"] = made[1]
        run = self._search_of(clips, prefix, options)
        return parts | {"prefill": run.start, f"{STEPS} steps": run.more}

    def close(self) -> None:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        self._audio.clear()
        self._texts.clear()
        self._searches.clear()
        self.__dict__.pop("_model", None)
        self.__dict__.pop("_weights", None)

    def _new_audio(self, batch: int) -> tuple[AudioEncoding, Replayed]:
        encoding = AudioEncoding(self._model, self._tables, batch)
        return encoding, Replayed(encoding.run, self._lane)

    def _new_text(self, length: int) -> tuple[TextEncoding, Replayed]:
        encoding = TextEncoding(self._model, length, self._device)
        return encoding, Replayed(encoding.run, self._text_lane)

    def _shape(self, clips: int, prefix: int, options: SearchOptions) -> Shape:
        rows = min(rounded_up(prefix, PREFIX_ROWS), self.config.decoder.n_positions)
        steps = max(rounded_up(options.max_new_tokens - 1, STEPS), STEPS)
        return Shape(clips, options.beam_size, rows, steps)

    def _new_search(self, shape: Shape) -> _Search:
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

        return _Search(decoding, Replayed(start, self._lane), Replayed(more, self._lane), done)

    def _all_done(self, run: _Search) -> bool:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return bool(run.done.all())

    def _logits(self, rows: int) -> Tensor:
        return torch.empty(rows, self.config.decoder.vocab_size, device=self._device)

    def _rows_of(self, ids: Tensor) -> Tensor:
        """Embeddings [n, n_embd] in float32, without positions."""
        weight, scale = self._weights.head
        rows = weight[ids].float()
        return rows if scale is None else rows * scale[ids, None]


def _put_prefix(decoding: Decoding, prefix: F32, lengths: I64) -> None:
    sizes = torch.from_numpy(lengths.copy())
    real = torch.arange(prefix.shape[1]) < sizes[:, None]
    decoding.prefix.zero_()
    # Whatever padding holds: a NaN times a weight of 0 is one.
    rows = torch.where(real[..., None], torch.from_numpy(prefix.copy()), 0.0)
    decoding.prefix[:, : prefix.shape[1]].copy_(rows)
    decoding.prefix_lengths.copy_(sizes)


def _searched(history: BeamHistory) -> Searched:
    """On the host, all together: it waits once."""
    kept = (history.broken, history.tokens, history.sources, history.lengths, history.averages,
            history.done)  # fmt: skip
    copies = [tensor.to("cpu", non_blocking=True) for tensor in kept]
    if history.done.is_cuda:
        torch.cuda.current_stream(history.done.device).synchronize()
    broken, *rest = (tensor.numpy() for tensor in copies)
    if broken.any():
        raise ValueError(f"logits with NaN or without a finite maximum: clip {broken.argmax()}")
    return Searched(*rest)


def _without_decoder(model: Pengi) -> Pengi:
    """A copy that keeps of the decoder its embeddings alone, which some text sides read."""
    blocks, model.decoder.h = model.decoder.h, nn.ModuleList()
    try:
        return copy.deepcopy(model)
    finally:
        model.decoder.h = blocks


def _encoded(embedding: Tensor, prefix: Tensor) -> Encoded:
    return Encoded(_array(embedding), _array(prefix))


def _array(tensor: Tensor) -> F32:
    array: F32 = tensor.float().cpu().numpy()
    return array
