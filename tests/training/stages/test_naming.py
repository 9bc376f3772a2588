"""Losses by which prefixes name words, against a plain computation."""

import torch
from torch import Tensor

from pengi_rt.config import ModelConfig
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.tiny import random_model
from pengi_rt.training.examples import NOTHING
from pengi_rt.training.stages.naming import naming_loss, slot_naming_loss


def scored(model: Pengi, rows: Tensor) -> Tensor:
    """Probabilities [T, V] of every token by each of the normalised rows."""
    spread = rows.var(1, keepdim=True, correction=0) + 1e-5
    normal = (rows - rows.mean(1, keepdim=True)) / spread.sqrt()
    return (normal @ model.decoder.wte.weight.T).softmax(dim=1)


def test_naming_loss_is_the_mixtures_mean_surprise() -> None:
    model = random_model(ModelConfig.preset("tiny"))
    prefix = torch.randn(2, 3, model.config.decoder.n_embd)
    words = torch.tensor([[5, 9, 9], [7, NOTHING, NOTHING]])
    surprises = []
    for row, ids in zip(prefix, words, strict=True):
        mixture = scored(model, row).mean(dim=0)
        surprises += [-mixture[word].log() for word in ids if word != NOTHING]
    expected = torch.stack(surprises).mean()
    torch.testing.assert_close(naming_loss(model, prefix, words), expected, rtol=1e-4, atol=1e-4)


def test_a_prefix_of_the_words_own_embeddings_names_them() -> None:
    model = random_model(ModelConfig.preset("tiny"))
    words = torch.tensor([[11, 12]])
    own = model.decoder.wte(words) * 50
    other = model.decoder.wte(words + 100) * 50
    assert naming_loss(model, own, words) < naming_loss(model, other, words)


def test_slots_are_named_each_by_its_own_row() -> None:
    model = random_model(ModelConfig.preset("tiny"))
    prefix = torch.randn(2, 3, model.config.decoder.n_embd)
    slots = [[[5, 9], [7], [0]], [[3], [3, 4], [0]]]
    expected = []
    for rows, words in zip(prefix, slots, strict=True):
        odds = scored(model, rows)
        surprises = [-odds[slot, word].log() for slot in range(3) for word in words[slot]]
        expected.append(torch.stack(surprises).mean())
    filled = [[[*words, NOTHING][:2] for words in row] for row in slots]
    found = slot_naming_loss(model, prefix, torch.tensor(filled))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)
