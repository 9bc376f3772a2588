"""The published checkpoints' names, and ours: one table, read in both directions.

Every key of the released layout (microsoft/Pengi at 31d5e37, ``state_dict`` under transformers 4.28)
fits exactly one row. Whatever fits none is refused.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from pengi_rt.config import ModelConfig


class Row(NamedTuple):
    """``published`` + rest becomes ``ours`` + rest, where ``rest`` (a pattern) says which rests.

    Without ``ours`` the key is left out of the model: the row's ``rest`` is a buffer that we compute
    or a part that Pengi does not use.
    """

    published: str
    ours: str | None
    rest: str = ""


_AFFINE = r"(weight|bias)"
_HTSAT = "audio_encoder.base.htsat."
_SWIN = (
    r"\d+\.(blocks\.\d+\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)"
    r"|blocks\.\d+\.attn\.relative_position_bias_table"
    r"|downsample\.(reduction\.weight|norm\.(weight|bias)))"
)
_PROJECTION = r"(linear1\.weight|linear2\.weight|layer_norm\.(weight|bias))"
_CLIP = (
    r"(embeddings\.(token|position)_embedding\.weight"
    r"|encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|layer_norm[12]|mlp\.fc[12])\.(weight|bias)"
    r"|final_layer_norm\.(weight|bias))"
)
_GPT2 = (
    r"(wte\.weight|wpe\.weight|ln_f\.(weight|bias)"
    r"|h\.\d+\.(ln_1|ln_2|attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.(weight|bias))"
)
_MAPPER = (
    r"\d+\.(norm1\.(weight|bias)|norm2\.(weight|bias)|attn\.to_queries\.weight"
    r"|attn\.to_keys_values\.weight|attn\.project\.(weight|bias)|mlp\.fc[12]\.(weight|bias))"
)

TABLE = (
    # The released STFT and mel bank are (frozen) weights: the stored values count.
    Row(f"{_HTSAT}spectrogram_extractor.stft.conv_real.weight", "audio_encoder.mel.stft_real"),
    Row(f"{_HTSAT}spectrogram_extractor.stft.conv_imag.weight", "audio_encoder.mel.stft_imag"),
    Row(f"{_HTSAT}logmel_extractor.melW", "audio_encoder.mel.mel_bank"),
    Row(f"{_HTSAT}bn0.", "audio_encoder.mel.bn.", r"(weight|bias|running_mean|running_var)"),
    Row(f"{_HTSAT}bn0.", "audio_encoder.mel.bn.", "num_batches_tracked"),
    Row(f"{_HTSAT}patch_embed.", "audio_encoder.htsat.patch_embed.", rf"(proj|norm)\.{_AFFINE}"),
    Row(f"{_HTSAT}layers.", "audio_encoder.htsat.layers.", _SWIN),
    Row(f"{_HTSAT}norm.", "audio_encoder.htsat.norm.", _AFFINE),
    Row("audio_encoder.projection.", "audio_encoder.projection.", _PROJECTION),
    Row("caption_encoder.base.", "text_encoder.clip.", _CLIP),
    Row("caption_encoder.clip_text_projection.", "text_encoder.text_projection.", "weight"),
    Row("caption_encoder.projection.", "text_encoder.projection.", _PROJECTION),
    Row("caption_decoder.gpt.transformer.", "decoder.", _GPT2),
    *(
        row
        for kind in ("audio", "text")
        for row in (
            Row(f"caption_decoder.{kind}_project.prefix_const", f"{kind}_mapper.prefix_const"),
            Row(f"caption_decoder.{kind}_project.linear.", f"{kind}_mapper.linear.", _AFFINE),
            Row(
                f"caption_decoder.{kind}_project.transformer.layers.",
                f"{kind}_mapper.layers.",
                _MAPPER,
            ),
        )
    ),
    # Computed here, from the geometry.
    Row(f"{_HTSAT}layers.", None, r"\d+\.blocks\.\d+\.attn\.relative_position_index"),
    Row(f"{_HTSAT}layers.", None, r"\d+\.blocks\.\d+\.attn_mask"),
    # Buffers that only old versions of transformers store.
    Row("caption_encoder.base.embeddings.position_ids", None),
    Row("caption_decoder.gpt.transformer.h.", None, r"\d+\.attn\.bias"),
    Row("caption_decoder.gpt.transformer.h.", None, r"\d+\.attn\.masked_bias"),
    # HTSAT's 527 AudioSet classes, which Pengi never asks.
    Row(f"{_HTSAT}tscam_conv.", None, _AFFINE),
    Row(f"{_HTSAT}head.", None, _AFFINE),
    # The head is the embedding table; the reader makes sure of it.
    Row("caption_decoder.gpt.lm_head.weight", None),
)

LM_HEAD = "caption_decoder.gpt.lm_head.weight"
EMBEDDING = "caption_decoder.gpt.transformer.wte.weight"


class Sorted(NamedTuple):
    """Published keys by what becomes of them."""

    renamed: dict[str, str]  # published key: our name
    dropped: list[str]
    unknown: list[str]


def sort_keys(keys: Iterable[str]) -> Sorted:
    """Look every published key up in :data:`TABLE`."""
    found = Sorted({}, [], [])
    for key in keys:
        row = row_of(key)
        if row is None:
            found.unknown.append(key)
        elif row.ours is None:
            found.dropped.append(key)
        else:
            found.renamed[key] = row.ours + key.removeprefix(row.published)
    return found


def row_of(key: str) -> Row | None:
    """The row of :data:`TABLE` that a published key fits."""
    return next((row for row in TABLE if _fits(key, row.published, row.rest)), None)


def published_name(ours: str) -> str:
    """The published key of one of our names, which must be one that :data:`TABLE` knows."""
    row = next(row for row in TABLE if row.ours is not None and _fits(ours, row.ours, row.rest))
    assert row.ours is not None
    return row.published + ours.removeprefix(row.ours)


def preset_of(keys: Iterable[str]) -> ModelConfig:
    """The published model that a file with these keys is: the text encoder makes the difference."""
    with_text = any(key.startswith("caption_encoder.") for key in keys)
    return ModelConfig.preset("base" if with_text else "base_no_text_enc")


def _fits(name: str, prefix: str, rest: str) -> bool:
    return name.startswith(prefix) and bool(re.fullmatch(rest, name[len(prefix) :]))
