"""Output files are replaced only when complete, and printing never fails badly."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from pengi_rt.errors import InputError, UsageError
from pengi_rt.render.output import open_output


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path | str, text: str, *, then: BaseException | None = None) -> None:
    with open_output(str(path)) as output:
        output.write(text)
        if then is not None:
            raise then


def test_replaces_at_the_end_and_keeps_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o640)
    with open_output(str(path)) as output:
        output.write("new")
        output.flush()
        assert path.read_text() == "old"
        assert (tmp_path / "out.part").read_text() == "new"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [InputError("bad"), KeyboardInterrupt(), ZeroDivisionError()])
def test_an_error_keeps_what_was_written_beside_the_old_file(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(type(error)) as caught:
        write(path, "some", then=error)
    assert caught.value.__notes__ == [f"the answers so far are in {path}.part"]
    assert path.read_text() == "old"
    assert (tmp_path / "out.part").read_text() == "some"
    write(path, "all")
    assert path.read_text() == "all"
    assert names(tmp_path) == ["out"]


def test_nothing_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", "", then=KeyboardInterrupt())
    assert names(tmp_path) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "text"


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "out.part").open("w") as other:
        other.write("theirs")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another pengi-rt is writing it"):
            write(tmp_path / "out", "ours")
    assert (tmp_path / "out.part").read_text() == "theirs"


def test_a_part_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out.part").symlink_to("mine")
    with pytest.raises(InputError, match="this is a link"):
        write(tmp_path / "out", "text")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["missing/out", "x" * 300])
def test_what_cannot_be_written_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"^cannot write --output .+$"):
        write(tmp_path / name, "text")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_write_protected_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(InputError, match="write-protected"):
        write(path, "text")


@pytest.mark.parametrize("name", ["", "new/", "."])
def test_a_folder_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is a folder; name a file"):
        write(name, "text")


def test_devices_are_written_in_place() -> None:
    write("/dev/null", "text")
    assert not Path("/dev/null").is_file()
    with pytest.raises(InputError, match=r"^cannot write --output /dev/full: No space left"):
        write("/dev/full", "text")


def test_characters_that_cannot_be_encoded_are_escaped(tmp_path: Path) -> None:
    write(tmp_path / "out", "bad\udcff, good é")
    assert (tmp_path / "out").read_text() == "bad\\udcff, good é"


def test_names_of_standard_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-", "/dev/stdout"):
        write(name, name)
    assert capfd.readouterr().out == "-/dev/stdout"
    assert names(tmp_path) == []


def test_the_lock_is_held_until_the_file_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise another run would empty the part that is about to replace the file."""
    target = tmp_path / "rows.jsonl"
    replace = Path.replace
    others: list[Path] = []

    def replaced(part: Path, place: Path) -> Path:
        busy = pytest.raises(InputError, match="another pengi-rt is writing it")
        with busy, open_output(str(target)) as other:
            other.write("theirs")
        others.append(part)
        return replace(part, place)

    monkeypatch.setattr(Path, "replace", replaced)
    with open_output(str(target)) as output:
        output.write("ours")
    assert target.read_text() == "ours"
    assert others == [tmp_path / "rows.jsonl.part"]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
