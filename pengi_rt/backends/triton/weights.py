"""The decoder's weights as the kernels read them: in the compute dtype, or int8 with scales."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pengi_rt.kernels.add_norm import Norm
from pengi_rt.kernels.lm_head import Head
from pengi_rt.kernels.small_linear_launch import Linear
from pengi_rt.models.gpt2 import GPT2, Block, Conv1D
from pengi_rt.models.stored_weights import quantize


class BlockWeights(NamedTuple):
    """One block of GPT-2."""

    norm_1: Norm
    qkv: Linear
    attention_projection: Linear
    norm_2: Norm
    fc: Linear
    mlp_projection: Linear


class DecoderWeights(NamedTuple):
    """A whole GPT-2, on its device."""

    layers: tuple[BlockWeights, ...]
    norm: Norm
    head: Head
    positions: Tensor
    """[n_positions, C] in the compute dtype."""
    heads: int
    dtype: torch.dtype
    """The compute dtype, which is also that of the weights unless they are int8."""


def decoder_weights(
    decoder: GPT2, device: torch.device, dtype: torch.dtype, *, int8: bool
) -> DecoderWeights:
    """A decoder's weights on ``device``; ``int8`` rounds matrices, with per-channel scales.

    Tensors that are already on the device in the right dtype are shared with the decoder.
    """

    def layer(block: Block) -> BlockWeights:
        return BlockWeights(
            _norm(block.ln_1, device),
            _linear(block.attn.c_attn, device, dtype, int8=int8),
            _linear(block.attn.c_proj, device, dtype, int8=int8),
            _norm(block.ln_2, device),
            _linear(block.mlp.c_fc, device, dtype, int8=int8),
            _linear(block.mlp.c_proj, device, dtype, int8=int8),
        )

    table = decoder.wte.weight.detach().to(device)
    values, scale = quantize(table, dim=1) if int8 else (table.to(dtype), None)
    return DecoderWeights(
        layers=tuple(layer(cast("Block", block)) for block in decoder.h),
        norm=_norm(decoder.ln_f, device),
        head=Head(values.contiguous(), scale),
        positions=decoder.wpe.weight.detach().to(device, dtype).contiguous(),
        heads=decoder.config.n_head,
        dtype=dtype,
    )


def dense(layer: Linear, dtype: torch.dtype) -> Tensor:
    """A layer's weights [K, N] in the compute dtype, even if they are stored as int8."""
    if layer.scale is None:
        return layer.weight
    return (layer.weight * layer.scale).to(dtype)


def _norm(norm: nn.LayerNorm, device: torch.device) -> Norm:
    parameters = (norm.weight, norm.bias)
    weight, bias = (each.detach().float().to(device).contiguous() for each in parameters)
    return Norm(weight, bias, norm.eps)


def _linear(layer: Conv1D, device: torch.device, dtype: torch.dtype, *, int8: bool) -> Linear:
    weight = layer.weight.detach().to(device)
    bias = layer.bias.detach().float().to(device).contiguous()
    if int8:
        values, scale = quantize(weight, dim=0)
        return Linear(values.contiguous(), bias, scale)
    return Linear(weight.to(dtype).contiguous(), bias)
