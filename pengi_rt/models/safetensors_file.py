"""A safetensors file's header, looked at before the library parses it, and the digest in ours.

The format has no checksum. Ours record one in their metadata: the SHA-256 of everything else.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

from pengi_rt.errors import CheckpointError
from pengi_rt.system.quote import one_line

MAX_HEADER = 4 << 20  # bytes; the largest model that a config can describe needs 1.3 MB
MAX_TENSORS = 16_384  # that model has 10 030
DIGEST_KEY = "sha256"

_METADATA = "__metadata__"
_LENGTH = 8  # bytes before the header, which hold its length
_CHUNK = 1 << 20


def with_digest(data: bytes) -> tuple[bytes, memoryview]:
    """A safetensors file with its digest in its metadata, in two parts: the tensors are not copied.

    Its header is written anew: the library puts metadata in a random order.
    """
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    header, tensors = json.loads(data[_LENGTH:end]), memoryview(data)[end:]
    digest = _started(header)
    digest.update(tensors)
    header[_METADATA][DIGEST_KEY] = digest.hexdigest()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text, tensors


def check_safetensors(path: Path) -> bool:
    """Bound a file's header, and compare the file with the digest that it may carry.

    Returns:
        Whether it carries one.

    Raises:
        CheckpointError: it is no safetensors file, or is not what was saved.
    """
    where = one_line(str(path))
    try:
        with path.open("rb") as file:
            header = _header(file, where)
            metadata = header.get(_METADATA)
            recorded = metadata.pop(DIGEST_KEY, None) if isinstance(metadata, dict) else None
            if recorded is None:
                return False
            digest = _started(header)
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
            f"{where}: is no safetensors file of a model: its header would be {length} bytes, at "
            f"most {MAX_HEADER} are read"
        )
    text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique) if len(text) == length else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{where}: is no whole safetensors file (its header is damaged); fetch or save it again"
        )
    if len(header) > MAX_TENSORS:
        raise CheckpointError(
            f"{where}: has {len(header)} tensors; the largest model has fewer than {MAX_TENSORS}"
        )
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name stands twice")
    return made


def _started(header: dict[str, Any]) -> "hashlib._Hash":
    """The digest of a header that does not hold it yet, to go on with the tensors."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode())
