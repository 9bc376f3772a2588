"""The residual sum and its norm against PyTorch in float64."""

from typing import Any

import pytest
from triton_interpreter import DEVICE, check_guards, poisoned, programs_backwards

# isort: split
import torch
from kernel_close import assert_kernel_close
from residual_stream import MEAN_ROUNDED, exact, make_norm, make_stream, own

from pengi_rt.kernels.add_norm import Stream, add_norm, add_norm_reference

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize("dtype", [SINGLE, HALF, BRAIN])
@pytest.mark.parametrize(("rows", "width", "due"), [(1, 16, 0), (3, 21, 2), (2, 300, 1)])
def test_add_norm(rows: int, width: int, due: int, dtype: torch.dtype) -> None:
    stream, norm = make_stream(rows, width, due), make_norm(width)
    found = add_norm(stream, norm, poisoned(rows, width, dtype=dtype))
    truth, native = exact(stream), own(stream)
    y = add_norm_reference(truth, exact(norm), torch.empty(rows, width, dtype=torch.float64))
    own_y = add_norm_reference(native, norm, torch.empty_like(found))
    assert_kernel_close(found, y, own_y, floor=MEAN_ROUNDED)
    check_guards(found)
    if stream.out is not None:
        check_guards(stream.out)
        assert_kernel_close(stream.out, truth.out, native.out)


def test_programs_do_not_depend_on_each_other() -> None:
    stream, norm = make_stream(5, 21, 2), make_norm(21)
    forwards = add_norm(stream, norm, poisoned(5, 21))
    with programs_backwards():
        backwards = add_norm(stream, norm, poisoned(5, 21))
    assert torch.equal(forwards, backwards)


@pytest.mark.parametrize("function", [add_norm, add_norm_reference])
def test_the_residual_is_not_modified(function: Any) -> None:
    stream = make_stream(3, 16, 1)
    before = stream.residual.clone()
    function(stream, make_norm(16), torch.empty(3, 16, device=DEVICE))
    assert torch.equal(stream.residual, before)


def test_refusals() -> None:
    stream, norm, out = make_stream(3, 16, 1), make_norm(16), torch.empty(3, 16, device=DEVICE)
    with pytest.raises(ValueError, match=r"out must be contiguous .*\[3, 16\]"):
        add_norm(stream, norm, out.T)
    with pytest.raises(ValueError, match="residual must be"):
        add_norm(Stream(stream.residual.double()), norm, out)
    with pytest.raises(ValueError, match="give all three"):
        add_norm(stream._replace(bias=None), norm, out)
    with pytest.raises(ValueError, match="residual itself"):
        add_norm(stream._replace(out=stream.residual), norm, out)
