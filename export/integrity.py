"""Whether a checkpoint is as it was saved: what the file itself records, or the one beside it."""

import logging
import re
from pathlib import Path

from pengi_rt.errors import CheckpointError
from pengi_rt.export.torch_file import check_torch_file
from pengi_rt.models.safetensors_file import check_safetensors
from pengi_rt.system.file_hash import file_sha256
from pengi_rt.system.quote import one_line

logger = logging.getLogger(__name__)

BESIDE = ".sha256"
"""Ending of the file that ``pengi-rt pull`` and ``sha256sum`` write beside a checkpoint."""

_DIGEST = re.compile(rb"\b[0-9a-fA-F]{64}\b")


def check_integrity(path: Path) -> None:
    """Check a checkpoint against every checksum that there is, and bound what reading it costs.

    A file without any is read, and that is said.

    Raises:
        CheckpointError: it is damaged, or is another file than the one recorded.
    """
    recorded = _recorded(path)
    if recorded is not None and file_sha256(path) != recorded:
        where = one_line(str(path))
        raise CheckpointError(
            f"{where}: its SHA-256 is not the one in {one_line(path.name)}{BESIDE}: it is damaged, "
            "or another file; fetch it again"
        )
    check = check_safetensors if path.suffix == ".safetensors" else check_torch_file
    if not check(path) and recorded is None:
        logger.warning(
            "%s: no checksum is recorded for it, inside or in %s%s, so whether it is as it was "
            "saved cannot be checked",
            one_line(str(path)), one_line(path.name), BESIDE,
        )  # fmt: skip


def _recorded(path: Path) -> str | None:
    """The SHA-256 beside a checkpoint, if there is one. Raises CheckpointError."""
    record = path.with_name(path.name + BESIDE)
    where = one_line(str(record))
    if not record.is_file():
        return None
    try:
        with record.open("rb") as file:
            found = _DIGEST.search(file.read(4096))
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"{where}: cannot be read: {reason}") from None
    if found is None:
        raise CheckpointError(f"{where}: holds no SHA-256; put it right or remove it")
    return found[0].decode().lower()
