"""Linear layers over many rows, with LayerNorm, GELU and residual, against PyTorch in float64."""

from typing import Any

from triton_interpreter import DEVICE, check_guards, guarded, poisoned, programs_backwards

# isort: split
import pytest
import torch
from kernel_close import assert_kernel_close
from torch import Tensor
from torch.nn import functional as F

from pengi_rt.kernels import swin_linear_tiles
from pengi_rt.kernels.norm_linear import (
    linear_residual,
    linear_residual_reference,
    norm_linear,
    norm_linear_reference,
)

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
SIZES = (
    # M, K, N
    (70, 48, 72),  # no size a multiple of its tile
    (1, 36, 24),
    (65, 101, 33),  # no two elements of a row can be read at once
    (64, 128, 32),  # whole tiles
    (3, 192, 5),  # several iterations, and a nearly empty tile of the result
)


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32, scale: float = 1) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return guarded(values.to(dtype))


def layer(K: int, N: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "weight": draw(N, K, seed=1, dtype=dtype, scale=K**-0.5),
        "bias": draw(N, seed=2, dtype=dtype),
    }


def norm(K: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "norm_weight": draw(K, seed=3, dtype=dtype),
        "norm_bias": draw(K, seed=4, dtype=dtype),
    }


def in_float64(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    gelu: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """The formula written out, without PyTorch's layers."""
    y: Tensor = x.double()
    if norm_weight is not None and norm_bias is not None:
        y = y - y.mean(dim=-1, keepdim=True)
        y = y / (y.square().mean(dim=-1, keepdim=True) + eps).sqrt()
        y = y * norm_weight.double() + norm_bias.double()
    y = y @ weight.double().mT
    y = y if bias is None else y + bias.double()
    y = y * 0.5 * torch.erfc(-y / 2**0.5) if gelu else y
    return y if residual is None else y + residual.double()


def check(
    x: Tensor, *, dtype: torch.dtype | None = None, floor: float = 0, **options: Any
) -> Tensor:
    """Run and check the function for these arguments; returns the result."""
    kernel: Any = linear_residual if "residual" in options else norm_linear
    reference: Any = linear_residual_reference if "residual" in options else norm_linear_reference
    shape = (*x.shape[:-1], len(options["weight"]))
    out = poisoned(*shape, dtype=dtype or options["weight"].dtype)
    result: Tensor = kernel(x, **options, out=out)
    assert result is out
    check_guards(x, out, *(value for value in options.values() if isinstance(value, Tensor)))
    native = reference(x, **options)
    assert_kernel_close(out, in_float64(x, **options), native, floor=floor)
    return out


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("M", "K", "N"), SIZES)
def test_norm_gelu(M: int, K: int, N: int, dtype: torch.dtype) -> None:
    check(draw(M, K, seed=0, dtype=dtype), **layer(K, N, dtype), **norm(K, dtype), gelu=True)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("M", "K", "N"), SIZES)
def test_residual(M: int, K: int, N: int, dtype: torch.dtype) -> None:
    residual = draw(M, N, seed=5, dtype=dtype)
    check(draw(M, K, seed=0, dtype=dtype), **layer(K, N, dtype), residual=residual)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_every_part_can_be_absent(*, biased: bool, normed: bool, gelu: bool) -> None:
    options = layer(40, 24, torch.float32)
    if normed:
        options |= norm(40, torch.float32)
    if not biased:
        options["bias"] = None
    check(draw(2, 3, 40, seed=0), **options, gelu=gelu)


def test_residual_without_bias() -> None:
    options = layer(40, 24, torch.float32) | {"bias": None}
    check(draw(9, 40, seed=0), **options, residual=draw(9, 24, seed=5))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_large_tiles(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that only many rows fill."""
    monkeypatch.setattr(swin_linear_tiles, "WAVE", 1)
    x = draw(130, 72, seed=0, dtype=dtype)
    options = layer(72, 180, dtype) | norm(72, dtype)
    assert swin_linear_tiles.default_tile(130, 180, dtype)[:2] == (
        (64, 64) if dtype.itemsize == 4 else (128, 64)
    )
    assert swin_linear_tiles.default_tile(130, 250, dtype)[:2] == (
        (64, 64) if dtype.itemsize == 4 else (128, 128)
    )
    check(x, **options)
    check(x, **layer(72, 250, dtype), residual=draw(130, 250, seed=5, dtype=dtype))


def test_mean_far_from_zero() -> None:
    """A variance of 1 around a mean of 3000, which a difference of squares would lose."""
    x = draw(5, 100, seed=0).add_(3000)
    # The mean is rounded once per tile, to 2^-12 of a standard deviation.
    check(x, **layer(100, 16, torch.float32), **norm(100, torch.float32), floor=2**-12)


def test_means_that_differ_between_tiles() -> None:
    x = draw(5, 100, seed=0)
    x[:, 32:] += 50
    x[:, 96:] -= 500
    check(x, **layer(100, 16, torch.float32), **norm(100, torch.float32))


def test_rows_without_variance() -> None:
    x = torch.full((3, 48), 7.0, device=DEVICE)
    options = layer(48, 16, torch.float32) | norm(48, torch.float32)
    expected = F.linear(options["norm_bias"], options["weight"], options["bias"])
    found = norm_linear(x, **options)
    torch.testing.assert_close(found, expected.expand(3, 16))


def test_eps() -> None:
    check(draw(3, 48, seed=0), **layer(48, 16, torch.float32), **norm(48, torch.float32), eps=0.5)


@pytest.mark.parametrize("dtype", FLOATS[1:], ids=str)
def test_float32_stream(dtype: torch.dtype) -> None:
    """Half-precision weights between float32 residuals."""
    options = layer(48, 24, dtype)
    x, residual = draw(7, 48, seed=0, scale=100), draw(7, 24, seed=5)
    check(x, **options, **norm(48, dtype))
    x = guarded(x.to(dtype).float())  # the kernel rounds it back, which is exact
    check(x, **options, residual=residual, dtype=torch.float32)


def test_residual_in_place() -> None:
    options, x = layer(40, 72, torch.float32), draw(70, 40, seed=0)
    residual = draw(70, 72, seed=5)
    expected = linear_residual(x, **options, residual=residual.clone())
    found = linear_residual(x, **options, residual=residual, out=residual)
    assert found is residual
    assert torch.equal(found, expected)


def test_order_of_programs() -> None:
    options = layer(40, 72, torch.float32) | norm(40, torch.float32)
    x = draw(70, 40, seed=0)
    forwards = norm_linear(x, **options)
    with programs_backwards():
        backwards = norm_linear(x, **options)
    assert torch.equal(forwards, backwards)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(40, 6).mT}, "x must be contiguous"),
        ({"x": torch.zeros(6, 41)}, r"x must be contiguous \(6, 40\)"),
        ({"x": torch.zeros(6, 40, dtype=torch.float64)}, "x must be contiguous"),
        ({"weight": torch.zeros(40, 24).mT}, "weight must be contiguous"),
        ({"weight": torch.zeros(24, 40, dtype=torch.int8)}, "weight must be contiguous"),
        ({"weight": torch.zeros(40)}, r"weight must be \[N, K\]"),
        ({"bias": torch.zeros(25)}, "bias must be contiguous"),
        ({"bias": torch.zeros(24, dtype=torch.float16)}, "bias must be contiguous"),
        ({"bias": torch.zeros(24, device="meta")}, "bias must be on"),
        ({"norm_weight": torch.zeros(40)}, "given together"),
        ({"norm_bias": torch.zeros(40)}, "given together"),
        ({"norm_weight": torch.zeros(24)}, "norm_weight must be contiguous"),
        ({"out": torch.zeros(6, 25)}, "out must be contiguous"),
        ({"out": torch.zeros(24, 6).mT}, "out must be contiguous"),
        ({"out": torch.zeros(6, 24, dtype=torch.bfloat16)}, "out must be contiguous"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    options = {"x": draw(6, 40, seed=0), **layer(40, 24, torch.float32)} | {
        name: value if value.is_meta else value.to(DEVICE) for name, value in changes.items()
    }
    with pytest.raises(ValueError, match=message):
        norm_linear(**options)


@pytest.mark.parametrize(
    "residual", [torch.zeros(6, 25), torch.zeros(24, 6).mT, torch.zeros(6, 24, dtype=torch.int32)]
)
def test_residual_refused(residual: Tensor) -> None:
    with pytest.raises(ValueError, match="residual must be contiguous"):
        linear_residual(
            draw(6, 40, seed=0), **layer(40, 24, torch.float32), residual=residual.to(DEVICE)
        )
