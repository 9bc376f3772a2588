"""Every recipe is a valid run, the paper's have its numbers, and the document has every key."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from import_graph import ROOT

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.config import RunConfig, TrainConfig, read_config

RECIPES = ROOT / "training" / "recipes"
PAPER = RECIPES / "paper"
TASKS = RECIPES / "demo" / "tasks.toml"
FILES = sorted(path for path in RECIPES.rglob("*.toml") if path != TASKS)
DOCUMENT = (ROOT / "docs" / "training.md").read_text("utf-8")

PAIRS, EPOCHS = 3_400_000, 60  # section 4.1 and 4.3


def recipe(name: str) -> TrainConfig:
    return read_config(PAPER / f"{name}.toml")


def model(config: TrainConfig) -> PengiConfig:
    assert config.model is not None
    return config.model


def differences(left: Any, right: Any, where: str = "") -> dict[str, Any]:
    """Values in ``right`` that differ from ``left``, by dotted key."""
    if isinstance(left, dict) and isinstance(right, dict):
        found: dict[str, Any] = {}
        for key in left.keys() | right.keys():
            found |= differences(left.get(key), right.get(key), f"{where}.{key}".lstrip("."))
        return found
    return {} if left == right else {where: right}


def test_recipes_are_found() -> None:
    assert {path.stem for path in PAPER.glob("*.toml")} == {
        "contrastive",
        "captioning",
        "frozen",
        "exp_a",
        "exp_b",
        "caption_only",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_every_recipe_is_valid(path: Path) -> None:
    config = read_config(path)
    assert config.output_dir.startswith("runs/")
    parts = {"audio_encoder", "audio_mapper", "decoder"}
    if config.model is not None:
        parts |= {"text_encoder"} if config.model.text.kind == "clip" else set()
        parts |= {"text_mapper"} if config.model.text.kind != "decoder" else set()
        assert set(config.train) | set(config.init) <= parts


def test_the_demos_tasks_add_to_the_papers() -> None:
    tasks = load_tasks(TASKS)
    assert tasks.keys() - load_tasks().keys() == {"check", "order"}
    assert tasks["check"].prompt_for({"event": "dog"}) == "check the dog"


def test_no_two_runs_share_a_folder() -> None:
    folders = [read_config(path).output_dir for path in FILES]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("path", sorted(PAPER.glob("*.toml")), ids=lambda path: path.stem)
def test_the_papers_numbers(path: Path) -> None:
    """Section 4.3: Adam, 1e-4, linear with 2000 warm-up steps, batches of 384, 60 epochs."""
    config = read_config(path)
    optimizer, run = config.optimizer, config.run
    assert (optimizer.name, optimizer.rate, optimizer.schedule) == ("adam", 1e-4, "linear")
    assert (optimizer.warmup_steps, run.batch_size) == (2000, 384)
    assert run.steps == PAIRS * EPOCHS // run.batch_size
    assert path.stem in config.output_dir


def test_the_pengi_recipe_trains_base() -> None:
    config = recipe("captioning")
    base = dataclasses.replace(PengiConfig.preset("base"), normalize_text=True)
    assert config.model == base
    assert config.trained == ("audio_encoder", "audio_mapper", "text_mapper")
    assert set(config.init) == {"audio_encoder", "text_encoder", "decoder"}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("frozen", {"train": ("audio_mapper", "text_mapper")}),
        ("caption_only", {"data.only": ("caption",)}),
        (
            "exp_a",
            {
                "train": ("audio_encoder", "audio_mapper"),
                "init.text_encoder": None,
                "model.name": "exp_a",
                "model.text.kind": "decoder",
            },
        ),
        (
            "exp_b",
            {
                "init.text_encoder": None,
                "model.name": "base_no_text_enc",
                "model.text.kind": "token_embedding",
                "model.text.suffix": " <|endoftext|>",
                "model.text_mapper.kind": "transformer_seq",
            },
        ),
    ],
)
def test_an_experiment_differs_from_pengi_only_as_stated(
    name: str, changed: dict[str, Any]
) -> None:
    pengi, other = (dataclasses.asdict(recipe(each)) for each in ("captioning", name))
    found = differences(pengi, other)
    found.pop("output_dir")
    assert found == changed


def test_clap_has_the_data_of_pengi() -> None:
    clap, pengi = recipe("contrastive"), recipe("captioning")
    assert clap.stage == "contrastive"
    assert clap.trained == ("audio_encoder", "text_encoder")
    assert clap.data == pengi.data
    assert model(clap) == model(pengi)
    starts = {"audio_encoder", "text_encoder"}
    assert {pengi.init[part] for part in starts} == {f"{clap.output_dir}/model.safetensors"}


def defaults() -> dict[str, object]:
    """Every key that a file may have, with its default; None if no default can be written."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(TrainConfig):
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = None if field.default is dataclasses.MISSING else field.default
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            table = dataclasses.asdict(value)
            found |= {f"{field.name}.{key}": inner for key, inner in table.items()}
        else:
            found[field.name] = value
    return found


def test_document_has_every_key_and_its_default() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| (?:`(.*?)` )?\|", DOCUMENT, re.MULTILINE)
    written = {key: json.loads(value) if value else None for key, value in rows}
    expected = {
        key: list(value) if isinstance(value, tuple) else value for key, value in defaults().items()
    }
    assert written == expected


def test_document_names_every_recipe_of_the_paper() -> None:
    for path in PAPER.glob("*.toml"):
        assert f"`{path.stem}`" in DOCUMENT or f"paper/{path.name}" in DOCUMENT


def test_the_example_in_the_document_is_valid(tmp_path: Path) -> None:
    example = re.findall(r"```toml\n(.+?)```", DOCUMENT, re.DOTALL)[0]
    path = tmp_path / "a.toml"
    path.write_text(f'stage = "captioning"\noutput_dir = "x"\n{example}\n[data]\nshards = ["a"]\n')
    config = read_config(path)
    assert model(config).decoder.n_embd == 1024
    assert config.run == RunConfig()


@pytest.mark.parametrize(
    "changes",
    [
        'audio_mapper = { kind = "mlp" }\ntext_mapper = { kind = "mlp" }',
        "audio_mapper = { prefix_length = 20, constant_length = 20 }",
        "decoder = { n_embd = 1280, n_layer = 36, n_head = 20 }",
        'htsat = { pooling = "time" }\naudio_mapper = { kind = "transformer_time" }',
    ],
)
def test_variants_in_the_document_are_valid_models(changes: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    text = (PAPER / "captioning.toml").read_text("utf-8")
    path.write_text(text.replace('preset = "base"\n', f'preset = "base"\n{changes}\n'))
    assert differences(
        dataclasses.asdict(recipe("captioning")), dataclasses.asdict(read_config(path))
    ).keys() == {
        f"model.{table}.{key.strip()}"
        for table, keys in re.findall(r"^(\w+) = {(.+)}$", changes, re.MULTILINE)
        for key in re.findall(r"(\w+) =", keys)
    }
