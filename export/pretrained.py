"""Parts of a model from pretrained checkpoints, for training to start from.

The file may be one of our own checkpoints, a published one, CLAP 2023, or Hugging Face's GPT-2 or
CLIP, and may hold more or less than what is wanted. Unknown keys are refused, so that another
model's file is never taken for one of these.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import CheckpointError, UsageError
from pengi_rt.export.checkpoint_reader import (
    check_values,
    parse_config,
    read_safetensors,
    to_float32,
    with_stft_kernels,
)
from pengi_rt.export.file_check import check_file
from pengi_rt.export.published_keys import HEAD, matches, rename, to_our_names
from pengi_rt.export.torch_file import load_weights
from pengi_rt.models.checkpoint_writer import METADATA_KEY
from pengi_rt.models.pengi import PARTS
from pengi_rt.system.quote import one_line, shown

HUGGING_FACE = (
    (r"(?:transformer\.)?((?:wte|wpe|ln_f|h\.\d+)\..+)", r"caption_decoder.gpt.transformer.\1"),
    (r"lm_head\.weight", HEAD),
    (r"text_model\.(.+)", r"caption_encoder.base.\1"),
    (r"text_projection\.weight", r"caption_encoder.clip_text_projection.weight"),
)
"""Hugging Face's keys for GPT-2 and CLIP -> the published keys."""

NOT_IN_PENGI = (
    r"logit_scale",
    r"vision_model\..+",
    r"visual_projection\.weight",
)
"""Keys of CLIP and CLAP that have no counterpart in Pengi."""

CLAP_TEXT = "caption_encoder.base.wte.weight"
"""CLAP's text encoder is a GPT-2 under the prefix of Pengi's CLIP; this key gives it away."""


def _any_shape(_name: str, _tensor: Tensor) -> None:
    """Accept every tensor."""


def read_parts(
    path: str | os.PathLike[str],
    parts: Sequence[str],
    check_shape: Callable[[str, Tensor], None] = _any_shape,
) -> dict[str, Tensor]:
    """Read the tensors of some :data:`PARTS`, under our names.

    Args:
        path: our own checkpoint, a published one, one of CLAP 2023 (whose text encoder is not part
            of Pengi), or Hugging Face's ``model.safetensors`` (or its folder) of GPT-2
            (``decoder``) or CLIP (``text_encoder``, which lacks our projection).
        parts: which parts. Everything else in the file is ignored.
        check_shape: called with every name and tensor before any value is looked at; raises
            CheckpointError for another model's tensor. By default all shapes are accepted.

    Returns:
        Float32 tensors (and counters).

    Raises:
        UsageError: there is no such part.
        CheckpointError: the file is refused, or holds nothing of one of the parts.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise UsageError(f"a model has no {shown(unknown[0])}; its parts are {', '.join(PARTS)}")
    path = Path(path)
    path = path / "model.safetensors" if os.path.isdir(path) else path  # noqa: PTH112 - any name
    check_file(path)
    state, config = _known_tensors(path)
    _refuse_missing(path, state, parts)
    state = {name: tensor for name, tensor in state.items() if name.partition(".")[0] in parts}
    for name, tensor in state.items():
        check_shape(name, tensor)
    for name, tensor in state.items():
        counter = name.endswith(".num_batches_tracked")
        check_values(path, name, tensor, torch.int64 if counter else torch.float32)
    if config is not None and "audio_encoder" in parts:
        state = with_stft_kernels(state, config)
    return {name: to_float32(tensor) for name, tensor in state.items()}


def _refuse_missing(path: Path, state: Mapping[str, Tensor], parts: Sequence[str]) -> None:
    held = {name.partition(".")[0] for name in state}
    for part in parts:
        if part not in held:
            has = ", ".join(known for known in PARTS if known in held) or "no part of a model"
            raise CheckpointError(f"{one_line(str(path))}: has no {part}; it has {has}")


def _known_tensors(path: Path) -> tuple[dict[str, Tensor], PengiConfig | None]:
    """Every tensor in the file that Pengi has a name for, and the config if the file is ours."""
    if path.suffix == ".safetensors":
        metadata, tensors = read_safetensors(path)
        if METADATA_KEY in metadata:
            return tensors, parse_config(path, metadata[METADATA_KEY])
    else:
        tensors = load_weights(path)
    clap = CLAP_TEXT in tensors
    ignored = (*NOT_IN_PENGI, r"caption_encoder\..+") if clap else NOT_IN_PENGI
    kept = {key: rename(HUGGING_FACE, key) or key for key in tensors if not matches(ignored, key)}
    published = {name: tensors[key] for key, name in kept.items()}
    if len(published) < len(kept):
        raise CheckpointError(f"{one_line(str(path))}: has the same tensor under two keys")
    return to_our_names(path, published)[0], None
