r"""The linear layers of a Swin block, fused with their layer norm, GELU or residual.

.. math:: y = f(\operatorname{LN}(x) W^\top + b) \qquad\text{or}\qquad y = r + x W^\top + b

with :math:`f` the identity or the exact GELU. One kernel does both:
:mod:`pengi_rt.kernels.swin_linear`, which has the details.

Shapes: :math:`x` [..., K], :math:`W` [N, K], :math:`b` [N], :math:`r` and :math:`y` [..., N].

Source: Liu et al., *Swin Transformer*, ICCV 2021, section 3.1.
"""

from torch import Tensor
from torch.nn import functional as F

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.swin_linear import Layer, kernel_builds, swin_linear


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
    """Layer norm if its parameters are given, linear layer, and GELU on request.

    Args:
        x: [..., K], contiguous.
        weight: [N, K]; all parameters and the result have its dtype.
        bias: [N].
        norm_weight: [K], given together with ``norm_bias``.
        norm_bias: [K].
        eps: of the layer norm.
        gelu: whether the exact GELU follows.
        out: [..., N], contiguous; written instead of a new tensor.

    Raises:
        ValueError: a shape, dtype, device or memory layout does not fit.
    """
    layer = Layer(weight, bias, norm_weight, norm_bias, eps, gelu)
    return swin_linear(x, layer, (*x.shape[:-1], weight.shape[0]), out=out)


def linear_residual(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Add a linear layer to ``residual`` [..., N], whose dtype the result has.

    ``out`` may be the residual itself. The rest is as for :func:`norm_linear`.
    """
    shape = (*x.shape[:-1], weight.shape[0])
    return swin_linear(x, Layer(weight, bias), shape, residual=residual, out=out)


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
    """Full-size base, for 1 and for 16 clips."""
    stages = [(clips * 4096 >> 2 * stage, 96 << stage) for clips in (1, 16) for stage in range(4)]
    qkv, hidden, same = ([(M, n * C, C) for M, C in stages] for n in (3, 4, 1))
    return (
        *kernel_builds("norm_linear", qkv, norm=True, bias=True),
        *kernel_builds("norm_linear gelu", hidden, norm=True, bias=True, gelu=True),
        *kernel_builds("linear_residual", same, bias=True, residual=True),
    )
