"""AudioCaps: captions with commas and quotes, recordings that may have disappeared."""

from pathlib import Path

import pytest
from miniature import record, write

from pengi_rt.errors import InputError
from pengi_rt.training.datasets.common import Options
from pengi_rt.training.datasets.registry import convert_dataset

TEST = """
audiocap_id,youtube_id,start_time,caption
103549,7fmOlUlwoNg,130,"Constant rattling noise, and sharp vibrations"
103548,7fmOlUlwoNg,130,A man says ""hello""
103541,7fmOlUlwoNg,130,"A man says ""hello""
twice"
103542,6BJ455B1aAs,0,A rocket flies by
103543,gone_gone_g,10,  A dog barks
103544,6BJ455B1aAs,0,
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "dataset" / "test.csv", TEST)
    return tmp_path


def test_rows(root: Path) -> None:
    first = record(root / "audio" / "7fmOlUlwoNg_130.flac")
    second = record(root / "audio" / "Y6BJ455B1aAs.wav")
    done = convert_dataset("audiocaps", root, "test")
    assert [(row["audio"], row["task"], row["caption"]) for row in done.rows] == [
        (first, "caption", "Constant rattling noise, and sharp vibrations"),
        (first, "caption", 'A man says ""hello""'),
        (first, "caption", 'A man says "hello"\ntwice'),
        (second, "caption", "A rocket flies by"),
    ]
    assert (done.clips, done.missing, done.textless) == (2, 1, 1)


def test_csv_beside_the_recordings_and_own_pattern(root: Path) -> None:
    (root / "dataset" / "test.csv").rename(root / "test.csv")
    audio = record(root / "elsewhere" / "clip-103549.wav")
    record(root / "7fmOlUlwoNg_130.wav")
    options = Options(root / "elsewhere", ("clip-{audiocap_id}.*",))
    done = convert_dataset("audiocaps", root, "test", options, max_missing=0.9)
    assert [row["audio"] for row in done.rows] == [audio] * 3


def test_too_many_missing(root: Path) -> None:
    record(root / "7fmOlUlwoNg_130.wav")
    with pytest.raises(
        InputError, match="audiocaps test: 2 of 3 recordings are not below"
    ) as caught:
        convert_dataset("audiocaps", root, "test")
    assert "could be called 6BJ455B1aAs_0.*, Y6BJ455B1aAs_0.*, " in str(caught.value)
    assert "raise --max-missing (0.5)" in str(caught.value)
    assert convert_dataset("audiocaps", root, "test", max_missing=2 / 3).missing == 2


def test_finding_no_recording_is_always_an_error(root: Path) -> None:
    with pytest.raises(InputError, match="3 of 3 recordings are not below"):
        convert_dataset("audiocaps", root, "test", max_missing=1.0)


def test_two_recordings_of_one_name(root: Path) -> None:
    record(root / "16k" / "Y6BJ455B1aAs.wav")
    record(root / "44k" / "Y6BJ455B1aAs.wav")
    with pytest.raises(InputError, match=r"16k.*44k.* are both called Y6BJ455B1aAs\.\*; --audio"):
        convert_dataset("audiocaps", root, "test")


def test_linked_folders_are_walked_once(root: Path, tmp_path: Path) -> None:
    record(root / "data" / "Y6BJ455B1aAs.wav")
    record(root / "data" / "Y7fmOlUlwoNg.wav")
    (root / "data" / "circle").symlink_to(root)
    (root / "linked").symlink_to(root / "data")
    assert convert_dataset("audiocaps", root, "test").clips == 2
