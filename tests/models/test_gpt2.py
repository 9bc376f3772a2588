"""GPT-2 against transformers' own, and with its cache against without it.

Tolerance: float32 sums in another order, 2e-5 on states and logits of order one.
"""

from functools import partial

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from pengi_rt.config.parts import DecoderConfig
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.gpt2 import GPT2, KeyValue

CONFIG = PengiConfig.preset("tiny").decoder
assert_close = partial(torch.testing.assert_close, atol=2e-5, rtol=2e-5)


@pytest.fixture(scope="module")
def model() -> GPT2:
    torch.manual_seed(0)
    model = GPT2(CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def theirs(model: GPT2) -> GPT2LMHeadModel:
    reference = GPT2LMHeadModel(
        GPT2Config(**{name: getattr(CONFIG, name) for name in DecoderConfig.__dataclass_fields__})
    ).eval()
    state = {f"transformer.{name}": value for name, value in model.state_dict().items()}
    reference.load_state_dict(state | {"lm_head.weight": model.wte.weight})
    return reference


@pytest.mark.parametrize("length", [1, 17, CONFIG.n_positions])
def test_equals_transformers(model: GPT2, theirs: GPT2LMHeadModel, length: int) -> None:
    embeddings = torch.randn(3, length, CONFIG.n_embd)
    with torch.inference_mode():
        expected = theirs(inputs_embeds=embeddings, output_hidden_states=True)
    hidden, _ = model(embeddings, torch.arange(length))
    assert_close(hidden, expected.hidden_states[-1])
    assert_close(model.logits(hidden), expected.logits)


def joined(past: list[KeyValue], new: list[KeyValue]) -> list[KeyValue]:
    return [
        (torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2))
        for (keys, values), (k, v) in zip(past, new, strict=True)
    ]


def test_one_position_at_a_time_equals_all_at_once(model: GPT2) -> None:
    embeddings = torch.randn(2, 9, CONFIG.n_embd)
    whole, _ = model(embeddings, torch.arange(9))
    first, past = model(embeddings[:, :4], torch.arange(4))
    states = [first]
    for position in range(4, 9):
        hidden, new = model(embeddings[:, position : position + 1], torch.tensor([position]), past)
        assert new[0][0].shape == (2, CONFIG.n_head, 1, CONFIG.head_dim)
        states.append(hidden)
        past = joined(past, new)
    assert_close(torch.cat(states, dim=1), whole)


def test_a_mask_hides_the_padding_of_a_shorter_row(model: GPT2) -> None:
    """Row 1 has 3 real positions of 6; its next position is 3, and it never sees the gap."""
    embeddings, extra = torch.randn(2, 6, CONFIG.n_embd), torch.randn(2, 1, CONFIG.n_embd)
    _, past = model(embeddings, torch.arange(6))
    real = torch.tensor([[True] * 7, [True] * 3 + [False] * 3 + [True]])
    positions = torch.tensor([[6], [3]])
    hidden, _ = model(extra, positions, past, real[:, None, None])
    for row, length in ((0, 6), (1, 3)):
        whole = torch.cat([embeddings[row, :length], extra[row]])[None]
        alone, _ = model(whole, torch.arange(length + 1))
        assert_close(hidden[row, 0], alone[0, -1])


def test_the_caller_chooses_the_positions(model: GPT2) -> None:
    embeddings = torch.randn(1, 1, CONFIG.n_embd)
    at = [model(embeddings, torch.tensor([position]))[0] for position in (0, 5)]
    assert (at[0] - at[1]).abs().max() > 0.1


def test_later_tokens_change_nothing(model: GPT2) -> None:
    embeddings = torch.randn(1, 8, CONFIG.n_embd)
    other = embeddings.clone()
    other[:, 5:] = 7.0
    before: list[Tensor] = [model(x, torch.arange(8))[0][:, :5] for x in (embeddings, other)]
    assert_close(before[0], before[1])


def test_head_is_the_embedding_table(model: GPT2) -> None:
    assert not [name for name in model.state_dict() if "head" in name]
    row = model.wte.weight[7]
    assert model.logits(row)[7].item() == pytest.approx((row @ row).item(), rel=1e-5)
