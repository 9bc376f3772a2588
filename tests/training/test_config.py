"""A run's TOML file: the paper's defaults, and every mistake reported before work starts."""

import json
from pathlib import Path
from typing import Any

import pytest
from training_run import merged, toml

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import UsageError
from pengi_rt.training.config import TRAINED, TrainConfig, read_config

SMALLEST: dict[str, Any] = {
    "stage": "captioning",
    "output_dir": "runs/a",
    "data": {"manifests": ["a.jsonl"]},
    "model": {"preset": "tiny"},
}


def read(folder: Path, **changes: Any) -> TrainConfig:
    path = folder / "run.toml"
    path.write_text(toml(merged(SMALLEST, changes)))
    return read_config(path)


def refused(folder: Path, **changes: Any) -> str:
    """The message, one line that starts with the file; returns the part after the file."""
    with pytest.raises(UsageError) as caught:
        read(folder, **changes)
    message = str(caught.value)
    assert "\n" not in message
    start = f"{folder / 'run.toml'}: "
    assert message.startswith(start)
    return message.removeprefix(start)


def test_the_defaults_are_the_papers(tmp_path: Path) -> None:
    """Section 4.3 and appendix D; SpecAugment and stochastic depth as in the released HTSAT."""
    config = read(tmp_path, model={"preset": "base"})
    assert config.run.batch_size == 384
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.rate, optimizer.betas) == ("adam", 1e-4, (0.9, 0.999))
    assert (optimizer.schedule, optimizer.warmup_steps) == ("linear", 2000)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.0, 0.0)
    assert config.trained == ("audio_encoder", "audio_mapper", "text_mapper")
    assert (config.contrastive.temperature, config.contrastive.max_scale) == (0.07, 100.0)
    assert config.contrastive.text == "target"
    augment = config.augment
    assert (augment.time_drop_width, augment.time_stripes) == (64, 2)
    assert (augment.freq_drop_width, augment.freq_stripes) == (8, 2)
    assert (augment.spec_augment, augment.mixup_alpha, augment.drop_path) == (True, 0.0, 0.1)
    assert config.data.rows_per_clip == 1
    # Training normalizes both embeddings, unlike the released wrapper.
    released = PengiConfig.preset("base")
    assert not released.normalize_text
    assert config.model is not None
    assert config.model.normalize_text
    assert config.model.normalize_audio
    assert config.model.decoder == released.decoder


def test_what_each_stage_trains(tmp_path: Path) -> None:
    assert TRAINED["contrastive"] == ("audio_encoder", "text_encoder")
    assert TRAINED["language_model"] == ("decoder",)
    for stage, parts in TRAINED.items():
        assert read(tmp_path, stage=stage).trained == parts
    assert read(tmp_path, train=["text_mapper"]).trained == ("text_mapper",)


def test_a_preset_and_its_overrides(tmp_path: Path) -> None:
    model = read(tmp_path, model={"htsat": {"embed_dim": 48}, "name": "mine"}).model
    tiny = PengiConfig.preset("tiny")
    assert model is not None
    assert (model.name, model.htsat.embed_dim) == ("mine", 48)
    assert model.htsat.depths == tiny.htsat.depths
    assert model.mel == tiny.mel
    assert not read(tmp_path, model={"normalize_text": False}).model.normalize_text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("", "wheels"),
        ("data", "manifest"),
        ("optimizer", "lr"),
        ("augment", "mixup"),
        ("run", "epochs"),
        ("model", "widht"),
        ("model.mel", "n_mel"),
        ("model.htsat", "depth"),
        ("model.decoder", "layers"),
    ],
)
def test_an_unknown_key_of_every_table(table: str, key: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {key: 1}
    for name in reversed(table.split(".") if table else []):
        changes = {name: changes}
    where = f"config.{table}" if table else "config"
    assert refused(tmp_path, **changes).startswith(f"{where} has unknown keys '{key}'; known: ")


def test_an_unknown_key_of_a_stages_table(tmp_path: Path) -> None:
    said = refused(tmp_path, stage="contrastive", contrastive={"temp": 1})
    assert said.startswith("config.contrastive has unknown keys 'temp'")
    said = refused(tmp_path, stage="language_model", language_model={"prompt": 1})
    assert said.startswith("config.language_model has unknown keys 'prompt'")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"stage": "pretraining"}, "config.stage must be 'contrastive' or 'captioning' or 'language"),
    ({"stage": 1}, "config.stage must be 'contrastive'"),
    ({"output_dir": 3}, "config.output_dir must be str, got 3"),
    ({"seed": "0"}, "config.seed must be int, got '0'"),
    ({"seed": -1}, "config.seed must be in [0, 2147483647], got -1"),
    ({"train": "decoder"}, "config.train must be tuple"),
    ({"init": {"decoder": 1}}, "config.init.decoder must be str, got 1"),
    ({"data": {"rows_per_clip": 1.5}}, "config.data.rows_per_clip must be int, got 1.5"),
    ({"data": {"rows_per_clip": 0}}, "config.data.rows_per_clip must be in [1,"),
    ({"data": {"check": 1}}, "config.data.check must be bool, got 1"),
    ({"data": {"manifests": "a.jsonl"}}, "config.data.manifests must be tuple"),
    (
        {"data": {"rows_per_clip": 2, "task_weights": {"qa": -1}}},
        "config.data.task_weights.qa must be in [0, 1000], got -1",
    ),
    ({"optimizer": {"rate": "1e-4"}}, "config.optimizer.rate must be float, got '1e-4'"),
    ({"optimizer": {"rate": True}}, "config.optimizer.rate must be float, got True"),
    ({"optimizer": {"name": "sgd"}}, "config.optimizer.name must be 'adam' or 'adamw'"),
    ({"optimizer": {"betas": [0.9]}}, "config.optimizer.betas must be two numbers below 1"),
    ({"optimizer": {"betas": [0.9, 1.0]}}, "config.optimizer.betas must be two numbers below 1"),
    (
        {"optimizer": {"rates": {"decoder": -0.1}}},
        "config.optimizer.rates.decoder must be in [0, 1000], got -0.1",
    ),
    (
        {"optimizer": {"rates": {"gpt": 1}}},
        "config.optimizer.rates names no part of the model: gpt",
    ),
    ({"augment": {"drop_path": 1.0}}, "config.augment.drop_path must be below 1"),
    ({"augment": {"drop_path": 1.5}}, "config.augment.drop_path must be in [0, 1], got 1.5"),
    ({"run": {"steps": 0}}, "config.run.steps must be in [1, 1000000000], got 0"),
    ({"run": {"precision": "fp8"}}, "config.run.precision must be 'fp32' or 'bf16' or 'fp16'"),
    ({"run": {"device": "tpu"}}, "config.run.device must be 'auto' or 'cpu' or 'cuda'"),
    (
        {"run": {"batch_size": 10, "accumulate": 4}},
        "config.run.batch_size (10) must be a multiple of accumulate",
    ),
    ({"run": []}, "config.run must be an object, got list"),
    ({"model": {"preset": "huge"}}, "config.model.preset must be one of base, base_no_text_enc"),
    ({"model": {"preset": []}}, "config.model.preset must be one of base, base_no_text_enc"),
    ({"model": []}, "config.model must be a table, got []"),
    ({"model": {"mel": {"n_mels": 0}}}, "config.model.mel.n_mels must be in [1, 512], got 0"),
    ({"model": {"text": {"kind": "bert"}}}, "config.model.text.kind must be 'clip' or 'token_emb"),
    (
        {"stage": "contrastive", "contrastive": {"text": "prompt"}},
        "config.contrastive.text must be 'target' or 'prompt_and_target'",
    ),
    (
        {"stage": "contrastive", "contrastive": {"temperature": 0}},
        "config.contrastive.temperature must be in [0.0001, 100], got 0.0",
    ),
    (
        {"stage": "language_model", "language_model": {"prompts": ["audio"]}},
        "config.language_model.prompts must be of ['encoder', 'tokens'], got ['audio']",
    ),
    (
        {"stage": "language_model", "language_model": {"prompts": []}},
        "config.language_model.prompts must be of",
    ),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=[said for _, said in WRONG])
def test_a_wrong_value(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert refused(tmp_path, **changes).startswith(said)


UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "config.init_from or a [model] table is needed: there is no model to train"),
    ({"data": None}, "config.data needs one of manifests, shards and text"),
    ({"data": {"shards": ["a.tar"]}}, "config.data needs one of manifests, shards and text"),
    (
        {"data": {"manifests": None, "text": ["a.txt"]}},
        "config.data.text is for language_model, stage is captioning",
    ),
    ({"train": ["audio_encoder", "gpt"]}, "config.train names no part of the model: gpt"),
    ({"init": {"gpt": "a.pth"}}, "config.init names no part of the model: gpt"),
    ({"run": {"validate_every": 5}}, "config.run.validate_every needs data.validation"),
    ({"data": {"task_weights": {"qa": 2}}}, "config.data.task_weights needs data.rows_per_clip"),
    (
        {"stage": "contrastive", "data": {"rows_per_clip": 2, "task_weights": {"qa": 2}}},
        "config.data.task_weights needs data.rows_per_clip above 1, and is not for contrastive",
    ),
    (
        {
            "stage": "language_model",
            "language_model": {"reading": True, "prompts": ["encoder", "tokens"]},
            "run": {"batch_size": 4, "accumulate": 4},
        },
        "config.run.batch_size / run.accumulate (1) must be at least one row for each of language",
    ),
    ({"contrastive": {"weight": 1}}, "has [contrastive], but its stage is 'captioning'"),
    ({"language_model": {}}, "has [language_model], but its stage is 'captioning'"),
    ({"stage": None}, "stage must be given"),
    ({"stage": None, "output_dir": None}, "stage and output_dir must be given"),
]


@pytest.mark.parametrize(("changes", "said"), UNFIT, ids=[said for _, said in UNFIT])
def test_values_that_do_not_fit_together(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert refused(tmp_path, **changes).startswith(said)


def test_values_that_fit_together(tmp_path: Path) -> None:
    read(tmp_path, data={"rows_per_clip": 2, "task_weights": {"qa": 2, "caption": 0}})
    read(tmp_path, stage="language_model", data={"task_weights": {"qa": 2}})
    read(tmp_path, stage="language_model", data={"manifests": None, "text": ["a.txt"]})
    read(tmp_path, init_from="a.safetensors", model=None)
    read(tmp_path, data={"validation": ["v.jsonl"]}, run={"validate_every": 5})


def test_invalid_files(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(UsageError, match=r"run.toml: cannot be read: No such file or directory$"):
        read_config(path)
    for data in (b"stage = ", b"stage = '\xff'", b"a = 1\na = 2"):
        path.write_bytes(data)
        with pytest.raises(UsageError, match=r"run.toml: is not TOML: ") as caught:
            read_config(path)
        assert "\n" not in str(caught.value)


def test_json_holds_every_value(tmp_path: Path) -> None:
    config = read(tmp_path)
    data = json.loads(config.to_json())
    assert data["run"]["batch_size"] == 384
    assert data["model"]["decoder"]["n_embd"] == 64
    assert data["optimizer"]["betas"] == [0.9, 0.999]


TEXTS = {
    "arrays in arrays": "train = " + "[" * 5000,
    "tables in tables": "x = " + "{a=" * 5000,
    "a key of 30 000 parts": ".".join("a" * 30_000) + " = 1",
    "quoted parts": ". ".join(['"a"'] * 9000) + " = 1",
    "an integer of 5 000 digits": "seed = " + "9" * 5000,
    "the same in sixteens": "seed = 0x" + "f" * 5000,
    "a rate of 5 000 digits": "[optimizer]\nrate = 0x" + "f" * 5000,
    "NUL in output_dir": 'output_dir = "a\\u0000b"',
    "NUL in a list": '[data]\nmanifests = ["a", "\\u0000"]',
    "NUL in a table": '[init]\ndecoder = "\\u0000"',
    "no output_dir": 'output_dir = ""',
    "infinity": "[optimizer]\nrate = inf",
    "beyond infinity": "[optimizer]\nrate = 1e999",
    "a date": "seed = 1979-05-27",
    "escape codes in a key": '"\\u001b[2J\\n" = 1',
    "in a part": '[init]\n"\\u001b[2J\\n" = "x"',
    "in a rate": '[optimizer.rates]\n"\\u001b[2J\\n" = "x"',
    "in a task": '[data.task_weights]\n"\\u001b[2J\\n" = -1.0',
    "in a stage": 'stage = "\\u001b[2J\\n"',
    "a long stage": 'stage = "' + "x" * 60_000 + '"',
    "a longer file": " " * 70_000,
    "no UTF-8": "\udcff",
}


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_files(name: str, tmp_path: Path) -> None:
    """Each gives one short, printable line at once; tomllib alone takes minutes over some."""
    path = tmp_path / "run.toml"
    tables = {key: value for key, value in SMALLEST.items() if f"{key} =" not in TEXTS[name]}
    if "[data]" in TEXTS[name]:
        del tables["data"]
    first, _, rest = toml(tables).partition("\n[")
    changed = TEXTS[name]
    text = f"{first}\n[{rest}\n{changed}" if changed[0] == "[" else f"{first}\n{changed}\n[{rest}"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError) as caught:
        read_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 700


def test_a_device_or_a_pipe_as_config(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="/dev/zero: is longer than 65536 bytes"):
        read_config(Path("/dev/zero"))
    assert read(tmp_path).stage == "captioning"
    with (tmp_path / "run.toml").open() as file:
        assert read_config(Path(f"/dev/fd/{file.fileno()}")).stage == "captioning"
