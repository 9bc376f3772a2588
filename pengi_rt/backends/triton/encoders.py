"""Audio and text encoders on the device, replayed from CUDA graphs, one per batch or text size."""

import torch
from torch import Tensor

from pengi_rt.backends.failures import explained
from pengi_rt.backends.protocol import F32, I64, Encoded
from pengi_rt.backends.triton.audio import AudioEncoding
from pengi_rt.backends.triton.cuda_graph import Lane, Replayed
from pengi_rt.backends.triton.text import TextEncoding, encode_texts, length_of, usual_lengths
from pengi_rt.kernels.log_mel_tables import LogMelTables
from pengi_rt.models.pengi import Pengi, Prefix
from pengi_rt.system.lru import LRU

KEPT_BATCHES = 8
"""Batch sizes whose buffers and graphs are kept."""

KEPT_TEXTS = 32
"""Prompt lengths whose buffers and graphs are kept; more than CLIP has."""

_explained = explained("the triton backend")


class TritonEncoders:
    """Implements :class:`pengi_rt.backends.protocol.Encoders`."""

    def __init__(self, model: Pengi, tables: LogMelTables, lane: Lane) -> None:
        """``model`` is on the lane's device in the compute dtype; audio is run in ``lane``."""
        self._model, self._tables, self._lane = model, tables, lane
        self._device = lane.device
        self._text_lane = Lane(lane.device)
        self._audio: LRU[int, tuple[AudioEncoding, Replayed]] = LRU(KEPT_BATCHES)
        self._texts: LRU[int, tuple[TextEncoding, Replayed]] = LRU(KEPT_TEXTS)

    @_explained
    @torch.inference_mode()
    def encode_audio(self, windows: F32) -> Encoded:
        encoding = self.run_audio(windows)
        return on_host(encoding.embedding, encoding.prefix)

    @_explained
    @torch.inference_mode()
    def encode_text(self, ids: I64) -> Encoded:
        text = self.run_text(ids)
        self.join_text()
        return on_host(text.embedding, text.prefix)

    def run_audio(self, windows: F32) -> AudioEncoding:
        """Encode recordings, in buffers that the next batch of this size overwrites."""
        encoding, replay = self._audio_for(len(windows))
        encoding.load(windows)
        replay()
        return encoding

    def run_text(self, ids: I64) -> Prefix:
        """Encode prompts in parallel with other work on the device, until :meth:`join_text`.

        A single prompt is replayed, in buffers that the next one overwrites. Several prompts at
        once, and prompts that the decoder embeds, come in too many shapes to be replayed.
        """
        text = self._model.config.text
        if len(ids) > 1 or text.kind == "decoder":
            with self._text_lane.forked():
                return encode_texts(self._model, ids, self._device)
        encoding, replay = self._text_for(length_of(ids.shape[1], text))
        with self._text_lane.forked():
            encoding.load(ids)
            replay()
        return encoding.result

    def join_text(self) -> None:
        """Make later work wait for the prompts of :meth:`run_text`."""
        self._text_lane.join()

    def warm_up(self, clips: int) -> dict[str, Replayed]:
        """Compile and capture the work for ``clips`` clips and prompts of the usual lengths."""
        graphs = {"audio": self._audio_for(clips)[1]}
        for length in usual_lengths(self._model.config.text):
            graphs[f"text of {length} ids"] = self._text_for(length)[1]
        return graphs

    def close(self) -> None:
        """Drop buffers, graphs and weights."""
        self._audio.clear()
        self._texts.clear()
        self.__dict__.pop("_model", None)

    def _audio_for(self, batch: int) -> tuple[AudioEncoding, Replayed]:
        return self._audio.get_or_make(batch, lambda: self._new_audio(batch))

    def _text_for(self, length: int) -> tuple[TextEncoding, Replayed]:
        return self._texts.get_or_make(length, lambda: self._new_text(length))

    def _new_audio(self, batch: int) -> tuple[AudioEncoding, Replayed]:
        encoding = AudioEncoding(self._model, self._tables, batch)
        return encoding, Replayed(encoding.run, self._lane)

    def _new_text(self, length: int) -> tuple[TextEncoding, Replayed]:
        encoding = TextEncoding(self._model, length, self._device)
        return encoding, Replayed(encoding.run, self._text_lane)


def on_host(embedding: Tensor, prefix: Tensor) -> Encoded:
    """Copy a batch to the host, in float32."""
    return Encoded(embedding.float().cpu().numpy(), prefix.float().cpu().numpy())
