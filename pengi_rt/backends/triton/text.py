"""From a prompt's ids to its text prefix on the device."""

import torch
from torch import Tensor

from pengi_rt.backends.protocol import I64
from pengi_rt.backends.triton.cuda_graph import rounded_up
from pengi_rt.config.parts import TextConfig
from pengi_rt.models.pengi import Pengi, Prefix
from pengi_rt.models.text_encoder import causal_mask

IDS = 8
"""CLIP's buffers hold a multiple of this many ids, so that prompts of similar length share them."""


class TextEncoding:
    """The text encoder for one prompt of a fixed length: a static buffer, and the work on it."""

    result: Prefix
    """The result of the last run; the next replay overwrites it."""

    def __init__(self, model: Pengi, length: int, device: torch.device) -> None:
        """``model`` is on the device in the compute dtype."""
        self._model = model
        self._ids = torch.full((1, length), _fill(model.config.text), device=device)
        self._mask: Tensor | None = None
        if model.text_encoder is not None:
            # transformers 5.0 copies its own mask from the host, which a graph cannot capture.
            self._mask = causal_mask(length, model.text_encoder.text_projection.weight)

    def load(self, ids: I64) -> None:
        """Copy ids int64 [1, T] to the buffer; T must not exceed its length."""
        host = torch.from_numpy(ids.copy())
        self._ids[:, : host.shape[1]].copy_(host)
        self._ids[:, host.shape[1] :].fill_(_fill(self._model.config.text))

    def run(self) -> None:
        """Compute :attr:`result` from the ids."""
        encoder = self._model.text_encoder
        if encoder is None:
            self.result = self._model.encode_text(self._ids)
        else:
            self.result = self._model.map_text(encoder(self._ids, self._mask))


def encode_texts(model: Pengi, ids: I64, device: torch.device) -> Prefix:
    """Encode several prompts, ids int64 [B, T], without static buffers."""
    return model.encode_text(torch.from_numpy(ids.copy()).to(device))


def length_of(ids: int, text: TextConfig) -> int:
    """The length of the buffer for a prompt of ``ids`` ids.

    CLIP ignores everything after the first EOS, so its buffers may be longer and filled with EOS.
    For the other encoders, every id matters.
    """
    if text.kind != "clip":
        return ids
    return max(ids, min(rounded_up(ids, IDS), text.max_length))


def usual_lengths(text: TextConfig) -> list[int]:
    """Buffer lengths that cover most prompts (with CLIP, up to 14 tokens of text).

    Empty if prompts are not replayed from a graph.
    """
    if text.kind == "decoder":
        return []
    ids = (IDS, 2 * IDS) if text.kind == "clip" else (text.max_length,)
    return sorted({length_of(min(count, text.max_length), text) for count in ids})


def _fill(text: TextConfig) -> int:
    return text.eos_id if text.kind == "clip" else 0
