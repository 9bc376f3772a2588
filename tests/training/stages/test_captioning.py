"""The captioning loss against a plain computation, row by row, with the tokenizers themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from training_run import VARIANTS, variant

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.tiny import make_tokenizers, random_model
from pengi_rt.training.augment import Mixup
from pengi_rt.training.config import _model
from pengi_rt.training.examples import Clips, RowEncoder
from pengi_rt.training.manifest import Row
from pengi_rt.training.stages.captioning import Captioning

MAX_TOKENS = 9
TEXTS = (
    ("generate audio caption", "a dog barks loudly"),
    ("this is a sound of", "dog! siren!"),  # "!" is id 0
    ("question: what is heard?", "!"),
    ("generate audio caption", "an engine hums quietly in the background while music is playing"),
    ("this is a sound of", ""),
)
CLIPS = (0, 2, 0, 1, 2)  # per row


def made(name: str) -> tuple[Pengi, dict[str, bytes]]:
    config = PengiConfig.from_dict(_model(variant(name)))
    return random_model(config), make_tokenizers(config)


def batch(model: Pengi, tokenizers: dict[str, bytes]) -> Clips:
    rows = [Row(1, Path("a.wav"), "caption", prompt, target) for prompt, target in TEXTS]
    encoder = RowEncoder(model.config, tokenizers, MAX_TOKENS)
    wave = np.random.default_rng(1).uniform(-0.5, 0.5, (3, model.config.clip_samples))
    wave *= np.array([[1.0], [0.1], [0.01]])
    return Clips(rows=encoder.rows(rows, clips=CLIPS), wave=torch.from_numpy(wave).float())


def row_loss(model: Pengi, tokenizers: dict[str, bytes], wave: Tensor, row: int) -> Tensor:
    """Cross-entropies [n] of a row's target tokens, each after audio, prompt and earlier ones."""
    prompt, target = TEXTS[row]
    kind, text = model.config.text.kind, Tokenizer.from_buffer(tokenizers["text"])
    asked = text.encode(prompt + model.config.text.suffix, add_special_tokens=False).ids
    said = Tokenizer.from_buffer(tokenizers["decoder"]).encode(f"{target} <|endoftext|>").ids
    said = said[:MAX_TOKENS]
    if kind == "clip":
        asked = [model.config.text.bos_id, *asked, model.config.text.eos_id]
    elif kind == "token_embedding":
        asked += [0] * (model.config.text.max_length - len(asked))
    audio = model.encode_audio(wave[None]).prefix
    read = model.encode_text(torch.tensor([asked])).prefix
    prefix = torch.cat([audio, read, model.decoder.wte(torch.tensor([said]))], dim=1)
    hidden, _ = model.decoder(prefix, torch.arange(prefix.shape[1]))
    log_p = model.decoder.logits(hidden)[0].log_softmax(dim=-1)
    first = audio.shape[1] + read.shape[1]
    return torch.stack([-log_p[first + place - 1, token] for place, token in enumerate(said)])


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_is_the_mean_over_target_tokens(name: str) -> None:
    model, tokenizers = made(name)
    clips = batch(model, tokenizers)
    assert clips.wave is not None
    with torch.no_grad():
        loss = Captioning(model)(clips)["loss"]
        rows = [
            row_loss(model, tokenizers, clips.wave[clip], row) for row, clip in enumerate(CLIPS)
        ]
        expected = torch.cat(rows).mean()
    # Padding changes the order of sums in float32; a wrong token changes the third digit.
    torch.testing.assert_close(loss, expected, rtol=2e-5, atol=0)


def test_the_rows_cover_the_difficult_cases() -> None:
    """A target of "!", one that is cut, and one that is empty except for its end."""
    model, tokenizers = made("released")
    rows = batch(model, tokenizers).rows
    counted = [rows.tokens[row][rows.mask[row]].tolist() for row in range(len(TEXTS))]
    assert 0 in counted[1]
    assert counted[2][0] == 0
    assert len(counted[3]) == MAX_TOKENS
    assert counted[4] == [model.config.stop_id, 511]
    assert counted[0][-2:] == [model.config.stop_id, 511]


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_reach_every_part_that_is_used(name: str) -> None:
    """Parameters without a gradient would stop a distributed run."""
    model, tokenizers = made(name)
    Captioning(model.train())(batch(model, tokenizers))["loss"].backward()
    # A bias added to every key of a softmax has a gradient, which is zero.
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


class FixedMixup(Mixup):
    """With known shares."""

    def __init__(self, share: Tensor) -> None:
        super().__init__(1.0)
        self.fixed = share

    def forward(self, image: Tensor) -> Tensor:
        self.share = self.fixed
        weight = self.fixed[:, None, None, None]
        return weight * image + (1 - weight) * image.flip(0)


def test_mixup_counts_a_row_for_both_mixed_clips() -> None:
    model, tokenizers = made("released")
    clips = batch(model, tokenizers)
    share = torch.tensor([0.7, 0.4, 0.9])
    mixup = FixedMixup(share)
    model.audio_encoder.mel.mix = mixup
    with torch.no_grad():
        found = Captioning(model)(clips)["loss"]
        assert clips.wave is not None
        audio = model.audio_encoder(clips.wave)
        total, count = 0.0, 0
        model.audio_encoder.mel.mix = torch.nn.Identity()
        for row, clip in enumerate(CLIPS):
            for place in range(3):
                weight = share[clip] * (place == clip) + (1 - share[place]) * (2 - place == clip)
                losses = _given(model, tokenizers, audio[place], row)
                total += float(weight * losses.sum())
            count += len(losses)
    torch.testing.assert_close(float(found), total / count, rtol=2e-5, atol=0)


def test_mixup_with_a_share_of_one_changes_nothing() -> None:
    model, tokenizers = made("released")
    clips = batch(model, tokenizers)
    with torch.no_grad():
        plain = Captioning(model)(clips)["loss"]
        model.audio_encoder.mel.mix = FixedMixup(torch.ones(3))
        assert torch.equal(Captioning(model)(clips)["loss"], plain)


def _given(model: Pengi, tokenizers: dict[str, bytes], features: Tensor, row: int) -> Tensor:
    """:func:`row_loss` of an already encoded clip."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "encode_audio", lambda _: model.map_audio(features[None]))
        return row_loss(model, tokenizers, torch.zeros(1), row)
