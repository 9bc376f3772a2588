"""Attention inside windows against the model's own, in float64; sizes are tiny."""

from collections.abc import Callable
from typing import Any

from triton_interpreter import DEVICE, check_guards, guarded, poisoned, programs_backwards

# isort: split
import pytest
import torch
from kernel_close import assert_kernel_close
from torch import Tensor

from pengi_rt.kernels import window_attention as module
from pengi_rt.kernels.window_attention import window_attention, window_attention_reference
from pengi_rt.models import htsat
from pengi_rt.models.htsat import relative_position_index, shift_mask

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
GEOMETRIES = (
    # window, shift, resolution, heads, head width
    (8, 4, 16, 1, 24),  # base, all tokens of the tile used
    (8, 0, 8, 3, 24),  # one window is the image
    (6, 3, 12, 2, 24),  # demo: 36 tokens in a tile of 64
    (6, 0, 12, 1, 12),
    (4, 2, 12, 2, 16),
    (5, 2, 10, 1, 32),  # an odd window, shifted by less than half of it
    (3, 1, 9, 2, 7),  # 9 tokens and 7 channels in tiles of 16
    (1, 0, 2, 1, 5),  # a token alone attends to itself
)


def inputs(
    batch: int, window: int, resolution: int, heads: int, width: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    qkv = torch.randn(batch, resolution, resolution, 3 * heads * width, generator=generator)
    table = torch.randn((2 * window - 1) ** 2, heads, generator=generator)
    return guarded(qkv.to(dtype)), guarded(table.to(dtype))


def by_the_model(qkv: Tensor, table: Tensor, *, heads: int, window: int, shift: int) -> Tensor:
    """The steps of :class:`pengi_rt.models.htsat.SwinBlock`, with its tables, in float64."""
    qkv, table = qkv.cpu().double(), table.cpu().double()
    resolution, tokens = qkv.shape[1], window**2
    side = resolution // window
    bias = table[relative_position_index(window).flatten()].reshape(tokens, tokens, heads)
    bias = bias.permute(2, 0, 1) + shift_mask(resolution, window, shift)[:, None]
    x = qkv.roll((-shift, -shift), (1, 2)).reshape(-1, side, window, side, window, qkv.shape[3])
    x = x.transpose(2, 3).reshape(-1, side**2, tokens, 3, heads, qkv.shape[3] // (3 * heads))
    q, k, v = x.permute(3, 0, 1, 4, 2, 5)
    y = ((q @ k.mT * q.shape[-1] ** -0.5 + bias).softmax(dim=-1) @ v).transpose(2, 3)
    y = y.reshape(-1, side, side, window, window, qkv.shape[3] // 3).transpose(2, 3)
    image: Tensor = y.reshape(-1, resolution, resolution, qkv.shape[3] // 3)
    return image.roll((shift, shift), (1, 2))


def check(qkv: Tensor, table: Tensor, **options: Any) -> Tensor:
    """Compare with the model and check that only the result was written; returns the result."""
    out = poisoned(*qkv.shape[:3], qkv.shape[3] // 3, dtype=qkv.dtype)
    assert window_attention(qkv, table, **options, out=out) is out
    check_guards(qkv, table, out)
    native = window_attention_reference(qkv, table, **options)
    assert_kernel_close(out, by_the_model(qkv, table, **options), native)
    return out


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_reference(geometry: tuple[int, int, int, int, int]) -> None:
    window, shift, resolution, heads, width = geometry
    qkv, table = inputs(2, window, resolution, heads, width, torch.float32)
    options: dict[str, Any] = {"heads": heads, "window": window, "shift": shift}
    found = window_attention_reference(qkv.double(), table.double(), **options)
    torch.testing.assert_close(found.cpu(), by_the_model(qkv, table, **options))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_float32(geometry: tuple[int, int, int, int, int]) -> None:
    window, shift, resolution, heads, width = geometry
    qkv, table = inputs(1, window, resolution, heads, width, torch.float32)
    check(qkv, table, heads=heads, window=window, shift=shift)


@pytest.mark.parametrize("dtype", FLOATS[1:], ids=str)
@pytest.mark.parametrize(("window", "shift", "resolution"), [(8, 4, 16), (6, 0, 6)])
def test_half_precision(window: int, shift: int, resolution: int, dtype: torch.dtype) -> None:
    qkv, table = inputs(1, window, resolution, 2, 24, dtype)
    check(qkv, table, heads=2, window=window, shift=shift)


@pytest.mark.parametrize(("programs", "clips"), [(1, 40), (20, 2)])
def test_several_clips_per_program(
    programs: int, clips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several clips per program, fewer in the last one, change no bit."""
    qkv, table = inputs(5, 4, 8, 2, 16, torch.float32)
    assert module.clips_per_program(8, 5) == 1
    one_each = window_attention(qkv, table, heads=2, window=4, shift=2)
    monkeypatch.setattr(module, "PROGRAMS", programs)
    assert module.clips_per_program(8, 5) == clips
    out = check(qkv, table, heads=2, window=4, shift=2)
    assert torch.equal(out, one_each)


def test_order_of_programs() -> None:
    qkv, table = inputs(1, 6, 12, 2, 16, torch.float32)
    forwards = window_attention(qkv, table, heads=2, window=6, shift=3)
    with programs_backwards():
        backwards = window_attention(qkv, table, heads=2, window=6, shift=3)
    assert torch.equal(forwards, backwards)


def test_masked_tokens_may_still_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """-100 is not infinity: if scores are in the hundreds, a masked token may win, as released."""
    qkv, table = inputs(1, 4, 8, 1, 16, torch.float32)
    qkv.mul_(20)
    found = check(qkv, table, heads=1, window=4, shift=2)
    monkeypatch.setattr(htsat, "MASKED", -torch.inf)
    lost = by_the_model(qkv, table, heads=1, window=4, shift=2)
    assert (found.cpu() - lost).abs().max() > 1


def test_scores_beyond_the_range_of_exp() -> None:
    qkv, table = inputs(1, 4, 4, 1, 16, torch.float32)
    qkv[..., :32].mul_(30)  # scores of thousands
    check(qkv, table, heads=1, window=4, shift=0)


def small(**changes: Any) -> Callable[[], Tensor]:
    """A valid call, except for ``changes``."""
    qkv, table = inputs(1, 4, 8, 2, 8, torch.float32)
    options = {"qkv": qkv, "table": table, "heads": 2, "window": 4, "shift": 2}
    return lambda: window_attention(**{**options, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qkv": torch.zeros(1, 8, 48, 8).mT}, "qkv must be contiguous"),
        ({"qkv": torch.zeros(8, 8, 48)}, "qkv must be contiguous"),
        ({"qkv": torch.zeros(1, 8, 8, 48, dtype=torch.float64)}, "float64"),
        ({"qkv": torch.zeros(1, 8, 4, 48)}, "both sides of the image"),
        ({"qkv": torch.zeros(1, 8, 8, 46)}, "46 channels of qkv"),
        ({"heads": 5}, "48 channels of qkv"),
        ({"window": 3}, "window must be in"),
        ({"window": 16}, r"window must be in \[1, 8\]"),
        ({"shift": 4}, r"shift must be in \[0, 4\)"),
        ({"shift": -1}, r"shift must be in \[0, 4\)"),
        ({"table": torch.zeros(49, 3)}, "table must be contiguous"),
        ({"table": torch.zeros(2, 49).mT}, "table must be contiguous"),
        ({"table": torch.zeros(49, 2, dtype=torch.float16)}, "table must be contiguous"),
        ({"table": torch.zeros(49, 2, device="meta")}, "table must be on"),
        ({"out": torch.zeros(1, 8, 8, 15)}, "out must be contiguous"),
        ({"out": torch.zeros(1, 8, 16, 8).mT}, "out must be contiguous"),
        ({"out": torch.zeros(1, 8, 8, 16, dtype=torch.float16)}, "out must be contiguous"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    on_device = {
        name: value.to(DEVICE) if isinstance(value, Tensor) and value.is_cpu else value
        for name, value in changes.items()
    }
    with pytest.raises(ValueError, match=message):
        small(**on_device)()
