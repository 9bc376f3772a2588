"""Patch merging against the model's own, in float64."""

from triton_interpreter import DEVICE, check_guards, guarded, poisoned

# isort: split
import pytest
import torch
from kernel_close import assert_kernel_close

from pengi_rt.kernels.patch_merging import patch_merging, patch_merging_reference
from pengi_rt.models.htsat import PatchMerging

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("resolution", "dim"),
    [
        (12, 24),  # tiles of features that hold parts of two neighbors
        (6, 9),
        (2, 48),
        (4, 32),  # each neighbor is one tile
    ],
)
def test_equals_the_model(resolution: int, dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = PatchMerging(dim)
    torch.nn.init.normal_(model.norm.weight)
    torch.nn.init.normal_(model.norm.bias)
    model.to(DEVICE, dtype).requires_grad_(requires_grad=False)
    x = guarded(torch.randn(2, resolution, resolution, dim).to(dtype))
    parameters = (model.reduction.weight, model.norm.weight, model.norm.bias)
    native = patch_merging_reference(x, *parameters)
    out = poisoned(*native.shape, dtype=dtype)
    assert patch_merging(x, *parameters, out=out) is out
    check_guards(x, out)
    assert torch.equal(native, model(x))
    assert_kernel_close(out, model.double()(x.double()), native)


@pytest.mark.parametrize("shape", [(1, 5, 5, 8), (1, 4, 6, 8), (4, 4, 8), (1, 4, 4, 9)])
def test_refused(shape: tuple[int, ...]) -> None:
    weight, norm = torch.zeros(16, 32, device=DEVICE), torch.zeros(32, device=DEVICE)
    with pytest.raises(ValueError, match="x must be"):
        patch_merging(torch.zeros(shape, device=DEVICE), weight, norm, norm)
