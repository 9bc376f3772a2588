"""HTSAT, a Swin transformer over the folded spectrogram (Chen et al., ICASSP 2022).

Only the part that Pengi uses: the mean of the last stage's tokens. The released file also holds a
class head. Returning the tokens as a sequence in time is our addition.
"""

import torch
from torch import Tensor, nn

from pengi_rt.config.parts import HTSATConfig, exact_div

MASKED = -100.0  # added by the shift mask; -100 as released, not -inf


class HTSAT(nn.Module):
    """Maps an image [B, 1, spec_size, spec_size] to an embedding [B, num_features].

    With ``pooling="time"`` it returns a sequence [B, T, num_features], where T = ``strips`` * R and
    R is the last stage's resolution: step ``t`` is column ``t % R`` of strip ``t // R``.
    """

    def __init__(self, config: HTSATConfig, strips: int = 1) -> None:
        """``strips`` is the number of stacked strips of time in an image."""
        super().__init__()
        self.strips = strips
        self.patch_embed = PatchEmbed(config)
        self.layers = nn.ModuleList(Stage(config, stage) for stage in range(len(config.depths)))
        self.norm = nn.LayerNorm(config.num_features)
        self.collapse: nn.Linear | None = None
        if config.pooling == "time":
            bands = exact_div(config.side, strips)
            self.collapse = nn.Linear(bands * config.num_features, config.num_features)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        if self.collapse is None:
            return x.mean(dim=(1, 2))
        embedding: Tensor = self.collapse(unfold(x, self.strips))
        return embedding


class PatchEmbed(nn.Module):
    """Maps an image to tokens [B, R, R, C]; there is no absolute position embedding."""

    def __init__(self, config: HTSATConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, config.embed_dim, config.patch_size, config.patch_size)
        self.norm = nn.LayerNorm(config.embed_dim)

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(image).permute(0, 2, 3, 1))
        return tokens


class Stage(nn.Module):
    """Blocks at one resolution, followed (except in the last stage) by a merge of 2 x 2 tokens."""

    def __init__(self, config: HTSATConfig, stage: int) -> None:
        super().__init__()
        dim = config.embed_dim * 2**stage
        resolution = config.resolution(stage)
        self.blocks = nn.ModuleList(
            SwinBlock(config, dim, config.num_heads[stage], resolution, shifted=index % 2 == 1)
            for index in range(config.depths[stage])
        )
        last = stage == len(config.depths) - 1
        self.downsample = nn.Identity() if last else PatchMerging(dim)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        merged: Tensor = self.downsample(x)
        return merged


class SwinBlock(nn.Module):
    """Window attention and MLP, pre-norm; odd blocks shift the windows by half a window."""

    def __init__(
        self, config: HTSATConfig, dim: int, heads: int, resolution: int, *, shifted: bool
    ) -> None:
        super().__init__()
        # A single window that covers everything is not shifted (the last stage), as released.
        window = min(config.window_size, resolution)
        self.shift = window // 2 if shifted and resolution > window else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, resolution, self.shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, config.mlp_ratio * dim)
        self.drop_path: nn.Module = nn.Identity()  # a hook for the trainer's stochastic depth

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        if self.shift:
            y = self.attn(y.roll((-self.shift, -self.shift), (1, 2)))
            y = y.roll((self.shift, self.shift), (1, 2))
        else:
            y = self.attn(y)
        x = x + self.drop_path(y)
        result: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return result


class WindowAttention(nn.Module):
    """Attention within windows of tokens, with a learned bias per relative position."""

    index: Tensor
    mask: Tensor

    def __init__(self, dim: int, heads: int, window: int, resolution: int, shift: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.side = exact_div(resolution, window)
        self.scale = exact_div(dim, heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        table = torch.empty((2 * window - 1) ** 2, heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        self.register_buffer("index", relative_position_index(window), persistent=False)
        mask = shift_mask(resolution, window, shift)
        self.register_buffer("mask", mask[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, R, R, C] to the same shape."""
        windows = self._partition(x)
        q, k, v = self.qkv(windows).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        scores = (q * self.scale) @ k.mT + self.bias()
        y = (scores.softmax(dim=-1) @ v).transpose(2, 3).flatten(3)
        return self._reverse(self.proj(y))

    def bias(self) -> Tensor:
        """Relative position bias plus shift mask, [windows or 1, heads, window^2, window^2]."""
        tokens = self.window**2
        bias = self.relative_position_bias_table[self.index.flatten()]
        bias = bias.unflatten(0, (tokens, tokens)).permute(2, 0, 1)
        return bias + self.mask

    def _partition(self, x: Tensor) -> Tensor:
        """Reshape [B, R, R, C] to [B, windows, window^2, C]."""
        x = x.unflatten(1, (self.side, self.window)).unflatten(3, (self.side, self.window))
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _reverse(self, windows: Tensor) -> Tensor:
        """Undo :meth:`_partition`."""
        x = windows.unflatten(1, (self.side, self.side)).unflatten(3, (self.window, self.window))
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class PatchMerging(nn.Module):
    """Merges 2 x 2 tokens into one of twice the width: [B, R, R, C] to [B, R/2, R/2, 2C]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # Column parity outside row parity, as released: (even, even), (odd row, even column), ...
        side = exact_div(x.shape[1], 2)
        x = x.unflatten(1, (side, 2)).unflatten(3, (side, 2))
        merged: Tensor = self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))
        return merged


class MLP(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.act(self.fc1(x)))
        return y


def unfold(tokens: Tensor, strips: int) -> Tensor:
    """Put the tokens [B, R, R, C] of a folded image in time order.

    Returns [B, strips * R, (R / strips) * C]: each step holds the tokens of one column of one
    strip, from the lowest frequency to the highest.
    """
    bands = exact_div(tokens.shape[1], strips)
    x = tokens.unflatten(1, (strips, bands)).transpose(2, 3)
    return x.flatten(3).flatten(1, 2)


def relative_position_index(window: int) -> Tensor:
    """The bias table's row for each pair of tokens in a window, [window^2, window^2] int64."""
    row, column = torch.arange(window**2) // window, torch.arange(window**2) % window
    down = row[:, None] - row + window - 1
    right = column[:, None] - column + window - 1
    return down * (2 * window - 1) + right


def shift_mask(resolution: int, window: int, shift: int) -> Tensor:
    """The mask between tokens that are neighbors only because of the cyclic shift.

    Returns [windows, window^2, window^2] with values 0 or -100; without a shift, a zero [1, 1, 1].
    """
    if not shift:
        return torch.zeros(1, 1, 1)
    band = torch.zeros(resolution, dtype=torch.int64)
    band[resolution - window : resolution - shift] = 1
    band[resolution - shift :] = 2
    region = band[:, None] * 3 + band
    side = exact_div(resolution, window)
    region = region.reshape(side, window, side, window).transpose(1, 2).reshape(side**2, window**2)
    return torch.where(region[:, :, None] == region[:, None, :], 0.0, MASKED)
