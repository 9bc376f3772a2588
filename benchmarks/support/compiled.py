"""Our PyTorch decoder as one would make it fast today: static buffers and ``torch.compile``.

It has a preallocated cache of every row's whole history, reordered by index-select after every
step, and Pengi's beam rule in float32, all without the host. With ``mode="reduce-overhead"``,
PyTorch compiles it and replays it from CUDA graphs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from contenders import PyTorch
from torch import Tensor, nn
from torch.nn import functional as F

from pengi_rt.backends.protocol import SearchTrace
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.decoding.backtrack import Hypotheses, read_hypotheses
from pengi_rt.models.gpt2 import GPT2, Block


class CachedDecoder(nn.Module):
    """A decoder for a fixed number of clips and beams; every step reuses the same buffers."""

    rows: Tensor
    tokens: Tensor
    position: Tensor
    scores: Tensor
    lengths: Tensor
    finished: Tensor
    chosen: Tensor
    sources: Tensor
    averages: Tensor
    only_pad: Tensor

    def __init__(self, decoder: GPT2, clips: int, prefix: int, options: DecodeOptions) -> None:
        super().__init__()
        self.decoder, self.options, self.prefix = decoder, options, prefix
        self.shape = (clips, options.beam_size)
        config, weight = decoder.config, decoder.wte.weight
        places, width = prefix + options.max_new_tokens, config.n_embd // config.n_head
        count = clips * options.beam_size
        for index in range(config.n_layer):
            for name in ("keys", "values"):
                cache = weight.new_zeros(count, config.n_head, places, width)
                self.register_buffer(f"{name}_{index}", cache)
        integers = torch.zeros(count, dtype=torch.int64, device=weight.device)
        history = integers.new_zeros(options.max_new_tokens, *self.shape)
        self.register_buffer("rows", integers.clone())
        self.register_buffer("tokens", integers.clone())
        self.register_buffer("position", integers.new_zeros(1))
        self.register_buffer("scores", torch.zeros(self.shape, device=weight.device))
        self.register_buffer("lengths", integers.new_zeros(self.shape))
        self.register_buffer("finished", integers.new_zeros(self.shape, dtype=torch.bool))
        self.register_buffer("chosen", history)
        self.register_buffer("sources", history.clone())
        self.register_buffer("averages", history.float())
        only_pad = torch.full((config.vocab_size,), -torch.inf, device=weight.device)
        only_pad[options.pad_id] = 0
        self.register_buffer("only_pad", only_pad)

    def prefill(self, prefix: Tensor) -> None:
        """Read the prefixes [B, P, C] and choose the first tokens."""
        hidden, new = self.decoder(prefix, torch.arange(self.prefix, device=prefix.device))
        beams = self.shape[1]
        for index, pair in enumerate(new):
            for cache, own in zip(self._cache(index), pair, strict=True):
                cache[:, :, : self.prefix] = own.repeat_interleave(beams, 0)
        logits = self.decoder.logits(hidden[:, -1])
        for buffer in (self.scores, self.lengths, self.finished, self.position):
            buffer.zero_()
        self._choose(logits.float()[:, None], beams=1)

    def forward(self) -> None:
        """Decode one more token."""
        slot = self.position - 1
        x = self.decoder.wte(self.tokens)[:, None] + self.decoder.wpe(self.prefix + slot)
        places = torch.arange(self._cache(0)[0].shape[2], device=x.device)
        visible = (places <= self.prefix + slot)[None, None, None]
        for index, block in enumerate(self.decoder.h):
            assert isinstance(block, Block)
            x = self._block(block, index, x, slot, visible)
        logits = self.decoder.logits(self.decoder.ln_f(x)[:, 0])
        self._choose(logits.float().unflatten(0, self.shape), beams=self.shape[1])

    def _block(self, block: Block, index: int, x: Tensor, slot: Tensor, visible: Tensor) -> Tensor:
        attention = block.attn
        projected = attention.c_attn(block.ln_1(x)).unflatten(2, (3, attention.heads, -1))
        q, k, v = projected.permute(2, 0, 3, 1, 4)
        keys, values = self._cache(index)
        for cache, new in ((keys, k), (values, v)):
            ordered = cache[:, :, self.prefix :].index_select(0, self.rows)
            cache[:, :, self.prefix :] = ordered.index_copy(2, slot, new)
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=visible)
        x = x + attention.c_proj(y.transpose(1, 2).flatten(2))
        result: Tensor = x + block.mlp(block.ln_2(x))
        return result

    def _choose(self, logits: Tensor, *, beams: int) -> None:
        """Pengi's beam rule on logits [B, ``beams``, V], ignoring ties."""
        clips, wanted = self.shape
        scores, finished = self.scores[:, :beams], self.finished[:, :beams]
        log_probs = (logits / self.options.divisor).log_softmax(dim=-1)
        log_probs = torch.where(finished[..., None], self.only_pad, log_probs)
        lengths = self.lengths[:, :beams] + ~finished
        averages = (scores[..., None] + log_probs) / lengths[..., None]
        best, flat = averages.flatten(1).topk(wanted)
        source, token = flat // logits.shape[2], flat % logits.shape[2]
        lengths, over = lengths.gather(1, source), finished.gather(1, source)
        self.scores.copy_(best * lengths)
        self.lengths.copy_(lengths)
        self.finished.copy_(over | (token == self.options.stop_id))
        self.chosen.index_copy_(0, self.position, token[None])
        self.sources.index_copy_(0, self.position, source[None])
        self.averages.index_copy_(0, self.position, best[None])
        self.tokens.copy_(token.flatten())
        first = torch.arange(clips, device=source.device)[:, None] * wanted
        self.rows.copy_((source + first).flatten())
        self.position.add_(1)

    def _cache(self, index: int) -> tuple[Tensor, Tensor]:
        return getattr(self, f"keys_{index}"), getattr(self, f"values_{index}")

    def answers(self) -> list[Hypotheses]:
        """The hypotheses, on the host."""
        tokens, sources, lengths = (
            buffer.cpu().numpy() for buffer in (self.chosen, self.sources, self.lengths)
        )
        averages = self.averages.cpu().double().numpy()
        lengths = np.broadcast_to(lengths, tokens.shape)
        done = np.zeros(self.shape[0], np.int32)
        trace = SearchTrace(tokens, sources, lengths, averages, done)
        return read_hypotheses(trace, len(tokens))


class Compiled:
    """End to end for one batch size: audio encoder, prefill and step, each compiled alone."""

    def __init__(
        self,
        pytorch: PyTorch,
        clips: int,
        options: DecodeOptions,
        compile_: Callable[[Any], Any] | None = None,
    ) -> None:
        """``compile_`` replaces ``torch.compile`` with ``mode="reduce-overhead"``."""
        if compile_ is None:
            compile_ = torch.compile(mode="reduce-overhead", fullgraph=True, dynamic=False)
        config = pytorch.model.config
        self.pytorch, self.options = pytorch, options
        self.decoder = CachedDecoder(pytorch.model.decoder, clips, config.prefix_length, options)
        for buffer in self.decoder.buffers():
            torch._dynamo.mark_static_address(buffer)  # otherwise graphs refuse to write to it
        self.encode = compile_(pytorch.audio_prefix)
        self.prefill, self.step = compile_(self.decoder.prefill), compile_(self.decoder.forward)

    @torch.no_grad()
    def caption(self, wave: Tensor, text: Tensor) -> list[Hypotheses]:
        """From waveforms to hypotheses, both on the host; the prompt's prefix is given."""
        torch.compiler.cudagraph_mark_step_begin()
        audio = self.encode(wave.to(self.pytorch.device))
        prefix = torch.cat([audio, text.expand(len(audio), -1, -1)], dim=1)
        self.prefill(prefix)
        for _ in range(self.options.max_new_tokens - 1):
            self.step()
        return self.decoder.answers()
