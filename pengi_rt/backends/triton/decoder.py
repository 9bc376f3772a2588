"""The backend's decoder, for searches whose steps and parents the host chooses.

The device's own beam search (``search.py``) and this decoder both run on ``gpt2.Decoding``.
"""

import numpy as np
import torch
from torch import Tensor

from pengi_rt.backends.failures import explained
from pengi_rt.backends.protocol import F32, I64, Cache
from pengi_rt.backends.triton.gpt2 import Decoding, Shape
from pengi_rt.backends.triton.weights import DecoderWeights
from pengi_rt.config.parts import DecoderConfig

_explained = explained("the triton backend")


class RowCache(Cache):
    """A :class:`Decoding` as the protocol's cache: each of its clips is a slot.

    A free slot is a clip that has generated nothing. It is computed along with the others.
    """

    def __init__(self, weights: DecoderWeights, **sizes: int) -> None:
        super().__init__(**sizes)
        shape = Shape(self.slots, self.width, self.prefix_rows, self.new_tokens)
        self.decoding = Decoding(weights, shape)
        self.decoding.history.position.zero_()

    @torch.inference_mode()
    def release(self, slot: int) -> None:
        super().release(slot)
        self.decoding.prefix_lengths[slot] = 1
        self.decoding.history.position[slot] = 0

    def advance(self) -> None:
        super().advance()
        self.decoding.history.position.copy_(torch.from_numpy(self.generated))

    def follow(self, parents: Tensor) -> None:
        """Replace each row's history with its parent's; ``parents`` [slots, W] is on the device."""
        self.check_room()
        table = self.decoding.history.ancestry
        slot = torch.arange(self.slots, device=table.device)
        now = torch.from_numpy(self.generated).to(table.device)
        before = (now - 1).clamp_min(0)
        known = table[before, slot]
        inherited = known.gather(1, parents[..., None].expand(known.shape))
        inherited[slot, :, before] = parents.int()
        table[now, slot] = inherited

    def places(self) -> Tensor:
        """[slots * W]: the position of every row's next token."""
        places = torch.from_numpy(self.lengths + self.generated)
        return places.repeat_interleave(self.width).to(self.decoding.prefix.device)


class TritonDecoder:
    """GPT-2 on the device, as :class:`pengi_rt.backends.protocol.Decoder`."""

    def __init__(self, config: DecoderConfig, weights: DecoderWeights) -> None:
        self.config, self.weights = config, weights
        self._device = weights.positions.device

    @_explained
    @torch.inference_mode()
    def embed_tokens(self, ids: I64) -> F32:
        return self._embedded(ids).cpu().numpy()

    @_explained
    @torch.inference_mode()
    def new_cache(self, **sizes: int) -> Cache:
        return RowCache(self.weights, **sizes)

    @_explained
    @torch.inference_mode()
    def prefill(self, cache: Cache, slots: I64, prefix: F32, lengths: I64) -> F32:
        assert isinstance(cache, RowCache)
        cache.admit(slots, lengths)
        decoding, index = cache.decoding, self._tensor(slots)
        decoding.put_prefix(
            torch.from_numpy(prefix.copy()), torch.from_numpy(lengths.copy()), index
        )
        decoding.prefill(index)
        logits = self._logits(cache.slots)
        decoding.first_logits(logits)
        return logits[index].cpu().numpy()

    @_explained
    @torch.inference_mode()
    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        assert isinstance(cache, RowCache)
        cache.follow(self._tensor(parents))
        rows = self._embedded(tokens.reshape(-1))
        cache.decoding.residual.copy_(rows + self.weights.positions[cache.places()])
        logits = self._logits(tokens.size)
        cache.decoding.step(logits)
        cache.advance()
        return logits.cpu().numpy().reshape(*tokens.shape, -1)

    def _embedded(self, ids: I64) -> Tensor:
        """Embeddings [n, n_embd] in float32, without positions."""
        weight, scale = self.weights.head
        index = self._tensor(ids)
        rows = weight[index].float()
        return rows if scale is None else rows * scale[index, None]

    def _logits(self, rows: int) -> Tensor:
        return torch.empty(rows, self.config.vocab_size, device=self._device)

    def _tensor(self, array: I64) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self._device)
