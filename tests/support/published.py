"""The published layout: a model's state as the released code saves it."""

import torch
from torch import Tensor

from pengi_rt.models.pengi import Pengi

HTSAT = "audio_encoder.base.htsat."
GPT = "caption_decoder.gpt."

# Written from the released manifest, in the opposite direction to the reader's table.
TO_PUBLISHED = (
    ("audio_encoder.mel.stft_real", HTSAT + "spectrogram_extractor.stft.conv_real.weight"),
    ("audio_encoder.mel.stft_imag", HTSAT + "spectrogram_extractor.stft.conv_imag.weight"),
    ("audio_encoder.mel.mel_bank", HTSAT + "logmel_extractor.melW"),
    ("audio_encoder.mel.bn.", HTSAT + "bn0."),
    ("audio_encoder.htsat.", HTSAT),
    ("text_encoder.clip.", "caption_encoder.base."),
    ("text_encoder.text_projection.", "caption_encoder.clip_text_projection."),
    ("text_encoder.projection.", "caption_encoder.projection."),
    ("audio_mapper.layers.", "caption_decoder.audio_project.transformer.layers."),
    ("audio_mapper.", "caption_decoder.audio_project."),
    ("text_mapper.layers.", "caption_decoder.text_project.transformer.layers."),
    ("text_mapper.", "caption_decoder.text_project."),
    ("decoder.", GPT + "transformer."),
)


def publish(model: Pengi, *, buffers: bool = True) -> dict[str, Tensor]:
    """The model's state as the released code saves it, including old transformers' buffers."""
    state = {}
    for name, tensor in model.state_dict().items():
        ours, theirs = next((pair for pair in TO_PUBLISHED if name.startswith(pair[0])), ("", ""))
        state[theirs + name.removeprefix(ours)] = tensor.clone()
    state[GPT + "lm_head.weight"] = state[GPT + "transformer.wte.weight"]
    state |= {
        HTSAT + "tscam_conv.weight": torch.ones(7, 48, 2, 3),
        HTSAT + "head.bias": state[HTSAT + "norm.bias"],
    }
    if buffers:
        state[HTSAT + "layers.0.blocks.1.attn_mask"] = torch.zeros(4, 64, 64)
        state[HTSAT + "layers.1.blocks.0.attn.relative_position_index"] = torch.zeros(64, 64).long()
        state["caption_encoder.base.embeddings.position_ids"] = torch.arange(40)[None]
        for layer in range(2):
            prefix = f"{GPT}transformer.h.{layer}.attn."
            state[prefix + "bias"] = torch.ones(1, 1, 128, 128, dtype=torch.bool).tril()
            state[prefix + "masked_bias"] = torch.tensor(-1e4)
    return state
