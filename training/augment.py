"""Augmentation that only training uses: SpecAugment, mixup, stochastic depth.

The reference model has a stateless ``nn.Identity`` at each of these places, which
:func:`prepare_augmentation` replaces. The replacements act only in training mode, so the model can
still be evaluated, and they add nothing to a checkpoint.
"""

import torch
from torch import Tensor, nn

from pengi_rt.models.htsat import SwinBlock
from pengi_rt.models.pengi import AudioEncoder
from pengi_rt.models.projection import Projection
from pengi_rt.training.config import AugmentConfig


class SpecAugment(nn.Module):
    """Zeroes some stripes of time and frequency (Park et al., 2019), as torchlibrosa does.

    Takes the batch-normed bins [B, n_mels, frames], so zero is each bin's mean. The width of each
    stripe is uniform below its limit, its position uniform; each clip has its own stripes.
    """

    def __init__(self, config: AugmentConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, bins: Tensor) -> Tensor:
        if not self.training:
            return bins
        config = self.config
        frames = _stripes(bins, 2, config.time_drop_width, config.time_stripes)
        mels = _stripes(bins, 1, config.freq_drop_width, config.freq_stripes)
        return bins.masked_fill(frames[:, None, :] | mels[:, :, None], 0.0)


class Mixup(nn.Module):
    """Mixes each clip with its mirror in the batch, as HTSAT does (Zhang et al., 2018).

    :attr:`share` [B] is the share that each clip of the last batch kept of itself. The loss of clip
    ``i`` weighs its own target by that share, and the target of clip ``B - 1 - i`` by the rest.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.beta = torch.distributions.Beta(alpha, alpha)
        self.share: Tensor | None = None

    def forward(self, image: Tensor) -> Tensor:
        if not self.training:
            self.share = None
            return image
        self.share = self.beta.sample((image.shape[0],)).to(image)
        share = self.share.reshape(-1, *[1] * (image.ndim - 1))
        return share * image + (1 - share) * image.flip(0)


class DropPath(nn.Module):
    """Drops a residual branch at random, per clip (stochastic depth, Huang et al., 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return branch
        shape = (branch.shape[0], *[1] * (branch.ndim - 1))
        kept = torch.rand(shape, device=branch.device) >= self.rate
        return branch * kept / (1 - self.rate)


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set the dropout of every projection in ``model``."""
    for part in model.modules():
        if isinstance(part, Projection):
            part.drop.p = rate


def prepare_augmentation(encoder: AudioEncoder, config: AugmentConfig) -> Mixup | None:
    """Install the augmentation in ``encoder``; returns the mixup, if there is one."""
    if config.spec_augment:
        encoder.mel.augment = SpecAugment(config)
    blocks = [part for part in encoder.htsat.modules() if isinstance(part, SwinBlock)]
    for index, block in enumerate(blocks):
        block.drop_path = DropPath(config.drop_path * index / max(len(blocks) - 1, 1))
    if config.mixup_alpha == 0.0:
        return None
    mixup = Mixup(config.mixup_alpha)
    encoder.mel.mix = mixup
    return mixup


def _stripes(bins: Tensor, dim: int, limit: int, count: int) -> Tensor:
    """Random stripes along ``dim``: [B, size] bool, True inside a stripe."""
    size, batch = bins.shape[dim], bins.shape[0]
    place = torch.arange(size, device=bins.device)
    masked = torch.zeros(batch, size, dtype=torch.bool, device=bins.device)
    for _ in range(count):
        width = torch.randint(min(limit, size), (batch, 1), device=bins.device)
        start = (torch.rand(batch, 1, device=bins.device) * (size - width)).long()
        masked |= (place >= start) & (place < start + width)
    return masked
