"""Clotho: five captions become five rows, with file names as awkward as Freesound's."""

from pathlib import Path

import pytest
from miniature import record, write

from pengi_rt.errors import InputError
from pengi_rt.training.datasets.registry import convert_dataset

CAPTIONS = """
file_name,caption_1,caption_2,caption_3,caption_4,caption_5
"Rain, on a tent [2].wav","Rain, then ""thunder"".",Two,Three,Four,Five
Distorted AM Radio noise.wav,One ,,Three, Four,Five
gone.wav,1,2,3,4,5
"""
ROWS = [
    ("Rain, on a tent [2].wav", ['Rain, then "thunder".', "Two", "Three", "Four", "Five"]),
    ("Distorted AM Radio noise.wav", ["One", "Three", "Four", "Five"]),
]


@pytest.mark.parametrize("folder", ["evaluation", "clotho_audio_evaluation/evaluation"])
def test_rows(tmp_path: Path, folder: str) -> None:
    write(tmp_path / "clotho_captions_evaluation.csv", "\ufeff" + CAPTIONS.lstrip())
    expected = [
        {"audio": record(tmp_path / folder / name), "task": "caption", "caption": caption}
        for name, captions in ROWS
        for caption in captions
    ]
    done = convert_dataset("clotho", tmp_path, "evaluation")
    assert done.rows == expected
    assert (done.clips, done.missing, done.textless) == (2, 1, 1)


def test_a_recording_must_have_the_full_name(tmp_path: Path) -> None:
    write(tmp_path / "clotho_captions_validation.csv", CAPTIONS)
    record(tmp_path / "validation" / "gone.flac")
    with pytest.raises(InputError, match=r"3 of 3 .* \(the first could be called Rain, on a tent"):
        convert_dataset("clotho", tmp_path, "validation")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", ": there is no column 'file_name' in its header, ''"),
        (b"file_name,caption_1\n", ": there is no column 'caption_2' in its header"),
        (CAPTIONS.lstrip().encode() + b"a.wav,1,2\n", ":5: has 3 cells, but the header has 6"),
        (CAPTIONS.lstrip().encode() + b"\xff.wav,1,2,3,4,5\n", ": is not UTF-8"),
        (CAPTIONS.lstrip().encode() + b"a" * 200_000, ": is not CSV: field larger"),
    ],
)
def test_damaged_table(tmp_path: Path, content: bytes, why: str) -> None:
    table = tmp_path / "clotho_captions_development.csv"
    table.write_bytes(content)
    record(tmp_path / "development" / "gone.wav")
    with pytest.raises(InputError, match=f"^{table}.*{why}"):
        convert_dataset("clotho", tmp_path, "development")
