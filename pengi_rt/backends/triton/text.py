"""Prompt to text prefix on the device: one prompt of so many ids from static buffers."""

import torch
from torch import Tensor

from pengi_rt.backends.protocol import I64
from pengi_rt.backends.triton.cuda_graph import rounded_up
from pengi_rt.config.model import TextConfig
from pengi_rt.models.pengi import Pengi, Prefix
from pengi_rt.models.text_encoder import causal_mask

IDS = 8
"""Buffers for CLIP are made for a multiple of it, so that prompts of about one length share."""


class TextEncoding:
    """The text side for one prompt of so many ids: a static buffer, and the work on it."""

    found: Prefix
    """What the last run gave; written again by the next replay."""

    def __init__(self, model: Pengi, length: int, device: torch.device) -> None:
        """``model`` is on the device in the compute dtype."""
        self._model = model
        self._ids = torch.full((1, length), _fill(model.config.text), device=device)
        self._mask: Tensor | None = None
        if model.text_encoder is not None:
            # transformers 5.0 makes its own by a copy from the host, which no graph can hold.
            self._mask = causal_mask(length, model.text_encoder.text_projection.weight)

    def read(self, ids: I64) -> None:
        """Take ``[1, T]``, ``T`` at most the length that this was made for."""
        given = torch.from_numpy(ids.copy())
        self._ids[:, : given.shape[1]].copy_(given)
        self._ids[:, given.shape[1] :].fill_(_fill(self._model.config.text))

    def run(self) -> None:
        """From the ids to :attr:`found`."""
        encoder = self._model.text_encoder
        if encoder is None:
            self.found = self._model.encode_text(self._ids)
        else:
            self.found = self._model.map_text(encoder(self._ids, self._mask))


def encode_texts(model: Pengi, ids: I64, device: torch.device) -> Prefix:
    """``[B, T]`` ids of several prompts, as they are."""
    given: Tensor = torch.from_numpy(ids.copy()).to(device)
    return model.encode_text(given)


def length_of(ids: int, text: TextConfig) -> int:
    """Of the buffer for a prompt of so many ids.

    CLIP reads nothing behind the first EOS, so EOS may be put there; elsewhere every id counts.
    """
    if text.kind != "clip":
        return ids
    return max(ids, min(rounded_up(ids, IDS), text.max_length))


def usual_lengths(text: TextConfig) -> list[int]:
    """Of the buffers for most prompts: CLIP's of up to 14 tokens of text; of none not replayed."""
    if text.kind == "decoder":
        return []
    ids = (IDS, 2 * IDS) if text.kind == "clip" else (text.max_length,)
    return sorted({length_of(min(count, text.max_length), text) for count in ids})


def _fill(text: TextConfig) -> int:
    return text.eos_id if text.kind == "clip" else 0
