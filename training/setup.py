"""Build everything a run needs from its config, and refuse what is wrong before it starts."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn
from torch.utils.data import Dataset

from pengi_rt.errors import UsageError
from pengi_rt.models.pengi import Pengi
from pengi_rt.system.quote import one_line
from pengi_rt.text.prompts import Task, load_tasks
from pengi_rt.training.augment import prepare_augmentation, set_dropout
from pengi_rt.training.config import TrainConfig
from pengi_rt.training.data import ClipData, TextData, check_geometry, text_documents
from pengi_rt.training.examples import RowEncoder, tag_names
from pengi_rt.training.initialize import make_model, set_trained
from pengi_rt.training.log_mel_cache import LogMelCache
from pengi_rt.training.manifest import ManifestError, Row, read_manifest
from pengi_rt.training.manifest_check import check_manifest
from pengi_rt.training.shard_data import ShardData
from pengi_rt.training.shards import Shards, read_shards
from pengi_rt.training.stages.captioning import Captioning
from pengi_rt.training.stages.contrastive import Contrastive
from pengi_rt.training.stages.language_model import LanguageModel

logger = logging.getLogger(__name__)

VALIDATION_SEED = 2**31
"""Added to the run's seed for validation, which draws its own rows."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that a run needs before its first step."""

    model: Pengi
    tokenizers: Mapping[str, bytes]
    stage: nn.Module
    data: Dataset[object]
    validation: Dataset[object] | None


def prepare(config: TrainConfig) -> Prepared:
    """Read, check and build everything.

    Raises:
        PengiError: the config, a manifest, a recording or a checkpoint is invalid.
    """
    model, tokenizers = make_model(config)
    encoder = RowEncoder(model.config, tokenizers, config.data.max_target_tokens)
    tasks = load_tasks(*map(Path, config.data.tasks))
    shards = read_shards(config.data.shards, tasks) if config.data.shards else None
    packed = shards.rows if shards else ()
    rows = _rows(config, config.data.text or config.data.manifests, tasks, packed)
    unseen = _rows(config, config.data.validation, tasks) if config.data.validation else []
    everything = [*rows, *unseen]
    check_geometry(model.config, everything, encoder, prompts_as_tokens=_reads_tokens(config))
    if encoder.cut:
        limit = config.data.max_target_tokens
        logger.warning("%d targets are cut to data.max_target_tokens (%d)", encoder.cut, limit)
    tags = tag_names(rows) if config.contrastive.tagging else ()
    if config.contrastive.tagging and not tags:
        raise UsageError("contrastive.tagging is on, but no row of the manifests has tags")
    make_data = _maker(config, model, encoder, tags, shards)
    stage = _stage(config, model, len(tags))
    return Prepared(
        model=model,
        tokenizers=tokenizers,
        stage=stage,
        data=make_data(rows, False),
        validation=make_data(unseen, True) if unseen else None,
    )


def _stage(config: TrainConfig, model: Pengi, n_tags: int) -> nn.Module:
    set_trained(model, config.trained)
    set_dropout(model, config.augment.dropout)
    if config.stage != "language_model":
        prepare_augmentation(model.audio_encoder, config.augment)
    model.audio_encoder.train("audio_encoder" in config.trained)
    if config.stage == "contrastive":
        return Contrastive(model, config.contrastive, n_tags)
    return (
        Captioning(model)
        if config.stage == "captioning"
        else LanguageModel(model, config.language_model.naming)
    )


def _maker(
    config: TrainConfig,
    model: Pengi,
    encoder: RowEncoder,
    tags: Sequence[str],
    shards: Shards | None,
) -> Callable[[Sequence[Row], bool], Dataset[object]]:
    """Return a function that makes a dataset of rows; ``validation`` is not augmented."""

    def make(rows: Sequence[Row], validation: bool) -> Dataset[object]:
        seed = config.seed + VALIDATION_SEED * validation
        if config.stage == "contrastive":
            rows = [_described(row, config.contrastive.text) for row in rows]
        if config.stage == "language_model":
            reading = config.language_model.reading
            prompts = config.language_model.prompts if reading else ()
            return TextData(rows, encoder, config.data, seed=seed, prompts=prompts)
        by_row = config.stage == "contrastive"
        data = replace(config.data, rows_per_clip=1) if by_row else config.data
        gain = 0.0 if validation else config.augment.gain_db
        if shards and not validation:
            return ShardData(shards, rows, encoder, data, seed=seed, tags=tags, gain_db=gain)
        cache = _cache(config, model, rows)
        return ClipData(rows, encoder, data, seed=seed, cache=cache, tags=tags, gain_db=gain)

    return make


def _described(row: Row, text: str) -> Row:
    """The row with, as its prompt, the text that the contrastive stage encodes."""
    return replace(row, prompt=row.target if text == "target" else f"{row.prompt} {row.target}")


def _reads_tokens(config: TrainConfig) -> bool:
    """Whether prompts are put before the targets as tokens, whatever their length."""
    options = config.language_model
    return config.stage == "language_model" and options.reading and "tokens" in options.prompts


def _cache(config: TrainConfig, model: Pengi, rows: Sequence[Row]) -> LogMelCache | None:
    if not config.data.cache_log_mel:
        return None
    paths = list(dict.fromkeys(row.audio for row in rows if row.audio is not None))
    root = Path(config.output_dir).parent / "log_mel"
    return LogMelCache(paths, model.audio_encoder.mel, model.config, root)


def _rows(
    config: TrainConfig,
    manifests: Sequence[str],
    tasks: Mapping[str, Task],
    packed: Sequence[Row] = (),
) -> list[Row]:
    """The rows that the run reads, of manifests, text files or shards; checked by default."""
    need_audio = config.stage != "language_model"
    if config.data.text:
        return text_documents([Path(name) for name in manifests])
    only, weights = config.data.only, config.data.task_weights
    unknown = sorted((set(only) | set(weights)) - tasks.keys())
    if unknown:
        names, known = one_line(", ".join(unknown)), one_line(", ".join(tasks))
        raise UsageError(f"data names no known task: {names}; known: {known}")
    rows = list(packed)
    for name in manifests:
        path = Path(name)
        if config.data.check and need_audio:
            _check(path, tasks, config.data.max_seconds)
        rows += read_manifest(path, tasks, need_audio=need_audio)
    rows = [r for r in rows if (not only or r.task in only) and weights.get(r.task, 1.0) > 0]
    if not rows:
        raise UsageError("no row is left: data.only and data.task_weights leave all of them out")
    return rows


def _check(path: Path, tasks: Mapping[str, Task], max_seconds: float) -> None:
    found, where = 0, one_line(str(path))
    for problem in check_manifest(path, tasks, max_seconds=max_seconds):
        found += 1
        if found <= 5:
            logger.error("%s", problem)
    if found:
        raise ManifestError(
            f"{where}: problems: {found}, nothing was trained; see all of them with "
            f"pengi-rt data check {where}"
        )
