"""Check a PyTorch file before PyTorch reads it, then load its weights.

``torch.save`` writes a ZIP archive of uncompressed entries. Each has a CRC-32, which ``torch.load``
ignores. The old format, a sequence of pickles, has no checksum: only its size can be bounded.
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

MAX_PICKLE = 4 << 20  # bytes; the names and shapes of the largest model take 2.4 MB
MAX_DIRECTORY = 4 << 20  # bytes of the archive's list of entries

_PICKLES = 5  # in the old format: magic number, version, machine, contents, storage keys
_ENDING, _LOCATOR, _ENDING64 = 22, 20, 56  # bytes at the end of a ZIP archive (APPNOTE 4.3)
_FILE_HEADER = 30  # bytes before an entry's name
_CHUNK = 1 << 20


def is_archive(path: Path) -> bool:
    """Whether a file has PyTorch's current format, which (unlike the old one) can be mapped."""
    with path.open("rb") as file:
        return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC


def check_torch_file(path: Path) -> bool:
    """Verify every checksum in a file, and bound the cost of reading it.

    Returns:
        Whether it has checksums. The old format has none, and saving them can be turned off.

    Raises:
        CheckpointError: it is damaged, or not a file that ``torch.save`` wrote.
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
"""What :mod:`zipfile` raises for invalid archives."""


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open a ZIP archive, after checking the size of its central directory.

    Raises:
        BadZipFile: the directory is too large, or not at the very end, where PyTorch puts it.
    """
    with path.open("rb") as file:
        file.seek(-min(_ENDING + _LOCATOR + _ENDING64, file.seek(0, io.SEEK_END)), io.SEEK_END)
        end = file.read()
    if end[-_ENDING:][:4] != b"PK\x05\x06":
        raise zipfile.BadZipFile("its end is missing, or something was appended to it")
    size = int.from_bytes(end[-10:-6], "little")
    if end[-_ENDING - _LOCATOR :][:4] == b"PK\x06\x07":  # an archive larger than 4 GB
        size = int.from_bytes(end[40:48], "little")
    if size > MAX_DIRECTORY:
        raise zipfile.BadZipFile(f"its list of entries would be {size} bytes")
    return zipfile.ZipFile(path)


def _check_entries(path: Path, archive: zipfile.ZipFile) -> bool:
    """Check that entries are stored as PyTorch stores them, and verify their checksums."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if len({entry.filename for entry in entries}) < len(entries):
        raise zipfile.BadZipFile("two entries have the same name")
    ends = [entry.header_offset for entry in entries[1:]] + [path.stat().st_size]
    for entry, end in zip(entries, ends, strict=True):
        name = one_line(entry.filename)
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise zipfile.BadZipFile(f"{name} is compressed, which torch.save never does")
        if entry.header_offset + _FILE_HEADER + entry.file_size > end:
            raise zipfile.BadZipFile(f"{name} overlaps the next entry")
        if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE:
            raise zipfile.BadZipFile(f"{name} is larger than that of the largest model")
    # torch.serialization.set_crc32_options(False) writes zeros, even for entries with content.
    has_checksums = any(entry.CRC for entry in entries)
    for entry in entries if has_checksums else ():
        with archive.open(entry) as file:
            while file.read(_CHUNK):
                pass
    return has_checksums


def _bound_pickles(path: Path) -> None:
    """Refuse old-format pickles that are larger than any model's, without running them."""
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE))
    try:
        for _ in range(_PICKLES):
            for _opcode in pickletools.genops(head):
                pass
    except Exception:  # noqa: BLE001 - genops expects intact pickles
        raise CheckpointError(
            f"{one_line(str(path))}: is damaged, or not a PyTorch file of a model; nothing in it "
            "was run. Fetch it again"
        ) from None


def load_weights(path: Path) -> dict[str, Tensor]:
    """Load the tensors of a checked file in the published layout; keys lose their ``module.``.

    Raises:
        CheckpointError: it cannot be read without running code in it, or has no weights.
    """
    where = one_line(str(path))
    try:
        with warnings.catch_warnings():  # about unusual pickles; our own message says enough
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive(path))
    except Exception as error:  # noqa: BLE001 - a damaged file can fail anywhere
        # PyTorch's message explains how to load the file unsafely: do not pass that on.
        hostile = "weights_only" in str(error).lower() or "weights only" in str(error).lower()
        reason = "it holds more than weights" if hostile else "it is damaged, or not a PyTorch file"
        raise CheckpointError(
            f"{where}: cannot be read safely: {reason}; nothing in it was run. Fetch it again"
        ) from None
    weights = loaded.get("model") if isinstance(loaded, dict) else None
    if not isinstance(weights, dict):
        raise CheckpointError(
            f"{where}: has no 'model' entry, where the published layout keeps the weights"
        )
    if len(weights) > MAX_TENSORS:
        raise CheckpointError(
            f"{where}: has {len(weights)} tensors; the largest model has fewer than {MAX_TENSORS}"
        )
    for key, tensor in weights.items():
        _check_plain(where, key, tensor)
    return _without_module({key: tensor.detach() for key, tensor in weights.items()})


def _check_plain(where: str, key: object, tensor: object) -> None:
    """Refuse anything but a named, dense tensor whose values are in memory."""
    if not isinstance(key, str) or not isinstance(tensor, Tensor):
        kind = type(tensor).__name__
        raise CheckpointError(f"{where}: 'model' maps {shown(key)} to a {one_line(kind)}")
    problem = _why_not_plain(tensor)
    if problem:
        raise CheckpointError(f"{where}: {one_line(key)} is not a plain tensor: it is {problem}")


def _why_not_plain(tensor: Tensor) -> str | None:
    if tensor.is_nested:
        return "nested"
    if tensor.is_quantized:
        return "quantized"
    if tensor.layout != torch.strided:
        return str(tensor.layout)
    if tensor.device.type != "cpu":
        return f"on the {tensor.device.type} device, without its values"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"of {tensor.numel()} values, but the file holds fewer"
    return None


def _without_module(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the ``module.`` that data-parallel training puts before every key."""
    if weights and all(key.startswith("module.") for key in weights):
        return {key.removeprefix("module."): tensor for key, tensor in weights.items()}
    return weights
