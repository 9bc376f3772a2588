"""A decoder block made of kernels against the model's own, while beams change parents."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
from triton_interpreter import DEVICE, poisoned

# isort: split
import torch
from kernel_close import assert_kernel_close
from torch import Tensor

from pengi_rt.config.parts import DecoderConfig
from pengi_rt.kernels.add_norm import Norm, Stream, add_norm
from pengi_rt.kernels.beam_attention import Segments, beam_attention
from pengi_rt.kernels.small_linear import linear_partials, norm_gelu_linear, norm_qkv
from pengi_rt.kernels.small_linear_launch import KeyValueCache, Linear
from pengi_rt.models.gpt2 import Block, Conv1D, KeyValue

LENGTHS, BEAMS, HEADS, WIDTH, STEPS = (5, 3), 3, 2, 32, 3
ROWS = len(LENGTHS) * BEAMS


class PlainRows:
    """The block as the model runs it: row by row, each with its own cache."""

    def __init__(self, block: Block, prefixes: list[Tensor]) -> None:
        self.block, self.dtype = block, next(block.parameters()).dtype
        start = [block(prefix[None].to(self.dtype), None, None)[1] for prefix in prefixes]
        self.prefixes = start
        self.caches: list[KeyValue] = [
            start[clip] for clip in range(len(start)) for _ in range(BEAMS)
        ]

    def step(self, x: Tensor) -> Tensor:
        outputs = []
        for row, past in enumerate(self.caches):
            y, new = self.block(x[row][None, None].to(self.dtype), past, None)
            self.caches[row] = (torch.cat([past[0], new[0]], 2), torch.cat([past[1], new[1]], 2))
            outputs.append(y[0, 0])
        return torch.stack(outputs)

    def reorder(self, sources: Tensor) -> None:
        """Let row j of a clip continue its row ``sources[clip, j]``."""
        rows = (sources + torch.arange(len(LENGTHS))[:, None] * BEAMS).flatten().tolist()
        self.caches = [self.caches[row] for row in rows]


@dataclass
class KernelRows:
    """The block made of kernels, on caches that never move."""

    block: Block
    segments: Segments

    @classmethod
    def start(cls, block: Block, prefixes: list[KeyValue]) -> "KernelRows":
        dtype = next(block.parameters()).dtype
        shape = (len(LENGTHS), HEADS, max(LENGTHS), WIDTH // HEADS)
        keys, values = poisoned(*shape, dtype=dtype), poisoned(*shape, dtype=dtype)
        for clip, pair in enumerate(prefixes):
            for tensor, own in zip((keys, values), pair, strict=True):
                tensor[clip, :, : LENGTHS[clip]] = own[0]
        slots = (len(LENGTHS), BEAMS, HEADS, STEPS, WIDTH // HEADS)
        ancestry = torch.full((STEPS + 1, len(LENGTHS), BEAMS, STEPS), -1, dtype=torch.int32)
        return cls(
            block,
            Segments(
                keys,
                values,
                torch.tensor(LENGTHS, dtype=torch.int32, device=DEVICE),
                poisoned(*slots, dtype=dtype),
                poisoned(*slots, dtype=dtype),
                ancestry.to(DEVICE),
                torch.zeros(len(LENGTHS), dtype=torch.int32, device=DEVICE),
            ),
        )

    def step(self, x: Tensor) -> Tensor:
        attn, mlp, own = self.block.attn, self.block.mlp, self.segments
        cache = KeyValueCache(own.keys, own.values, own.position)
        first, second, third = x.float().to(DEVICE), poisoned(ROWS, WIDTH), poisoned(ROWS, WIDTH)
        q = norm_qkv(Stream(first), norm(self.block.ln_1), linear(attn.c_attn), cache)
        y = linear_partials(beam_attention(q, own), linear(attn.c_proj))
        stream = Stream(first, attn.c_proj.bias.float(), y, second)
        y = norm_gelu_linear(stream, norm(self.block.ln_2), linear(mlp.c_fc))
        y = linear_partials(y, linear(mlp.c_proj), out=poisoned(2, ROWS, WIDTH))
        stream = Stream(second, mlp.c_proj.bias.float(), y, third)
        add_norm(stream, norm(self.block.ln_1), torch.empty_like(third))
        return third

    def reorder(self, sources: Tensor) -> None:
        """Write what a beam step writes."""
        t = int(self.segments.position[0])
        old, new = self.segments.ancestry[t], self.segments.ancestry[t + 1]
        for clip, source in enumerate(sources.tolist()):
            new[clip, :, :t] = old[clip, source, :t]
            new[clip, :, t] = torch.tensor(source, dtype=torch.int32)
        self.segments.position.add_(1)


def linear(layer: Conv1D) -> Linear:
    return Linear(layer.weight, layer.bias.float())


def norm(layer: torch.nn.LayerNorm) -> Norm:
    return Norm(layer.weight.float(), layer.bias.float(), layer.eps)


def random_block(dtype: torch.dtype) -> Block:
    """A block whose biases and norms differ from a new model's."""
    block = Block(
        DecoderConfig(vocab_size=16, n_positions=16, n_embd=WIDTH, n_layer=1, n_head=HEADS)
    )
    generator = torch.Generator().manual_seed(1)
    for name, parameter in block.named_parameters():
        spread = 0.5 if parameter.ndim == 1 else WIDTH**-0.5
        torch.nn.init.normal_(parameter, float("ln" in name), spread, generator)
    return block.to(dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_block_equals_the_models(dtype: torch.dtype) -> None:
    block = random_block(dtype)
    generator = torch.Generator().manual_seed(2)
    prefixes = [torch.randn(n, WIDTH, generator=generator) for n in LENGTHS]
    native, truth = PlainRows(block, prefixes), PlainRows(deepcopy(block).double(), prefixes)
    kernels = KernelRows.start(deepcopy(block).to(DEVICE), native.prefixes)
    for _ in range(STEPS):
        x = torch.randn(ROWS, WIDTH, generator=generator).to(dtype)
        assert_kernel_close(kernels.step(x), truth.step(x), native.step(x))
        sources = torch.randint(BEAMS, (len(LENGTHS), BEAMS), generator=generator)
        for rows in (native, truth, kernels):
            rows.reorder(sources)
