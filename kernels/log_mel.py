r"""The log-mel front end in one launch: from the waveform to the image that HTSAT reads.

A frame of the centered STFT is symmetric around sample :math:`c` = frame * hop, and so is its Hann
window. With :math:`x` reflected at both ends, bin :math:`k` is

.. math:: \sum_{j=0}^{N/2-1} \cos_{kj}\,(x_{c-j} + x_{c+j}) + i \sin_{kj}\,(x_{c-j} - x_{c+j}),

half the arithmetic of the dense transform in the released HTSAT (torchlibrosa), and only for the
bins that the mel bank reads. Then follow power, mel bank, decibels, batch norm, bicubic stretch (4
taps) and the fold of time into strips. A program makes a tile of image frames for a group of mel
bands; it recomputes the few frames and bins that it shares with its neighbors.

Shapes: wave float32 [B, samples], image [B, 1, S, S] in float32, float16 or bfloat16. All
arithmetic is float32: a level of -100 dB beside a full tone is the difference of large sums.

Source: Chen et al., *HTS-AT*, ICASSP 2022, after torchlibrosa's ``LogmelFilterBank``.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import DTYPES, Launch, on_meta
from pengi_rt.kernels.log_mel_tables import (
    BANDS,
    BINS,
    SAMPLES,
    SOURCES,
    TAPS,
    Cut,
    LogMelTables,
)
from pengi_rt.kernels.log_mel_tiles import SCHEDULES, LogMelProblem, tiles
from pengi_rt.kernels.tuning import choose_tile
from pengi_rt.kernels.tuning_file import Tile

EXTENTS: Final = (
    *("samples", "hop", "frames", "bins", "bands", "image_frames", "step", "spec_size"),
)


@triton.jit(do_not_specialize=EXTENTS)
def log_mel_kernel(
    p_wave: tl.tensor,
    p_basis: tl.tensor,
    p_bank: tl.tensor,
    p_scale: tl.tensor,
    p_shift: tl.tensor,
    p_first: tl.tensor,
    p_taps: tl.tensor,
    p_groups: tl.tensor,
    p_out: tl.tensor,
    samples: tl.tensor,
    hop: tl.tensor,
    frames: tl.tensor,
    bins: tl.tensor,
    bands: tl.tensor,
    image_frames: tl.tensor,
    step: tl.tensor,
    spec_size: tl.tensor,
    HALF: tl.constexpr,
    SOURCE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_BANDS: tl.constexpr,
    BLOCK_J: tl.constexpr,
    TAPS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """``step`` image frames of a group of bands of one clip, from ``SOURCE`` source frames.

    Blocks are ``BLOCK_K`` bins, ``BLOCK_BANDS`` mel bands and ``BLOCK_J`` samples.
    """
    i_t = tl.program_id(0) * step
    p_groups += tl.program_id(1) * 4
    i_b = tl.program_id(2).to(tl.int64)
    o_s = tl.arange(0, SOURCE)
    start = tl.load(p_first + i_t)
    # Beyond the last frame a tile repeats it: no tap reads those, and no load needs a mask.
    center = tl.minimum(start + o_s, frames - 1)[:, None] * hop
    last = samples - 1
    p_wave += i_b * samples
    o_band = tl.load(p_groups) + tl.arange(0, BLOCK_BANDS)
    m_band = o_band < tl.load(p_groups + 1)
    energy = tl.zeros((SOURCE, BLOCK_BANDS), tl.float32)
    for k_start in range(tl.load(p_groups + 2), tl.load(p_groups + 3), BLOCK_K):
        o_k = k_start + tl.arange(0, BLOCK_K)
        p_cosine = p_basis + o_k[None, :] * HALF
        real = tl.zeros((SOURCE, BLOCK_K), tl.float32)
        imag = tl.zeros((SOURCE, BLOCK_K), tl.float32)
        for j_start in range(0, HALF, BLOCK_J):
            o_j = j_start + tl.arange(0, BLOCK_J)
            before = tl.load(p_wave + last - tl.abs(last - tl.abs(center - o_j[None, :])))
            after = tl.load(p_wave + last - tl.abs(last - center - o_j[None, :]))
            cosine = tl.load(p_cosine + o_j[:, None])
            sine = tl.load(p_cosine + bins * HALF + o_j[:, None])
            real = tl.dot(before + after, cosine, real, input_precision=PRECISION)
            imag = tl.dot(before - after, sine, imag, input_precision=PRECISION)
        # A dot of three passes keeps its operands in registers, where only half of them fit.
        even, odd = tl.split(tl.reshape(real * real + imag * imag, (SOURCE, BLOCK_K // 2, 2)))
        o_even = k_start + tl.arange(0, BLOCK_K // 2) * 2
        p_row = p_bank + o_even[:, None] * bands + o_band[None, :]
        bank = tl.load(p_row, mask=m_band[None, :], other=0.0)
        energy = tl.dot(even, bank, energy, input_precision=PRECISION)
        bank = tl.load(p_row + bands, mask=m_band[None, :], other=0.0)
        energy = tl.dot(odd, bank, energy, input_precision=PRECISION)

    scale = tl.load(p_scale + o_band, mask=m_band, other=0.0)
    shift = tl.load(p_shift + o_band, mask=m_band, other=0.0)
    # A NaN stays NaN, as in PyTorch's clamp, and does not turn into silence.
    energy = tl.maximum(energy, 1e-10, propagate_nan=tl.PropagateNan.ALL)
    level = tl.log2(energy) * scale[None, :] + shift[None, :]

    o_t = i_t + o_s
    m_t = (o_s < step) & (o_t < image_frames)
    first = tl.load(p_first + o_t, mask=m_t, other=0) - start
    stretch = tl.zeros((SOURCE, SOURCE), tl.float32)
    for i_tap in tl.static_range(TAPS):
        tap = tl.load(p_taps + o_t * TAPS + i_tap, mask=m_t, other=0.0)
        stretch += tl.where((first + i_tap)[:, None] == o_s[None, :], tap[:, None], 0.0)
    image = tl.dot(stretch, level, input_precision=PRECISION)
    row = (o_t // spec_size * bands)[:, None] + o_band[None, :]
    p_image = p_out + i_b * spec_size * spec_size + row * spec_size + (o_t % spec_size)[:, None]
    tl.store(p_image, image.to(p_out.dtype.element_ty), mask=m_t[:, None] & m_band[None, :])


def log_mel(
    wave: Tensor,
    tables: LogMelTables,
    out: Tensor | None = None,
    *,
    source: int | None = None,
    precision: str = "tf32x3",
) -> Tensor:
    """Compute HTSAT's images of waveforms.

    Args:
        wave: [B, samples] float32, contiguous.
        tables: the model's, on the same device.
        out: [B, 1, S, S], contiguous; written instead of a new float32 tensor.
        source: source frames of a tile, 32 or 64, instead of what suits the batch.
        precision: of the products: ``"tf32x3"`` (tensor cores, within one bit of float32) or
            ``"ieee"``.

    Raises:
        ValueError: a shape, dtype, device or memory layout does not fit.
    """
    if out is None:
        out = wave.new_empty(len(wave), 1, tables.spec_size, tables.spec_size)
    _check(wave, tables, out)
    problem = LogMelProblem(
        out=out.dtype,
        precision=precision,
        B=len(wave),
        frames=tables.frames,
        half=tables.basis.shape[2],
        bands=tables.bank.shape[1],
        size=tables.spec_size,
        source=source,
    )

    def run(tile: Tile) -> None:
        _launch(wave, tables, out, precision, tile).run()

    run(choose_tile("log_mel", problem, tiles(len(wave), tables, source), run, wave.device))
    return out


def _launch(wave: Tensor, tables: LogMelTables, out: Tensor, precision: str, tile: Tile) -> Launch:
    source, warps, stages = tile
    step, groups = tables.cuts[source]
    image_frames = len(tables.first)
    bins, bands = tables.bank.shape
    return Launch(
        kernel=log_mel_kernel,
        grid=(triton.cdiv(image_frames, step), len(groups), len(wave)),
        arguments={
            "p_wave": wave,
            "p_basis": tables.basis,
            "p_bank": tables.bank,
            "p_scale": tables.scale,
            "p_shift": tables.shift,
            "p_first": tables.first,
            "p_taps": tables.taps,
            "p_groups": groups,
            "p_out": out,
            "samples": wave.shape[1],
            "hop": tables.hop_length,
            "frames": tables.frames,
            "bins": bins,
            "bands": bands,
            "image_frames": image_frames,
            "step": step,
            "spec_size": tables.spec_size,
        },
        constexprs={
            "HALF": tables.basis.shape[2],
            "SOURCE": source,
            "BLOCK_K": BINS,
            "BLOCK_BANDS": min(BANDS, max(16, triton.next_power_of_2(bands))),
            "BLOCK_J": SAMPLES,
            "TAPS": TAPS,
            "PRECISION": precision,
        },
        warps=warps,
        stages=stages,
    )


def _check(wave: Tensor, tables: LogMelTables, out: Tensor) -> None:
    """Raise ValueError unless they fit; the reflection needs more samples than half a frame."""
    frames = wave.shape[-1] // tables.hop_length + 1
    if wave.dtype != torch.float32 or wave.ndim != 2 or frames != tables.frames:
        wanted = f"[B, samples] float32 of {tables.frames} frames"
        raise ValueError(f"wave must be {wanted}, got {tuple(wave.shape)} {wave.dtype}")
    if wave.shape[1] <= tables.basis.shape[2]:
        half = tables.basis.shape[2]
        raise ValueError(f"wave must be longer than half a frame ({half}), got {wave.shape[1]}")
    shape = (len(wave), 1, tables.spec_size, tables.spec_size)
    if out.shape != shape or out.dtype not in DTYPES:
        wanted = f"{shape} in {', '.join(DTYPES.values())}"
        raise ValueError(f"out must be {wanted}, got {tuple(out.shape)} {out.dtype}")
    for name, tensor in (("wave", wave), ("out", out)):
        if not tensor.is_contiguous() or tensor.device != tables.bank.device:
            where = f"contiguous on {tables.bank.device} (where the tables are)"
            raise ValueError(f"{name} must be {where}, got {tensor.stride()} on {tensor.device}")


def log_mel_reference(wave: Tensor, tables: LogMelTables, out: Tensor | None = None) -> Tensor:
    """:func:`log_mel` in plain PyTorch, in the dtype of ``wave`` and of the tables."""
    half = tables.basis.shape[2]
    windows = F.pad(wave[:, None], (half, half), mode="reflect")[:, 0]
    windows = windows.unfold(1, 2 * half, tables.hop_length)
    before, after = windows[..., 1 : half + 1].flip(-1), windows[..., half:]
    real, imag = (before + after) @ tables.basis[0].T, (before - after) @ tables.basis[1].T
    energy = (real * real + imag * imag) @ tables.bank
    level = energy.clamp(min=1e-10).log2() * tables.scale + tables.shift
    columns = tables.first[:, None] + torch.arange(TAPS, device=wave.device)
    mixed = level[:, columns.clamp(max=tables.frames - 1)] * tables.taps[..., None]
    strips = mixed.sum(2).mT.unflatten(2, (-1, tables.spec_size)).transpose(1, 2)
    image = strips.flatten(1, 2)[:, None]
    return image if out is None else out.copy_(image)


def builds() -> tuple[Build, ...]:
    """Full-size base: both sizes of tile, for every dtype of the image."""
    found = []
    for source in SOURCES:
        tile = (source, *SCHEDULES[source][0])
        for dtype, name in DTYPES.items():
            launch = _launch(on_meta(1, 1), _meta_tables(), on_meta(1, dtype=dtype), "tf32x3", tile)
            found.append(launch.build(f"log_mel {name} {source}"))
    return tuple(found)


def _meta_tables() -> LogMelTables:
    """Tables of base's frame and bands; the other sizes are not compiled into the kernel."""
    one, ints = on_meta(1), on_meta(1, dtype=torch.int32)
    cuts = dict.fromkeys(SOURCES, Cut(1, ints))
    basis, bank = on_meta(2, 1, 512), on_meta(1, 64)
    return LogMelTables(basis, bank, one, one, ints, one, cuts, frames=1, hop_length=1, spec_size=1)
