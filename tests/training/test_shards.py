"""Shards hold every byte and row and follow webdataset; resumed runs continue reading them."""

import json
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from miniature import RATE
from training_run import Workshop, outcome, train, train_until

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import InputError, UsageError
from pengi_rt.models.tiny import make_tokenizers
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.config import DataConfig
from pengi_rt.training.data import ClipData
from pengi_rt.training.examples import Clips, RowEncoder
from pengi_rt.training.manifest import Row, read_manifest
from pengi_rt.training.shard_data import TOGETHER, ShardData, ShardOrder
from pengi_rt.training.shards import Shards, main, read_shards, write_shards

TASKS = load_tasks()
CLIPS = 11
ENDINGS = ("wav", "flac", "WAV")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven recordings of 0.5 to 3 s in three folders, one to three rows each."""
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for clip in range(CLIPS):
        name = f"part {clip % 3}/a.{clip}.{ENDINGS[clip % 3]}"
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, RATE // 2 * (clip % 6 + 1)), RATE)
        about: dict[str, object] = {
            "audio": name,
            "tags": [["dog", 0.1, 0.4], "räin"],
            "transcript": f"dog {clip}",
        }
        rows.append(about | {"task": "caption", "caption": f"a dog, number {clip}"})
        asked = [{"question": f"is it {extra}?", "answer": "yes"} for extra in range(clip % 3)]
        rows += [about | {"task": "qa"} | pair for pair in asked]
    rng.shuffle(rows)
    path = folder / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def shards(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_shards([manifest], tmp_path_factory.mktemp("shards"), TASKS, per_shard=4)


@pytest.fixture(scope="module")
def encoder() -> RowEncoder:
    config = PengiConfig.preset("tiny")
    return RowEncoder(config, make_tokenizers(config), 16)


def content(row: Row) -> tuple[object, ...]:
    """A row's content, wherever it is stored."""
    return (row.task, row.prompt, row.target, row.tags, row.transcript)


def opened(shards: list[Path]) -> Shards:
    return read_shards([str(path) for path in shards], TASKS)


def test_every_row_and_recording_is_packed_once(manifest: Path, shards: list[Path]) -> None:
    packed = opened(shards)
    expected = Counter(
        (row.audio.read_bytes(), content(row))
        for row in read_manifest(manifest, TASKS)
        if row.audio
    )
    found = Counter((packed.read(row.audio), content(row)) for row in packed.rows if row.audio)
    assert found == expected
    assert [path.name for path in shards] == [f"shard-{n:06d}.tar" for n in range(3)]


def test_rows_of_a_recording_stay_together_and_the_order_is_mixed(shards: list[Path]) -> None:
    packed = opened(shards)
    by_clip: dict[Path, set[str]] = {}
    for row in packed.rows:
        assert row.audio is not None
        by_clip.setdefault(row.audio, set()).add(row.transcript)
    assert [len(said) for said in by_clip.values()] == [1] * CLIPS
    order = [int(next(iter(said)).split()[1]) for said in by_clip.values()]
    assert order != sorted(order)
    assert len({path.parent for path in by_clip}) == 3


def test_the_layout_is_webdatasets(shards: list[Path]) -> None:
    """Members of one sample are adjacent; its key is the name up to the first dot."""
    for shard in shards:
        with tarfile.open(shard) as tar:
            members = [member.name for member in tar]
            texts = [tar.extractfile(name) for name in members if name.endswith(".json")]
            rows = [json.load(file)["rows"] for file in texts if file]
        keys = [name.split(".")[0] for name in members]
        assert keys[::2] == keys[1::2] == sorted(set(keys))
        assert {name.split(".", 1)[1] for name in members} <= {"wav", "flac", "json"}
        assert all(row["tags"][1] == "räin" for sample in rows for row in sample)


def test_webdataset_reads_them(shards: list[Path]) -> None:
    tariterators = pytest.importorskip("webdataset.tariterators", exc_type=ImportError)
    samples: list[dict[str, bytes]] = []
    for path in shards:
        with path.open("rb") as file:
            source = {"url": str(path), "order": file}
            samples += tariterators.group_by_keys(tariterators.tar_file_expander([source]))
    packed = opened(shards)
    bodies = [sample.get("wav") or sample["flac"] for sample in samples]
    assert bodies == [packed.read(audio) for audio in packed.places]
    assert sum(len(json.loads(sample["json"])["rows"]) for sample in samples) == len(packed.rows)


def test_packing_is_deterministic(manifest: Path, shards: list[Path], tmp_path: Path) -> None:
    again = write_shards([manifest], tmp_path, TASKS, per_shard=4)
    for old, new in zip(shards, again, strict=True):
        for suffix in (".tar", ".jsonl"):
            assert new.with_suffix(suffix).read_bytes() == old.with_suffix(suffix).read_bytes()
    other = write_shards([manifest], tmp_path / "other", TASKS, per_shard=4, seed=1)
    assert other[0].read_bytes() != shards[0].read_bytes()
    assert sorted(path.suffix for path in tmp_path.glob("*")) == sorted(
        ["", *[".tar", ".jsonl"] * 3]
    )


def test_a_suffix_that_webdataset_would_unpickle(manifest: Path, tmp_path: Path) -> None:
    audio = tmp_path / "x.pickle"
    audio.write_bytes(next(manifest.parent.glob("*/*.wav")).read_bytes())
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"audio": "x.pickle", "task": "scene", "scene": "park"}))
    (shard,) = write_shards([path], tmp_path / "out", TASKS)
    with tarfile.open(shard) as tar:
        assert tar.getnames() == ["000000000.audio", "000000000.json"]
    assert opened([shard]).read(shard / "000000000.audio") == audio.read_bytes()


@pytest.mark.parametrize("sizes", [[1], [3, 1, 2], [5] * (2 * TOGETHER + 1)])
def test_an_epoch_is_every_example_once(sizes: list[int]) -> None:
    owners = [Path(f"{shard}") for shard, size in enumerate(sizes) for _ in range(size)]
    total = len(owners)
    order = ShardOrder(owners, seed=3)
    epochs = [[order.index(e * total + place) for place in range(total)] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(total))
    if total > 5:
        assert len({tuple(epoch) for epoch in epochs}) == 3
        other = ShardOrder(owners, seed=4)
        assert [other.index(place) for place in range(total)] != epochs[0]


def test_few_shards_are_read_at_a_time_and_well_mixed() -> None:
    count, size = 4 * TOGETHER, 50
    owners = [Path(f"{shard}") for shard in range(count) for _ in range(size)]
    order = ShardOrder(owners, seed=0)
    shards = [owners[order.index(place)] for place in range(len(owners))]
    for start in range(0, len(shards), TOGETHER * size):
        group = shards[start : start + TOGETHER * size]
        assert len(set(group)) == TOGETHER
        assert len(set(group[:64])) == TOGETHER


def data(shards: list[Path], encoder: RowEncoder, **options: object) -> ShardData:
    packed = opened(shards)
    config = replace(DataConfig(shards=tuple(map(str, shards))), **options)  # type: ignore[arg-type]
    return ShardData(packed, packed.rows, encoder, config, seed=5, tags=("dog", "räin"), gain_db=3)


def assert_equal(left: Clips, right: Clips) -> None:
    assert left.wave is not None
    assert right.wave is not None
    assert left.tags is not None
    assert right.tags is not None
    for one, other in (
        (left.wave, right.wave),
        (left.tags, right.tags),
        (left.rows.tokens, right.rows.tokens),
        (left.rows.mask, right.rows.mask),
    ):
        assert one.shape == other.shape
        assert bool((one == other).all())


@pytest.mark.parametrize("rows_per_clip", [1, 2])
def test_examples_equal_those_of_the_manifest(
    manifest: Path, shards: list[Path], encoder: RowEncoder, rows_per_clip: int
) -> None:
    """In the same order, sample for sample: gains, random crops, drawn rows and tags too."""
    packed = data(shards, encoder, rows_per_clip=rows_per_clip)
    by_bytes: dict[bytes, Path] = {
        row.audio.read_bytes(): row.audio for row in read_manifest(manifest, TASKS) if row.audio
    }
    loose = [
        replace(row, audio=by_bytes[packed.shards.read(row.audio)])
        for row in packed.shards.rows
        if row.audio
    ]
    config = DataConfig(rows_per_clip=rows_per_clip)
    files = ClipData(loose, encoder, config, seed=5, tags=("dog", "räin"), gain_db=3)
    files.order = packed.order
    for start in (0, 30):
        positions = list(range(start, start + 9))
        assert_equal(packed[positions], files[positions])


def test_a_resumed_run_draws_the_remaining_examples(
    shards: list[Path], encoder: RowEncoder
) -> None:
    first, resumed = data(shards, encoder), data(shards, encoder)
    for start in range(0, 60, 6):
        first[list(range(start, start + 6))]
    positions = list(range(54, 66))
    assert_equal(first[positions], resumed[positions])


def test_the_log_mel_cache_is_refused(shards: list[Path], encoder: RowEncoder) -> None:
    with pytest.raises(UsageError, match="cache_log_mel"):
        data(shards, encoder, cache_log_mel=True)


def copied(shards: list[Path], folder: Path) -> Path:
    for suffix in (".tar", ".jsonl"):
        path = shards[0].with_suffix(suffix)
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / shards[0].name


def test_shards_that_do_not_fit_their_index(shards: list[Path], tmp_path: Path) -> None:
    shard = copied(shards, tmp_path)
    index = shard.with_suffix(".jsonl")
    lines = index.read_text().splitlines()
    for text, said in (
        ("\n".join(lines[:-1]), "has 3 recordings of 4"),
        ("\n".join([lines[1], *lines]), ":1: is not a line of an index"),
        ("\n".join([lines[0], '{"audio": "x"}', *lines[2:]]), ":2: is not a line of an index"),
        ("\n".join([lines[0], lines[1].replace('"task"', '"tusk"')]), ":2: there is no 'task'"),
        ("{", ":1: is not JSON"),
    ):
        index.write_text(text)
        with pytest.raises(InputError, match="pack the manifest again") as caught:
            opened([shard])
        assert str(caught.value).startswith(str(index))
        assert said in str(caught.value)
    index.unlink()
    with pytest.raises(InputError, match=r"000\.jsonl"):
        opened([shard])


def test_a_shard_of_another_size(shards: list[Path], tmp_path: Path) -> None:
    shard = copied(shards, tmp_path)
    packed = opened([shard])
    last = packed.rows[-1].audio
    assert last is not None
    shard.write_bytes(shard.read_bytes()[: packed.places[last][0] + 1])
    with pytest.raises(InputError, match="has become shorter"):
        packed.read(last)
    with pytest.raises(InputError, match="bytes, this is the index of"):
        opened([shard])
    shard.unlink()
    with pytest.raises(InputError, match="cannot be read: No such file"):
        packed.read(last)


def test_command(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert main([str(manifest), str(folder), "--per-shard", "6"]) == 0
    assert capsys.readouterr().out == f'2 shards: data.shards = ["{folder}/shard-*.tar"]\n'
    assert len(read_shards([f"{folder}/shard-*.tar", f"{folder}/*0.tar"], TASKS).places) == CLIPS
    assert main([str(manifest), str(folder)]) == 2
    assert "already holds shards" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"audio": "none.wav", "task": "scene", "scene": "park"}, ":2: "),
        ({"audio": "a.wav", "task": "scent", "scene": "park"}, "unknown task 'scent'"),
        ({"audio": "a.wav", "task": "scene", "scene": " "}, "needs the field 'scene'"),
    ],
)
def test_a_bad_manifest_packs_nothing(
    tmp_path: Path, row: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    good = {"audio": "a.wav", "task": "scene", "scene": "beach"}
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    assert main([str(path), str(tmp_path / "out")]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{path}:2: " in error
    assert said in error
    assert not (tmp_path / "out").exists()


def test_bad_options_are_refused(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(manifest), str(tmp_path), "--per-shard", "0"]) == 2
    assert "--per-shard must be at least 1, got 0" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([str(manifest), str(tmp_path / "file" / "out")]) == 3
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UsageError, match="names no file"):
        read_shards([f"{tmp_path}/*.tar"], TASKS)


def test_a_run_on_shards_resumes_bit_for_bit(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    write_shards([workshop.manifest], tmp_path / "shards", TASKS, per_shard=2)
    data = {"manifests": None, "shards": [f"{tmp_path}/shards/*.tar"], "rows_per_clip": 2}
    validated = {"validation": [str(workshop.manifest)]} | data
    whole, killed = (
        workshop.config("captioning", name, data=validated, run={"validate_every": 3})
        for name in ("whole", "killed")
    )
    train(whole)
    train_until(killed, 4)
    train(killed, resume=True)
    assert outcome(killed) == outcome(whole)
