"""How far a kernel may be from the true result: about as far as PyTorch in the same dtype."""

from typing import Final

import torch

FACTOR: Final = 2
"""The factor on PyTorch's own error: a kernel adds in a different order, not a worse one."""
ROUNDINGS: Final = 2
"""Roundings of the largest value to the kernel's dtype, allowed where PyTorch has no error.

Its result is rounded once, and an intermediate one at most once more.
"""


def assert_kernel_close(
    found: torch.Tensor, reference: torch.Tensor, native: torch.Tensor, *, floor: float = 0.0
) -> None:
    """Fail if ``found`` is worse than PyTorch, both in the largest error and in the mean square.

    Args:
        found: what the kernel computed. All of it counts, and nothing may stay unwritten.
        reference: the same from the same inputs in float64.
        native: the same by PyTorch in the kernel's dtype.
        floor: an absolute error allowed in addition; the caller says why.
    """
    assert reference.dtype == torch.float64, "the reference must be float64"
    assert found.shape == reference.shape == native.shape, (found.shape, reference.shape)
    found, reference, native = found.cpu(), reference.cpu(), native.cpu()
    finite = reference.isfinite()
    same = torch.equal(found[~finite].double(), reference[~finite])
    assert same, "infinities differ from the reference's"
    if not finite.any():
        return
    truth = reference[finite]
    granted = floor + ROUNDINGS * torch.finfo(found.dtype).eps * float(truth.abs().max())
    error = (found[finite].double() - truth).abs()
    own = (native[finite].double() - truth).abs()
    worst = int(error.nan_to_num(nan=torch.inf).argmax())
    where = finite.nonzero()[worst].tolist()
    for name, measure in (("largest", torch.amax), ("root mean square", _root_mean_square)):
        ours, limit = float(measure(error)), FACTOR * float(measure(own)) + granted
        assert ours <= limit, (
            f"{name} error {ours:.3g} of a {found.dtype} kernel, at most {limit:.3g} "
            f"({FACTOR} x PyTorch's + {granted:.3g}); worst at {where}: "
            f"{float(found[tuple(where)]):.7g} instead of {float(truth[worst]):.7g}"
        )


def _root_mean_square(error: torch.Tensor) -> torch.Tensor:
    return error.square().mean().sqrt()
