"""From waveforms to audio prefixes on the device: our kernels up to HTSAT's last stage."""

from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pengi_rt.backends.protocol import F32
from pengi_rt.kernels.log_mel import log_mel
from pengi_rt.kernels.log_mel_tables import LogMelTables, log_mel_tables
from pengi_rt.kernels.norm_linear import linear_residual, norm_linear
from pengi_rt.kernels.patch_merging import patch_merging
from pengi_rt.kernels.window_attention import window_attention
from pengi_rt.models.htsat import HTSAT, PatchEmbed, PatchMerging, Stage, SwinBlock, unfold
from pengi_rt.models.mel import LogMel
from pengi_rt.models.pengi import Pengi

PIECE = 8
"""Clips sent to the device together; 10 MB with base, which take a fifth of a millisecond."""


class AudioEncoding:
    """The audio encoder for one batch size: static buffers, and the work on them."""

    def __init__(self, model: Pengi, tables: LogMelTables, batch: int) -> None:
        """``model`` is on the device in the compute dtype, ``tables`` in float32."""
        self._model, self._tables = model, tables
        config, device = model.config, tables.bank.device
        size = config.htsat.spec_size
        dtype = model.audio_encoder.htsat.norm.weight.dtype
        self.windows = torch.zeros(batch, config.clip_samples, device=device)
        self._pinned = torch.empty_like(
            self.windows, device="cpu", pin_memory=device.type == "cuda"
        )
        self._image = torch.empty(batch, 1, size, size, dtype=dtype, device=device)
        self.embedding = torch.empty(batch, config.d_proj, device=device)
        prefix = (batch, config.audio_mapper.prefix_length, config.decoder.n_embd)
        self.prefix = torch.empty(prefix, device=device)

    def load(self, windows: F32) -> None:
        """Copy float32 [B, clip_samples] to :attr:`windows` through pinned memory.

        Each piece is sent while the next one is being copied.
        """
        host = torch.from_numpy(np.require(windows, np.float32, ("C", "W")))
        pieces = (tensor.split(PIECE) for tensor in (host, self._pinned, self.windows))
        for piece, pinned, target in zip(*pieces, strict=True):
            target.copy_(pinned.copy_(piece), non_blocking=True)

    def run(self) -> None:
        """Compute :attr:`embedding` and :attr:`prefix` from :attr:`windows`."""
        log_mel(self.windows, self._tables, self._image, precision=_precision(self.windows))
        features = htsat_features(self._model.audio_encoder.htsat, self._image)
        result = self._model.map_audio(self._model.audio_encoder.projection(features))
        self.embedding.copy_(result.embedding)
        self.prefix.copy_(result.prefix)


def front_end_tables(mel: LogMel, device: torch.device) -> LogMelTables:
    """The log-mel kernel's tables, made from a float32 front end."""
    norm = mel.bn
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return log_mel_tables(
        stft_real=mel.stft_real.to(device),
        stft_imag=mel.stft_imag.to(device),
        mel_bank=mel.mel_bank.to(device),
        stretch=mel.stretch.to(device),
        scale=scale.detach().to(device),
        shift=(norm.bias.double() - norm.running_mean.double() * scale).detach().to(device),
        hop_length=mel.mel.hop_length,
        spec_size=mel.spec_size,
    )


def htsat_features(htsat: HTSAT, image: Tensor) -> Tensor:
    """:class:`~pengi_rt.models.htsat.HTSAT` with our kernels, in the dtype of its weights."""
    x = _patches(htsat.patch_embed, image)
    for stage in cast("Iterable[Stage]", htsat.layers):
        for block in cast("Iterable[SwinBlock]", stage.blocks):
            x = swin_block(block, x)
        merge = stage.downsample
        if isinstance(merge, PatchMerging):
            x = patch_merging(x, merge.reduction.weight, merge.norm.weight, merge.norm.bias)
    x = htsat.norm(x)
    if htsat.collapse is None:
        pooled: Tensor = x.mean(dim=(1, 2))
        return pooled
    features: Tensor = htsat.collapse(unfold(x, htsat.strips))
    return features


def swin_block(block: SwinBlock, x: Tensor) -> Tensor:
    """:class:`~pengi_rt.models.htsat.SwinBlock` in five launches."""
    attention, mlp = block.attn, block.mlp
    qkv = norm_linear(
        x,
        attention.qkv.weight,
        attention.qkv.bias,
        norm_weight=block.norm1.weight,
        norm_bias=block.norm1.bias,
    )
    y = window_attention(
        qkv,
        attention.relative_position_bias_table,
        heads=attention.heads,
        window=attention.window,
        shift=block.shift,
    )
    x = linear_residual(y, attention.proj.weight, attention.proj.bias, x)
    y = norm_linear(
        x,
        mlp.fc1.weight,
        mlp.fc1.bias,
        norm_weight=block.norm2.weight,
        norm_bias=block.norm2.bias,
        gelu=True,
    )
    return linear_residual(y, mlp.fc2.weight, mlp.fc2.bias, x)


def _patches(embed: PatchEmbed, image: Tensor) -> Tensor:
    """Patch embedding as a matrix product; cuDNN's convolution would use TF32 for float32."""
    size = embed.proj.kernel_size[0]
    side = image.shape[2] // size
    rows = image[:, 0].unflatten(1, (side, size)).unflatten(3, (side, size)).transpose(2, 3)
    tokens = F.linear(rows.flatten(3), embed.proj.weight.flatten(1), embed.proj.bias)
    normed: Tensor = embed.norm(tokens)
    return normed


def _precision(windows: Tensor) -> str:
    return "tf32x3" if windows.is_cuda else "ieee"
