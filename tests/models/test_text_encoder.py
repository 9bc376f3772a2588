"""CLIP's text tower: padding after the first EOS must not matter, with or without a mask."""

from functools import partial

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.text_encoder import TextEncoder

CONFIG = PengiConfig.preset("tiny").text
BOS, EOS = CONFIG.bos_id, CONFIG.eos_id
assert_close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(CONFIG, 48).eval().requires_grad_(requires_grad=False)


def test_equals_transformers_with_mask_and_padding(encoder: TextEncoder) -> None:
    """The released call: padded to 40 with EOS, a mask over the padding, CLIP's own projection."""
    reference = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.hidden_size,
            intermediate_size=CONFIG.intermediate_size,
            projection_dim=CONFIG.projection_dim,
            num_hidden_layers=CONFIG.num_layers,
            num_attention_heads=CONFIG.num_heads,
            max_position_embeddings=CONFIG.max_positions,
            hidden_act="quick_gelu",
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    ).eval()
    state = {f"text_model.{name}": value for name, value in encoder.clip.state_dict().items()}
    reference.load_state_dict(state | {"text_projection.weight": encoder.text_projection.weight})
    rows = [[BOS, 3, 77, 12, EOS], [BOS, EOS], [BOS, *range(100, 138), EOS]]
    padded = torch.tensor([row + [EOS] * (40 - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (40 - len(row)) for row in rows])
    with torch.inference_mode():
        pooled = reference(input_ids=padded, attention_mask=mask).text_embeds
        expected = encoder.projection(pooled)
    for row, want in zip(rows, expected, strict=True):
        assert_close(encoder(torch.tensor([row]))[0], want)
    assert_close(encoder(padded), expected)


def test_nothing_after_the_first_eos_matters(encoder: TextEncoder) -> None:
    plain = encoder(torch.tensor([[BOS, 5, 6, EOS]]))
    for tail in ([EOS] * 9, [17, 400, EOS], [0]):
        assert_close(encoder(torch.tensor([[BOS, 5, 6, EOS, *tail]])), plain)
    assert (encoder(torch.tensor([[BOS, 6, 5, EOS]])) - plain).abs().max() > 1e-3
