"""What a file that was called a checkpoint really is, told from its first bytes."""

import stat
import zipfile
from pathlib import Path

from pengi_rt.errors import CheckpointError
from pengi_rt.export.torch_file import ZIP_MAGIC, open_archive
from pengi_rt.system.quote import one_line


def refuse_other_files(path: Path) -> None:
    """Refuse what is certainly no checkpoint, each kind in its own words.

    Raises:
        CheckpointError: there is nothing, a folder, an empty file, a web page, a plan, ...
    """
    where = one_line(str(path))
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"{where}: is a folder; name the checkpoint in it")
        if not stat.S_ISREG(mode):  # reading a FIFO would wait for ever
            raise CheckpointError(f"{where}: is no regular file; name the checkpoint")
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, ValueError) as error:  # a NUL in the name
        reason = (getattr(error, "strerror", None) or "cannot be read").lower()
        raise CheckpointError(
            f"{where}: {reason}; pengi-rt pull base fetches the published weights"
        ) from None
    kind = _kind(path, head)
    if kind:
        raise CheckpointError(f"{where}: {kind}")


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
        with open_archive(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return []  # damaged: PyTorch will say what it makes of it
