"""The config of a training run: one TOML file as frozen dataclasses, checked before the run.

Paths are relative to the current directory. The defaults are the paper's (section 4.3 and appendix
D); its experiments differ in a line or two (``docs/training.md`` lists them).
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pengi_rt.config.checked import Checked, Within, build, require
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.config.presets import PRESETS
from pengi_rt.errors import UsageError
from pengi_rt.models.pengi import PARTS
from pengi_rt.system.quote import one_line, shown
from pengi_rt.system.toml_file import read_toml

Stage = Literal["contrastive", "captioning", "language_model"]

TRAINED: Mapping[str, tuple[str, ...]] = {
    "contrastive": ("audio_encoder", "text_encoder"),
    "captioning": ("audio_encoder", "audio_mapper", "text_mapper"),
    "language_model": ("decoder",),
}
"""The parts that a stage trains if its file has no ``train``; the others are frozen."""

Share = Annotated[float, Within(0, 1)]
Count = Annotated[int, Within(0, 10**9)]
Positive = Annotated[int, Within(1, 10**9)]
Weight = Annotated[float, Within(0, 1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig(Checked):
    """Where examples come from, and how they are drawn."""

    manifests: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()  # manifests for the loss on unseen examples
    shards: tuple[str, ...] = ()  # webdataset archives or patterns instead of manifests
    tasks: tuple[str, ...] = ()  # task files in addition to the nine tasks of table 1
    only: tuple[str, ...] = ()  # names of tasks; rows of other tasks are ignored
    text: tuple[str, ...] = ()  # plain text, one document per line; language_model only
    rows_per_clip: Positive = 1  # above 1, each example is a clip with this many rows
    task_weights: dict[str, float] = field(
        default_factory=dict
    )  # relative odds of drawing a row, by task
    max_seconds: Annotated[float, Within(0.01, 10**6)] = 60.0  # a longer recording is refused
    max_target_tokens: Positive = 77  # as released; longer targets are cut with a warning
    cache_log_mel: bool = False  # keep each clip's log-mel on disk, in float16
    workers: Annotated[int, Within(0, 256)] = 0  # processes that read audio
    check: bool = True  # check every row and recording before the first step
    shuffle_pairs: bool = False  # a control: wrong pairs, learns nothing

    def _check(self) -> None:
        for task, weight in self.task_weights.items():
            ok = 0 <= weight <= 1000  # false for NaN
            require(ok, f"task_weights.{one_line(task)} must be in [0, 1000], got {weight}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig(Checked):
    """Adam and its schedule: the rate rises linearly to ``rate``, then falls to zero."""

    name: Literal["adam", "adamw"] = "adam"
    rate: Annotated[float, Within(0, 10)] = 1e-4
    rates: dict[str, float] = field(default_factory=dict)  # factors on ``rate``, by part
    betas: Annotated[tuple[float, ...], Within(0, 1)] = (0.9, 0.999)
    weight_decay: Weight = 0.0  # for matrices; norms, biases and tables have none
    clip_norm: Weight = 0.0  # maximum norm of the gradient; 0 does not clip
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: Count = 2000

    def _check(self) -> None:
        ok = len(self.betas) == 2 and max(self.betas) < 1
        require(ok, f"betas must be two numbers below 1, got {shown(list(self.betas))}")
        unknown = sorted(self.rates.keys() - set(PARTS))
        require(not unknown, f"rates names no part of the model: {one_line(', '.join(unknown))}")
        for part, factor in self.rates.items():
            ok = 0 <= factor <= 1000  # false for NaN
            require(ok, f"rates.{part} must be in [0, 1000], got {factor}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig(Checked):
    """Augmentation of spectrogram and network, with the released HTSAT's values."""

    spec_augment: bool = True
    time_drop_width: Positive = 64  # frames
    time_stripes: Count = 2
    freq_drop_width: Positive = 8  # mel bins
    freq_stripes: Count = 2
    mixup_alpha: Annotated[float, Within(0, 100)] = 0.0  # of the beta distribution; 0: no mixup
    drop_path: Share = 0.1  # rate of the last block, rising linearly from 0
    gain_db: Annotated[float, Within(0, 60)] = 0.0  # uniform, in both directions
    dropout: Share = 0.5  # in both encoders' projections

    def _check(self) -> None:
        require(self.drop_path < 1, "drop_path must be below 1, or nothing is left")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveConfig(Checked):
    """CLAP's objective (paper, section 4.3), and optional tagging."""

    temperature: Annotated[float, Within(1e-4, 100)] = 0.07  # at the start; learned
    max_scale: Annotated[float, Within(1, 10**6)] = 100.0  # upper limit of 1 / temperature
    text: Literal["target", "prompt_and_target"] = "target"
    weight: Weight = 1.0
    tagging: Weight = 0.0  # weight of HTSAT's own objective on the rows' tags


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig(Checked):
    """Pre-training of the decoder on text. ``reading`` trains transcript, prompt, then answer."""

    reading: bool = False
    prompts: tuple[str, ...] = ("tokens",)  # how prompts are read, in turn: "encoder", "tokens"
    naming: Weight = 0.0  # weight of naming the prompt's words from its text prefix

    def _check(self) -> None:
        known = {"encoder", "tokens"}
        ok = bool(self.prompts) and set(self.prompts) <= known
        require(ok, f"prompts must be of {sorted(known)}, got {shown(list(self.prompts))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig(Checked):
    """Length and batch size of a run, its hardware, and what it saves."""

    steps: Positive = 10_000  # optimizer steps
    batch_size: Positive = 384  # clips (rows, for text) per step, over all processes
    accumulate: Positive = 1  # parts that a step's batch is split into
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Within(0, 1024)] = 0  # CPU threads; 0: PyTorch's default
    save_every: Positive = 1000  # steps
    keep: Positive = 2  # resume states
    log_every: Positive = 10  # steps
    validate_every: Count = 0  # steps; 0: never
    validation_batches: Positive = 20
    tensorboard: bool = False

    def _check(self) -> None:
        even = self.batch_size % self.accumulate == 0
        require(even, f"batch_size ({self.batch_size}) must be a multiple of accumulate")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Checked):
    """One run of one stage."""

    stage: Stage
    output_dir: str
    init_from: str = ""  # one of our checkpoints, all parts
    init: dict[str, str] = field(default_factory=dict)  # part of the model -> its initial file
    tokenizers: str = ""  # a folder; default: those of init_from
    train: tuple[str, ...] = ()  # parts; default: those of the stage (TRAINED)
    seed: Annotated[int, Within(0, 2**31 - 1)] = 0
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    run: RunConfig = field(default_factory=RunConfig)
    model: PengiConfig | None = None  # default: that of init_from

    def _check(self) -> None:
        require(self.output_dir != "", "output_dir must name a folder")
        for name in ("init", "train"):
            unknown = sorted(set(getattr(self, name)) - set(PARTS))
            require(
                not unknown, f"{name} names no part of the model: {one_line(', '.join(unknown))}"
            )
        require(
            self.model is not None or self.init_from != "",
            "init_from or a [model] table is needed: there is no model to train",
        )
        self._check_data()
        part, groups = self.run.batch_size // self.run.accumulate, self.language_model.prompts
        require(
            part >= len(groups) or not self.language_model.reading,
            f"run.batch_size / run.accumulate ({part}) must be at least one row for each of "
            f"language_model.prompts ({len(groups)})",
        )

    def _check_data(self) -> None:
        sources = bool(self.data.manifests) + bool(self.data.shards) + bool(self.data.text)
        require(sources == 1, "data needs one of manifests, shards and text")
        text = bool(self.data.text) and self.stage != "language_model"
        require(not text, f"data.text is for language_model, stage is {self.stage}")
        unseen = bool(self.data.validation) or self.run.validate_every == 0
        require(unseen, "run.validate_every needs data.validation")
        by_row = self.stage != "language_model" and self.data.rows_per_clip == 1
        weighed = self.stage == "contrastive" or by_row
        require(
            not (weighed and self.data.task_weights),
            "data.task_weights needs data.rows_per_clip above 1, and is not for contrastive: "
            "otherwise every row is an example",
        )

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the parts whose weights change."""
        return self.train or TRAINED[self.stage]

    def to_json(self) -> str:
        """All values, including defaults, as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)


STAGE_TABLES = ("contrastive", "language_model")


def read_config(path: Path) -> TrainConfig:
    """Read the run that a TOML file describes.

    Raises:
        UsageError: the file cannot be read, or has an unknown key or an invalid value.
    """
    where, data = one_line(str(path)), read_toml(path, pipes=True)
    missing = [key for key in ("stage", "output_dir") if key not in data]
    if missing:
        raise UsageError(f"{where}: {' and '.join(missing)} must be given")
    for table in STAGE_TABLES:
        if table in data and table != data["stage"]:
            raise UsageError(f"{where}: has [{table}], but its stage is {shown(data['stage'])}")
    try:
        if "model" in data:
            data["model"] = _model(data["model"])
        config = build(TrainConfig, data, "config")
        assert isinstance(config, TrainConfig)
        _refuse_nul(dataclasses.asdict(config), "config")
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return config


def _refuse_nul(table: Mapping[str, Any], path: str) -> None:
    """Refuse NUL characters in strings, since no file name may have one. Raises UsageError."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            _refuse_nul(value, f"{path}.{key}")
        texts = value if isinstance(value, tuple) else (value,)
        nul = any(isinstance(text, str) and "\0" in text for text in texts)
        require(not nul, f"{path}.{one_line(str(key))} has a NUL character")


def _model(table: object) -> dict[str, Any]:
    """The ``[model]`` table: a preset's values, overridden by the file's."""
    if not isinstance(table, dict):
        raise UsageError(f"config.model must be a table, got {shown(table)}")
    changes = dict(table)
    preset = changes.pop("preset", "base")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UsageError(
            f"config.model.preset must be one of {', '.join(PRESETS)}, got {shown(preset)}"
        )
    # Training normalizes both embeddings; only the released wrapper does not.
    return _over({"normalize_text": True}, _over(PRESETS[preset], changes))


def _over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` overridden by ``changes``, table by table."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _over(dict(old or {}), value) if both else value
    return merged
