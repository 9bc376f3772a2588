"""Download a large file over HTTP, resume after an interruption, and check the SHA-256.

An incomplete ``NAME`` is ``NAME.part``; ``NAME.part.etag`` holds the server's ETag, which names the
version of the file. The SHA-256 is compared with the expected one, or with ``NAME.sha256`` (in the
format of ``sha256sum``), which the first download writes.
"""

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from pengi_rt.errors import DownloadError, UsageError
from pengi_rt.system.files import locked, move_into_place, replacing
from pengi_rt.system.version import __version__

PUBLISHED = {"base": "base.pth", "base_no_text_enc": "base_no_text_enc.pth"}
"""The published models' files, in Zenodo record 8387083."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes downloaded and the total, which is None if the server does not give it."""

_TIMEOUT = 30.0  # seconds without data
_CHUNK = 1 << 20  # bytes
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A downloaded file whose checksum is right."""

    path: Path
    sha256: str
    recorded: bool  # whether its checksum was recorded, because there was none to compare with


def published_url(name: str) -> str:
    """The URL of the published model ``name``."""
    return f"https://zenodo.org/records/8387083/files/{PUBLISHED[name]}?download=1"


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """``$XDG_CACHE_HOME/pengi-rt``, by default ``~/.cache/pengi-rt``."""
    root = environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore a relative path.
    return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "pengi-rt"


def fetch(
    url: str, target: Path, *, sha256: str | None = None, progress: Progress = lambda *_: None
) -> Fetched:
    """Download ``url`` to ``target``, continuing where an earlier call was interrupted.

    Args:
        url: http or https.
        target: the file; if it exists, it is checked, not downloaded.
        sha256: the expected SHA-256 (default: that in ``target``'s ``.sha256`` file, if any).
        progress: called after every megabyte.

    Raises:
        UsageError: ``url`` or ``sha256`` is invalid.
        DownloadError: the download failed (the partial file stays), or the SHA-256 is wrong (the
            file is kept as ``.bad``).
    """
    _check_arguments(url, sha256)
    part = _beside(target, ".part")
    try:
        expected = sha256.lower() if sha256 else _recorded(target)
        if target.exists():
            return _accept(target, target, expected)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as file:
            _download(url, target, file, progress)
            os.fsync(file.fileno())
            fetched = _accept(part, target, expected)
            move_into_place(part, target)
            _beside(target, ".part.etag").unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(f"{target}: cannot be written: {error.strerror or error}") from None
    return fetched


def _check_arguments(url: str, sha256: str | None) -> None:
    if re.match(r"https?://[^/\s]+/\S*$", url, re.IGNORECASE) is None:
        raise UsageError(f"--url must be an http or https address of a file, got {url!r}")
    if sha256 and _DIGEST.fullmatch(sha256.lower()) is None:
        raise UsageError(f"--sha256 must be 64 hexadecimal digits, got {sha256!r}")


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _recorded(target: Path) -> str | None:
    """The checksum in ``target``'s ``.sha256`` file, if there is one."""
    record = _beside(target, ".sha256")
    if not record.exists():
        return None
    found = _DIGEST.match(record.read_text("utf-8", "replace"))
    if found is None:
        raise DownloadError(f"{record}: does not start with a SHA-256; remove it or correct it")
    return found[0]


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """``part`` locked and open for appending; it is removed if it stays empty."""
    with ExitStack() as files:
        try:
            file = files.enter_context(locked(part))
        except BlockingIOError:
            raise DownloadError(
                f"{part}: another pengi-rt pull is writing it; wait for it to finish"
            ) from None
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size:
                part.unlink(missing_ok=True)


def _download(url: str, target: Path, file: BinaryIO, progress: Progress) -> None:
    """Append the missing bytes to ``file``, or start over if the server cannot continue."""
    done = file.tell()
    validator = _beside(target, ".part.etag")
    known = validator.read_text() if validator.exists() else ""
    # Without the ETag, the rest could belong to a different version.
    headers = {"Range": f"bytes={done}-", "If-Range": known} if done and known else {}
    with _open(url, headers, target) as response:
        start, total = _span(response, url)
        if start is None and total == done:
            return  # it was already complete
        if start not in (0, done):
            raise DownloadError(
                f"{url}: the server has no byte {done} of {total}; remove {file.name}, try again"
            )
        if start != done:
            file.truncate(0)
        if not start:
            _write(validator, _validator(response))
        done = start
        for chunk in _chunks(response, url, done, total):
            file.write(chunk)
            done += len(chunk)
            progress(done, total)
        file.flush()


def _open(url: str, headers: Mapping[str, str], target: Path) -> http.client.HTTPResponse:
    """The response: the whole file, the rest of it, or that there is no rest."""
    agent = {"User-Agent": f"pengi-rt/{__version__}"}
    request = urllib.request.Request(url, headers={**agent, **headers})  # noqa: S310 - checked
    by_hand = f"or fetch it by hand and put it at {target}"
    try:
        response: http.client.HTTPResponse = urllib.request.build_opener(_Answers).open(
            request, timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        with error:
            raise DownloadError(
                f"{url}: the server answered {error.code} {error.reason}; try again, {by_hand}"
            ) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DownloadError(f"{url}: cannot be reached ({reason}); try again, {by_hand}") from None
    return response


class _Answers(urllib.request.HTTPErrorProcessor):
    """Does not treat "range not satisfiable" as an error."""

    def http_response(
        self, request: urllib.request.Request, response: http.client.HTTPResponse
    ) -> http.client.HTTPResponse:
        if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return response
        checked: http.client.HTTPResponse = super().http_response(request, response)
        return checked

    https_response = http_response


def _span(response: http.client.HTTPResponse, url: str) -> tuple[int | None, int | None]:
    """The position of the response's body in the file (None if no body), and the file's length."""
    if response.headers.get_content_type() == "text/html":
        raise DownloadError(f"{url}: the server sent an HTML page, not the file")
    if response.status == HTTPStatus.OK:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None:
        raise DownloadError(
            f"{url}: the server's answer ({response.status}) does not say its range"
        )
    return int(found[1]) if found[1] else None, int(found[2])


def _validator(response: http.client.HTTPResponse) -> str:
    """The ETag of this version of the file, if it is a strong one; otherwise empty."""
    etag = response.headers.get("ETag", "")
    return str(etag if etag[:1] == '"' else response.headers.get("Last-Modified", ""))


def _chunks(
    response: http.client.HTTPResponse, url: str, done: int, total: int | None
) -> Iterator[bytes]:
    """Yield the body; raises DownloadError if it ends early."""
    failure = None
    try:
        while chunk := response.read(_CHUNK):
            done += len(chunk)
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        failure = str(error) or type(error).__name__
    if failure or total not in (None, done):
        length = "an unknown number" if total is None else total
        raise DownloadError(
            f"{url}: the connection broke after {done} of {length} bytes "
            f"({failure or 'closed early'}); run the same command again to continue"
        )


def _accept(file: Path, target: Path, expected: str | None) -> Fetched:
    """Compare the checksum of ``file`` with the expected one, or record it."""
    with file.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    if expected and digest != expected:
        kept = "it was not changed; move it away to pull again"
        if file != target:
            bad = file.replace(_beside(target, ".bad"))
            _beside(target, ".part.etag").unlink(missing_ok=True)
            kept = f"the download is kept as {bad.name}"
        raise DownloadError(f"{target}: has SHA-256 {digest}, expected {expected}; {kept}")
    record = _beside(target, ".sha256")
    recorded = not record.exists()
    if _recorded(target) != digest:
        _write(record, f"{digest}  {target.name}\n")
    return Fetched(target, digest, recorded)


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())
