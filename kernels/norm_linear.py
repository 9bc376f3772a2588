"""The linear layers of a Swin block, with what stands around them: LayerNorm, GELU, residual.

Source: Liu et al., *Swin Transformer*, ICCV 2021, section 3.1. One kernel does it all:
:mod:`pengi_rt.kernels.row_linear`.
"""

from torch import Tensor
from torch.nn import functional as F

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.row_linear import kernel_builds, launch


def norm_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    gelu: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """LayerNorm where its parameters are given, linear layer, and GELU where wanted.

    Args:
        x: ``[..., K]``, contiguous.
        weight: ``[N, K]``; all parameters and the result are of its dtype.
        bias: ``[N]``.
        norm_weight: ``[K]``, given together with ``norm_bias``.
        norm_bias: ``[K]``.
        eps: of the normalisation.
        gelu: whether the exact GELU follows.
        out: written to instead of a new tensor: ``[..., N]``, contiguous.

    Raises:
        ValueError: a shape, dtype, device or memory layout is another.
    """
    shape = (*x.shape[:-1], weight.shape[0])
    norm = (norm_weight, norm_bias)
    return launch(x, weight, bias, norm=norm, shape=shape, eps=eps, gelu=gelu, out=out)


def linear_residual(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Linear layer, added to ``residual`` ``[..., N]``, whose dtype the result has.

    ``out`` may be the residual itself. Other arguments and what is raised: :func:`norm_linear`.
    """
    shape = (*x.shape[:-1], weight.shape[0])
    return launch(x, weight, bias, shape=shape, residual=residual, out=out)


def norm_linear_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    gelu: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """:func:`norm_linear` in plain PyTorch."""
    x = x.to(weight.dtype)
    if norm_weight is not None:
        x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    y = F.linear(x, weight, bias)
    y = F.gelu(y) if gelu else y
    return y if out is None else out.copy_(y)


def linear_residual_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """:func:`linear_residual` in plain PyTorch."""
    y = residual + F.linear(x.to(weight.dtype), weight, bias).to(residual.dtype)
    return y if out is None else out.copy_(y)


def builds() -> tuple[Build, ...]:
    """What ``base`` needs for 1 and for 16 clips."""
    stages = [(clips * 4096 >> 2 * stage, 96 << stage) for clips in (1, 16) for stage in range(4)]
    qkv, hidden, same = ([(M, n * C, C) for M, C in stages] for n in (3, 4, 1))
    whole, bare = ("p_residual",), ("p_norm_weight", "p_norm_bias")
    return (
        *kernel_builds("norm_linear", whole, qkv, GELU=False, MERGE=False),
        *kernel_builds("norm_linear gelu", whole, hidden, GELU=True, MERGE=False),
        *kernel_builds("linear_residual", bare, same, GELU=False, MERGE=False),
    )
