"""Helpers shared by the stages: the decoder's loss, text prefixes, mixup, log-mels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pengi_rt.models.pengi import Pengi
from pengi_rt.training.augment import Mixup
from pengi_rt.training.examples import Clips, TextRows

Losses = dict[str, Tensor]
"""Scalars by name. The optimizer minimizes ``loss``; the others are only reported."""


def decoder_loss(model: Pengi, prefixes: Sequence[Tensor], rows: TextRows) -> Tensor:
    """Cross-entropy of each row, [R], summed over its target tokens (paper, equation 3).

    Args:
        model: its decoder is used.
        prefixes: the inputs before the tokens, each [R, P, n_embd]. Without any, the first token
            is not predicted, since nothing comes before it.
        rows: the tokens, and the mask of those that count.
    """
    tokens, mask = rows.tokens, rows.mask
    inputs = torch.cat([*prefixes, model.decoder.wte(tokens[:, :-1])], dim=1)
    positions = torch.arange(inputs.shape[1], device=inputs.device)
    hidden, _ = model.decoder(inputs, positions)
    if prefixes:
        first = inputs.shape[1] - tokens.shape[1]
        hidden = hidden[:, first:]
    else:
        tokens, mask = tokens[:, 1:], mask[:, 1:]
    # Only the positions that count go through the head, the largest matrix product of all.
    logits = model.decoder.logits(hidden[mask]).float()
    losses = F.cross_entropy(logits, tokens[mask], reduction="none")
    row = mask.nonzero()[:, 0]
    return torch.zeros(tokens.shape[0], device=losses.device).index_add(0, row, losses)


def text_prefix(model: Pengi, rows: TextRows) -> tuple[Tensor, ...]:
    """The prompts' prefix [R, T, n_embd], or nothing if the decoder reads prompts itself."""
    return () if rows.prompts is None else (model.encode_text(rows.prompts).prefix,)


def shares(model: Pengi) -> Tensor | None:
    """The share [B] that each clip of the last encoded batch kept of itself, if mixup is on."""
    mix = model.audio_encoder.mel.mix
    return mix.share if isinstance(mix, Mixup) else None


def log_mel(model: Pengi, clips: Clips) -> Tensor:
    """The batch's log-mel [B, frames, n_mels] in dB, always computed in float32."""
    if clips.log_mel is not None:
        return clips.log_mel
    assert clips.wave is not None
    with torch.autocast(clips.wave.device.type, enabled=False), torch.no_grad():
        return model.audio_encoder.mel.log_mel(clips.wave)
