"""A whole block of HTSAT from four kernels, against the model's, in float64."""

from triton_interpreter import DEVICE

# isort: split
import copy
from typing import Any

import pytest
import torch
from kernel_close import assert_kernel_close
from torch import Tensor

from pengi_rt.config.parts import HTSATConfig
from pengi_rt.kernels.norm_linear import linear_residual, norm_linear
from pengi_rt.kernels.window_attention import window_attention
from pengi_rt.models.htsat import SwinBlock

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def by_kernels(block: SwinBlock, x: Tensor) -> Tensor:
    """The block in five launches, with the residual stream in the dtype of ``x``."""
    attn, mlp = block.attn, block.mlp
    norms: list[dict[str, Any]] = [
        {"norm_weight": norm.weight, "norm_bias": norm.bias, "eps": norm.eps}
        for norm in (block.norm1, block.norm2)
    ]
    qkv = norm_linear(x, attn.qkv.weight, attn.qkv.bias, **norms[0])
    table = attn.relative_position_bias_table
    y = window_attention(qkv, table, heads=attn.heads, window=attn.window, shift=block.shift)
    x = linear_residual(y, attn.proj.weight, attn.proj.bias, x)
    hidden = norm_linear(x, mlp.fc1.weight, mlp.fc1.bias, **norms[1], gelu=True)
    return linear_residual(hidden, mlp.fc2.weight, mlp.fc2.bias, x, out=x)


@pytest.mark.parametrize(
    ("dtype", "shifted", "window", "resolution"),
    [
        (torch.float32, False, 6, 12),
        (torch.float32, True, 6, 12),
        (torch.float32, True, 8, 8),  # asks for a shift, and one window has none
        (torch.float16, True, 6, 12),
        (torch.bfloat16, True, 6, 12),
    ],
)
def test_swin_block(dtype: torch.dtype, shifted: bool, window: int, resolution: int) -> None:
    torch.manual_seed(0)
    config = HTSATConfig(
        spec_size=4 * resolution, embed_dim=48, depths=(2,), num_heads=(2,), window_size=window
    )
    block = SwinBlock(config, 48, 2, resolution, shifted=shifted)
    for name, parameter in block.named_parameters():
        if parameter.ndim == 1 or "table" in name:  # zeros and ones say little
            torch.nn.init.normal_(parameter)
    block = block.to(DEVICE, dtype).requires_grad_(requires_grad=False)
    assert bool(block.shift) == (shifted and window < resolution)
    x = torch.randn(1, resolution, resolution, 48, device=DEVICE).to(dtype)
    truth = copy.deepcopy(block).double()(x.double())
    assert_kernel_close(by_kernels(block, x), truth, block(x))
