"""Checkpoints in: the published layout by one explicit table, and our own.

Published: ``torch.save({"model": {key: tensor}})``, with or without ``module.`` before every key,
read with ``weights_only=True`` and never otherwise. Ours: ``NAME.safetensors`` with the config as
JSON in its metadata and ``tokenizers/`` beside it. Whatever is missing, unexpected or of another
shape is refused.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from pengi_rt.config.model import ModelConfig
from pengi_rt.errors import CheckpointError, UsageError
from pengi_rt.export.integrity import check_integrity
from pengi_rt.export.sniff import refuse_other_files
from pengi_rt.export.torch_file import load_weights
from pengi_rt.models.checkpoint import METADATA_KEY, TOKENIZERS, transform
from pengi_rt.models.half import TRANSFORM
from pengi_rt.models.pengi import Pengi
from pengi_rt.system.file_hash import file_sha256
from pengi_rt.system.quote import one_line

OTHER_FLOATS = (torch.float16, torch.bfloat16, torch.float64)
"""What float32 is made of where it is not stored; anything else is refused."""

MAX_MAGNITUDE = 1e6
"""No weight is larger: one that is was made so by damage, most often in its exponent."""

NAMED = 5  # keys that a refusal lists before it counts the rest

PUBLISHED = (
    (r"audio_encoder\.base\.htsat\.spectrogram_extractor\.stft\.conv_(real|imag)\.weight",
     r"audio_encoder.mel.stft_\1"),
    (r"audio_encoder\.base\.htsat\.logmel_extractor\.melW", r"audio_encoder.mel.mel_bank"),
    (r"audio_encoder\.base\.htsat\.bn0\.(.+)", r"audio_encoder.mel.bn.\1"),
    (r"audio_encoder\.base\.htsat\.((?:patch_embed|layers|norm)\..+)", r"audio_encoder.htsat.\1"),
    (r"audio_encoder\.projection\.(.+)", r"audio_encoder.projection.\1"),
    (r"caption_encoder\.base\.(.+)", r"text_encoder.clip.\1"),
    (r"caption_encoder\.clip_text_projection\.weight", r"text_encoder.text_projection.weight"),
    (r"caption_encoder\.projection\.(.+)", r"text_encoder.projection.\1"),
    (r"caption_decoder\.(audio|text)_project\.(?:transformer\.)?(.+)", r"\1_mapper.\2"),
    (r"caption_decoder\.gpt\.transformer\.(.+)", r"decoder.\1"),
)  # fmt: skip
"""Published key to ours, for all that :data:`HARMLESS` does not name; one row fits."""

HARMLESS = (
    # Buffers that are computed here, or that only old transformers versions stored.
    r"audio_encoder\.base\.htsat\.layers\..+\.(?:relative_position_index|attn_mask)",
    r"caption_encoder\.base\.embeddings\.position_ids",
    r"caption_decoder\.gpt\.transformer\.h\.\d+\.attn\.(?:bias|masked_bias)",
    # HTSAT's class heads, which Pengi never calls.
    r"audio_encoder\.base\.htsat\.(?:tscam_conv|head)\.(?:weight|bias)",
)
"""Published keys that are left out, and why nothing is lost."""

HEAD = "caption_decoder.gpt.lm_head.weight"
EMBEDDING = "caption_decoder.gpt.transformer.wte.weight"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint read; ``state`` holds float32 tensors (and counters) under our names."""

    path: Path
    config: ModelConfig
    state: Mapping[str, Tensor]
    sha256: str
    tokenizers: Path | None
    converted: tuple[str, ...]
    """Names of tensors that were stored in another precision than float32."""
    left_out: tuple[str, ...]
    """Published keys that are known and not needed (:data:`HARMLESS`)."""


_Read = tuple[ModelConfig, dict[str, Tensor], tuple[str, ...]]


def load_model(path: str | os.PathLike[str]) -> tuple[Pengi, Checkpoint]:
    """The model of a checkpoint, in eval mode. Raises as :func:`read_checkpoint`."""
    checkpoint = read_checkpoint(path)
    model = Pengi(checkpoint.config)
    model.load_state_dict(checkpoint.state)
    return model.eval(), checkpoint


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a published or an own checkpoint and check every checksum, key, shape and value.

    Raises:
        CheckpointError: it cannot be read, is damaged, is something else, or is not the model it
            should be.
    """
    path = Path(path)
    refuse_other_files(path)
    check_integrity(path)
    own = path.suffix == ".safetensors"
    config, state, left_out = _read_own(path) if own else _read_published(path)
    _check(path, state, config, optional=TRANSFORM if own else ())
    if own:
        state = with_transform(state, config)
    converted = tuple(name for name in state if state[name].dtype in OTHER_FLOATS)
    tokenizers = path.parent / TOKENIZERS
    return Checkpoint(
        path=path,
        config=config,
        state={name: plain(tensor) for name, tensor in state.items()},
        sha256=file_sha256(path),
        tokenizers=tokenizers if own and tokenizers.is_dir() else None,
        converted=converted,
        left_out=left_out,
    )


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, mapped. Raises :class:`CheckpointError`."""
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except Exception as error:  # noqa: BLE001 - its reader raises whatever a header leads it to
        raise CheckpointError(
            f"{one_line(str(path))}: is no whole safetensors file ({one_line(str(error))}); fetch "
            "or save it again"
        ) from None


def _read_own(path: Path) -> _Read:
    metadata, tensors = read_safetensors(path)
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{one_line(str(path))}: has no {METADATA_KEY!r} config in its metadata; of "
            ".safetensors files only those that pengi-rt saved can be read"
        )
    return own_config(path, metadata[METADATA_KEY]), tensors, ()


def own_config(path: Path, metadata: str) -> ModelConfig:
    """The config in the metadata of a checkpoint of ours. Raises :class:`CheckpointError`."""
    try:
        return ModelConfig.from_json(metadata)
    except UsageError as error:
        raise CheckpointError(f"{one_line(str(path))}: {error}") from None


def with_transform(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """``state`` with the STFT's kernels, which checkpoints of ours leave out."""
    return state if state.keys() >= set(TRANSFORM) else transform(config) | state


def _read_published(path: Path) -> _Read:
    published = load_weights(path)
    clip = any(key.startswith("caption_encoder.") for key in published)
    state, left_out = to_ours(path, published)
    return ModelConfig.preset("base" if clip else "base_no_text_enc"), state, left_out


def to_ours(path: Path, published: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors under our names, and the keys left out (:data:`HARMLESS`).

    Raises:
        CheckpointError: a key is unknown, or GPT-2's head is not its embedding.
    """
    where = one_line(str(path))
    head, embedding = published.pop(HEAD, None), published.get(EMBEDDING)
    if head is not None and embedding is not None and not _same(head, embedding):
        raise CheckpointError(f"{where}: {HEAD} is not {EMBEDDING}, to which Pengi ties it")
    left_out = tuple(key for key in published if matches(HARMLESS, key))
    names = {key: renamed(PUBLISHED, key) for key in published if key not in left_out}
    unexpected = [key for key, name in names.items() if name is None]
    if unexpected:
        raise CheckpointError(f"{where}: is no Pengi checkpoint: unexpected {_listed(unexpected)}")
    state = {name: published[key] for key, name in names.items() if name}
    if len(state) < len(names):
        raise CheckpointError(f"{where}: has the same tensor under two keys")
    return state, left_out


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are equal; those of types that we do not read cannot be compared."""
    readable = one.dtype == other.dtype and one.dtype in (torch.float32, *OTHER_FLOATS)
    return readable and torch.equal(one, other)


def matches(patterns: Iterable[str], key: str) -> bool:
    """Whether all of ``key`` fits one of the patterns."""
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def renamed(table: Iterable[tuple[str, str]], key: str) -> str | None:
    """``key`` by the row of ``table`` whose pattern fits, None if none does."""
    for pattern, replacement in table:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(replacement)
    return None


def _check(
    path: Path, state: Mapping[str, Tensor], config: ModelConfig, *, optional: Iterable[str]
) -> None:
    """Check names and shapes against the model's own, and only then look at values."""
    where = one_line(str(path))
    with torch.device("meta"):
        expected = Pengi(config).state_dict()
    missing = [name for name in expected if name not in state and name not in optional]
    unexpected = [name for name in state if name not in expected]
    kind = one_line(config.name)
    for what, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            raise CheckpointError(f"{where}: is not a whole {kind} model: {what} {_listed(names)}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{where}: {name} is {shape_of(tensor)}, a {kind} model's is "
                f"{shape_of(expected[name])}"
            )
    for name, tensor in state.items():
        check_values(path, name, tensor, expected[name].dtype)


def shape_of(tensor: Tensor) -> str:
    """A shape as messages give it; a stranger's tensor may have thousands of dimensions."""
    return one_line(str(list(tensor.shape)))


def check_values(path: Path, name: str, tensor: Tensor, wanted: torch.dtype) -> None:
    """Refuse a tensor that is not numbers of the kind that ``wanted`` is, and of a weight's size.

    Raises:
        CheckpointError: it is of another type, or holds NaN, infinity or more than MAX_MAGNITUDE.
    """
    where = f"{one_line(str(path))}: {one_line(name)}"
    floating = tensor.dtype in (torch.float32, *OTHER_FLOATS)
    if floating != wanted.is_floating_point or not (floating or tensor.dtype == wanted):
        raise CheckpointError(f"{where} is {tensor.dtype}, not {wanted}")
    if not floating or not tensor.numel():
        return
    low, high = (float(end) for end in torch.aminmax(plain(tensor)))  # both NaN if one number is
    largest = max(-low, high)
    if not math.isfinite(largest):
        raise CheckpointError(f"{where} holds NaN or infinity; no answer could be right")
    if largest > MAX_MAGNITUDE:
        raise CheckpointError(
            f"{where} holds {largest:.3g}, no weight is above {MAX_MAGNITUDE:g}: the file is "
            "damaged; fetch it again"
        )


def plain(tensor: Tensor) -> Tensor:
    """Whatever was stored, float32 (or the counter that it is)."""
    return tensor.float() if tensor.dtype in OTHER_FLOATS else tensor


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(one_line, names[:NAMED])) + rest
