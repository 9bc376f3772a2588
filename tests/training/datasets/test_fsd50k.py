"""FSD50K: two tables, three parts from one of them, classes as words."""

from pathlib import Path

import pytest
from miniature import record, write

from pengi_rt.errors import InputError
from pengi_rt.training.datasets.common import Options
from pengi_rt.training.datasets.registry import convert_dataset

DEV = """
fname,labels,mids,split
64760,"Electric_guitar,Guitar","/m/02sgy,/m/0342h",train
16399,Accelerating_and_revving_and_vroom,/m/07q2z82,val
21914,"Crying_and_sobbing,Human_voice","/m/0463cq4,/m/09l8g",train
"""
EVAL = """
fname,labels,mids
37199,Electric_guitar,/m/02sgy
"""
LABELS = """
index,mid,display_name
300,/m/07q2z82,"Accelerating, revving, vroom"
301,/m/0463cq4,"Crying, sobbing"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "FSD50K.ground_truth" / "dev.csv", DEV)
    write(tmp_path / "FSD50K.ground_truth" / "eval.csv", EVAL)
    for name in (64760, 16399, 21914):
        record(tmp_path / "FSD50K.dev_audio" / f"{name}.wav")
    record(tmp_path / "FSD50K.eval_audio" / "37199.wav")
    return tmp_path


def events(root: Path, split: str, options: Options | None = None) -> list[tuple[str, object]]:
    done = convert_dataset("fsd50k", root, split, options)
    assert all(row["task"] == "events" and row["tags"] == row["events"] for row in done.rows)
    paths = [row["audio"] for row in done.rows]
    return [
        (path.relative_to(root).as_posix(), row["events"])
        for path, row in zip(paths, done.rows, strict=True)
        if isinstance(path, Path)
    ]


TRAIN = [
    ("FSD50K.dev_audio/64760.wav", ["electric guitar", "guitar"]),
    ("FSD50K.dev_audio/21914.wav", ["crying and sobbing", "human voice"]),
]
VAL = [("FSD50K.dev_audio/16399.wav", ["accelerating and revving and vroom"])]


def test_splits(root: Path) -> None:
    assert events(root, "train") == TRAIN
    assert events(root, "val") == VAL
    assert events(root, "dev") == [TRAIN[0], *VAL, TRAIN[1]]
    assert events(root, "eval") == [("FSD50K.eval_audio/37199.wav", ["electric guitar"])]


def test_names_of_audioset(root: Path) -> None:
    options = Options(labels=write(root / "class_labels_indices.csv", LABELS))
    assert events(root, "dev", options) == [
        TRAIN[0],
        ("FSD50K.dev_audio/16399.wav", ["accelerating, revving, vroom"]),
        ("FSD50K.dev_audio/21914.wav", ["crying, sobbing", "human voice"]),
    ]


def test_labels_and_mids_differ(root: Path) -> None:
    table = write(
        root / "FSD50K.ground_truth" / "eval.csv", 'fname,labels,mids\n1,"A,B",/m/02sgy\n'
    )
    with pytest.raises(InputError, match=f"{table}:2: 2 labels and 1 mids"):
        convert_dataset("fsd50k", root, "eval")


def test_no_recordings(root: Path) -> None:
    (root / "FSD50K.eval_audio").rename(root / "other")
    with pytest.raises(InputError, match=r"there is no FSD50K.eval_audio; name the dataset's own"):
        convert_dataset("fsd50k", root, "eval")
    assert convert_dataset("fsd50k", root, "eval", Options(audio=root / "other")).clips == 1
