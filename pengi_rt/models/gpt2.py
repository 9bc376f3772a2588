"""GPT-2 (Radford et al., 2019): pre-norm blocks, a tied head, an explicit cache."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pengi_rt.config.parts import DecoderConfig

KeyValue = tuple[Tensor, Tensor]
"""One layer's keys and values, each [B, heads, positions, head_dim]."""


class Conv1D(nn.Module):
    """A linear layer whose weight is stored [inputs, outputs], as GPT-2's checkpoints have it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.mT, self.bias)


class GPT2(nn.Module):
    """Maps embeddings [B, n, n_embd] to hidden states, given the cache of earlier positions."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        for table in (self.wte, self.wpe):
            nn.init.normal_(table.weight, std=0.02)

    def forward(
        self,
        embeddings: Tensor,
        positions: Tensor,
        past: Sequence[KeyValue] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run the blocks.

        Args:
            embeddings: [B, n, n_embd], without position embeddings.
            positions: [B, n] or [n] int64; their embeddings are added here.
            past: keys and values of earlier positions, one pair per layer.
            mask: [B, 1, n, past + n] bool, True where a row may attend; causal by default.

        Returns:
            Hidden states after the final norm [B, n, n_embd], and each layer's keys and values for
            these n positions only.
        """
        x = embeddings + self.wpe(positions)
        new: list[KeyValue] = []
        for index, block in enumerate(self.h):
            x, key_value = block(x, None if past is None else past[index], mask)
            new.append(key_value)
        return self.ln_f(x), new

    def logits(self, hidden: Tensor) -> Tensor:
        """Project [..., n_embd] to [..., vocab_size] with the embedding table (tied weights)."""
        return hidden @ self.wte.weight.mT


class Block(nn.Module):
    """Attention and MLP, pre-norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, past: KeyValue | None, mask: Tensor | None
    ) -> tuple[Tensor, KeyValue]:
        y, key_value = self.attn(self.ln_1(x), past, mask)
        x = x + y
        return x + self.mlp(self.ln_2(x)), key_value


class Attention(nn.Module):
    """Causal multi-head attention."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads = config.n_head
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

    def forward(
        self, x: Tensor, past: KeyValue | None, mask: Tensor | None
    ) -> tuple[Tensor, KeyValue]:
        q, k, v = self.c_attn(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        keys, values = k, v
        if past is not None:
            keys, values = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        causal = mask is None and past is None
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, is_causal=causal)
        return self.c_proj(y.transpose(1, 2).flatten(2)), (k, v)


class MLP(nn.Module):
    """Linear, tanh-approximated GELU, linear."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.c_fc = Conv1D(config.n_embd, 4 * config.n_embd)
        self.c_proj = Conv1D(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return y
