"""The header of a safetensors file: checked before the library parses it, and our checksum in it.

The format has no checksum. Our files carry one in their metadata: the SHA-256 of everything else.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

from pengi_rt.errors import CheckpointError
from pengi_rt.system.quote import one_line
from pengi_rt.system.strict_json import unique_keys

MAX_HEADER = 4 << 20  # bytes; the largest model that a config allows needs 1.3 MB
MAX_TENSORS = 16_384  # that model has 10 030
DIGEST_KEY = "sha256"

_METADATA = "__metadata__"
_LENGTH = 8  # bytes before the header, which hold its length
_CHUNK = 1 << 20


def with_digest(data: bytes) -> tuple[bytes, memoryview]:
    """Add the digest to a safetensors file; returns header and tensors, which are not copied.

    The header is written again because the library orders metadata at random.
    """
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    header, tensors = json.loads(data[_LENGTH:end]), memoryview(data)[end:]
    digest = _start_digest(header)
    digest.update(tensors)
    header[_METADATA][DIGEST_KEY] = digest.hexdigest()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text, tensors


def check_safetensors(path: Path) -> bool:
    """Bound the size of a file's header, and verify the digest if the file carries one.

    Returns:
        Whether it does.

    Raises:
        CheckpointError: this is not a safetensors file, or not what was saved.
    """
    where = one_line(str(path))
    try:
        with path.open("rb") as file:
            header = _header(file, where)
            metadata = header.get(_METADATA)
            recorded = metadata.pop(DIGEST_KEY, None) if isinstance(metadata, dict) else None
            if recorded is None:
                return False
            digest = _start_digest(header)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read: {error.strerror or error}") from None
    if digest.hexdigest() != recorded:
        raise CheckpointError(
            f"{where}: is not what was saved: its SHA-256 is not the one in its metadata; fetch or "
            "save it again"
        )
    return True


def _header(file: BinaryIO, where: str) -> dict[str, Any]:
    """The header as JSON. Raises CheckpointError."""
    length = int.from_bytes(file.read(_LENGTH), "little")
    if length > MAX_HEADER:
        raise CheckpointError(
            f"{where}: is not a safetensors file of a model: its header would be {length} bytes, "
            f"at most {MAX_HEADER} are read"
        )
    text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=unique_keys) if len(text) == length else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{where}: is not a complete safetensors file (its header is damaged); fetch or save "
            "it again"
        )
    if len(header) > MAX_TENSORS:
        raise CheckpointError(
            f"{where}: has {len(header)} tensors; the largest model has fewer than {MAX_TENSORS}"
        )
    return header


def _start_digest(header: dict[str, Any]) -> "hashlib._Hash":
    """The SHA-256 of a header without its digest; the caller continues with the tensors."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode())
