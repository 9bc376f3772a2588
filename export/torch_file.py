"""A PyTorch file, checked before PyTorch reads it, and its weights.

``torch.save`` writes a ZIP archive of stored entries, each with a CRC-32 that ``torch.load`` never
looks at. The old format, a row of pickles, has no checksum: only its size can be bounded.
"""

import io
import pickletools
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from pengi_rt.errors import CheckpointError
from pengi_rt.models.safetensors_file import MAX_TENSORS
from pengi_rt.system.quote import one_line, shown

ZIP_MAGIC = b"PK\x03\x04"

MAX_PICKLE = 4 << 20  # bytes; the largest model's names and shapes take 2.4 MB of them
MAX_DIRECTORY = 4 << 20  # bytes of the archive's list of entries

_PICKLES = 5  # of the old format: magic number, version, machine, what was saved, storages' keys
_ENDING, _LOCATOR, _ENDING64 = 22, 20, 56  # bytes of what a ZIP archive ends with (APPNOTE 4.3)
_FILE_HEADER = 30  # bytes before an entry's name
_CHUNK = 1 << 20


def is_archive(path: Path) -> bool:
    """Whether it is PyTorch's present format, which can be mapped; the old one cannot."""
    with path.open("rb") as file:
        return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC


def check_torch_file(path: Path) -> bool:
    """Check every checksum of a file, and bound what reading it can cost.

    Returns:
        Whether it has checksums; the old format has none, nor has what was saved without them.

    Raises:
        CheckpointError: it is damaged, or is nothing that ``torch.save`` writes.
    """
    if not is_archive(path):
        _bound_pickles(path)
        return False
    try:
        with open_archive(path) as archive:
            return _check_entries(path, archive)
    except _DAMAGED as error:
        raise CheckpointError(
            f"{one_line(str(path))}: is damaged ({one_line(str(error))}); nothing in it was run. "
            "Fetch it again"
        ) from None


_DAMAGED = (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, RuntimeError)
"""What :mod:`zipfile` raises for archives that are none."""


def open_archive(path: Path) -> zipfile.ZipFile:
    """A ZIP archive whose list of entries is of a sane size.

    Raises:
        BadZipFile: it is longer, or is not where ``torch.save`` puts it: at the very end.
    """
    with path.open("rb") as file:
        file.seek(-min(_ENDING + _LOCATOR + _ENDING64, file.seek(0, io.SEEK_END)), io.SEEK_END)
        end = file.read()
    if end[-_ENDING:][:4] != b"PK\x05\x06":
        raise zipfile.BadZipFile("its end is missing, or something was added behind it")
    size = int.from_bytes(end[-10:-6], "little")
    if end[-_ENDING - _LOCATOR :][:4] == b"PK\x06\x07":  # an archive beyond 4 GB
        size = int.from_bytes(end[40:48], "little")
    if size > MAX_DIRECTORY:
        raise zipfile.BadZipFile(f"its list of entries would be {size} bytes")
    return zipfile.ZipFile(path)


def _check_entries(path: Path, archive: zipfile.ZipFile) -> bool:
    """Check that entries are as PyTorch stores them, and what their checksums say."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if len({entry.filename for entry in entries}) < len(entries):
        raise zipfile.BadZipFile("two entries have one name")
    ends = [entry.header_offset for entry in entries[1:]] + [path.stat().st_size]
    for entry, end in zip(entries, ends, strict=True):
        name = one_line(entry.filename)
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise zipfile.BadZipFile(f"{name} is compressed, which torch.save never does")
        if entry.header_offset + _FILE_HEADER + entry.file_size > end:
            raise zipfile.BadZipFile(f"{name} is longer than its place")
        if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE:
            raise zipfile.BadZipFile(f"{name} is longer than that of the largest model")
    # torch.serialization.set_crc32_options(False): zeros, even where there are bytes.
    summed = any(entry.CRC for entry in entries)
    for entry in entries if summed else ():
        with archive.open(entry) as file:
            while file.read(_CHUNK):
                pass
    return summed


def _bound_pickles(path: Path) -> None:
    """Refuse pickles of the old format that are longer than any model's, without running them."""
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE))
    try:
        for _ in range(_PICKLES):
            for _opcode in pickletools.genops(head):
                pass
    except Exception:  # noqa: BLE001 - it was written for pickles that are whole
        raise CheckpointError(
            f"{one_line(str(path))}: is damaged, or no PyTorch file of a model; nothing in it was "
            "run. Fetch it again"
        ) from None


def load_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a checked file in the published layout, under its own keys without ``module.``.

    Raises:
        CheckpointError: it cannot be read without running what it holds, or has no weights.
    """
    where = one_line(str(path))
    try:
        with warnings.catch_warnings():  # about odd pickles: refused or read, in a line of ours
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive(path))
    except Exception as error:  # noqa: BLE001 - a damaged file can trip its unpickler anywhere
        # PyTorch explains at length how to load it unsafely: no advice to pass on.
        hostile = "weights_only" in str(error).lower() or "weights only" in str(error).lower()
        reason = "it holds more than weights" if hostile else "it is damaged, or no PyTorch file"
        raise CheckpointError(
            f"{where}: cannot be read safely: {reason}; nothing in it was run. Fetch it again"
        ) from None
    weights = loaded.get("model") if isinstance(loaded, dict) else None
    if not isinstance(weights, dict):
        raise CheckpointError(
            f"{where}: has no 'model' entry, which holds the weights in the published layout"
        )
    if len(weights) > MAX_TENSORS:
        raise CheckpointError(
            f"{where}: has {len(weights)} tensors; the largest model has fewer than {MAX_TENSORS}"
        )
    for key, tensor in weights.items():
        _check_plain(where, key, tensor)
    return _without_module({key: tensor.detach() for key, tensor in weights.items()})


def _check_plain(where: str, key: object, tensor: object) -> None:
    """Refuse what is no named tensor with its numbers in memory, one beside the other."""
    if not isinstance(key, str) or not isinstance(tensor, Tensor):
        kind = type(tensor).__name__
        raise CheckpointError(f"{where}: 'model' maps {shown(key)} to a {one_line(kind)}")
    odd = (
        "nested" if tensor.is_nested
        else "quantized" if tensor.is_quantized
        else str(tensor.layout) if tensor.layout != torch.strided
        else f"on the {tensor.device.type} device, without its values"
        if tensor.device.type != "cpu"
        else f"of {tensor.numel()} numbers, of which the file holds fewer"
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        else ""
    )  # fmt: skip
    if odd:
        raise CheckpointError(f"{where}: {one_line(key)} is no plain tensor: it is {odd}")


def _without_module(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys without the ``module.`` that data-parallel training puts before every one."""
    if weights and all(key.startswith("module.") for key in weights):
        return {key.removeprefix("module."): tensor for key, tensor in weights.items()}
    return weights
