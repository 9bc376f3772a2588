"""Hostile training inputs: mutated, endless or pointing elsewhere, each is refused in one line."""

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from miniature import record
from training_run import MODEL, toml

from pengi_rt.audio.recording import load_windows
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import PengiError
from pengi_rt.system.regular import Regular
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.config import read_config
from pengi_rt.training.curves import read_metrics
from pengi_rt.training.data import text_documents
from pengi_rt.training.datasets.registry import DATASETS, convert_dataset
from pengi_rt.training.manifest import read_manifest
from pengi_rt.training.manifest_check import check_manifest
from pengi_rt.training.shards import Shards, read_shards, write_shards

TINY = PengiConfig.preset("tiny")

TASKS = load_tasks()
ROWS: list[dict[str, object]] = [
    {"audio": "a.wav", "task": "caption", "caption": "a dog"},
    {"audio": "a.wav", "task": "events", "events": ["dog"], "tags": [["dog", 0, 0.05], "räin"]},
    {"audio": "a.wav", "task": "qa", "question": "is it?", "answer": "yes", "meta": {"x": [1.5]}},
    {"audio": "a.wav", "task": "scene", "scene": "park", "transcript": "dog \U0001f415"},
]
RUN = toml(
    {
        "stage": "captioning",
        "output_dir": "runs/a",
        "train": ["audio_mapper"],
        "init": {"decoder": "a.safetensors"},
        "data": {"manifests": ["a.jsonl"], "rows_per_clip": 2, "task_weights": {"qa": 0.5}},
        "optimizer": {"rate": 1e-3, "rates": {"decoder": 0.1}, "betas": [0.9, 0.99]},
        "model": MODEL,
    }
)


@pytest.fixture(autouse=True)
def never_for_ever() -> Iterator[None]:
    """Waiting for a pipe or reading an endless device fails the test."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recording and a manifest that describes it."""
    record(tmp_path / "a.wav")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return tmp_path


def refusal(read: Callable[[], object]) -> str | None:
    """The line by which ``read`` is refused, or None."""
    try:
        read()
    except PengiError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) < 2000
        return message
    return None


INSERTED = (
    b'"', b"\\", b"\\u0000", b"\\ud800", b"\x1b[2J", b"\xff", b"\xef\xbb\xbf", b"\0", b"\n", b"[",
    b"{", b"]", b"}", b"1e400", b"-1", b"NaN", b"9" * 5000, b"0x" + b"f" * 5000, b"[" * 3000,
    b"a." * 3000, b"x" * 300_000, b"null", b"true", b".", b"=", b",", b"'''", b"\xe2\x80\xae",
)  # fmt: skip


def mutated(whole: bytes, rng: random.Random) -> bytes:
    """One to three changes: something inserted, removed or doubled, or a byte randomized."""
    data = whole
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        to = at + rng.randrange(12)
        middle = rng.choice([rng.choice(INSERTED), b"", data[at:to] * 2, rng.randbytes(1)])
        data = data[:at] + middle + data[rng.choice([at, to]) :]
    return data


def test_mutated_manifests(folder: Path, rng: random.Random, rounds: int) -> None:
    path = folder / "a.jsonl"
    whole = path.read_bytes()
    assert refusal(lambda: read_manifest(path, TASKS)) is None
    refused = 0
    for _ in range(150 * rounds):
        path.write_bytes(mutated(whole, rng))
        for problem in map(str, check_manifest(path, TASKS)):
            assert problem.isprintable()
            assert len(problem) < 2000
        refused += refusal(lambda: read_manifest(path, TASKS)) is not None
    assert refused


def test_mutated_runs(tmp_path: Path, rng: random.Random, rounds: int) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    assert refusal(lambda: read_config(path)) is None
    for _ in range(150 * rounds):
        path.write_bytes(mutated(RUN.encode(), rng))
        refusal(lambda: read_config(path))


def test_mutated_tasks(tmp_path: Path, rng: random.Random, rounds: int) -> None:
    path = tmp_path / "tasks.toml"
    whole = b"[birds]\nprompt = 'this bird is'\ntarget = '{bird}[ in {place}]'\n"
    for _ in range(50 * rounds):
        path.write_bytes(mutated(whole, rng))
        refusal(lambda: load_tasks(path))


def test_mutated_shards(folder: Path, rng: random.Random, rounds: int) -> None:
    """Whatever an index claims, only its shard is read, and never beyond its end."""
    (shard,) = write_shards([folder / "a.jsonl"], folder / "out", TASKS)
    index = shard.with_suffix(".jsonl")
    whole, content = index.read_bytes(), shard.read_bytes()
    for _ in range(150 * rounds):
        index.write_bytes(mutated(whole, rng))
        found: list[Shards] = []
        refusal(lambda found=found: found.append(read_shards([str(shard)], TASKS)))  # type: ignore[misc]
        for shards in found:
            for row in shards.rows:
                assert row.audio is not None
                assert row.audio.parent == shard
                assert shards.read(row.audio) in content


PLACES: list[tuple[object, object]] = [
    ("/etc/passwd", [0, 10]), ("/any/file.wav/x", [0, 10]), ("../a.wav", [0, 10]),
    ("..", [0, 10]), (".", [0, 10]), ("", [0, 10]), ("x/y", [0, 10]), (None, [0, 10]),
    (3, [0, 10]), ("a\0b", [0, 10]), ("x", [0, 2**62]), ("x", [2**62, 1]), ("x", [-1, 10]),
    ("x", [0, -1]), ("x", [0.0, 1e300]), ("x", [True, 1]), ("x", ["0", "1"]), ("x", [0]),
    ("x", [0, 1, 2]), ("x", {"0": 1}), ("x", None), ("x", 10**4000), ("x", [0, 10**4000]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place"), PLACES, ids=range(len(PLACES)))
def test_an_index_that_points_outside_its_shard(name: object, place: object, folder: Path) -> None:
    (shard,) = write_shards([folder / "a.jsonl"], folder / "out", TASKS)
    index = shard.with_suffix(".jsonl")
    header = index.read_text().splitlines()[0]
    rows = [{"task": "scene", "scene": "park"}]
    for twice in (1, 2):
        line = json.dumps({"audio": name, "place": place, "rows": rows})
        head = json.dumps(json.loads(header) | {"recordings": twice})
        index.write_text("\n".join([head, *[line] * twice]))
        said = refusal(lambda: read_shards([str(shard)], TASKS))
        assert said is not None
        assert said.startswith(f"{index}:2: ")


HEADERS = (
    '{"bytes": 1e400, "recordings": 1}',
    '{"bytes": true, "recordings": 1}',
    '{"bytes": 9999999999999999999999, "recordings": 1}',
    '{"recordings": 1}',
    '{"bytes": BYTES, "recordings": -1}',
    '{"bytes": BYTES, "recordings": 1.0}',
    '{"bytes": BYTES, "recordings": [1]}',
)


@pytest.mark.parametrize("header", HEADERS)
def test_an_index_with_a_wrong_count(header: str, folder: Path) -> None:
    (shard,) = write_shards([folder / "a.jsonl"], folder / "out", TASKS)
    index = shard.with_suffix(".jsonl")
    lines = index.read_text().splitlines()
    lines[0] = header.replace("BYTES", str(shard.stat().st_size))
    index.write_text("\n".join(lines))
    assert refusal(lambda: read_shards([str(shard)], TASKS)) is not None


@pytest.fixture(params=["pipe", "link to /dev/zero", "dead link", "folder"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """Makes an entry of the given name that must not be opened."""

    def make(name: str) -> Path:
        path = tmp_path / name
        path.unlink(missing_ok=True)
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero" if "zero" in request.param else "nowhere")
        return path

    return make


def test_only_regular_files_are_opened(folder: Path, odd: Callable[[str], Path]) -> None:
    """Named by a row, a list or a folder, no pipe is waited for and no device is read."""
    path = odd("odd.wav")
    manifest = folder / "odd.jsonl"
    manifest.write_text(json.dumps(ROWS[0] | {"audio": str(path)}))
    (problem,) = map(str, check_manifest(manifest, TASKS))
    assert problem.startswith(f"{manifest}:1: audio {path}: ")
    assert refusal(lambda: load_windows(Regular(path), TINY)) is not None
    assert refusal(lambda: read_manifest(path, TASKS)) is not None
    assert refusal(lambda: load_tasks(path)) is not None
    assert refusal(lambda: text_documents([path])) is not None
    assert refusal(lambda: write_shards([manifest], folder / "out", TASKS)) is not None


def test_odd_files_among_shards(folder: Path, odd: Callable[[str], Path]) -> None:
    (shard,) = write_shards([folder / "a.jsonl"], folder / "out", TASKS)
    shards = read_shards([str(shard)], TASKS)
    audio = shards.rows[0].audio
    assert audio is not None
    kept = shard.rename(folder / "kept")
    odd(shard.relative_to(folder).as_posix())
    assert refusal(lambda: read_shards([str(shard)], TASKS)) is not None
    assert refusal(lambda: shards.read(audio)) is not None
    index = shard.with_suffix(".jsonl")
    odd(index.relative_to(folder).as_posix())
    assert str(index) in str(refusal(lambda: read_shards([str(shard)], TASKS)))
    assert kept.exists()


def test_odd_files_in_datasets_and_runs(folder: Path, odd: Callable[[str], Path]) -> None:
    (folder / "nsynth-train" / "audio").mkdir(parents=True)
    for name in ("MACS.yaml", "val.csv", "WavText5K.csv", "nsynth-train/examples.json"):
        odd(name)
    (folder / "audio").mkdir()
    for dataset, split in (
        ("macs", None),
        ("audiocaps", "val"),
        ("wavtext5k", None),
        ("nsynth", "train"),
    ):
        assert dataset in DATASETS
        assert refusal(lambda d=dataset, s=split: convert_dataset(d, folder, s)) is not None  # type: ignore[misc]
    odd("metrics.jsonl")
    assert refusal(lambda: read_metrics(folder)) is not None


def test_a_recording_named_like_standard_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``"audio": "-"`` of a manifest in the current folder is a file of that name."""
    monkeypatch.chdir(folder)
    assert refusal(lambda: load_windows(Regular("-"), TINY)) is not None
    (folder / "a.wav").rename(folder / "-")
    assert load_windows(Regular("-"), TINY).name == "-"


TABLES = {
    "macs": ("MACS.yaml", b"files:\n- filename: a.wav\n  annotations:\n  - sentence: a dog\n"),
    "audiocaps": ("val.csv", b"audiocap_id,youtube_id,start_time,caption\n1,a,0,a dog\n"),
    "wavtext5k": ("WavText5K.csv", b"title,description,fname,tags\nt,d,a.wav,\"['x']\"\n"),
    "nsynth": (
        "nsynth-valid/examples.json",
        (
            b'{"a": {"instrument_family_str": "b", "pitch": 1, "velocity": 2,'
            b' "instrument_source_str": "c", "qualities_str": ["d"]}}'
        ),
    ),
    "clotho_aqa": (
        "clotho_aqa_val.csv",
        b"file_name,QuestionText,answer,confidence\na.wav,is it?,yes,yes\n",
    ),
}


@pytest.mark.parametrize("dataset", TABLES)
def test_mutated_tables(dataset: str, folder: Path, rng: random.Random, rounds: int) -> None:
    name, whole = TABLES[dataset]
    places = {"nsynth": "nsynth-valid/audio", "clotho_aqa": "audio_files"}
    audio = folder / places.get(dataset, "audio") / "a.wav"
    audio.parent.mkdir(parents=True)
    (folder / "a.wav").rename(audio)
    split = {"macs": None, "wavtext5k": None, "nsynth": "valid"}.get(dataset, "val")
    path = folder / name
    for number in range(40 * rounds + 1):
        path.write_bytes(mutated(whole, rng) if number else whole)
        said = refusal(lambda: convert_dataset(dataset, folder, split))
        assert number or said is None, said
