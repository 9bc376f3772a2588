"""The contrastive and tagging losses against plain computations, pair by pair."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from training_run import Workshop

from pengi_rt.text.tokenizers import DecoderTokenizer
from pengi_rt.training.setup import prepare
from pengi_rt.training.stages.contrastive import (
    Contrastive,
    clip_embedding,
    symmetric_loss,
    tagging_loss,
)


def unit(rows: int, width: int, seed: int) -> Tensor:
    values = np.random.default_rng(seed).normal(size=(rows, width))
    return F.normalize(torch.from_numpy(values), dim=-1)


def pair_loss(similarities: Tensor, i: int, j: int) -> float:
    """Minus the mean log-probability of text j given audio i, and of audio i given text j."""
    audio = math.log(sum(math.exp(similarities[i, k]) for k in range(len(similarities))))
    text = math.log(sum(math.exp(similarities[k, j]) for k in range(len(similarities))))
    return ((audio - float(similarities[i, j])) + (text - float(similarities[i, j]))) / 2


def test_symmetric_loss() -> None:
    audio, text, scale = unit(5, 7, 0), unit(5, 7, 1), torch.tensor(11.0)
    similarities = 11.0 * audio @ text.T
    expected = np.mean([pair_loss(similarities, i, i) for i in range(5)])
    # The loss itself is computed in float32, whatever the input.
    assert float(symmetric_loss(audio, text, scale)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("together", [6, 3, 2])
def test_symmetric_loss_of_mixed_clips(together: int) -> None:
    """Rows were mixed in groups of ``together``, each from one process."""
    audio, text, scale = unit(6, 7, 0), unit(6, 7, 1), torch.tensor(5.0)
    share = torch.from_numpy(np.random.default_rng(2).uniform(size=6))
    similarities = 5.0 * audio @ text.T
    expected = 0.0
    for i in range(6):
        mirror = i // together * together + (together - 1 - i % together)
        to_text = similarities.log_softmax(dim=1)
        to_audio = similarities.log_softmax(dim=0)
        own = -(to_text[i, i] + to_audio[i, i]) / 2
        other = -(to_text[i, mirror] + to_audio[mirror, i]) / 2
        expected += float(share[i] * own + (1 - share[i]) * other) / 6
    found = symmetric_loss(audio, text, scale, share, together=together)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    if together == 6:
        assert torch.equal(symmetric_loss(audio, text, scale, share), found)


def test_mixup_with_a_share_of_one_changes_nothing() -> None:
    audio, text, scale = unit(4, 7, 0), unit(4, 7, 1), torch.tensor(5.0)
    plain = symmetric_loss(audio, text, scale)
    assert torch.equal(symmetric_loss(audio, text, scale, torch.ones(4)), plain)


def test_clip_embedding_is_the_mean_of_unit_steps() -> None:
    steps = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4, 5)))
    steps[:, 0] *= 100  # a single loud step must not be the whole loss
    for clip in range(3):
        units = [row / row.norm() for row in steps[clip]]
        mean = sum(units[1:], units[0]) / 4
        torch.testing.assert_close(clip_embedding(steps)[clip], mean / mean.norm())
    pooled = steps[:, 1]
    torch.testing.assert_close(clip_embedding(pooled), pooled / pooled.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("mixed", [False, True])
def test_tagging_loss(mixed: bool) -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(3, 4, 5)) * 3).float()
    tags = torch.from_numpy(rng.integers(0, 2, (3, 4, 5))).float()
    share = torch.tensor([0.9, 0.6, 0.2])
    expected = 0.0
    for b, t, n in product(range(3), range(4), range(5)):
        target = float(tags[b, t, n])
        if mixed:
            target = float(share[b]) * target + (1 - float(share[b])) * float(tags[2 - b, t, n])
        p = 1 / (1 + math.exp(-float(logits[b, t, n])))
        expected -= (target * math.log(p) + (1 - target) * math.log(1 - p)) / 12
    found = tagging_loss(logits, tags, share if mixed else None)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_tagging_of_a_model_that_pools() -> None:
    logits, tags = torch.tensor([[2.0, -1.0]]), torch.tensor([[[1.0, 0.0]]])
    expected = math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))
    assert float(tagging_loss(logits, tags)) == pytest.approx(expected, rel=1e-6)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("contrastive"))


def test_the_temperature_is_learned_and_clamped(workshop: Workshop) -> None:
    config = workshop.config(
        "contrastive", "clamp", contrastive={"temperature": 0.1, "max_scale": 50.0}
    )
    prepared = prepare(config)
    stage = prepared.stage
    assert isinstance(stage, Contrastive)
    assert stage.logit_scale.exp().item() == pytest.approx(10.0)
    clips = prepared.data[[0, 1, 2, 3]]
    losses = []
    for value in (10.0, 49.0, 51.0, 1000.0):
        with torch.no_grad():
            stage.logit_scale.fill_(math.log(value))
        torch.manual_seed(0)  # for dropout
        stage.zero_grad()
        loss = stage(clips)["loss"]
        loss.backward()
        losses.append(loss.item())
        assert stage.logit_scale.grad is not None
        assert (stage.logit_scale.grad.item() != 0) == (value < 50)
    assert losses[2] == losses[3] != losses[1]


@pytest.mark.parametrize("text", ["target", "prompt_and_target"])
def test_the_text_encoder_reads_the_targets(text: str, workshop: Workshop) -> None:
    """It does not use the prompts, which are the same for every clip."""
    prepared = prepare(workshop.config("contrastive", text, contrastive={"text": text}))
    rows = prepared.data[list(range(12))].rows  # type: ignore[attr-defined]
    tokenizer = DecoderTokenizer(prepared.tokenizers["text"], prepared.model.config)
    read = {tokenizer.decode(ids) for ids in rows.prompts}
    before = "generate audio caption " if text == "prompt_and_target" else ""
    wanted = f"<|startoftext|>{before}a dog barks loudly! 0<|endoftext|>"
    assert any(line.startswith(wanted) for line in read)
    assert len(read) == 12


def test_losses_are_weighted(workshop: Workshop) -> None:
    config = workshop.config("contrastive", "weighted", contrastive={"weight": 0.3, "tagging": 2.0})
    prepared = prepare(config)
    losses = prepared.stage.eval()(prepared.data[[0, 1, 2, 3]])
    expected = 0.3 * losses["contrastive"] + 2.0 * losses["tagging"]
    torch.testing.assert_close(losses["loss"], expected)
    assert losses["loss"].requires_grad
    assert not losses["tagging"].requires_grad
    # Untrained: every tag is rare, with five tags and no time axis.
    assert 0 < float(losses["tagging"].detach()) < 5 * 4.1
