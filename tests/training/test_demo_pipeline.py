"""The demo model's whole pipeline, from nothing to the shipped plan: real recipes, one step."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from training_run import forget

import pengi_rt
from pengi_rt.errors import UsageError
from pengi_rt.training import demo
from pengi_rt.training.config import TrainConfig, read_config
from pengi_rt.training.run_folder import CHECKPOINT

ROOT = Path(__file__).parents[2]


def shortened(path: Path) -> TrainConfig:
    """A recipe shortened to one small step."""
    config = read_config(path)
    run = replace(
        config.run,
        steps=1,
        batch_size=4,
        save_every=1,
        log_every=1,
        validate_every=1,
        validation_batches=1,
        threads=1,
    )
    return replace(config, run=run)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which the pipeline has run, including its variants."""
    root = tmp_path_factory.mktemp("root")
    (root / "training").symlink_to(ROOT / "training")
    with pytest.MonkeyPatch.context() as patch:
        in_small(patch, root)
        demo.make_demo(1, variants=True)
    forget()
    return root


def in_small(patch: pytest.MonkeyPatch, root: Path) -> None:
    patch.chdir(root)
    patch.setattr(demo, "HERE", root / "training")
    patch.setattr(demo, "SHIPPED", root / "shipped" / "demo.safetensors")
    patch.setattr(demo, "LOCATION", root / "package" / "demo.plan")
    patch.setattr(demo, "read_config", shortened)
    for name, count in {"TRAIN": 8, "VALIDATION": 4, "TEXT": 300}.items():
        patch.setattr(demo, f"{name}_CLIPS", count)
    patch.setattr(demo, "HELD_OUT", 2)
    patch.setattr(demo, "VARIANTS_HELD_OUT", 1)


def test_every_run_leaves_a_checkpoint(made: Path) -> None:
    for name in (*demo.STAGES, *demo.VARIANTS):
        assert (made / "runs/demo" / name / CHECKPOINT).is_file(), name


def test_scores_have_a_column_for_every_plan(made: Path) -> None:
    columns = json.loads((made / "runs/demo/scores.json").read_text())
    assert list(columns) == ["chance", "captioning", "captioning, silence", *demo.VARIANTS]
    assert {"events, F1", "questions, yes/no"} <= columns["captioning"].keys()


def test_the_shipped_plan_answers(made: Path) -> None:
    assert (made / "shipped/demo.safetensors").is_file()
    with pengi_rt.load(made / "package/demo.plan", threads=1) as engine:
        assert engine.plan.manifest.weights == "fp16"
        assert engine.config.name == "demo"


def test_a_second_run_trains_nothing(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_small(monkeypatch, made)

    def never(*_: object, **__: object) -> Path:
        raise AssertionError("trained again")

    monkeypatch.setattr(demo, "train", never)
    assert demo.run_recipe("captioning") == Path("runs/demo/captioning") / CHECKPOINT


def test_a_changed_recipe_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_small(monkeypatch, made)

    def changed(path: Path) -> TrainConfig:
        return replace(shortened(path), seed=5)

    monkeypatch.setattr(demo, "read_config", changed)
    refusal = r"^runs/demo/reading was made by another version of reading\.toml"
    with pytest.raises(UsageError, match=refusal):
        demo.run_recipe("reading")


@pytest.mark.parametrize("where", ["tests", "/"])
def test_another_working_directory_is_refused(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / where)
    with pytest.raises(UsageError, match=f"run this in {ROOT}"):
        demo.make_demo(1, variants=False)
