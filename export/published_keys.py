"""The published layout: which of Pengi's tensors each key of a released checkpoint holds."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from pengi_rt.errors import CheckpointError
from pengi_rt.system.quote import one_line

OTHER_FLOATS = (torch.float16, torch.bfloat16, torch.float64)
"""Types that are converted to float32; any other is refused."""

# fmt: off
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
)
# fmt: on
"""Published key -> our name. Exactly one row matches each key that is not in :data:`HARMLESS`."""

HARMLESS = (
    # Buffers that are computed here, or that only old transformers versions stored.
    r"audio_encoder\.base\.htsat\.layers\..+\.(?:relative_position_index|attn_mask)",
    r"caption_encoder\.base\.embeddings\.position_ids",
    r"caption_decoder\.gpt\.transformer\.h\.\d+\.attn\.(?:bias|masked_bias)",
    # HTSAT's class heads, which Pengi never calls.
    r"audio_encoder\.base\.htsat\.(?:tscam_conv|head)\.(?:weight|bias)",
)
"""Published keys that are left out because nothing needs them."""

HEAD = "caption_decoder.gpt.lm_head.weight"
EMBEDDING = "caption_decoder.gpt.transformer.wte.weight"


def to_our_names(
    path: Path, published: dict[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors under our names, and the keys that were left out (:data:`HARMLESS`).

    Raises:
        CheckpointError: a key is unknown, or GPT-2's head differs from its embedding.
    """
    where = one_line(str(path))
    head, embedding = published.pop(HEAD, None), published.get(EMBEDDING)
    if head is not None and embedding is not None and not _equal(head, embedding):
        raise CheckpointError(f"{where}: {HEAD} is not {EMBEDDING}, to which Pengi ties it")
    left_out = tuple(key for key in published if matches(HARMLESS, key))
    names = {key: rename(PUBLISHED, key) for key in published if key not in left_out}
    unexpected = [key for key, name in names.items() if name is None]
    if unexpected:
        raise CheckpointError(
            f"{where}: is not a Pengi checkpoint: unexpected {list_names(unexpected)}"
        )
    state = {name: published[key] for key, name in names.items() if name}
    if len(state) < len(names):
        raise CheckpointError(f"{where}: has the same tensor under two keys")
    return state, left_out


def matches(patterns: Iterable[str], key: str) -> bool:
    """Whether one of the patterns matches all of ``key``."""
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def rename(table: Iterable[tuple[str, str]], key: str) -> str | None:
    """Rename ``key`` by the first row of ``table`` that matches all of it; None if none does."""
    for pattern, replacement in table:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(replacement)
    return None


def list_names(names: list[str], most: int = 5) -> str:
    """The first few names, and how many more there are, for a message."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(one_line, names[:most])) + rest


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are equal; weights of types that are refused cannot be compared."""
    comparable = one.dtype == other.dtype and one.dtype in (torch.float32, *OTHER_FLOATS)
    return comparable and torch.equal(one, other)
