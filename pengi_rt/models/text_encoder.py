"""CLIP's text tower (Radford et al., 2021), from transformers, and the projection after it."""

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from pengi_rt.config.parts import TextConfig
from pengi_rt.models.projection import Projection


class TextEncoder(nn.Module):
    """Maps token ids [B, T] int64 to an embedding [B, d_proj], not normalized.

    The tower is causal and pooled at the first EOS, so whatever follows (padding, which is EOS
    again) has no effect and needs no mask.
    """

    def __init__(self, config: TextConfig, d_proj: int) -> None:
        super().__init__()
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                max_position_embeddings=config.max_positions,
                bos_token_id=config.bos_id,
                eos_token_id=config.eos_id,
                pad_token_id=config.eos_id,
                attn_implementation="eager",
            )
        )
        self.eos_id = config.eos_id
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.projection = Projection(config.projection_dim, d_proj)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` [1, 1, T, T] (:func:`causal_mask`) replaces the one that transformers makes."""
        states: Tensor = self.clip(input_ids=ids, attention_mask=mask).last_hidden_state
        first_eos = (ids == self.eos_id).int().argmax(dim=1)
        index = first_eos[:, None, None].expand(-1, 1, states.shape[2])
        pooled = states.gather(1, index)[:, 0]
        embedding: Tensor = self.projection(self.text_projection(pooled))
        return embedding


def causal_mask(length: int, like: Tensor) -> Tensor:
    """A mask [1, 1, T, T] to add to attention scores, with the dtype and device of ``like``."""
    least = torch.finfo(like.dtype).min  # finite, as in transformers
    return like.new_full((1, 1, length, length), least).triu(1)
