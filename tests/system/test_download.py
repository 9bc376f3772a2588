"""A fetch ends with the right bytes in place, or with one line and everything kept."""

import fcntl
import hashlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_plan
from file_server import BODY, DIGEST, Server

from pengi_rt.errors import DownloadError, UsageError
from pengi_rt.system import download
from pengi_rt.system.download import PUBLISHED, Fetched, cache_directory, fetch, published_url


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server().running() as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "base.pth"


def names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def refusal(server: Server, target: Path, sha256: str | None = None) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, target, sha256=sha256)
    assert toy_plan.one_line(str(caught.value))
    return str(caught.value)


def cut_off(server: Server, target: Path, after: int) -> None:
    """Leave the first ``after`` bytes, as an interrupted fetch does."""
    server.stop_after = after
    assert f"broke after {after} of" in refusal(server, target)
    assert target.with_name("base.pth.part").read_bytes() == server.body[:after]
    server.stop_after = None
    server.requests.clear()


def test_fetch_records_the_checksum(server: Server, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetched = fetch(server.url, target, progress=lambda *state: seen.append(state))
    assert fetched == Fetched(target, DIGEST, recorded=True)
    assert target.read_bytes() == BODY
    assert target.with_name("base.pth.sha256").read_text() == f"{DIGEST}  base.pth\n"
    assert names(target) == ["base.pth", "base.pth.sha256"]
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_second_fetch_only_checks(server: Server, target: Path) -> None:
    fetch(server.url, target)
    server.requests.clear()
    assert fetch(server.url, target) == Fetched(target, DIGEST, recorded=False)
    assert server.requests == []


def test_file_put_there_by_hand_is_recorded(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"by hand")
    assert fetch(server.url, target).recorded
    target.write_bytes(b"changed")
    assert "it was not changed" in refusal(server, target)
    assert target.read_bytes() == b"changed"
    assert server.requests == []


@pytest.mark.parametrize("version", ["etag", "modified"])
def test_resumes(server: Server, target: Path, version: str) -> None:
    if version == "modified":
        server.etag, server.modified = 'W/"weak"', "Tue, 29 Aug 2023 10:00:00 GMT"
    cut_off(server, target, 1_234_567)
    if version == "modified":
        server.etag = None
    seen: list[int] = []
    fetched = fetch(server.url, target, progress=lambda done, _: seen.append(done))
    assert fetched.sha256 == DIGEST
    assert server.requests == ["bytes=1234567-"]
    assert min(seen) > 1_234_567
    assert names(target) == ["base.pth", "base.pth.sha256"]


def test_resumes_as_often_as_it_takes(server: Server, target: Path) -> None:
    server.stop_after = 700_000
    for _ in range(4):
        assert "run the same command again" in refusal(server, target)
    assert fetch(server.url, target).sha256 == DIGEST
    assert server.requests[1:] == [f"bytes={700_000 * i}-" for i in range(1, 5)]


def test_killed_between_the_last_byte_and_the_rename(server: Server, target: Path) -> None:
    cut_off(server, target, len(BODY) - 1)
    with target.with_name("base.pth.part").open("ab") as part:
        part.write(BODY[-1:])
    assert fetch(server.url, target).sha256 == DIGEST
    assert server.requests == [f"bytes={len(BODY)}-"]


@pytest.mark.parametrize("change", ["no ranges", "new version", "forgotten version"])
def test_starts_over_when_it_cannot_continue(server: Server, target: Path, change: str) -> None:
    cut_off(server, target, 1_000_000)
    if change == "no ranges":
        server.ranges = False
    elif change == "new version":
        server.etag, server.body = '"v2"', BODY[::-1]
    else:
        target.with_name("base.pth.part.etag").write_text("")
    fetched = fetch(server.url, target)
    assert target.read_bytes() == server.body
    assert fetched.sha256 == hashlib.sha256(server.body).hexdigest()
    assert server.requests == ([None] if "forgotten" in change else ["bytes=1000000-"])


def test_without_an_etag_it_never_continues(server: Server, target: Path) -> None:
    server.etag = None
    cut_off(server, target, 1_000_000)
    assert fetch(server.url, target).sha256 == DIGEST
    assert server.requests == [None]


@pytest.mark.parametrize(
    ("content_range", "says"),
    [
        ("bytes 5-2999999/3000000", "has no byte 1000000 of 3000000"),
        ("bytes */3000000", "has no byte 1000000 of 3000000"),
        ("pages 1-2/3", "does not say its range"),
    ],
)
def test_a_different_range_than_requested(
    server: Server, target: Path, content_range: str, says: str
) -> None:
    cut_off(server, target, 1_000_000)
    server.content_range = content_range
    assert says in refusal(server, target)
    assert target.with_name("base.pth.part").read_bytes() == BODY[:1_000_000]


def test_part_longer_than_the_file(server: Server, target: Path) -> None:
    cut_off(server, target, 1_000_000)
    target.with_name("base.pth.part").write_bytes(BODY + b"more")
    assert f"has no byte {len(BODY) + 4} of {len(BODY)}" in refusal(server, target)


def test_chunked_answer(server: Server, target: Path) -> None:
    server.chunked = True
    assert fetch(server.url, target).sha256 == DIGEST


def test_chunked_answer_cut_off(server: Server, target: Path) -> None:
    server.chunked, server.stop_after = True, 1_500_000
    assert "broke after" in refusal(server, target)
    assert not target.exists()


def test_wrong_checksum_keeps_what_came(server: Server, target: Path) -> None:
    message = refusal(server, target, sha256="ab" * 32)
    assert f"{DIGEST}, expected {'ab' * 32}; the download is kept as base.pth.bad" in message
    assert target.with_name("base.pth.bad").read_bytes() == BODY
    assert names(target) == ["base.pth.bad"]


def test_other_file_than_recorded(server: Server, target: Path) -> None:
    fetch(server.url, target)
    target.unlink()
    server.body = b"something else"
    assert f"expected {DIGEST}" in refusal(server, target)
    assert names(target) == ["base.pth.bad", "base.pth.sha256"]
    server.body = BODY
    assert fetch(server.url, target) == Fetched(target, DIGEST, recorded=False)


def test_given_checksum_is_accepted_in_capitals_and_recorded(server: Server, target: Path) -> None:
    assert fetch(server.url, target, sha256=DIGEST.upper()).sha256 == DIGEST
    assert target.with_name("base.pth.sha256").read_text().startswith(DIGEST)


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_server_that_refuses(server: Server, target: Path, status: int) -> None:
    server.status = status
    message = refusal(server, target)
    assert f"the server answered {status} " in message
    assert f"or fetch it by hand and put it at {target}" in message


def test_web_page_instead_of_the_file(server: Server, target: Path) -> None:
    server.content_type, server.body = "text/html; charset=utf-8", b"<html>log in</html>"
    assert "sent an HTML page" in refusal(server, target)
    assert not target.exists()


def test_no_network(server: Server, target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        server.url = f"http://127.0.0.1:{closed.getsockname()[1]}/base.pth"
    message = refusal(server, target)
    assert "cannot be reached" in message
    assert "refused" in message
    assert f"put it at {target}" in message
    assert names(target) == []


def test_a_silent_server(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server.url = f"http://127.0.0.1:{silent.getsockname()[1]}/base.pth"
        assert "cannot be reached (timed out)" in refusal(server, target)


def test_two_at_once(server: Server, target: Path) -> None:
    target.parent.mkdir()
    with target.with_name("base.pth.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another pengi-rt pull is writing it" in refusal(server, target)
    assert fetch(server.url, target).sha256 == DIGEST


def test_an_invalid_checksum_file(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("base.pth.sha256").write_bytes(b"\xff\xfe")
    assert "does not start with a SHA-256" in refusal(server, target)


def test_an_unwritable_folder(server: Server, target: Path) -> None:
    target.parent.write_bytes(b"a file")
    assert "cannot be written: " in refusal(server, target)


@pytest.mark.parametrize(
    "url", ["", "base.pth", "file:///etc/passwd", "ftp://host/x", "http://", "https://a/b c\n"]
)
def test_invalid_addresses(target: Path, url: str) -> None:
    with pytest.raises(UsageError, match="--url must be"):
        fetch(url, target)


@pytest.mark.parametrize("sha256", ["12", "g" * 64, "a" * 65])
def test_invalid_checksums(target: Path, sha256: str) -> None:
    with pytest.raises(UsageError, match="--sha256 must be 64"):
        fetch("https://example.org/x", target, sha256=sha256)


def test_cache_directory_is_xdg_s() -> None:
    assert cache_directory({"XDG_CACHE_HOME": "/var/x"}) == Path("/var/x/pengi-rt")
    for environ in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "relative"}):
        assert cache_directory(environ) == Path.home() / ".cache" / "pengi-rt"


def test_published_urls() -> None:
    assert published_url("base") == ("https://zenodo.org/records/8387083/files/base.pth?download=1")
    assert all(re.fullmatch(r"\w+\.pth", name) for name in PUBLISHED.values())
