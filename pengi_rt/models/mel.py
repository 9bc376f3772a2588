"""The log-mel front end: from a waveform to the folded image that HTSAT reads.

STFT power, Slaney mel bank, decibels, batch norm over the mel bins, a bicubic stretch of time, and
a fold of the long spectrogram into a square. It matches torchlibrosa in the released HTSAT, with
the STFT's kernels and the mel bank read from the checkpoint.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pengi_rt.config.parts import MelConfig
from pengi_rt.config.pengi import PengiConfig

F64 = NDArray[np.float64]

FLOOR = 1e-10  # lower power is raised to this: silence is -100 dB


class LogMel(nn.Module):
    """Maps a waveform [B, clip_samples] to an image [B, 1, spec_size, spec_size], float32."""

    stft_real: Tensor
    stft_imag: Tensor
    mel_bank: Tensor
    stretch: Tensor

    def __init__(self, config: PengiConfig) -> None:
        super().__init__()
        self.mel = config.mel
        self.spec_size = config.htsat.spec_size
        real, imag = dft_kernels(config.mel.n_fft)
        self.register_buffer("stft_real", real)
        self.register_buffer("stft_imag", imag)
        self.register_buffer("mel_bank", slaney_bank(config.mel))
        self.bn = nn.BatchNorm1d(config.mel.n_mels)
        # Hooks for the trainer: SpecAugment, then mixup, as released.
        self.augment: nn.Module = nn.Identity()
        self.mix: nn.Module = nn.Identity()
        matrix = stretch_matrix(config.mel_frames, config.image_frames)
        self.register_buffer("stretch", matrix, persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        return self.fold(self.log_mel(wave))

    def log_mel(self, wave: Tensor) -> Tensor:
        """Compute decibels [B, frames, n_mels], before the batch norm. There is no top_db."""
        pad = self.mel.n_fft // 2
        padded = F.pad(wave[:, None], (pad, pad), mode="reflect")
        real = F.conv1d(padded, self.stft_real, stride=self.mel.hop_length)
        imag = F.conv1d(padded, self.stft_imag, stride=self.mel.hop_length)
        power = real * real + imag * imag
        return 10.0 * torch.log10((power.mT @ self.mel_bank).clamp(min=FLOOR))

    def fold(self, log_mel: Tensor) -> Tensor:
        """Fold [B, frames, n_mels] into the image: strips of time, stacked along frequency.

        ``augment`` gets the normalized bins [B, n_mels, frames] and ``mix`` the image; both are the
        identity unless a trainer replaces them. The released mixup comes before the stretch and the
        fold, but both are linear, so the result is the same.
        """
        bins = self.augment(self.bn(log_mel.mT))
        stretched = bins @ self.stretch.mT
        strips = stretched.unflatten(2, (-1, self.spec_size)).transpose(1, 2)
        image: Tensor = self.mix(strips.flatten(1, 2)[:, None])
        return image


def dft_kernels(n_fft: int) -> tuple[Tensor, Tensor]:
    """Cosine and minus sine with a periodic Hann window, both [n_fft / 2 + 1, 1, n_fft] float32."""
    n = torch.arange(n_fft, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * torch.pi * n / n_fft)
    # k * n is reduced mod n_fft in integers, to keep the phase small and exact.
    k = torch.arange(n_fft // 2 + 1)
    phase = 2 * torch.pi / n_fft * (k[:, None] * torch.arange(n_fft) % n_fft).double()
    real, imag = torch.cos(phase) * window, -torch.sin(phase) * window
    return real.float()[:, None], imag.float()[:, None]


def slaney_bank(config: MelConfig) -> Tensor:
    """Area-normalized triangles on Slaney's mel scale, [n_fft / 2 + 1, n_mels] float32."""
    low, high = _hz_to_mel(np.array([config.fmin, config.fmax]))
    edges = _mel_to_hz(np.linspace(low, high, config.n_mels + 2))
    hertz = np.arange(config.n_fft // 2 + 1)[:, None] * config.filter_rate / config.n_fft
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (hertz - left) / (center - left)
    falling = (right - hertz) / (right - center)
    # Rounded to float32 before normalizing, as in librosa: equals the published bank bit for bit.
    triangles = np.minimum(rising, falling).clip(min=0).astype(np.float32)
    return torch.from_numpy((triangles * 2.0 / (right - left)).astype(np.float32))


def stretch_matrix(frames: int, image_frames: int) -> Tensor:
    """PyTorch's bicubic interpolation (align_corners) as a matrix [image_frames, frames].

    Unlike a resize operator, a matrix product is exact and available in every runtime.
    """
    identity = torch.eye(frames, dtype=torch.float64)[None, None]
    size = (image_frames, frames)
    return F.interpolate(identity, size, mode="bicubic", align_corners=True)[0, 0].float()


# Slaney's scale: linear up to 1 kHz (200/3 Hz per mel), then 27 steps per factor of 6.4.
_BREAK_HZ = 1000.0
_HZ_PER_MEL = 200.0 / 3.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


def _hz_to_mel(hertz: F64) -> F64:
    above = _BREAK_MEL + np.log(np.maximum(hertz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hertz < _BREAK_HZ, hertz / _HZ_PER_MEL, above)


def _mel_to_hz(mel: F64) -> F64:
    above = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _HZ_PER_MEL, above)
