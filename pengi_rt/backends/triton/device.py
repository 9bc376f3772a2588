"""The CUDA device that kernels run on."""

import torch

from pengi_rt.errors import BackendError

LEAST_CAPABILITY = (8, 0)
"""Ampere: the oldest architecture that the kernels are compiled and checked for."""


def require_cuda() -> torch.device:
    """The current CUDA device.

    Raises:
        BackendError: there is no CUDA device, or it is too old; the message says which.
    """
    if torch.version.cuda is None:
        raise BackendError(
            f"the triton backend needs PyTorch with CUDA, this is {torch.__version__}: "
            "install its CUDA build"
        )
    if not torch.cuda.is_available():
        raise BackendError(
            f"the triton backend needs a CUDA GPU: PyTorch {torch.__version__} (CUDA "
            f"{torch.version.cuda}) sees none; check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
    capability = torch.cuda.get_device_capability()
    if capability < LEAST_CAPABILITY:
        found = ".".join(map(str, capability))
        raise BackendError(
            f"the triton backend needs compute capability 8.0 or more (A100 and later), "
            f"{torch.cuda.get_device_name()} has {found}: use --device cpu"
        )
    return torch.device("cuda", torch.cuda.current_device())


def make_context() -> None:
    """Create CUDA's context on the current device, before the first tensor there would do so.

    Raises:
        BackendError: as for :func:`require_cuda`.
    """
    torch.zeros(1, device=require_cuda())
