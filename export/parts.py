"""Parts of a model from files that hold more or less: what training starts from.

Our own checkpoints and the published ones, CLAP 2023, and Hugging Face's GPT-2 and CLIP. Keys that
no table knows are refused: another model's file must not be taken for one of these.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pengi_rt.config.model import ModelConfig
from pengi_rt.errors import CheckpointError, UsageError
from pengi_rt.export.checkpoint import (
    HEAD,
    check_values,
    matches,
    own_config,
    plain,
    read_safetensors,
    renamed,
    to_ours,
    with_transform,
)
from pengi_rt.export.integrity import check_integrity
from pengi_rt.export.sniff import refuse_other_files
from pengi_rt.export.torch_file import load_weights
from pengi_rt.models.checkpoint import METADATA_KEY
from pengi_rt.models.pengi import PARTS
from pengi_rt.system.quote import one_line, shown

FOREIGN = (
    (r"(?:transformer\.)?((?:wte|wpe|ln_f|h\.\d+)\..+)", r"caption_decoder.gpt.transformer.\1"),
    (r"lm_head\.weight", HEAD),
    (r"text_model\.(.+)", r"caption_encoder.base.\1"),
    (r"text_projection\.weight", r"caption_encoder.clip_text_projection.weight"),
)
"""Hugging Face's keys of GPT-2 and CLIP to the published ones."""

OTHER_MODELS = (
    r"logit_scale",
    r"vision_model\..+",
    r"visual_projection\.weight",
)
"""What CLIP and CLAP have and Pengi has not."""

CLAP_TEXT = "caption_encoder.base.wte.weight"
"""CLAP's text encoder is a GPT-2, under the prefix of Pengi's CLIP."""


def _any_shape(_name: str, _tensor: Tensor) -> None:
    """Accept a tensor of whatever shape."""


def read_parts(
    path: str | os.PathLike[str],
    parts: Sequence[str],
    check_shape: Callable[[str, Tensor], None] = _any_shape,
) -> dict[str, Tensor]:
    """The tensors of some :data:`PARTS`, under our names, for training to start from.

    Args:
        path: our own checkpoint, a published one, one of CLAP 2023 (its text encoder is no part of
            Pengi), or Hugging Face's ``model.safetensors`` (or its folder) of GPT-2 (``decoder``)
            or CLIP (``text_encoder``, of course without our projection).
        parts: which parts. What else the file holds is left out.
        check_shape: called with every name and tensor before any value is looked at, to raise
            CheckpointError for another model's. By default all shapes are accepted.

    Returns:
        Float32 tensors (and counters).

    Raises:
        UsageError: there is no such part.
        CheckpointError: the file is refused, or has nothing for one of the parts.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise UsageError(f"a model has no {shown(unknown[0])}; its parts are {', '.join(PARTS)}")
    path = Path(path)
    path = path / "model.safetensors" if os.path.isdir(path) else path  # noqa: PTH112 - any name
    refuse_other_files(path)
    check_integrity(path)
    state, config = _known_tensors(path)
    _refuse_missing(path, state, parts)
    state = {name: tensor for name, tensor in state.items() if name.partition(".")[0] in parts}
    for name, tensor in state.items():
        check_shape(name, tensor)
    for name, tensor in state.items():
        counter = name.endswith(".num_batches_tracked")
        check_values(path, name, tensor, torch.int64 if counter else torch.float32)
    if config is not None and "audio_encoder" in parts:
        state = with_transform(state, config)
    return {name: plain(tensor) for name, tensor in state.items()}


def _refuse_missing(path: Path, state: Mapping[str, Tensor], parts: Sequence[str]) -> None:
    held = {name.partition(".")[0] for name in state}
    for part in parts:
        if part not in held:
            has = ", ".join(known for known in PARTS if known in held) or "no part of a model"
            raise CheckpointError(f"{one_line(str(path))}: has no {part}; it has {has}")


def _known_tensors(path: Path) -> tuple[dict[str, Tensor], ModelConfig | None]:
    """Every tensor of the file that Pengi has a name for, and the config of a file of ours."""
    if path.suffix == ".safetensors":
        metadata, tensors = read_safetensors(path)
        if METADATA_KEY in metadata:
            return tensors, own_config(path, metadata[METADATA_KEY])
    else:
        tensors = load_weights(path)
    clap = CLAP_TEXT in tensors
    left_out = (*OTHER_MODELS, r"caption_encoder\..+") if clap else OTHER_MODELS
    kept = {key: renamed(FOREIGN, key) or key for key in tensors if not matches(left_out, key)}
    published = {name: tensors[key] for key, name in kept.items()}
    if len(published) < len(kept):
        raise CheckpointError(f"{one_line(str(path))}: has the same tensor under two keys")
    return to_ours(path, published)[0], None
