"""The log-mel front end against the released code's own dB, FFTs, and PyTorch's interpolation."""

import dataclasses
from copy import deepcopy

import numpy as np
import pytest
import torch
from golden import PAIRS, meta, pair, waveform
from torch import Tensor, nn
from torch.nn import functional as F

from pengi_rt.config.parts import MelConfig
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.mel import LogMel, dft_kernels, slaney_bank, stretch_matrix

BASE = PengiConfig.preset("base")
TINY = PengiConfig.preset("tiny")
CLIPS = {str(meta(pair(name))["audio"]): name for name in PAIRS}


@pytest.fixture(scope="module")
def base() -> LogMel:
    return LogMel(BASE).eval()


@pytest.mark.parametrize("clip", CLIPS)
def test_equals_the_released_decibels(base: LogMel, clip: str) -> None:
    """No weights needed: the stored transform and bank are what we compute (see below).

    Tolerance: ten times what the released code loses to float32, which is most (0.03 dB) where a
    bin holds next to nothing, and never below 1e-6 of the largest value. The mean may be off by
    twice what this processor loses to float32 (5e-7 to 2e-3 dB, by clip), plus 2e-5.
    """
    golden = pair(CLIPS[clip])
    lost = meta(golden)["max_abs_diff_float32_vs_float64"]["logmel"]
    expected = golden["logmel"]
    wave = torch.from_numpy(waveform(clip))[None]
    ours = base.log_mel(wave)[0].numpy()
    exact = deepcopy(base).double().log_mel(wave.double())[0].numpy()
    assert ours.shape == expected.shape == (965, 64)
    assert np.abs(ours - expected).max() <= max(10 * lost, 1e-6 * np.abs(expected).max())
    # A single bin may be that far off, but not all bins together.
    assert np.abs(ours - expected).mean() <= 2 * np.abs(ours - exact).mean() + 2e-5


def test_silence_is_exactly_the_floor(base: LogMel) -> None:
    assert torch.equal(base.log_mel(torch.zeros(1, 308_700)), torch.full((1, 965, 64), -100.0))


@pytest.mark.parametrize("n_fft", [16, 256, 1024])
def test_kernels_are_a_windowed_fft(n_fft: int) -> None:
    """float32 kernels against a float64 FFT: sums of n_fft products, each rounded to 6e-8."""
    frame = np.random.default_rng(n_fft).uniform(-1, 1, n_fft)
    expected = np.fft.rfft(frame * np.hanning(n_fft + 1)[:-1])
    real, imag = (kernel[:, 0].numpy() @ frame for kernel in dft_kernels(n_fft))
    np.testing.assert_allclose(real + 1j * imag, expected, atol=1e-7 * n_fft)


@pytest.mark.parametrize("config", [BASE.mel, TINY.mel], ids=["base", "tiny"])
def test_bank_is_slaneys(config: MelConfig) -> None:
    """Filter by filter in float64, from the definition. float32 rounds to 6e-8 of a value."""
    bank = slaney_bank(config).numpy()
    assert bank.shape == (config.n_fft // 2 + 1, config.n_mels)
    low, high = mel(config.fmin), mel(config.fmax)
    edges = [hertz(low + (high - low) * i / (config.n_mels + 1)) for i in range(config.n_mels + 2)]
    for band in range(config.n_mels):
        left, center, right = edges[band : band + 3]
        for k in range(config.n_fft // 2 + 1):
            f = k * config.filter_rate / config.n_fft
            slope = (f - left) / (center - left) if f < center else (right - f) / (right - center)
            expected = max(0.0, slope) * 2 / (right - left)
            assert bank[k, band] == pytest.approx(expected, rel=3e-7, abs=1e-12)


def mel(f: float) -> float:
    return 3 * f / 200 if f < 1000 else 15 + 27 * np.log(f / 1000) / np.log(6.4)


def hertz(m: float) -> float:
    return 200 * m / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27)


@pytest.mark.parametrize(("frames", "image_frames"), [(965, 1024), (201, 256), (7, 7), (3, 8)])
def test_stretch_is_pytorchs_bicubic(frames: int, image_frames: int) -> None:
    """Compared with the resize itself: four products per value, so a few float32 roundings."""
    bins = torch.randn(2, 5, frames, generator=torch.Generator().manual_seed(frames))
    expected = F.interpolate(
        bins[:, None].double(), (5, image_frames), mode="bicubic", align_corners=True
    )[:, 0]
    matrix = stretch_matrix(frames, image_frames)
    assert matrix.dtype == torch.float32
    torch.testing.assert_close((bins @ matrix.mT).double(), expected, atol=2e-6, rtol=0)


def test_fold_stacks_strips_of_time_along_frequency() -> None:
    """Row = strip * n_mels + bin, column = time within the strip."""
    # The image has the same number of frames, so the stretch is the identity.
    size, bins = TINY.htsat.spec_size, TINY.mel.n_mels
    seconds = (TINY.image_frames - 1) * TINY.mel.hop_length / TINY.mel.sample_rate
    config = dataclasses.replace(TINY, clip_seconds=seconds)
    assert config.mel_frames == config.image_frames
    module = LogMel(config).eval()
    log_mel = torch.randn(3, config.image_frames, bins)
    image = module.fold(log_mel)
    assert image.shape == (3, 1, size, size)
    scaled = log_mel / (1 + module.bn.eps) ** 0.5
    for clip, frame, band in ((0, 0, 0), (1, size - 1, 3), (1, size, bins - 1), (2, 3 * size, 5)):
        strip, column = divmod(frame, size)
        pixel = image[clip, 0, strip * bins + band, column]
        torch.testing.assert_close(pixel, scaled[clip, frame, band], atol=1e-5, rtol=0)


def test_batch_norm_is_over_mel_bins() -> None:
    module = LogMel(TINY).eval()
    mean, var = torch.arange(16.0) - 60, torch.arange(16.0) + 1
    assert module.bn.running_mean is not None
    assert module.bn.running_var is not None
    module.bn.running_mean.copy_(mean)
    module.bn.running_var.copy_(var)
    flat = (mean + 2 * (var + 1e-5).sqrt()).expand(1, TINY.mel_frames, 16)
    torch.testing.assert_close(
        module.fold(flat), torch.full((1, 1, 64, 64), 2.0).detach(), atol=1e-4, rtol=0
    )


class Scaled(nn.Module):
    """Multiplies its input by a known factor, keeping the shape."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.shape = torch.Size()

    def forward(self, x: Tensor) -> Tensor:
        self.shape = x.shape
        return x * self.factor + 1


def test_a_trainer_can_change_bins_and_image() -> None:
    """In the released order: bins after the batch norm, then the image."""
    module = LogMel(TINY).eval()
    names = list(module.state_dict())
    log_mel = torch.randn(2, TINY.mel_frames, 16)
    plain = module.fold(log_mel)
    module.augment, module.mix = Scaled(3.0), Scaled(5.0)
    changed = module.fold(log_mel)
    assert module.augment.shape == (2, 16, TINY.mel_frames)
    assert module.mix.shape == (2, 1, 64, 64)
    assert list(module.state_dict()) == names
    # The stretch keeps constants, up to the rounding of its rows' sums.
    torch.testing.assert_close(changed, (plain * 3 + 1) * 5 + 1, atol=1e-4, rtol=1e-5)


def test_clips_of_a_batch_are_independent(base: LogMel) -> None:
    waves = torch.from_numpy(np.stack([waveform(clip) for clip in ("clipping", "chirp_up")]))
    together = base(waves)
    for wave, image in zip(waves, together, strict=True):
        torch.testing.assert_close(base(wave[None])[0], image, atol=1e-4, rtol=1e-5)


def test_the_state_dict_holds_the_constants_but_not_the_stretch() -> None:
    state = LogMel(TINY).state_dict()
    assert {"stft_real", "stft_imag", "mel_bank", "bn.running_mean"} <= set(state)
    assert "stretch" not in state
