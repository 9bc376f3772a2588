"""Checkpoints in: the published layout by one explicit table, and our own.

Published: ``torch.save({"model": {key: tensor}})``, with or without ``module.`` before every key,
read with ``weights_only=True`` and never otherwise. Ours: ``NAME.safetensors`` with the config as
JSON in its metadata and ``tokenizers/`` beside it. Whatever is missing, unexpected or of another
shape is refused.
"""

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pengi_rt.config import ModelConfig
from pengi_rt.errors import CheckpointError, UsageError
from pengi_rt.export.sniff import is_zip, refuse_other_files
from pengi_rt.file_hash import file_sha256
from pengi_rt.models.checkpoint import METADATA_KEY, TOKENIZERS, transform
from pengi_rt.models.half import TRANSFORM
from pengi_rt.models.pengi import Pengi

OTHER_FLOATS = (torch.float16, torch.bfloat16, torch.float64)
"""What float32 is made of where it is not stored; anything else is refused."""

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
    """Read a published or an own checkpoint and check every key, shape and value.

    Raises:
        CheckpointError: it cannot be read, is something else, or is not the model it should be.
    """
    path = Path(path)
    refuse_other_files(path)
    own = path.suffix == ".safetensors"
    config, state, left_out = _read_own(path) if own else _read_published(path)
    _check(path, state, config)
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
    """Metadata and tensors of a safetensors file. Raises :class:`CheckpointError`."""
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: is no whole safetensors file ({error}); fetch or save it again"
        ) from None


def _read_own(path: Path) -> _Read:
    metadata, tensors = read_safetensors(path)
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: has no {METADATA_KEY!r} config in its metadata; of .safetensors files only "
            "those that pengi-rt saved can be read"
        )
    config, state = own_state(path, metadata[METADATA_KEY], tensors)
    return config, state, ()


def own_state(
    path: Path, metadata: str, tensors: dict[str, Tensor]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Config and state of a checkpoint of ours; the STFT's kernels, left out there, are computed.

    Raises:
        CheckpointError: ``metadata`` is no config.
    """
    try:
        config = ModelConfig.from_json(metadata)
    except UsageError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return config, tensors if tensors.keys() >= set(TRANSFORM) else transform(config) | tensors


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
    head, embedding = published.pop(HEAD, None), published.get(EMBEDDING)
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise CheckpointError(f"{path}: {HEAD} is not {EMBEDDING}, to which Pengi ties it")
    left_out = tuple(key for key in published if matches(HARMLESS, key))
    names = {key: renamed(PUBLISHED, key) for key in published if key not in left_out}
    unexpected = [key for key, name in names.items() if name is None]
    if unexpected:
        raise CheckpointError(f"{path}: is no Pengi checkpoint: unexpected {_listed(unexpected)}")
    return {name: published[key] for key, name in names.items() if name}, left_out


def load_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a file in the published layout, under its own keys without ``module.``.

    Raises:
        CheckpointError: it cannot be read without running what it holds, or has no weights.
    """
    try:
        with warnings.catch_warnings():  # about odd pickles: refused or read, in a line of ours
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
    except Exception as error:  # noqa: BLE001 - a damaged file can trip its unpickler anywhere
        # PyTorch explains at length how to load it unsafely: no advice to pass on.
        hostile = "weights_only" in str(error).lower() or "weights only" in str(error).lower()
        reason = "it holds more than weights" if hostile else "it is damaged, or no PyTorch file"
        raise CheckpointError(
            f"{path}: cannot be read safely: {reason}; nothing in it was run. Fetch it again"
        ) from None
    weights = loaded.get("model") if isinstance(loaded, dict) else None
    if not isinstance(weights, dict):
        raise CheckpointError(
            f"{path}: has no 'model' entry, which holds the weights in the published layout"
        )
    for key, tensor in weights.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: 'model' maps {key!r} to a {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(f"{path}: {key} is no plain tensor ({tensor.layout})")
    return _without_module(weights)


def _without_module(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys without the ``module.`` that data-parallel training puts before every one."""
    if weights and all(key.startswith("module.") for key in weights):
        return {key.removeprefix("module."): tensor for key, tensor in weights.items()}
    return dict(weights)


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


def _check(path: Path, state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Check keys, shapes, types and values against the model's own."""
    with torch.device("meta"):
        expected = Pengi(config).state_dict()
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    for what, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            raise CheckpointError(
                f"{path}: is not a whole {config.name} model: {what} {_listed(names)}"
            )
    for name, tensor in state.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            raise CheckpointError(
                f"{path}: {name} is {list(tensor.shape)}, a {config.name} model's is "
                f"{list(wanted.shape)}"
            )
        check_values(path, name, tensor, wanted.dtype)


def check_values(path: Path, name: str, tensor: Tensor, wanted: torch.dtype) -> None:
    """Refuse a tensor that is not finite numbers of the kind that ``wanted`` is."""
    floating = tensor.dtype in (torch.float32, *OTHER_FLOATS)
    if floating != wanted.is_floating_point or not (floating or tensor.dtype == wanted):
        raise CheckpointError(f"{path}: {name} is {tensor.dtype}, not {wanted}")
    if floating and not torch.isfinite(plain(tensor)).all():
        raise CheckpointError(f"{path}: {name} holds NaN or infinity; no answer could be right")


def plain(tensor: Tensor) -> Tensor:
    """Whatever was stored, float32 (or the counter that it is)."""
    return tensor.float() if tensor.dtype in OTHER_FLOATS else tensor


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
