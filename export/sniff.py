"""What a file that was called a checkpoint really is, told from its first bytes."""

import stat
import zipfile
from pathlib import Path

from pengi_rt.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"


def refuse_other_files(path: Path) -> None:
    """Refuse what is certainly no checkpoint, each kind in its own words.

    Raises:
        CheckpointError: there is nothing, a folder, an empty file, a web page, a plan, ...
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"{path}: is a folder; name the checkpoint in it")
        if not stat.S_ISREG(mode):  # reading a FIFO would wait for ever
            raise CheckpointError(f"{path}: is no regular file; name the checkpoint")
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(
            f"{path}: {(error.strerror or 'cannot be read').lower()}; pengi-rt pull base fetches "
            "the published weights"
        ) from None
    kind = _kind(path, head)
    if kind:
        raise CheckpointError(f"{path}: {kind}")


def is_zip(path: Path) -> bool:
    """Whether it is PyTorch's present format, which can be mapped; the old one cannot."""
    return zipfile.is_zipfile(path)


def _kind(path: Path, head: bytes) -> str | None:  # noqa: PLR0911 - one return a kind
    text = head.lstrip().lower()
    if not head:
        return "is empty; fetch it again"
    if text.startswith((b"<!doctype", b"<html")):
        return "is a web page; the download went wrong, fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file itself; run git lfs pull"
    if head.startswith((b"ftrt", b"ptrt")):
        return "is a TensorRT engine; export wants the checkpoint it came from"
    if head.startswith(ZIP_MAGIC) and "plan.json" in _names(path):
        return "is a plan already; run pengi-rt generate --engine with it"
    if head[8:9] == b"{" and path.suffix != ".safetensors":
        return "looks like a safetensors file; give it the ending .safetensors"
    return None


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return []  # damaged: PyTorch will say what it makes of it
