"""Resampling: soxr for our own policies, the released wrapper's filter for ``compat``."""

import math

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

LOWPASS_WIDTH = 6  # zero crossings of the sinc on each side
ROLLOFF = 0.99  # of the lower Nyquist frequency


def resample_soxr(samples: F32, rate: int, new_rate: int) -> F32:
    """Float32 ``[frames]`` at ``rate`` Hz to ``new_rate`` Hz, soxr quality VHQ.

    VHQ keeps 28 bits, more than float32 holds; it costs a quarter more than HQ (57 against 45 ms
    for a minute of 48 kHz audio, one thread).
    """
    if rate == new_rate:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, rate, new_rate, quality="VHQ"), np.float32)


def resample_torchaudio(samples: F32, rate: int, new_rate: int) -> F32:
    """Float32 ``[channels, frames]`` at ``rate`` Hz, resampled as torchaudio's ``Resample`` does.

    With its defaults: a sinc of 6 zero crossings a side under a squared cosine, rolloff 0.99. The
    filter repeats every ``new_rate / gcd`` outputs; of each phase only the taps inside the window
    are computed, so that rates without a common divisor cost no more than others. Equal to the
    original within float32 rounding (1e-6).

    Source: torchaudio.functional.resample (``sinc_interp_hann``), J. O. Smith's digital audio
    resampling.
    """
    if rate == new_rate:
        return samples
    divisor = math.gcd(rate, new_rate)
    stride, phases = rate // divisor, new_rate // divisor
    kernel, first = _sinc_kernel(stride, phases)
    taps = kernel.shape[1]
    margin = taps // 2 - 1
    channels, frames = samples.shape
    padded = np.pad(samples, ((0, 0), (margin, margin + stride + 1)))
    spans = np.lib.stride_tricks.sliding_window_view(padded, taps, axis=1)
    rows = frames // stride + 1
    out = np.empty((channels, rows, phases), np.float32)
    for phase in range(phases):
        out[:, :, phase] = spans[:, first[phase] :: stride][:, :rows] @ kernel[phase]
    # torchaudio computes the length as a float32 too, which decides it for one fraction in many.
    length = math.ceil(np.float32(phases * frames / stride))
    return out.reshape(channels, -1)[:, :length]


def _sinc_kernel(stride: int, phases: int) -> tuple[F32, NDArray[np.int64]]:
    """The filter of each phase ``[phases, taps]`` and the offset of its first tap ``[phases]``.

    Phase ``j`` is centred ``j * stride / phases`` samples into its stride.
    """
    base = ROLLOFF * min(stride, phases)
    margin = math.ceil(LOWPASS_WIDTH * stride / base)
    phase = np.arange(phases)
    first = phase * stride // phases
    tap = first[:, None] + np.arange(-margin, margin + 2)
    # torchaudio divides the phase in float32; in float64 its output would differ by up to 5e-4.
    centre = phase.astype(np.float32) / np.float32(phases)
    t = (tap / stride - centre[:, None].astype(np.float64)) * base
    t = np.clip(t, -LOWPASS_WIDTH, LOWPASS_WIDTH)
    window = np.cos(t * (np.pi / (2 * LOWPASS_WIDTH))) ** 2
    kernel = np.sinc(t) * window * (base / stride)
    return kernel.astype(np.float32), first
