r"""The log-mel front end in one launch: waveform to the image that HTSAT reads.

A frame of the centred STFT stands symmetrically around sample :math:`c` = frame * hop, and so does
its Hann window. With :math:`x` reflected at both ends, bin :math:`k` is

.. math:: \sum_{j=0}^{N/2-1} \cos_{kj}\,(x_{c-j} + x_{c+j}) + i \sin_{kj}\,(x_{c-j} - x_{c+j}),

half the product of the dense transform that the released HTSAT (torchlibrosa) makes of its tables,
for only the bins that the mel bank reads. Then power, mel bank, decibels, batch norm, bicubic
stretch (4 taps) and the fold of time into strips. A program makes a tile of image frames for a
group of mel bands; it transforms again the few frames and bins that its neighbours read too.

Shapes: wave ``[B, samples]`` float32, image ``[B, 1, S, S]`` float32, float16 or bfloat16. All
arithmetic is float32: a level of -100 dB beside a full tone is the difference of large sums.
"""

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import DTYPES
from pengi_rt.kernels.log_mel_tables import BANDS, BINS, SAMPLES, SOURCES, TAPS, LogMelTables
from pengi_rt.kernels.tuning import chosen
from pengi_rt.kernels.tuning_file import Tile

INTEGERS: Final = (
    "samples", "hop", "frames", "bins", "bands", "image_frames", "step", "spec_size"
)  # fmt: skip
WAVE: Final = 128  # programs that keep a large GPU busy; its multiprocessors are 108 to 142
SCHEDULES: Final = {
    32: ((4, 2), (8, 2), (4, 1)),
    64: ((4, 2), (4, 1)),  # 8 warps repeat each other along 64 rows, and spill on an L40S
}
"""Warps and stages by the source frames of a tile, the table's first; one stage leaves registers
for a second program on the processor."""


@triton.jit(do_not_specialize=INTEGERS)
def log_mel_kernel(
    p_wave: tl.tensor, p_basis: tl.tensor, p_bank: tl.tensor, p_scale: tl.tensor,
    p_shift: tl.tensor, p_first: tl.tensor, p_taps: tl.tensor, p_groups: tl.tensor,
    p_out: tl.tensor, samples: tl.tensor, hop: tl.tensor, frames: tl.tensor, bins: tl.tensor,
    bands: tl.tensor, image_frames: tl.tensor, step: tl.tensor, spec_size: tl.tensor,
    HALF: tl.constexpr, SOURCE: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_J: tl.constexpr, TAPS: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Source frames ``SOURCE`` at once, ``BLOCK_K`` bins, ``BLOCK_M`` mel bands."""
    o_t = tl.program_id(0) * step
    p_groups += tl.program_id(1) * 4
    i_b = tl.program_id(2).to(tl.int64)
    i_s = tl.arange(0, SOURCE)
    start = tl.load(p_first + o_t)
    # A tile past the last frame repeats it: no tap reads those, and no load needs a mask.
    centre = tl.minimum(start + i_s, frames - 1)[:, None] * hop
    last = samples - 1
    p_wave += i_b * samples
    i_band = tl.load(p_groups) + tl.arange(0, BLOCK_M)
    m_band = i_band < tl.load(p_groups + 1)
    energy = tl.zeros((SOURCE, BLOCK_M), tl.float32)
    for o_k in range(tl.load(p_groups + 2), tl.load(p_groups + 3), BLOCK_K):
        i_k = o_k + tl.arange(0, BLOCK_K)
        p_cosine = p_basis + i_k[None, :] * HALF
        real = tl.zeros((SOURCE, BLOCK_K), tl.float32)
        imag = tl.zeros((SOURCE, BLOCK_K), tl.float32)
        for o_j in range(0, HALF, BLOCK_J):
            i_j = o_j + tl.arange(0, BLOCK_J)
            before = tl.load(p_wave + last - tl.abs(last - tl.abs(centre - i_j[None, :])))
            after = tl.load(p_wave + last - tl.abs(last - centre - i_j[None, :]))
            cosine = tl.load(p_cosine + i_j[:, None])
            sine = tl.load(p_cosine + bins * HALF + i_j[:, None])
            real = tl.dot(before + after, cosine, real, input_precision=PRECISION)
            imag = tl.dot(before - after, sine, imag, input_precision=PRECISION)
        # A dot of three passes keeps its operands in registers: by halves, they fit.
        even, odd = tl.split(tl.reshape(real * real + imag * imag, (SOURCE, BLOCK_K // 2, 2)))
        p_row = p_bank + (o_k + tl.arange(0, BLOCK_K // 2) * 2)[:, None] * bands + i_band[None, :]
        bank = tl.load(p_row, mask=m_band[None, :], other=0.0)
        energy = tl.dot(even, bank, energy, input_precision=PRECISION)
        bank = tl.load(p_row + bands, mask=m_band[None, :], other=0.0)
        energy = tl.dot(odd, bank, energy, input_precision=PRECISION)

    scale = tl.load(p_scale + i_band, mask=m_band, other=0.0)
    shift = tl.load(p_shift + i_band, mask=m_band, other=0.0)
    # A NaN stays one, as in PyTorch's clamp, and does not turn into silence.
    energy = tl.maximum(energy, 1e-10, propagate_nan=tl.PropagateNan.ALL)
    level = tl.log2(energy) * scale[None, :] + shift[None, :]

    i_t = o_t + i_s
    m_t = (i_s < step) & (i_t < image_frames)
    first = tl.load(p_first + i_t, mask=m_t, other=0) - start
    stretch = tl.zeros((SOURCE, SOURCE), tl.float32)
    for i_tap in tl.static_range(TAPS):
        tap = tl.load(p_taps + i_t * TAPS + i_tap, mask=m_t, other=0.0)
        stretch += tl.where((first + i_tap)[:, None] == i_s[None, :], tap[:, None], 0.0)
    image = tl.dot(stretch, level, input_precision=PRECISION)
    row = (i_t // spec_size * bands)[:, None] + i_band[None, :]
    p_image = p_out + i_b * spec_size * spec_size + row * spec_size + (i_t % spec_size)[:, None]
    tl.store(p_image, image.to(p_out.dtype.element_ty), mask=m_t[:, None] & m_band[None, :])


def log_mel_image(
    wave: Tensor,
    tables: LogMelTables,
    out: Tensor | None = None,
    *,
    source: int | None = None,
    precision: str = "tf32x3",
) -> Tensor:
    """Waveforms to HTSAT's images.

    Args:
        wave: ``[B, samples]`` float32, contiguous.
        tables: of the model, on the same device.
        out: written to instead of a new float32 tensor: ``[B, 1, S, S]``, contiguous.
        source: source frames of a tile, 32 or 64, instead of what suits the batch.
        precision: of the products: ``"tf32x3"`` (tensor cores, within a bit of float32) or
            ``"ieee"``.

    Raises:
        ValueError: a shape, dtype, device or memory layout is another.
    """
    size = tables.spec_size
    if out is None:
        out = wave.new_empty(len(wave), 1, size, size)
    _check(wave, tables, out)

    def run(tile: Tile) -> None:
        step, groups = tables.tiles[tile[0]]
        log_mel_kernel[(triton.cdiv(len(tables.first), step), len(groups), len(wave))](
            wave, tables.basis, tables.bank, tables.scale, tables.shift, tables.first, tables.taps,
            groups, out, wave.shape[1], tables.hop_length, tables.frames, *tables.bank.shape,
            len(tables.first), step, size, HALF=tables.basis.shape[2], PRECISION=precision,
            **_options(tile, tables.bank.shape[1]),
        )  # fmt: skip

    facts = {"out": out.dtype, "precision": precision, "B": len(wave), "frames": tables.frames,
             "half": tables.basis.shape[2], "bands": tables.bank.shape[1], "size": size,
             "source": source}  # fmt: skip
    run(chosen("log_mel", facts, _tiles(len(wave), tables, source), run, wave.device))
    return out


def _check(wave: Tensor, tables: LogMelTables, out: Tensor) -> None:
    """Of a batch. Enough samples for a frame's half is what the reflection needs."""
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


def log_mel_image_reference(
    wave: Tensor, tables: LogMelTables, out: Tensor | None = None
) -> Tensor:
    """:func:`log_mel_image` in plain PyTorch, in the dtype of ``wave`` and of the tables."""
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


def _source(batch: int, tables: LogMelTables) -> int:
    """Source frames of a tile: few while there are too few large tiles to go round.

    Predictions (arithmetic, not measured) for ``base`` on an H200, whose three passes of tf32 are
    165 TFLOP/s at best and whose L2 cache gives about 5.5 TB/s. One clip is 35 tiles x 5 groups of
    128 bins: 1.5 GFLOP, 9 us, and the basis from the cache once a tile, 92 MB, 17 us: the cache is
    the limit. 64 clips are 1024 tiles of 512 bins: 69 GFLOP, 0.42 ms, and 2.1 GB, 0.39 ms; in
    tiles of 32 they would take 94 GFLOP and 5.9 GB, 1.1 ms. DRAM alone would allow 0.02 ms.
    """
    step, groups = tables.tiles[64]
    programs = batch * triton.cdiv(len(tables.first), step) * len(groups)
    return 64 if programs >= WAVE else 32


def _tiles(batch: int, tables: LogMelTables, source: int | None) -> tuple[Tile, ...]:
    """Source frames, warps and stages: what suits the batch, and what may be faster."""
    first = source or _source(batch, tables)
    sizes = (first, *(size for size in SOURCES if source is None and size != first))
    return tuple((size, *schedule) for size in sizes for schedule in SCHEDULES[size])


def _options(tile: Tile, bands: int) -> dict[str, Any]:
    """What the kernel is specialised for, on every architecture."""
    source, warps, stages = tile
    return {
        "SOURCE": source,
        "BLOCK_K": BINS,
        "BLOCK_M": min(BANDS, max(16, triton.next_power_of_2(bands))),
        "BLOCK_J": SAMPLES,
        "TAPS": TAPS,
        "num_warps": warps,
        "num_stages": stages,
    }


def builds() -> tuple[Build, ...]:
    """Both tiles of ``base``, for every dtype of image."""
    pointers = ("p_wave", "p_basis", "p_bank", "p_scale", "p_shift", "p_taps")
    signature = dict.fromkeys(pointers, "*fp32") | dict.fromkeys(INTEGERS, "i32")
    signature |= {"p_first": "*i32", "p_groups": "*i32"}
    found = []
    for source in (32, 64):
        for kind in DTYPES.values():
            options = _options((source, *SCHEDULES[source][0]), 64)
            warps, stages = options.pop("num_warps"), options.pop("num_stages")
            found.append(
                Build(
                    name=f"log_mel {kind} {source}",
                    kernel=log_mel_kernel,
                    signature=signature | {"p_out": f"*{kind}"},
                    constexprs={"HALF": 512, "PRECISION": "tf32x3", **options},
                    num_warps=warps,
                    num_stages=stages,
                )
            )
    return tuple(found)
