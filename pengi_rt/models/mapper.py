"""Mapping networks: turn an embedding into a prefix of decoder embeddings (paper, section 3.2).

ClipCap's transformer mapper (Mokady et al., 2021) with the released code's sizes, its sequence
variant for ``base_no_text_enc``, its MLP, and our own variant for a sequence in time.
"""

import torch
from torch import Tensor, nn

from pengi_rt.config.parts import MapperConfig, exact_div


def make_mapper(config: MapperConfig, inputs: int, width: int, steps: int = 1) -> nn.Module:
    """Make the mapper that ``config`` names, from ``inputs`` features to rows of ``width``.

    ``steps`` is the length of a sequence in time (``transformer_time``).
    """
    if config.kind == "mlp":
        return MLPMapper(config, inputs, width)
    return TransformerMapper(config, inputs, width, steps)


class TransformerMapper(nn.Module):
    """Maps [B, inputs] to [B, constant_length, width].

    Learned rows are appended to the input's rows; the prefix is the output at the learned rows.
    ``transformer_seq`` takes rows [B, T, width] as its input; ``transformer_time`` takes
    [B, steps, inputs] and adds learned positions, since attention alone ignores order.
    """

    def __init__(self, config: MapperConfig, inputs: int, width: int, steps: int) -> None:
        super().__init__()
        self.shape = (config.prefix_length, width)
        self.linear: nn.Linear | None = None
        self.position: nn.Parameter | None = None
        if config.kind == "transformer":
            self.linear = nn.Linear(inputs, config.prefix_length * width)
        elif config.kind == "transformer_time":
            self.linear = nn.Linear(inputs, width)
            self.position = nn.Parameter(torch.empty(steps, width).normal_(std=0.02))
        self.prefix_const = nn.Parameter(torch.randn(config.constant_length, width))
        self.layers = nn.ModuleList(MapperLayer(config, width) for _ in range(config.num_layers))

    def forward(self, x: Tensor) -> Tensor:
        rows = self._rows(x)
        inputs = rows.shape[1]
        constant = self.prefix_const.expand(rows.shape[0], -1, -1)
        rows = torch.cat([rows, constant], dim=1)
        for layer in self.layers:
            rows = layer(rows)
        return rows[:, inputs:]

    def _rows(self, x: Tensor) -> Tensor:
        """Turn the input into rows [B, n, width]."""
        if self.linear is None:
            return x
        rows: Tensor = self.linear(x)
        return rows.unflatten(1, self.shape) if self.position is None else rows + self.position


class MLPMapper(nn.Module):
    """Maps [B, inputs] to [B, prefix_length, width] by linear, tanh, linear."""

    def __init__(self, config: MapperConfig, inputs: int, width: int) -> None:
        super().__init__()
        outputs = config.prefix_length * width
        self.fc1 = nn.Linear(inputs, exact_div(outputs, 2))
        self.fc2 = nn.Linear(exact_div(outputs, 2), outputs)
        self.shape = (config.prefix_length, width)

    def forward(self, x: Tensor) -> Tensor:
        prefix: Tensor = self.fc2(torch.tanh(self.fc1(x))).unflatten(1, self.shape)
        return prefix


class MapperLayer(nn.Module):
    """Pre-norm attention and ReLU MLP; no mask, no dropout, no final norm."""

    def __init__(self, config: MapperConfig, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = MapperAttention(config.num_heads, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MapperMLP(width, config.mlp_ratio * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class MapperAttention(nn.Module):
    """Multi-head self-attention. Only the output projection has a bias."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = exact_div(width, heads) ** -0.5
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q = self.to_queries(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.to_keys_values(x).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = ((q * self.scale) @ k.mT).softmax(dim=-1)
        result: Tensor = self.project((weights @ v).transpose(1, 2).flatten(2))
        return result


class MapperMLP(nn.Module):
    """Linear, ReLU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.act(self.fc1(x)))
        return y
