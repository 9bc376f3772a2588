"""Parts of a model from files that hold more or less: what training starts from.

Our own checkpoints and the published ones, CLAP 2023, and Hugging Face's GPT-2 and CLIP. Keys that
no table knows are refused: another model's file must not be taken for one of these.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pengi_rt.errors import CheckpointError, UsageError
from pengi_rt.export.checkpoint import (
    HEAD,
    check_values,
    load_weights,
    matches,
    own_state,
    plain,
    read_safetensors,
    renamed,
    to_ours,
)
from pengi_rt.export.sniff import refuse_other_files
from pengi_rt.models.checkpoint import METADATA_KEY
from pengi_rt.models.pengi import PARTS

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


def read_parts(path: str | os.PathLike[str], parts: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of some :data:`PARTS`, under our names, for training to start from.

    Args:
        path: our own checkpoint, a published one, one of CLAP 2023 (its text encoder is no part of
            Pengi), or Hugging Face's ``model.safetensors`` (or its folder) of GPT-2 (``decoder``)
            or CLIP (``text_encoder``, of course without our projection).
        parts: which parts. What else the file holds is left out.

    Returns:
        Float32 tensors (and counters); nobody has compared their shapes with a model's.

    Raises:
        UsageError: there is no such part.
        CheckpointError: the file is refused, or has nothing for one of the parts.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise UsageError(f"a model has no {unknown[0]!r}; its parts are {', '.join(PARTS)}")
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    refuse_other_files(path)
    state = _known_tensors(path)
    held = {name.partition(".")[0] for name in state}
    for part in parts:
        if part not in held:
            has = ", ".join(known for known in PARTS if known in held) or "no part of a model"
            raise CheckpointError(f"{path}: has no {part}; it has {has}")
    state = {name: tensor for name, tensor in state.items() if name.partition(".")[0] in parts}
    for name, tensor in state.items():
        counter = name.endswith(".num_batches_tracked")
        check_values(path, name, tensor, torch.int64 if counter else torch.float32)
    return {name: plain(tensor) for name, tensor in state.items()}


def _known_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file that Pengi has a name for."""
    if path.suffix == ".safetensors":
        metadata, tensors = read_safetensors(path)
        if METADATA_KEY in metadata:
            return own_state(path, metadata[METADATA_KEY], tensors)[1]
    else:
        tensors = load_weights(path)
    clap = CLAP_TEXT in tensors
    left_out = (*OTHER_MODELS, r"caption_encoder\..+") if clap else OTHER_MODELS
    published = {
        renamed(FOREIGN, key) or key: tensor
        for key, tensor in tensors.items()
        if not matches(left_out, key)
    }
    return to_ours(path, published)[0]
