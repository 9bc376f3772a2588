"""Statistics of a recording's samples, and warnings if they are probably not sound."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

STILL: Final = 2 / 2**15
"""Samples this close to one value (-84 dBFS, two 16-bit steps) are at most dither."""

LOUD: Final = 16.0
"""A peak above which samples are not floats with full scale 1. 32-bit float recorders leave about
20 dB of headroom above full scale, a peak of 10; 16-bit integers exceed 16 from -66 dBFS on."""

CANCELED: Final = 0.01
"""Channels are in anti-phase if their average has less than this (-20 dB) of their energy. With 32
uncorrelated channels, or one among 31 silent ones, it has 1/32; with the widest stereo, more."""

_WHOLE = 2.0  # from this peak on, samples that are all whole numbers are integers, even if quiet
_GLANCE = 1024  # frames of a block that are checked before the rest


class Statistics:
    """Peaks and sums of a recording, block by block, in constant memory.

    Pass each block of samples once, in order, before the channels are mixed. Checks that cost more
    than a sum end with the first block that disproves them.
    """

    def __init__(self) -> None:
        self._frames = 0
        self._peak = 0.0
        self._whole = True  # all samples so far are whole numbers
        self._still = True  # no channel has moved so far; its range, one row per channel:
        self._low: F32 | None = None
        self._high: F32 | None = None
        self._sums: NDArray[np.float64] | float = 0.0  # per channel
        self._energy = 0.0  # of all channels
        self._mixed = 0.0  # of the average of the channels

    def update(self, block: F32) -> None:
        """Add a block ``[channels, n]`` with full scale 1; the number of channels never changes."""
        if not block.shape[1]:
            return
        self._frames += block.shape[1]
        with np.errstate(all="ignore"):  # NaN and infinities are refused elsewhere
            self._peak = max(self._peak, float(block.max()), -float(block.min()))
            for part in (block[:, :_GLANCE], block[:, _GLANCE:]):
                self._compare(part)
            if len(block) > 1:
                self._add(block)

    def _compare(self, block: F32) -> None:
        """Update the checks that a single sample disproves."""
        if self._whole:
            self._whole = bool((np.rint(block) == block).all())
        if self._still and block.size:
            low, high = block.min(axis=1), block.max(axis=1)
            self._low = low if self._low is None else np.minimum(self._low, low)
            self._high = high if self._high is None else np.maximum(self._high, high)
            self._still = bool((self._high - self._low <= 2 * STILL).all())

    def _add(self, block: F32) -> None:
        """Add sums and energies by products: NumPy's sums along an axis take ten times as long."""
        channels, frames = block.shape
        flat = block.ravel(order="K")
        mixed = np.full(channels, 1 / channels, np.float32) @ block
        self._energy += float(flat @ flat)
        self._mixed += float(mixed @ mixed)
        self._sums = self._sums + (block @ np.ones(frames, np.float32)).astype(np.float64)

    def warnings(self, *, mixed: bool = True) -> tuple[str, ...]:
        """What may be wrong with the whole recording, one line each; usually empty.

        Args:
            mixed: whether the channels are averaged (``long_audio="compat"`` puts them end to end).
        """
        lines = (self._scale(), self._silence(), self._canceled() if mixed else "")
        return tuple(filter(None, lines))

    def _scale(self) -> str:
        peak = self._peak
        if not (peak > LOUD or (peak >= _WHOLE and self._whole)):
            return ""
        bits = next((bits for bits in (16, 24) if peak <= 1.5 * 2 ** (bits - 1)), 32)
        return (
            f"samples reach {peak:.6g}, and full scale is 1: they look like integers; divide them "
            f"by {2 ** (bits - 1)} if they had {bits} bits"
        )

    def _silence(self) -> str:
        if not self._still or self._low is None:
            return ""
        if self._peak == 0:
            return "silence: every sample is 0"
        if self._peak <= STILL:
            level = 20 * math.log10(self._peak)
            return f"silence: its loudest sample is at {level:.0f} dBFS; check its level"
        values = ", ".join(f"{value:.4g}" for value in self._low[:4])
        return f"no sound: its samples stay at one value ({values})"

    def _canceled(self) -> str:
        """Compare the energies around the mean: a constant offset is not sound."""
        sums = np.atleast_1d(self._sums)
        channels = len(sums)
        if channels < 2 or self._still:
            return ""
        constant = float((sums**2).sum()) / self._frames
        energy = (self._energy - constant) / channels
        mixed = self._mixed - (float(sums.sum()) / channels) ** 2 / self._frames
        if not mixed < CANCELED * energy:  # true for NaN
            return ""
        level = f"{10 * math.log10(mixed / energy):.0f} dB" if mixed > 0 else "nothing"
        return (
            f"its channels are in anti-phase: their average, which the model hears, keeps {level} "
            "of them; invert one channel"
        )
