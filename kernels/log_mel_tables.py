"""The tables that the log-mel kernel (:mod:`pengi_rt.kernels.log_mel`) reads besides the waveform.

They are made once, on the host, from the buffers of the front end: the Fourier tables, folded in
the middle of the frame and cut to the bins in use; the mel bank in groups of bands; the stretch as
taps.
"""

import itertools
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SOURCES: Final = (32, 64)  # source frames of a tile
BINS: Final = 64  # bins per iteration of the outer loop
BANDS: Final = 32  # most bands per group; with more, operands spill
SAMPLES: Final = 16  # samples of half a frame per iteration of the inner loop
TAPS: Final = 4  # source frames that bicubic interpolation mixes
GROUP_BINS: Final = {32: 2 * BINS, 64: 1 << 20}  # small tiles split the bins too
TOLERANCE: Final = 1e-6  # a few roundings of a table's values, which are up to 1
DECIBELS: Final = 3.010299956639812  # decibels of a doubling: 10 log10(2)


class Cut(NamedTuple):
    """How the work is cut for one size of tile: tiles along time, groups along frequency.

    Attributes:
        step: image frames per tile.
        groups: [groups, 4] int32: first and end of the mel bands, first and end of the bins.
    """

    step: int
    groups: Tensor


class LogMelTables(NamedTuple):
    """Tables for one model; bins are counted from the first one that the mel bank reads.

    Attributes:
        basis: [2, bins, n_fft / 2] float32: cosine and sine, window included, from the middle of
            the frame (column 0) to its start. The middle, which both halves contain, counts half.
        bank: [bins, n_mels] float32. Both end in rows of zeros, so that loads need no mask.
        scale: [n_mels] float32; a normalized level is ``log2(energy) * scale + shift``.
        shift: [n_mels] float32.
        first: [image_frames] int32: the first of the 4 source frames that an image frame mixes.
        taps: [image_frames, 4] float32: their weights.
        cuts: how the work is cut, by the source frames of a tile.
        frames: source frames of a clip.
        hop_length: samples between two of them.
        spec_size: pixels along a side of the image.
    """

    basis: Tensor
    bank: Tensor
    scale: Tensor
    shift: Tensor
    first: Tensor
    taps: Tensor
    cuts: dict[int, Cut]
    frames: int
    hop_length: int
    spec_size: int


def log_mel_tables(
    *,
    stft_real: Tensor,
    stft_imag: Tensor,
    mel_bank: Tensor,
    stretch: Tensor,
    scale: Tensor,
    shift: Tensor,
    hop_length: int,
    spec_size: int,
) -> LogMelTables:
    """Tables from the buffers of a front end, on the device where they are.

    Args:
        stft_real: [n_fft / 2 + 1, 1, n_fft], window included.
        stft_imag: like ``stft_real``.
        mel_bank: [n_fft / 2 + 1, n_mels].
        stretch: [image_frames, frames], with at most 4 neighboring frames per row.
        scale: [n_mels]; the batch norm of decibels is ``x * scale + shift``, best in float64.
        shift: like ``scale``.
        hop_length: samples.
        spec_size: pixels.

    Raises:
        ValueError: the kernel does not support a size, or the tables are not symmetric.
    """
    basis, bank = _used(_folded(stft_real, stft_imag), mel_bank.float())
    first, last, taps = _taps(stretch.float(), spec_size**2 / bank.shape[1])
    return LogMelTables(
        basis=F.pad(basis, (0, 0, 0, BINS)).contiguous(),
        bank=F.pad(bank, (0, 0, 0, BINS)),
        scale=(scale.double() * DECIBELS).float(),
        shift=shift.float(),
        first=first.int(),
        taps=taps,
        cuts={n: Cut(_step(first, last, n), _groups(bank, n)) for n in SOURCES},
        frames=stretch.shape[1],
        hop_length=hop_length,
        spec_size=spec_size,
    )


def _folded(stft_real: Tensor, stft_imag: Tensor) -> Tensor:
    """Both tables from the middle of the frame to its start, [2, bins, n_fft / 2]."""
    if stft_real.shape[-1] % (2 * SAMPLES):
        raise ValueError(f"n_fft must be a multiple of {2 * SAMPLES}, got {stft_real.shape[-1]}")
    tables = torch.cat([stft_real, stft_imag], 1).float().transpose(0, 1)
    # Sample n mirrors sample n_fft - n; sample 0 has no mirror, and a Hann window is 0 there.
    mirrored = tables.flip(-1).roll(1, -1) * tables.new_tensor([1, -1])[:, None, None]
    error = float(torch.maximum((tables - mirrored).abs().amax(), tables[..., 0].abs().amax()))
    if not error <= TOLERANCE:
        raise ValueError(
            "stft_real and stft_imag must be even and odd around the middle of the frame and 0 at "
            f"sample 0, as a Hann window makes them, but are off by {error:.3g}: use PyTorch's "
            "front end for this checkpoint"
        )
    folded = tables[..., 1 : tables.shape[-1] // 2 + 1].flip(-1)
    folded[..., 0] *= 0.5
    return folded


def _used(basis: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """The bins from the first to the last one that the bank reads."""
    read = bank.any(1).nonzero().flatten().tolist() or [0]
    used = slice(read[0], read[-1] + 1)
    return basis[:, used], bank[used]


def _groups(bank: Tensor, source: int) -> Tensor:
    """Neighboring bands in groups; a band that alone has too many bins is its own group."""
    groups: list[list[int]] = []
    for band, column in enumerate(bank.T.cpu()):
        bins = column.nonzero().flatten().tolist()
        span = [bins[0], bins[-1] + 1] if bins else [0, 0]
        if groups and bins and groups[-1][3]:
            start, _, low, high = groups[-1]
            low, high = min(low, span[0]), max(high, span[1])
            if band - start < BANDS and high - low <= GROUP_BINS[source]:
                groups[-1] = [start, band + 1, low, high]
                continue
        groups.append([band, band + 1, *span])
    return torch.tensor(groups, dtype=torch.int32, device=bank.device)


def _taps(stretch: Tensor, rows: float) -> tuple[Tensor, Tensor, Tensor]:
    """The first and last source frame that every image frame mixes, and its 4 weights."""
    if len(stretch) != rows:
        raise ValueError(f"stretch must make the {rows:g} frames of the image, got {len(stretch)}")
    frames = torch.arange(stretch.shape[1], device=stretch.device)
    used = stretch != 0
    first = torch.where(used, frames, len(frames)).amin(1)
    last = torch.where(used, frames, -1).amax(1)
    # A row that falls exactly on a frame mixes only that one; the others get weight 0.
    first, last = first.flip(0).cummin(0).values.flip(0), last.cummax(0).values
    if not ((last >= first) & (last - first < TAPS)).all():
        raise ValueError(f"stretch must mix 1 to {TAPS} neighbors in a row, in the order of time")
    columns = first[:, None] + torch.arange(TAPS, device=stretch.device)
    taps = stretch.gather(1, columns.clamp(max=len(frames) - 1))
    return first, last, taps * (columns < len(frames))


def _step(first: Tensor, last: Tensor, source: int) -> int:
    """Image frames of the longest tile that never mixes more than ``source`` source frames."""
    firsts, lasts = first.tolist(), last.tolist()

    def fits(step: int) -> bool:
        starts, ends = firsts[::step], [*lasts[step - 1 :: step], lasts[-1]]
        return all(end - start < source for start, end in zip(starts, ends, strict=False))

    return next(filter(fits, itertools.count(source, -1)))
