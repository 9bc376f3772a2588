"""MACS: a YAML file about another dataset's recordings."""

import sys
from pathlib import Path

import pytest
from miniature import record, write

from pengi_rt.errors import BackendError, InputError
from pengi_rt.training.datasets.registry import convert_dataset

MACS = """
files:
- filename: airport-barcelona-0-0-a.wav
  identifier: '1'
  annotations:
  - annotator_id: 7
    sentence: "adults talking, and: footsteps # loud"
    tags: [adults_talking, footsteps]
  - annotator_id: 8
    sentence: people talk
    tags: []
  - annotator_id: 9
    sentence: ''
    tags: [music]
- filename: gone.wav
  annotations:
  - sentence: nothing
    tags: []
"""


@pytest.mark.parametrize("folder", ["audio", "TAU-urban-acoustic-scenes-2019-development/audio"])
def test_rows(tmp_path: Path, folder: str) -> None:
    write(tmp_path / "MACS.yaml", MACS)
    audio = record(tmp_path / folder / "airport-barcelona-0-0-a.wav")
    done = convert_dataset("macs", tmp_path)
    assert done.rows == [
        {
            "audio": audio,
            "task": "caption",
            "caption": "adults talking, and: footsteps # loud",
            "tags": ["adults talking", "footsteps"],
        },
        {"audio": audio, "task": "caption", "caption": "people talk"},
    ]
    assert (done.clips, done.missing, done.textless) == (1, 1, 1)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a: [", "is not YAML: "),
        ("a: 1", "is not MACS's: KeyError"),
        ("", "is not MACS's: TypeError"),
        ("files: !!python/object/apply:os.getcwd []", "is not YAML: could not determine"),
    ],
)
def test_damaged_table(tmp_path: Path, content: str, why: str) -> None:
    table = write(tmp_path / "MACS.yaml", content)
    record(tmp_path / "audio" / "a.wav")
    with pytest.raises(InputError, match=f"^{table}: {why}") as caught:
        convert_dataset("macs", tmp_path)
    assert "\n" not in str(caught.value)


def test_without_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "MACS.yaml", MACS)
    record(tmp_path / "audio" / "a.wav")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(BackendError, match=r"needs PyYAML: pip install 'pengi-rt\[train\]'"):
        convert_dataset("macs", tmp_path)
