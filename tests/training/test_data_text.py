"""Plain text and text rows: what a language-model step reads, and what does not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
from training_run import Workshop, variant

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import UsageError
from pengi_rt.models.tiny import make_tokenizers
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.config import DataConfig, _model
from pengi_rt.training.data import (
    TextData,
    check_geometry,
    text_documents,
)
from pengi_rt.training.examples import RowEncoder
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


def test_text_documents(tmp_path: Path, encoder: RowEncoder) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a dog barks\n\n  \nrain falls\n")
    other = tmp_path / "b.txt"
    other.write_text("wind\n")
    rows = text_documents([path, other])
    assert [(row.line, row.target) for row in rows] == [
        (1, "a dog barks"),
        (4, "rain falls"),
        (1, "wind"),
    ]
    groups = TextData(rows, encoder, DataConfig(), seed=0)[[0, 1, 2]]
    assert sum(len(group.tokens) for group in groups) == 3
    for group in groups:
        assert group.prompts is None
        assert group.transcripts is None
        assert group.mask[:, 0].all()


def test_invalid_text_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(UsageError, match=r"a.txt: cannot be read as UTF-8 text"):
        text_documents([path])
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"a.txt: cannot be read as UTF-8 text"):
        text_documents([path])
    path.write_text("\n \n")
    with pytest.raises(UsageError, match=r"a.txt: holds no text"):
        text_documents([path])


def test_text_is_read_once_an_epoch(rows: list[Row], encoder: RowEncoder) -> None:
    text = TextData(rows, encoder, DataConfig(), seed=0)
    assert sorted(text._index(position) for position in range(12, 24)) == list(range(12))


def test_rows_must_fit_the_decoders_positions(rows: list[Row], encoder: RowEncoder) -> None:
    tokens = max(len(encoder.target_ids(row.target)) for row in rows)
    needed = CONFIG.prefix_length + tokens

    def check(positions: int, *, asked: bool = False) -> None:
        config = replace(CONFIG, decoder=replace(CONFIG.decoder, n_positions=positions))
        check_geometry(config, rows, encoder, prompts_as_tokens=asked)

    check(needed)
    with pytest.raises(UsageError, match=rf"targets \({tokens} tokens\) need {needed} positions"):
        check(needed - 1)
    longest = max(len(encoder.plain_ids(row.prompt)) for row in rows)
    needed = CONFIG.audio_mapper.prefix_length + longest + tokens
    assert longest > CONFIG.text_mapper.prefix_length
    check(needed, asked=True)
    with pytest.raises(UsageError, match=f"need {needed} positions, the decoder has {needed - 1}"):
        check(needed - 1, asked=True)
