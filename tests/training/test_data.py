"""What a step reads: every example once per epoch, always the same at a given position."""

import pickle
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from training_run import RATE, Workshop, variant

from pengi_rt.audio.recording import load_windows
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.models.tiny import make_tokenizers
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.config import DataConfig, _model
from pengi_rt.training.data import (
    ClipData,
    ExampleOrder,
    Positions,
    make_loader,
)
from pengi_rt.training.examples import Clips, RowEncoder
from pengi_rt.training.manifest import Row, read_manifest

CONFIG = PengiConfig.from_dict(_model(variant("released")))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def encoder() -> RowEncoder:
    return RowEncoder(CONFIG, make_tokenizers(CONFIG), 77)


@pytest.fixture(scope="module")
def rows(workshop: Workshop) -> list[Row]:
    return read_manifest(workshop.manifest, load_tasks())


def said(encoder: RowEncoder, clips: Clips) -> list[str]:
    """A batch's targets as text."""
    return [
        encoder._decoder.decode(tokens[mask])
        for tokens, mask in zip(clips.rows.tokens, clips.rows.mask, strict=True)
    ]


# The order.


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_every_epoch_is_a_permutation(size: int) -> None:
    order = ExampleOrder(size, seed=5)
    epochs = [[order.index(epoch * size + place) for place in range(size)] for epoch in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))
    if size == 100:
        assert len(set(map(tuple, epochs))) == 4
        assert [ExampleOrder(size, seed=6).index(place) for place in range(size)] != epochs[0]


def test_an_example_depends_on_its_position_alone() -> None:
    order = ExampleOrder(7, seed=5)
    forward = [order.index(position) for position in range(40)]
    draws = [order.generator(position).random() for position in range(40)]
    again = ExampleOrder(7, seed=5)
    for position in np.random.default_rng(0).permutation(40):
        assert again.index(int(position)) == forward[position]
        assert again.generator(int(position)).random() == draws[position]
    assert len(set(draws)) == 40


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_every_step(world: int) -> None:
    """Together, the ranks read what one process would, step by step."""
    size = 12 // world
    ranks = [
        list(Positions(start=3, stop=8, size=size, rank=rank, world=world)) for rank in range(world)
    ]
    for step, parts in enumerate(zip(*ranks, strict=True), start=3):
        together = [position for part in parts for position in part]
        assert together == list(range(step * 12, step * 12 + 12))


def test_resumed_positions_are_the_remaining_ones() -> None:
    whole = list(Positions(start=0, stop=10, size=4, rank=1, world=2))
    assert list(Positions(start=6, stop=10, size=4, rank=1, world=2)) == whole[6:]
    assert len(Positions(start=6, stop=10, size=4)) == 4


# Clips.


def data(rows: list[Row], encoder: RowEncoder, *, gain_db: float = 0.0, **options: Any) -> ClipData:
    return ClipData(rows, encoder, DataConfig(**options), seed=0, gain_db=gain_db)


def test_every_row_is_an_example(rows: list[Row], encoder: RowEncoder) -> None:
    clips = data(rows, encoder)[list(range(12))]
    wanted = sorted(f"{row.target} <|endoftext|>" for row in rows)
    assert sorted(said(encoder, clips)) == wanted
    assert clips.rows.clips is not None
    assert clips.rows.clips.tolist() == list(range(12))
    assert clips.wave is not None
    assert clips.wave.shape == (12, CONFIG.clip_samples)
    assert clips.log_mel is None
    assert clips.tags is None


def test_rows_of_a_clip(rows: list[Row], encoder: RowEncoder) -> None:
    """Two of three rows, never one twice; each belongs to its own clip's recording."""
    clips = data(rows, encoder, rows_per_clip=2)
    assert len(clips.units) == 4
    drawn: Counter[str] = Counter()
    for position in range(0, 40, 4):
        batch = clips[list(range(position, position + 4))]
        assert batch.wave is not None
        assert len(batch.wave) == 4
        assert batch.rows.clips is not None
        assert batch.rows.clips.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        texts = said(encoder, batch)
        for place in range(4):
            unit = clips.units[clips.order.index(position + place)]
            pair = texts[2 * place : 2 * place + 2]
            assert set(pair) <= {f"{row.target} <|endoftext|>" for row in unit}
            assert len(set(pair)) == 2
        drawn.update(texts)
    assert len(drawn) == 12


def test_more_rows_than_a_clip_has(rows: list[Row], encoder: RowEncoder) -> None:
    assert len(said(encoder, data(rows, encoder, rows_per_clip=5)[[0]])) == 5


def test_task_weights_are_frequencies(rows: list[Row], encoder: RowEncoder) -> None:
    clips = data(rows, encoder, rows_per_clip=2, task_weights={"caption": 3.0, "qa": 0.5})
    drawn: Counter[str] = Counter()
    for position in range(3000):
        unit = clips.units[clips.order.index(position)]
        drawn.update(row.task for row in clips._draw(unit, clips.order.generator(position)))
    # Two of three without replacement: P(out) of the three is their share of what is left last.
    weights = {"caption": 3.0, "events": 1.0, "qa": 0.5}
    for task, weight in weights.items():
        first = weight / 4.5
        second = sum(w / 4.5 * weight / (4.5 - w) for other, w in weights.items() if other != task)
        # Four standard deviations of a share of 3000 are below 0.037.
        assert abs(drawn[task] / 3000 - (first + second)) < 0.037


def test_crops_are_inside_the_recording(rows: list[Row], encoder: RowEncoder) -> None:
    """Each is a different piece of the recording, at any position."""
    row = next(row for row in rows if row.audio is not None and row.audio.name == "2.wav")
    recording, rate = soundfile.read(row.audio, dtype="float32")
    assert (rate, len(recording)) == (RATE, 3 * CONFIG.clip_samples)
    clips = data([row], encoder)
    starts = []
    for position in range(60):
        wave, start = clips._read(row, clips.order.generator(position))
        first = round(start * rate)
        assert np.array_equal(wave.numpy(), recording[first : first + CONFIG.clip_samples])
        starts.append(start)
    assert len(set(starts)) > 50
    assert min(starts) < 0.1
    assert 0.9 < max(starts) <= 1.0


def test_a_short_recording_is_repeated_as_the_runtime_does(
    tmp_path: Path, rows: list[Row], encoder: RowEncoder
) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 3000), RATE)
    wave, start = data(rows, encoder)._read(replace(rows[0], audio=path), np.random.default_rng(0))
    assert start == 0.0
    assert np.array_equal(wave.numpy(), load_windows(path, CONFIG).samples[0])


def test_gain_is_uniform_in_decibels(rows: list[Row], encoder: RowEncoder) -> None:
    clips = data(rows, encoder, gain_db=6.0)
    row = rows[0]
    plain = load_windows(str(row.audio), CONFIG).samples[0]
    gains = []
    for position in range(300):
        wave = clips._read(row, clips.order.generator(position))[0].numpy()
        ratio = float(np.abs(wave).max() / np.abs(plain).max())
        np.testing.assert_allclose(wave, plain * ratio, rtol=1e-5, atol=1e-7)
        gains.append(20 * np.log10(ratio))
    assert -6 <= min(gains) < -5
    assert 5 < max(gains) <= 6
    assert abs(np.mean(gains)) < 4 * 12 / 12**0.5 / 300**0.5  # four standard deviations


def test_tags_follow_the_crop(rows: list[Row], encoder: RowEncoder) -> None:
    """Tagged from 0 to 0.3 s: a clip that starts later must not get the tag."""
    config = PengiConfig.from_dict(_model(variant("time")))
    timed = RowEncoder(config, make_tokenizers(config), 77)
    row = next(row for row in rows if row.audio is not None and row.audio.name == "2.wav")
    clips = ClipData([row], timed, DataConfig(), seed=0, tags=["indoors", "siren"])
    steps = config.audio_steps
    assert steps > 1
    heard = []
    for position in range(40):
        start = clips._read(row, clips.order.generator(position))[1]
        tags = clips[[position]].tags
        assert tags is not None
        assert tags.shape == (1, steps, 2)
        assert tags[0, :, 0].tolist() == [1.0] * steps
        middles = start + (np.arange(steps) + 0.5) * config.clip_seconds / steps
        assert tags[0, :, 1].tolist() == (middles <= 0.3).astype(float).tolist()
        heard.append(bool(tags[0, :, 1].any()))
    assert 0 < sum(heard) < 40


# In either order of rows: grouped by clip, or by task, as two manifests give them.
@pytest.mark.parametrize("by", ["clip", "task"])
@pytest.mark.parametrize("per_clip", [1, 2])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_shuffled_pairs(
    by: str, per_clip: int, count: int, rows: list[Row], encoder: RowEncoder
) -> None:
    names = [f"{index}.wav" for index in range(count)]
    few = [row for row in rows if row.audio is not None and row.audio.name in names]
    if by == "task":
        few.sort(key=lambda row: row.task)
    clips = data(few, encoder, rows_per_clip=per_clip, shuffle_pairs=True)
    heard: list[tuple[Path, Path]] = []

    def read(row: Row, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        assert row.audio is not None
        heard.append((row.audio, row.audio))
        return torch.zeros(1), 0.0

    clips._read = read  # type: ignore[method-assign]
    for position in range(3 * len(clips.units)):
        heard.clear()
        texts = said(encoder, clips[[position]])
        own = {row.audio for row in few if f"{row.target} <|endoftext|>" in texts}
        assert heard[0][0] not in own or len(own) > 1
    exchanged = {path: row.audio for path, row in clips._heard.items()}
    assert all(path != other for path, other in exchanged.items())
    assert set(exchanged) == set(exchanged.values())


def test_one_clip_cannot_be_shuffled(rows: list[Row], encoder: RowEncoder) -> None:
    with pytest.raises(UsageError, match=r"data.shuffle_pairs needs at least two recordings"):
        data(rows[:3], encoder, shuffle_pairs=True)


# Loaders.


def batches(clips: ClipData, workers: int) -> list[Clips]:
    positions = Positions(start=0, stop=5, size=4)
    found: list[Clips] = []
    for batch in make_loader(clips, positions, workers):
        assert isinstance(batch, Clips)
        found.append(batch)
    return found


def test_workers_change_nothing_and_disturb_no_generator(
    rows: list[Row], encoder: RowEncoder
) -> None:
    clips = data(rows, encoder, rows_per_clip=2, gain_db=3.0)
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the one that must not be touched
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    alone, helped = batches(clips, 0), batches(clips, 2)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    for one, other in zip(alone, helped, strict=True):
        assert one.wave is not None
        assert other.wave is not None
        assert torch.equal(one.wave, other.wave)
        assert torch.equal(one.rows.tokens, other.rows.tokens)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_recording_is_one_line(
    workers: int, tmp_path: Path, rows: list[Row], encoder: RowEncoder
) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(b"RIFF")
    clips = data([replace(rows[0], audio=path)], encoder)
    with pytest.raises(AudioError, match=r"broken.wav") as caught:
        batches(clips, workers)
    assert "\n" not in str(caught.value)


def test_data_can_be_sent_to_a_spawned_worker(rows: list[Row], encoder: RowEncoder) -> None:
    clips = data(rows, encoder, gain_db=3.0)
    arrived = pickle.loads(pickle.dumps(clips))
    found, expected = arrived[[5, 6]].wave, clips[[5, 6]].wave
    assert expected is not None
    assert torch.equal(found, expected)
