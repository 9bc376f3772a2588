"""NSynth: every field of a note, and damaged tables."""

import json
from pathlib import Path

import pytest
from miniature import record, write

from pengi_rt.errors import InputError
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.datasets.registry import convert_dataset

LEAD = {
    "note": 201034,
    "note_str": "synth_lead_synthetic_000-060-127",
    "instrument": 1,
    "instrument_str": "synth_lead_synthetic_000",
    "pitch": 60,
    "velocity": 127,
    "sample_rate": 16000,
    "qualities": [0, 0, 0, 1, 0, 0, 0, 0, 0, 1],
    "qualities_str": ["fast_decay", "tempo-synced"],
    "instrument_family": 9,
    "instrument_family_str": "synth_lead",
    "instrument_source": 2,
    "instrument_source_str": "synthetic",
}
FLUTE = LEAD | {
    "note_str": "flute_acoustic_002-077-025",
    "pitch": 77,
    "velocity": 25,
    "qualities_str": [],
    "instrument_family_str": "flute",
    "instrument_source_str": "acoustic",
}
NOTES = {str(note["note_str"]): note for note in (LEAD, FLUTE)} | {"gone": FLUTE}


def test_rows(tmp_path: Path) -> None:
    write(tmp_path / "nsynth-train" / "examples.json", json.dumps(NOTES))
    audio = [
        record(tmp_path / "nsynth-train" / "audio" / f"{name}.wav") for name in list(NOTES)[:2]
    ]
    done = convert_dataset("nsynth", tmp_path, "train")
    assert done.rows == [
        {
            "audio": audio[0],
            "task": "note",
            "instrument": "synth lead",
            "pitch": 60,
            "velocity": 127,
            "source": "synthetic",
            "qualities": ["fast decay", "tempo-synced"],
        },
        {
            "audio": audio[1],
            "task": "note",
            "instrument": "flute",
            "pitch": 77,
            "velocity": 25,
            "source": "acoustic",
        },
    ]
    assert (done.clips, done.missing) == (2, 1)
    assert load_tasks()["note"].target_for(done.rows[0]) == (
        "produced by synth lead, pitch 60, velocity 127, source synthetic, "
        "and having qualities like fast decay, tempo-synced"
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is not JSON"),
        ("[]", "is not NSynth's"),
        ('{"a": {"pitch": 60}}', "is not NSynth's: KeyError"),
        ('{"a": 1}', "is not NSynth's: TypeError"),
    ],
)
def test_damaged_table(tmp_path: Path, content: str, why: str) -> None:
    table = write(tmp_path / "nsynth-test" / "examples.json", content)
    record(tmp_path / "nsynth-test" / "audio" / "a.wav")
    with pytest.raises(InputError, match=f"^{table}: {why}"):
        convert_dataset("nsynth", tmp_path, "test")


def test_another_split(tmp_path: Path) -> None:
    record(tmp_path / "nsynth-test" / "audio" / "a.wav")
    with pytest.raises(InputError, match=r"there is no nsynth-valid/examples.json"):
        convert_dataset("nsynth", tmp_path, "valid")
