"""Check a checkpoint file before anything in it is used.

Is it a checkpoint at all, or a web page, a plan, ...? And is it as it was saved? The
checksums inside it are verified, and the one beside it in ``NAME.sha256``, if there is one.
"""

import logging
import re
import stat
import zipfile
from pathlib import Path

from pengi_rt.errors import CheckpointError
from pengi_rt.export.torch_file import ZIP_MAGIC, check_torch_file, open_archive
from pengi_rt.models.safetensors_file import check_safetensors
from pengi_rt.plan.file_kind import kind_of
from pengi_rt.system.files import file_sha256
from pengi_rt.system.quote import one_line

logger = logging.getLogger(__name__)

CHECKSUM_SUFFIX = ".sha256"
"""Suffix of the file that ``pengi-rt pull`` and ``sha256sum`` write beside a checkpoint."""

_SHA256 = re.compile(rb"\b[0-9a-fA-F]{64}\b")

_REFUSALS = {
    "HTML page": "is a web page; the download went wrong, fetch it again",
    "git-lfs pointer": "is a git-lfs pointer, not the file itself; run git lfs pull",
    "TensorRT engine": "is a TensorRT engine; export needs the checkpoint it was made from",
    "safetensors": "looks like a safetensors file; rename it to end in .safetensors",
}
"""What is said of files that are certainly not checkpoints, by :attr:`FileKind.name`."""


def check_file(path: Path) -> None:
    """Refuse what is not a checkpoint, verify every checksum, and bound the cost of reading it.

    A file without any checksum is accepted with a warning.

    Raises:
        CheckpointError: there is no file, it is of another kind, damaged, or not the one whose
            checksum was recorded.
    """
    _refuse_other_kinds(path)
    recorded = _recorded_checksum(path)
    if recorded is not None and file_sha256(path) != recorded:
        where = one_line(str(path))
        raise CheckpointError(
            f"{where}: its SHA-256 is not the one in {one_line(path.name)}{CHECKSUM_SUFFIX}: it is "
            "damaged, or another file; fetch it again"
        )
    check = check_safetensors if path.suffix == ".safetensors" else check_torch_file
    if not check(path) and recorded is None:
        logger.warning(
            "%s: no checksum is recorded for it, inside or in %s%s, so damage would go unnoticed",
            one_line(str(path)),
            one_line(path.name),
            CHECKSUM_SUFFIX,
        )


def _refuse_other_kinds(path: Path) -> None:
    """Refuse what is certainly not a checkpoint, with a message for each kind."""
    where = one_line(str(path))
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"{where}: is a folder; name the checkpoint in it")
        if not stat.S_ISREG(mode):  # reading a FIFO would block forever
            raise CheckpointError(f"{where}: is not a regular file; name the checkpoint")
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (getattr(error, "strerror", None) or "cannot be read").lower()
        raise CheckpointError(
            f"{where}: {reason}; pengi-rt pull base fetches the published weights"
        ) from None
    kind = _other_kind(path, head)
    if kind:
        raise CheckpointError(f"{where}: {kind}")


def _other_kind(path: Path, head: bytes) -> str | None:
    if not head:
        return "is empty; fetch it again"
    if head.startswith(ZIP_MAGIC) and "plan.json" in _entry_names(path):
        return "is a plan already; run pengi-rt generate --engine with it"
    kind = kind_of(head)
    if kind is None or (kind.name == "safetensors" and path.suffix == ".safetensors"):
        return None
    return _REFUSALS.get(kind.name)


def _entry_names(path: Path) -> list[str]:
    try:
        with open_archive(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return []  # damaged: check_torch_file says how


def _recorded_checksum(path: Path) -> str | None:
    """The SHA-256 recorded beside a checkpoint, if any. Raises CheckpointError."""
    record = path.with_name(path.name + CHECKSUM_SUFFIX)
    where = one_line(str(record))
    if not record.is_file():
        return None
    try:
        with record.open("rb") as file:
            digest = _SHA256.search(file.read(4096))
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"{where}: cannot be read: {reason}") from None
    if digest is None:
        raise CheckpointError(f"{where}: holds no SHA-256; correct it or remove it")
    return digest[0].decode().lower()
