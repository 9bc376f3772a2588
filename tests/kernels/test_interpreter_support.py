"""The tests' own tools detect the errors they are made for."""

import pytest
import torch
import triton
import triton.language as tl
from kernel_close import assert_kernel_close
from triton_interpreter import (
    DEVICE,
    INTERPRETED,
    check_guards,
    guarded,
    poisoned,
    programs_backwards,
)


@triton.jit  # type: ignore[untyped-decorator]
def _multiply(p_a, p_b, p_out, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    o_tile = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    product = tl.dot(tl.load(p_a + o_tile), tl.load(p_b + o_tile), input_precision="ieee")
    tl.store(p_out + o_tile, product)


@triton.jit
def _racing_sum(p_x, p_out):  # type: ignore[no-untyped-def]
    i = tl.program_id(0)
    tl.store(p_out + i + 1, tl.load(p_out + i) + tl.load(p_x + i))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dot_in_every_dtype(dtype: torch.dtype) -> None:
    a, b = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = poisoned(16, 16)
    _multiply[(1,)](guarded(a), guarded(b), found, BLOCK=16)
    check_guards(found)
    assert_kernel_close(found, a.double() @ b.double(), a.float() @ b.float())


@triton.jit  # type: ignore[untyped-decorator]
def _copy(p_x, p_y, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    o = tl.arange(0, BLOCK)
    tl.store(p_y + o, tl.load(p_x + o))


@triton.jit  # type: ignore[untyped-decorator]
def _double(p_x, p_y, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    o = tl.arange(0, BLOCK)
    tl.store(p_y + o, tl.load(p_x + o) + tl.load(p_x + o))


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    x = torch.randn(1024, generator=torch.Generator().manual_seed(1)) * 2.0 ** torch.arange(1024)
    x[:5] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, 1e-40, torch.nan])
    found = poisoned(1024, dtype=torch.bfloat16)
    _copy[(1,)](guarded(x), found, BLOCK=1024)
    torch.testing.assert_close(found.cpu(), x.bfloat16(), rtol=0, atol=0, equal_nan=True)
    back = poisoned(1024)
    _copy[(1,)](found, back, BLOCK=1024)
    torch.testing.assert_close(back, found.float(), rtol=0, atol=0, equal_nan=True)


def test_arithmetic_in_bfloat16_is_refused() -> None:
    if not INTERPRETED:
        pytest.skip("a GPU does it right")
    x = guarded(torch.ones(16, dtype=torch.bfloat16))
    with pytest.raises(Exception, match="arithmetic in bfloat16"):
        _double[(1,)](x, poisoned(16), BLOCK=16)


def test_a_race_shows_when_programs_run_backwards() -> None:
    if not INTERPRETED:
        pytest.skip("only the interpreter has an order to turn round")
    results = []
    for _ in range(2):
        out = torch.zeros(4, device=DEVICE)
        _racing_sum[(3,)](torch.ones(3, device=DEVICE), out)
        with programs_backwards():
            again = torch.zeros(4, device=DEVICE)
            _racing_sum[(3,)](torch.ones(3, device=DEVICE), again)
        results.append((out.tolist(), again.tolist()))
    assert results == [([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 1.0, 1.0])] * 2


@pytest.mark.parametrize("element", [-1, 6])
def test_a_write_out_of_bounds_is_detected(element: int) -> None:
    buffer = poisoned(2, 3)
    check_guards(buffer)
    buffer.as_strided((1,), (1,), buffer.storage_offset() + element).fill_(torch.nan)
    with pytest.raises(AssertionError, match=f"first at byte {4 * element} from its start"):
        check_guards(buffer)


def test_unwritten_memory_is_nan() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert poisoned(5, dtype=dtype).isnan().all()
    assert (poisoned(5, dtype=torch.int32) == -1).all()
    assert poisoned(3, dtype=torch.int8).data_ptr() % 16 == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1.001])
def test_a_wrong_value_is_not_close(value: float) -> None:
    reference = torch.ones(100, dtype=torch.float64)
    found = reference.float()
    assert_kernel_close(found, reference, found)
    wrong = found.clone()
    wrong[7] = value
    with pytest.raises(AssertionError, match=r"worst at \[7\]"):
        assert_kernel_close(wrong, reference, found)
