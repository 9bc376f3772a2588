"""SpecAugment, mixup and stochastic depth: their effect and rate, and in training only."""

import numpy as np
import pytest
import torch
from training_run import MODEL

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.pengi import AudioEncoder
from pengi_rt.training.augment import DropPath, Mixup, SpecAugment, prepare_augmentation
from pengi_rt.training.config import AugmentConfig, _model


def test_stripes() -> None:
    """Widths are uniform in [0, limit), so are places; masks are zero; nothing else changes."""
    torch.manual_seed(0)
    config = AugmentConfig(time_drop_width=10, time_stripes=1, freq_drop_width=4, freq_stripes=1)
    bins = torch.rand(3000, 12, 40) + 1.0
    before = bins.clone()
    out = SpecAugment(config)(bins)
    assert torch.equal(bins, before)
    zero = out == 0
    assert torch.equal(out[~zero], bins[~zero])
    frames, mels = zero.all(dim=1), zero.all(dim=2)  # [B, 40], [B, 12]
    assert torch.equal(zero, frames[:, None] | mels[:, :, None])
    for masked, limit, size in ((frames, 10, 40), (mels, 4, 12)):
        widths = masked.sum(dim=1)
        counts = torch.bincount(widths, minlength=limit)
        assert len(counts) == limit
        # Each width has one chance in ``limit``; five standard deviations.
        assert (counts / 3000 - 1 / limit).abs().max() < 5 * (1 / limit / 3000) ** 0.5
        edges = masked.int().diff(dim=1).ne(0).sum(dim=1)
        assert edges.max() <= 2  # one stripe
        # torchlibrosa places stripes below size - width: the very last position is never reached.
        assert masked[:, 0].any()
        assert masked[:, size - 2].any()
        assert not masked[:, size - 1].any()


def test_every_clip_has_its_own_stripes() -> None:
    torch.manual_seed(0)
    zero = SpecAugment(AugmentConfig(time_drop_width=20))(torch.ones(8, 16, 64)) == 0
    assert len({clip.numpy().tobytes() for clip in zero}) > 4


def test_a_stripe_wider_than_the_bins_leaves_some() -> None:
    torch.manual_seed(0)
    config = AugmentConfig(time_drop_width=1000, freq_drop_width=1000, freq_stripes=1)
    bins = torch.ones(200, 6, 9)
    out = SpecAugment(config)(bins)
    assert (out.sum(dim=(1, 2)) > 0).any()
    none = AugmentConfig(time_stripes=0, freq_stripes=0)
    assert torch.equal(SpecAugment(none)(bins), bins)


def test_mixup() -> None:
    torch.manual_seed(0)
    mixup = Mixup(0.5)
    image = torch.rand(5, 1, 3, 4)
    out = mixup(image)
    assert mixup.share is not None
    assert len(set(mixup.share.tolist())) == 5
    for clip in range(5):
        share = float(mixup.share[clip])
        assert 0 <= share <= 1
        expected = share * image[clip] + (1 - share) * image[4 - clip]
        torch.testing.assert_close(out[clip], expected)
    assert torch.equal(mixup.eval()(image), image)
    assert mixup.share is None


def test_mixup_draws_from_beta() -> None:
    torch.manual_seed(0)
    mixup = Mixup(0.5)
    mixup(torch.zeros(20_000, 1))
    assert mixup.share is not None
    # Beta(a, a) has mean 1/2 and variance 1 / (8 a + 4): 1/8 here.
    assert mixup.share.mean().item() == pytest.approx(0.5, abs=0.01)
    assert mixup.share.var().item() == pytest.approx(1 / 8, abs=0.003)


def test_drop_path() -> None:
    """Whole clips are dropped at the given rate, and the mean is preserved."""
    torch.manual_seed(0)
    branch = torch.ones(20_000, 2, 3)
    out = DropPath(0.3)(branch)
    kept = out[:, 0, 0] != 0
    assert torch.equal(out, (kept / torch.tensor(0.7))[:, None, None].expand(-1, 2, 3))
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.015)
    assert torch.equal(DropPath(0.3).eval()(branch), branch)
    assert torch.equal(DropPath(0.0)(branch), branch)


@pytest.fixture
def encoder() -> AudioEncoder:
    return AudioEncoder(PengiConfig.from_dict(_model(MODEL)))


def test_prepared_encoder(encoder: AudioEncoder) -> None:
    keys = set(encoder.state_dict())
    mixup = prepare_augmentation(encoder, AugmentConfig(mixup_alpha=0.5, drop_path=0.3))
    assert set(encoder.state_dict()) == keys
    rates = [part.rate for part in encoder.modules() if isinstance(part, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert encoder.mel.mix is mixup
    assert isinstance(encoder.mel.augment, SpecAugment)


def test_evaluation_ignores_augmentation(encoder: AudioEncoder) -> None:
    wave = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (3, 8000))).float()
    with torch.no_grad():
        plain = encoder.eval()(wave)
        prepare_augmentation(encoder, AugmentConfig(mixup_alpha=0.5, drop_path=0.3))
        encoder.eval()
        assert torch.equal(encoder(wave), plain)
        trained = encoder.train()(wave)
    assert not torch.allclose(trained, plain)


def test_without_augmentation_nothing_is_replaced(encoder: AudioEncoder) -> None:
    assert prepare_augmentation(encoder, AugmentConfig(spec_augment=False)) is None
    for place in (encoder.mel.augment, encoder.mel.mix):
        assert isinstance(place, torch.nn.Identity)
