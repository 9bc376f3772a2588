"""An output never overwrites what is read."""

from pathlib import Path

import pytest

from pengi_rt.cli.output_checks import refuse_overwriting
from pengi_rt.errors import UsageError


@pytest.mark.parametrize("way", ["same", "relative", "link", "hard link", "part", "part of a link"])
def test_inputs_are_not_overwritten(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    taken = tmp_path / "taken.part"
    taken.write_text("mine")
    (tmp_path / "link").symlink_to(taken)
    (tmp_path / "hard").hardlink_to(taken)
    (tmp_path / "to taken").symlink_to("taken")
    output = {
        "relative": "./taken.part",
        "link": "link",
        "hard link": "hard",
        "part": "taken",
        "part of a link": "to taken",
    }
    with pytest.raises(UsageError, match=r"^--output .* would overwrite .*taken\.part"):
        refuse_overwriting(output.get(way, str(taken)), ["other", str(taken)])


def test_other_files_and_devices_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    refuse_overwriting(tmp_path / "a", [tmp_path / "b", tmp_path / "missing", "-"])
    refuse_overwriting(tmp_path / "missing", [tmp_path / "missing"])
    refuse_overwriting("/dev/null", ["/dev/null"])
