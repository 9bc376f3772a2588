"""Contrastive pre-training: audio and text in one space (CLAP; paper, section 4.3, appendix D).

Optionally also HTSAT's own objective: which tags apply at each step of the audio (Chen et al.,
ICASSP 2022, section 2.3; its published weights were trained this way on AudioSet).
"""

import math

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F

from pengi_rt.models.pengi import Pengi
from pengi_rt.training.config import ContrastiveConfig
from pengi_rt.training.examples import Clips
from pengi_rt.training.stages.losses import Losses, log_mel, shares

RARE = -4.0  # initial bias of a tag: most tags do not apply


class Contrastive(nn.Module):
    """Maps clips, one row each, to the symmetric cross-entropy of the batch's similarities.

    With several processes, the batch is that of all processes together.
    """

    def __init__(self, model: Pengi, config: ContrastiveConfig, n_tags: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))
        self.tag_head = nn.Linear(model.config.htsat.num_features, n_tags) if n_tags else None
        if self.tag_head is not None:
            nn.init.normal_(self.tag_head.weight, std=0.02)
            nn.init.constant_(self.tag_head.bias, RARE)

    def forward(self, clips: Clips) -> Losses:
        encoder, text_encoder = self.model.audio_encoder, self.model.text_encoder
        assert text_encoder is not None
        assert clips.rows.prompts is not None
        heard = encoder.htsat(encoder.mel.fold(log_mel(self.model, clips)))
        share = shares(self.model)
        audio = clip_embedding(encoder.projection(heard))
        text = F.normalize(text_encoder(clips.rows.prompts), dim=-1)
        scale = self.logit_scale.exp().clamp(max=self.config.max_scale)
        if self.training:  # in validation all processes have the same clips
            mixed = None if share is None else gathered(share)
            pairs = gathered(audio), gathered(text)
        else:
            mixed, pairs = share, (audio, text)
        contrastive = symmetric_loss(*pairs, scale, mixed, together=len(audio))
        losses = {"loss": self.config.weight * contrastive, "contrastive": contrastive.detach()}
        if self.tag_head is not None and clips.tags is not None:
            tagging = tagging_loss(self.tag_head(heard), clips.tags, share)
            losses["loss"] = losses["loss"] + self.config.tagging * tagging
            losses["tagging"] = tagging.detach()
        return losses


def clip_embedding(features: Tensor) -> Tensor:
    """Unit vectors [B, d] from [B, d], or from steps [B, T, d]: the mean of the unit steps."""
    if features.ndim == 3:
        features = F.normalize(features, dim=-1).mean(dim=1)
    return F.normalize(features, dim=-1)


def symmetric_loss(
    audio: Tensor,
    text: Tensor,
    scale: Tensor,
    share: Tensor | None = None,
    *,
    together: int | None = None,
) -> Tensor:
    """Cross-entropy of the similarities, averaged over both directions (paper, equations 4, 5).

    Args:
        audio: unit vectors [B, d].
        text: unit vectors [B, d]; row i belongs to row i.
        scale: 1 / temperature.
        share: with mixup, the share [B] that each clip kept of itself; the rest is its mirror's.
        together: consecutive rows that were mixed with one another (one process's); default: all.
    """
    similarities = (scale * audio @ text.mT).float()
    pairs = torch.arange(len(similarities), device=similarities.device)

    def both_ways(target: Tensor) -> Tensor:
        to_text = F.cross_entropy(similarities, target, reduction="none")
        to_audio = F.cross_entropy(similarities.mT, target, reduction="none")
        return (to_text + to_audio) / 2

    losses = both_ways(pairs)
    if share is not None:
        mirror = pairs.unflatten(0, (-1, together or len(pairs))).flip(1).flatten()
        losses = share * losses + (1 - share) * both_ways(mirror)
    return losses.mean()


def tagging_loss(logits: Tensor, tags: Tensor, share: Tensor | None = None) -> Tensor:
    """Binary cross-entropy summed over tags, mean over clips and steps.

    Args:
        logits: [B, T, n_tags], or [B, n_tags] if the model pools over time.
        tags: [B, T, n_tags], 0 or 1.
        share: with mixup, the share [B] that each clip kept of itself.
    """
    if share is not None:
        kept = share[:, None, None]
        tags = kept * tags + (1 - kept) * tags.flip(0)
    if logits.ndim == 2:
        logits = logits[:, None]
    losses = F.binary_cross_entropy_with_logits(logits.float(), tags, reduction="none")
    return losses.sum(dim=-1).mean()


def gathered(vectors: Tensor) -> Tensor:
    """The rows of all processes, [world * B, d]; gradients flow back to each."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.cat(all_gather(vectors)) if distributed else vectors
