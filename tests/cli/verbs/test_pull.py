"""``pengi-rt pull`` prints the path of the file, and everything else on stderr."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import BODY, DIGEST, Server

from pengi_rt.cli.verbs import pull
from pengi_rt.errors import DownloadError, UsageError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Server().running() as server:
        yield server


def run(*argv: str, quiet: bool = False) -> int:
    parser = argparse.ArgumentParser()
    pull.add_arguments(parser.add_subparsers().add_parser("pull"))
    arguments = parser.parse_args(["pull", *argv], argparse.Namespace(quiet=quiet))
    code: int = arguments.run(arguments)
    return code


def test_goes_to_the_cache(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cache" / "pengi-rt" / "base_no_text_enc.pth"
    assert run("base_no_text_enc", "--url", server.url) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{path}\n"
    assert captured.err == f"pengi-rt: recorded SHA-256 {DIGEST}; later pulls compare with it\n"
    assert path.read_bytes() == BODY
    assert run("base_no_text_enc", "--url", server.url) == 0
    assert capsys.readouterr().err == ""


def test_directory_and_quiet(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("base", "--url", server.url, "--directory", str(tmp_path / "d"), quiet=True) == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "d" / "base.pth").read_bytes() == BODY


def test_progress_is_drawn_on_a_terminal(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run("base", "--url", server.url) == 0
    captured = capsys.readouterr()
    assert "base.pth: 100%" in captured.err
    assert captured.out.count("\n") == 1


def test_wrong_checksum_is_one_line(server: Server) -> None:
    with pytest.raises(DownloadError, match=rf"has SHA-256 {DIGEST}, expected 0{{64}}"):
        run("base", "--url", server.url, "--sha256", "0" * 64)


def test_directory_that_is_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--directory .* is a file"):
        run("base", "--url", server.url, "--directory", str(tmp_path / "file"))


def test_unknown_model_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("large")
    assert "base_no_text_enc" in capsys.readouterr().err
