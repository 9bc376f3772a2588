"""GPT-2's work on the device: prefill by PyTorch, steps by our kernels, on fixed buffers.

A :class:`Decoding` holds the buffers for a number of clips, beams, prefix rows and tokens.
:meth:`Decoding.prefill` and :meth:`Decoding.step` run the decoder on them, and
:meth:`Decoding.choose` runs the beam search. Nothing here waits for the device.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pengi_rt.backends.triton.weights import BlockWeights, DecoderWeights, dense
from pengi_rt.kernels.add_norm import Norm, Stream
from pengi_rt.kernels.beam_attention import Segments, beam_attention
from pengi_rt.kernels.beam_history import BeamHistory
from pengi_rt.kernels.beam_step import beam_step
from pengi_rt.kernels.embed_rows import Embeddings
from pengi_rt.kernels.lm_head import lm_head
from pengi_rt.kernels.small_linear import linear_partials, norm_gelu_linear, norm_qkv
from pengi_rt.kernels.small_linear_launch import KeyValueCache, Linear, splits
from pengi_rt.kernels.top_tokens import TopTokens, top_tokens
from pengi_rt.kernels.vocab_tiles import MAX_BEAM_SIZE, VocabTiles

Slots = slice | Tensor
"""Some of a shape's clips: all of them, or the indices in an int64 tensor."""
ALL: Final = slice(None)


class Shape(NamedTuple):
    """The sizes that buffers are made for."""

    clips: int
    beams: int
    prefix: int
    """Rows of the longest prefix."""
    steps: int
    """The maximum number of tokens after the first one."""


class Decoding:
    """The buffers of one shape, and the work on them."""

    def __init__(self, weights: DecoderWeights, shape: Shape) -> None:
        self.weights, self.shape = weights, shape
        clips, beams, prefix, steps = shape
        vocab, width = weights.head.weight.shape
        device, dtype, rows = weights.head.weight.device, weights.dtype, clips * beams
        layers, heads = len(weights.layers), weights.heads
        candidates = min(beams, MAX_BEAM_SIZE)

        def empty(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(size, dtype=dtype, device=device)

        segment = (layers, clips, heads, prefix, width // heads)
        slots = (layers, clips, beams, heads, max(steps, 1), width // heads)
        self.prefix = torch.zeros(clips, prefix, width, device=device)
        self.prefix_lengths = torch.ones(clips, dtype=torch.int32, device=device)
        # Free slots are computed too, and read these buffers, which must not hold NaN.
        self._prefix_keys, self._prefix_values = (
            torch.zeros(segment, dtype=dtype, device=device) for _ in "kv"
        )
        self._keys, self._values = (empty(*slots, dtype=dtype) for _ in "kv")
        self.history = BeamHistory.empty(steps, clips, beams, device)
        self.temperature = torch.ones(1, dtype=torch.float64, device=device)
        self.ends = torch.zeros(2, dtype=torch.int32, device=device)
        self._embeddings = Embeddings(
            weights.head.weight, weights.positions, self.prefix_lengths, weights.head.scale
        )
        self.residual = empty(rows, width)
        self._other = empty(rows, width)
        self._last = torch.zeros(clips, width, device=device)
        self._queries, self._attended, self._normed = (
            empty(rows, width, dtype=dtype) for _ in range(3)
        )
        block = weights.layers[0]
        self._hidden = empty(rows, block.fc.weight.shape[1], dtype=dtype)
        projections = (block.attention_projection.weight, block.mlp_projection.weight)
        self._after_attention, self._after_mlp = (
            empty(splits(rows, weight), rows, width) for weight in projections
        )
        self._tiles, self._best = _candidates(rows, vocab, candidates, device)
        self._first_tiles, self._first_best = _candidates(clips, vocab, candidates, device)

    def put_prefix(self, prefix: Tensor, lengths: Tensor, slots: Slots = ALL) -> None:
        """Copy padded prefixes [n, P, C] with lengths [n] from the host to the clips ``slots``."""
        real = torch.arange(prefix.shape[1]) < lengths[:, None]
        # The padding must not hold NaN: NaN times a weight of 0 is NaN.
        rows = torch.where(real[..., None], prefix, 0.0).to(self.prefix.device)
        self.prefix[slots] = 0
        self.prefix[slots, : prefix.shape[1]] = rows
        self.prefix_lengths[slots] = lengths.to(self.prefix_lengths)

    def prefill(self, slots: Slots = ALL) -> None:
        """Read :attr:`prefix` up to :attr:`prefix_lengths`: keys and values of the clips ``slots``.

        Uses PyTorch's products and attention, which reach the device's limit with this many rows.
        """
        weights = self.weights
        positions = weights.positions[: self.shape.prefix].float()
        x = self.prefix[slots] + positions
        for index, layer in enumerate(weights.layers):
            y = _normed(x, layer.norm_1, weights.dtype)
            x = x + self._prefix_attention(index, layer, y, slots)
            y = _normed(x, layer.norm_2, weights.dtype)
            y = F.gelu(_dense(y, layer.fc), approximate="tanh")
            x = x + _dense(y, layer.mlp_projection)
        last = (self.prefix_lengths[slots].long() - 1)[:, None, None].expand(-1, 1, x.shape[2])
        self._last[slots] = x.gather(1, last)[:, 0]

    def _prefix_attention(self, index: int, layer: BlockWeights, x: Tensor, slots: Slots) -> Tensor:
        y = _dense(x, layer.qkv).unflatten(2, (3, self.weights.heads, -1))
        q, k, v = y.permute(2, 0, 3, 1, 4)
        self._prefix_keys[index, slots] = k
        self._prefix_values[index, slots] = v
        # Rows after a clip's own prefix see garbage, and nothing reads them.
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return _dense(attended.transpose(1, 2).flatten(2), layer.attention_projection)

    def first_logits(self, out: Tensor | None = None) -> None:
        """Apply the head to every prefix's last row; ``out`` [B, V] float32 receives the logits."""
        lm_head(
            Stream(self._last),
            self.weights.norm,
            self.weights.head,
            self.temperature,
            hidden=self._normed[: self.shape.clips],
            out=self._first_tiles,
            logits=out,
        )

    def first_choice(self) -> None:
        """Choose the first token of every beam."""
        best = top_tokens(self._first_tiles, self.temperature, self._vocab, self._first_best)
        beam_step(best, self.history, self.ends, self._embeddings, self.residual, first=True)

    def step(self, out: Tensor | None = None) -> None:
        """One decode step, from :attr:`residual` to the part of the logits that the head keeps.

        ``out`` [B * W, V] float32 receives the logits themselves.
        """
        stream = Stream(self.residual)
        for index, layer in enumerate(self.weights.layers):
            stream = self._block(index, layer, stream)
        lm_head(
            stream,
            self.weights.norm,
            self.weights.head,
            self.temperature,
            hidden=self._normed,
            out=self._tiles,
            logits=out,
        )

    def _block(self, index: int, layer: BlockWeights, stream: Stream) -> Stream:
        """Run one layer; returns the residual stream after it.

        The sums alternate between two buffers: attention writes to the other one, the MLP back.
        """
        keys, values, position = self._keys[index], self._values[index], self.history.position
        cache = KeyValueCache(keys, values, position)
        norm_qkv(stream, layer.norm_1, layer.qkv, cache, out=self._queries, normed=self._normed)
        segments = Segments(
            prefix_keys=self._prefix_keys[index],
            prefix_values=self._prefix_values[index],
            prefix_lengths=self.prefix_lengths,
            keys=keys,
            values=values,
            ancestry=self.history.ancestry,
            position=position,
        )
        beam_attention(self._queries, segments, out=self._attended)
        linear_partials(self._attended, layer.attention_projection, out=self._after_attention)
        bias = layer.attention_projection.bias
        stream = Stream(self.residual, bias, self._after_attention, self._other)
        norm_gelu_linear(stream, layer.norm_2, layer.fc, out=self._hidden, normed=self._normed)
        linear_partials(self._hidden, layer.mlp_projection, out=self._after_mlp)
        return Stream(self._other, layer.mlp_projection.bias, self._after_mlp, self.residual)

    def choose(self) -> None:
        """Choose the next beams."""
        best = top_tokens(self._tiles, self.temperature, self._vocab, self._best)
        beam_step(best, self.history, self.ends, self._embeddings, self.residual)

    @property
    def _vocab(self) -> int:
        return len(self.weights.head.weight)


def _candidates(
    rows: int, vocab: int, count: int, device: torch.device
) -> tuple[VocabTiles, TopTokens]:
    """Buffers between the head and the choice."""
    return VocabTiles.empty(rows, vocab, count, device), TopTokens.empty(rows, count, device)


def _dense(x: Tensor, layer: Linear) -> Tensor:
    """Apply a layer to many rows, in the dtype of ``x``."""
    return x @ dense(layer, x.dtype) + layer.bias.to(x.dtype)


def _normed(x: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps).to(dtype)
