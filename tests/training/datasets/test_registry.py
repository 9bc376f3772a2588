"""Every dataset: its description, a root that does not hold it, and manifest lines."""

import json
from pathlib import Path

import pytest
from miniature import record

from pengi_rt.errors import InputError, UsageError
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.datasets.common import Options
from pengi_rt.training.datasets.registry import DATASETS, convert_dataset, manifest_line

LOOKED_FOR = {
    "audiocaps": "train.csv or dataset/train.csv",
    "audioset": "balanced_train_segments.csv",
    "clotho": "clotho_captions_development.csv",
    "clotho_aqa": "clotho_aqa_train.csv",
    "fsd50k": "FSD50K.ground_truth/dev.csv",
    "macs": "MACS.yaml",
    "nsynth": "nsynth-train/examples.json",
    "wavtext5k": "WavText5K.csv",
}


def test_all_are_listed_in_order() -> None:
    assert list(DATASETS) == sorted(LOOKED_FOR)
    assert {dataset.task for dataset in DATASETS.values()} <= load_tasks().keys()


@pytest.mark.parametrize("name", LOOKED_FOR)
def test_wrong_root_names_what_was_looked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        convert_dataset(name, tmp_path, DATASETS[name].splits[0])
    message = f"{tmp_path}: there is no {LOOKED_FOR[name]}; name the dataset's own folder"
    assert str(caught.value) == message


@pytest.mark.parametrize("name", LOOKED_FOR)
def test_wrong_split_lists_the_right_ones(tmp_path: Path, name: str) -> None:
    splits = ", ".join(DATASETS[name].splits)
    with pytest.raises(UsageError, match=rf"--split 'dev2': there is no such split; {splits}$"):
        convert_dataset(name, tmp_path, "dev2")


def test_a_missing_split(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--split must be given: train, valid, test"):
        convert_dataset("nsynth", tmp_path)


def test_unknown_dataset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no converter for 'esc50'; there are: audiocaps, "):
        convert_dataset("esc50", tmp_path)


def test_a_missing_audio_folder(tmp_path: Path) -> None:
    (tmp_path / "WavText5K.csv").touch()
    with pytest.raises(InputError, match="none: there is no such folder; --audio names another"):
        convert_dataset("wavtext5k", tmp_path, options=Options(audio=tmp_path / "none"))


def test_lines_are_relative_inside_and_absolute_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "a" / "b" / "ä.wav")
    row: dict[str, object] = {"audio": Path("a/b/ä.wav"), "task": "caption", "caption": "ü"}
    for folder, name in (
        (Path(), "a/b/ä.wav"),
        (tmp_path / "a", "b/ä.wav"),
        (tmp_path / "c", str(tmp_path / "a" / "b" / "ä.wav")),
        (tmp_path / "a" / "b" / ".." / "b", "ä.wav"),
    ):
        line = manifest_line(row, folder)
        assert json.loads(line) == row | {"audio": name}
        assert "ü" in line
