"""PyTorch's checkpoint files: tensors are read, nothing is ever executed, anything else is refused.

Only the ZIP format of PyTorch 1.6 and later is read: in the formats before it ``weights_only`` was
broken once (CVE-2025-32434), and the published files need none of them.
"""

import pickle
import re
import zipfile
from pathlib import Path

import torch

from pengi_rt.errors import CheckpointError

_HEAD = 512  # bytes: a tar archive's magic stands at 257
_AGAIN = "the download went wrong; fetch it again"
_OLD = (
    "which may run code and is not read; where you trust it, load it and torch.save it again with "
    "PyTorch 1.6 or newer"
)

_KINDS = (
    (re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE), f"a web page: {_AGAIN}"),
    (re.compile(rb"version https://git-lfs"), "a git-lfs pointer, not the file: run git lfs pull"),
    (re.compile(rb"\x80[\x02-\x05]"), f"a pickle (PyTorch's format before 1.6), {_OLD}"),
    (
        re.compile(rb".{257}ustar", re.DOTALL),
        f"a tar archive (PyTorch's format before 0.4 was one), {_OLD}",
    ),
    (re.compile(rb"[fp]trt"), "a TensorRT engine, not a checkpoint"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf"), "a compressed file: unpack it first"),
)


def read_torch_file(path: Path) -> object:
    """What ``torch.save`` wrote to ``path``, tensors mapped from the file.

    Raises:
        CheckpointError: it is another kind of file, it is damaged, or it holds anything but tensors
            and plain containers; then nothing of it has been executed.
    """
    _refuse_other_kinds(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = found[1] if found else "something that is no tensor"
        raise CheckpointError(
            f"{path}: refused: it holds {what}, and only tensors are read; where you trust it, "
            "save its tensors alone: torch.save({'model': state_dict}, ...)"
        ) from error
    except Exception as error:
        # What a damaged pickle raises is anybody's guess: KeyError, IndexError, UnicodeDecodeError.
        reason = str(error).partition("\n")[0][:120] or type(error).__name__
        raise CheckpointError(f"{path}: damaged ({reason}): fetch it again") from error


def _refuse_other_kinds(path: Path) -> None:
    head = _head(path)
    if head.startswith(b"PK\3\4"):
        _refuse_other_zips(path)
        return
    kind = next((kind for pattern, kind in _KINDS if pattern.match(head)), None)
    raise CheckpointError(
        f"{path}: {kind}"
        if kind
        else f"{path}: no checkpoint: it starts with {head[:8]!r}, neither torch.save's ZIP nor "
        "safetensors"
    )


def _refuse_other_zips(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: cut short or damaged ({error}): fetch it again") from error
    if "plan.json" in names:
        raise CheckpointError(
            f"{path}: a plan, exported already: give it to pengi-rt generate --engine"
        )
    last = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last:
        raise CheckpointError(f"{path}: a TorchScript archive, which is a program, no checkpoint")
    if "data.pkl" not in last:
        raise CheckpointError(f"{path}: a ZIP file, but none that torch.save wrote")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)
