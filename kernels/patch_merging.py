r"""Patch merging of a Swin transformer: layer norm and linear layer over 2 x 2 patches.

.. math:: y = \operatorname{LN}(x_{00}, x_{10}, x_{01}, x_{11}) W^\top

The :math:`4 C` features of an output token are those of the pixels in (even row, even column),
(odd, even), (even, odd), (odd, odd), as released. They are gathered by the index arithmetic of
:mod:`pengi_rt.kernels.swin_linear` and never stored.

Shapes: image [B, R, R, C], weight [N, 4 C], result [B, R/2, R/2, N].

Source: Liu et al., *Swin Transformer*, ICCV 2021, section 3.1; HTSAT (Chen et al., ICASSP 2022).
"""

from torch import Tensor

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.norm_linear import norm_linear_reference
from pengi_rt.kernels.swin_linear import Layer, kernel_builds, swin_linear


def patch_merging(
    x: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    eps: float = 1e-5,
    out: Tensor | None = None,
) -> Tensor:
    """Halve the resolution.

    Args:
        x: [B, R, R, C], contiguous, R even; float32, float16 or bfloat16.
        weight: [N, 4 C]; all parameters and the result have its dtype.
        norm_weight: [4 C].
        norm_bias: [4 C].
        eps: of the layer norm.
        out: [B, R/2, R/2, N], contiguous; written instead of a new tensor.

    Raises:
        ValueError: a shape, dtype, device or memory layout does not fit.
    """
    if x.ndim != 4 or x.shape[1] != x.shape[2] or x.shape[1] % 2:
        raise ValueError(f"x must be [B, R, R, C] with an even R, got {tuple(x.shape)}")
    shape = (x.shape[0], x.shape[1] // 2, x.shape[2] // 2, weight.shape[0])
    layer = Layer(weight, None, norm_weight, norm_bias, eps)
    return swin_linear(x, layer, shape, merge=True, out=out)


def patch_merging_reference(
    x: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    eps: float = 1e-5,
    out: Tensor | None = None,
) -> Tensor:
    """:func:`patch_merging` in plain PyTorch."""
    patches = x.unfold(1, 2, 2).unfold(2, 2, 2)  # [B, R/2, R/2, C, row, column]
    x = patches.permute(0, 1, 2, 5, 4, 3).flatten(3)
    return norm_linear_reference(
        x, weight, norm_weight=norm_weight, norm_bias=norm_bias, eps=eps, out=out
    )


def builds() -> tuple[Build, ...]:
    """Full-size base, for 1 and for 16 clips, after each stage but the last."""
    stages = [(clips * 1024 >> 2 * stage, 96 << stage) for clips in (1, 16) for stage in range(3)]
    layers = [(M, 2 * C, C) for M, C in stages]
    return tuple(kernel_builds("patch_merging", layers, norm=True, merge=True))
