"""AudioSet: class names by machine id, segments under many file names."""

from pathlib import Path

import pytest
from miniature import record, write

from pengi_rt.errors import InputError, UsageError
from pengi_rt.training.datasets.common import Options
from pengi_rt.training.datasets.registry import convert_dataset

SEGMENTS = """
# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=4, num_segs=4, num_unique_labels=3, num_positive_labels=5
# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"
#noComment_, 0.000, 10.000, "/m/09x0r"
-_sT5mCpz1s, 0.000, 8.730, "/m/0_ksk"
zzzzzzzzzzz, 5.500, 10.000, "/m/0_ksk,/m/09x0r"
gone-gone-g, 1.000, 11.000, "/m/09x0r"
"""
LABELS = """
index,mid,display_name
0,/m/09x0r,"Speech"
1,/m/0_ksk,"Afrobeat, live"
2,/t/dd00088,"Gush"
"""
SPEECH = ["Speech", "Gush"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "eval_segments.csv", SEGMENTS)
    write(tmp_path / "class_labels_indices.csv", LABELS)
    return tmp_path


def test_rows(root: Path) -> None:
    first = record(root / "audio" / "part00" / "Y--PJHxphWEs_30.flac")
    second = record(root / "audio" / "part01" / "-_sT5mCpz1s.wav")
    third = record(root / "audio" / "zzzzzzzzzzz_5500.wav")
    done = convert_dataset("audioset", root, "eval")
    assert done.rows == [
        {"audio": first, "task": "events", "events": SPEECH, "tags": SPEECH},
        {
            "audio": second,
            "task": "events",
            "events": ["Afrobeat, live"],
            "tags": ["Afrobeat, live"],
        },
        {
            "audio": third,
            "task": "events",
            "events": ["Afrobeat, live", "Speech"],
            "tags": ["Afrobeat, live", "Speech"],
        },
    ]
    assert (done.clips, done.missing, done.textless) == (3, 1, 0)


@pytest.mark.parametrize(
    "name",
    [
        "{id}.wav",
        "Y{id}.mp3",
        "{id}_30.ogg",
        "Y{id}_30.000_40.000.wav",
        "{id}_30_40.WAV",
        "{id}_30.000.wav",
        "{id}_30000.flac",
    ],
)
def test_usual_names(root: Path, name: str) -> None:
    # Suffixes are compared in lower case, so that .WAV is found too.
    audio = root / name.format(id="--PJHxphWEs")
    record(audio.with_suffix(audio.suffix.lower())).rename(audio)
    done = convert_dataset("audioset", root, "eval", max_missing=0.8)
    assert [row["audio"] for row in done.rows] == [audio]


def test_own_pattern(root: Path) -> None:
    audio = record(root / "seg--PJHxphWEs-30-40.wav")
    options = Options(audio_patterns=("seg{youtube_id}-{start}-{end}.wav",))
    done = convert_dataset("audioset", root, "eval", options, max_missing=0.8)
    assert [row["audio"] for row in done.rows] == [audio]


@pytest.mark.parametrize("pattern", ["{id}.wav", "{}.wav", "a/{youtube_id}.wav"])
def test_bad_pattern(root: Path, pattern: str) -> None:
    with pytest.raises(UsageError, match=r"--audio-pattern .* made with \{youtube_id\}, \{start\}"):
        convert_dataset("audioset", root, "eval", Options(audio_patterns=(pattern,)))


def test_unknown_label(root: Path) -> None:
    labels = write(root / "other.csv", "index,mid,display_name\n0,/m/09x0r,Speech\n")
    record(root / "--PJHxphWEs.wav")
    with pytest.raises(InputError, match=r"eval_segments.csv:4: '/t/dd00088' is not in"):
        convert_dataset("audioset", root, "eval", Options(labels=labels))


@pytest.mark.parametrize(
    ("line", "why"),
    [("a, 1, 2", "has 3 cells, not 4"), ('a, one, 2, "/m/09x0r"', "'one' and '2' must be seconds")],
)
def test_damaged_line(root: Path, line: str, why: str) -> None:
    write(root / "eval_segments.csv", f"# header\n{line}\n")
    with pytest.raises(InputError, match=f"eval_segments.csv:2: {why}"):
        convert_dataset("audioset", root, "eval")
