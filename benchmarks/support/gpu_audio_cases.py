"""The kernels from the waveform to HTSAT's last stage, and the same work in PyTorch."""

import copy
from functools import cache, partial
from typing import Any, cast

import torch
from gpu_case import Case, Rival, Setting, Work, in_float64, size
from torch import Tensor, nn
from torch.nn import functional as F

from pengi_rt.backends.triton.audio import front_end_tables
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.kernels.log_mel import log_mel
from pengi_rt.kernels.log_mel_tables import LogMelTables
from pengi_rt.kernels.norm_linear import (
    linear_residual,
    linear_residual_reference,
    norm_linear,
    norm_linear_reference,
)
from pengi_rt.kernels.patch_merging import patch_merging, patch_merging_reference
from pengi_rt.kernels.window_attention import window_attention, window_attention_reference
from pengi_rt.models.htsat import relative_position_index, shift_mask
from pengi_rt.models.mel import FLOOR, LogMel


class FFTLogMel(nn.Module):
    """The front end with a fast Fourier transform, which the released one does not use."""

    window: Tensor

    def __init__(self, front: LogMel) -> None:
        super().__init__()
        self.front = front
        window = torch.hann_window(front.mel.n_fft, device=front.mel_bank.device)
        self.register_buffer("window", window)

    def forward(self, wave: Tensor) -> Tensor:
        spectrum = torch.stft(
            wave,
            self.front.mel.n_fft,
            self.front.mel.hop_length,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        level = 10.0 * torch.log10((power.mT @ self.front.mel_bank).clamp(min=FLOOR))
        image: Tensor = self.front.fold(level)
        return image


@cache
def front_end(config: PengiConfig, device: torch.device) -> LogMel:
    """A front end whose batch norm is like a random model's."""
    front = LogMel(config).eval().requires_grad_(False)
    assert front.bn.running_mean is not None
    assert front.bn.running_var is not None
    front.bn.running_mean.fill_(-20.0)
    front.bn.running_var.fill_(800.0)
    return front.to(device)


@cache
def front_tables(config: PengiConfig, device: torch.device) -> LogMelTables:
    return front_end_tables(front_end(config, device), device)


def front_end_work(setting: Setting) -> Work:
    config, device = setting.config, setting.device
    front, tables = front_end(config, device), front_tables(config, device)
    wave = setting.single(setting.batch, config.clip_samples, scale=0.1)
    out = setting.unwritten(setting.batch, 1, front.spec_size, front.spec_size, dtype=torch.float32)
    precision = "tf32x3" if wave.is_cuda else "ieee"
    used = int(front.mel_bank.any(1).sum())
    rows = setting.batch * config.mel_frames
    return Work(
        kernel=lambda: log_mel(wave, tables, out, precision=precision),
        result=lambda: out,
        exact=lambda: copy.deepcopy(front).double()(wave.double()),
        rivals={"convolution": Rival(front, (wave,)), "fft": Rival(FFTLogMel(front), (wave,))},
        nbytes=size(wave, out, tables.basis, tables.bank),
        # The folded transform of the bins in use, and the bank; every product in float32.
        flop=rows * (2 * 2 * used * config.mel.n_fft // 2 + 2 * used * config.mel.n_mels),
        peak="tf32",
        passes=3,
    )


def attend_by_hand(
    qkv: Tensor, bias: Tensor, *, heads: int, window: int, shift: int, fused: bool
) -> Tensor:
    """Roll, partition, attend, reverse, roll; ``bias`` [windows * heads, T, T] is precomputed.

    Windows are treated as heads, so that one copy partitions and the bias is read as it is.
    """
    side, batch = qkv.shape[1] // window, len(qkv)
    x = qkv.roll((-shift, -shift), (1, 2)) if shift else qkv
    x = x.view(batch, side, window, side, window, 3, heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = x.reshape(3, batch, side**2 * heads, window**2, -1).unbind()
    if fused:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(batch, -1, -1, -1))
    else:
        y = ((q * q.shape[-1] ** -0.5) @ k.mT + bias).softmax(dim=-1) @ v
    y = y.view(batch, side, side, heads, window, window, -1).permute(0, 1, 4, 2, 5, 3, 6)
    y = y.reshape(batch, side * window, side * window, -1)
    return y.roll((shift, shift), (1, 2)) if shift else y


def ready_bias(table: Tensor, resolution: int, window: int, shift: int) -> Tensor:
    """Bias and mask of every window and head."""
    index = relative_position_index(window).to(table.device)
    bias = table[index].permute(2, 0, 1)
    masked = bias + shift_mask(resolution, window, shift)[:, None].to(bias)
    every = masked.expand((resolution // window) ** 2, -1, -1, -1)
    return every.flatten(0, 1).contiguous()


def attention(stage: int, shifted: bool, setting: Setting) -> Work:
    htsat = setting.config.htsat
    resolution, heads = htsat.resolution(stage), htsat.num_heads[stage]
    channels, window = htsat.embed_dim * 2**stage, min(htsat.window_size, resolution)
    shift = window // 2 if shifted else 0
    options: dict[str, Any] = {"heads": heads, "window": window, "shift": shift}
    image = (setting.batch, resolution, resolution)
    qkv, out = setting.random(*image, 3 * channels), setting.unwritten(*image, channels)
    table = setting.random((2 * window - 1) ** 2, heads, scale=0.4)
    bias = ready_bias(table, resolution, window, shift)
    by_hand = partial(attend_by_hand, **options, fused=False)
    fused = partial(attend_by_hand, **options, fused=True)
    return Work(
        kernel=lambda: window_attention(qkv, table, **options, out=out),
        result=lambda: out,
        exact=lambda: window_attention_reference(qkv.double(), table.double(), **options),
        rivals={"matmul": Rival(by_hand, (qkv, bias)), "sdpa": Rival(fused, (qkv, bias))},
        nbytes=size(qkv, out, table),
        flop=4.0 * setting.batch * resolution**2 * window**2 * channels,
    )


def linear(stage: int, part: str, setting: Setting) -> Work:
    """A linear layer of HTSAT: ``part`` is qkv, fc1 or fc2."""
    htsat = setting.config.htsat
    resolution, C = htsat.resolution(stage), htsat.embed_dim * 2**stage
    N, K = {"qkv": (3 * C, C), "fc1": (htsat.mlp_ratio * C, C), "fc2": (C, htsat.mlp_ratio * C)}[
        part
    ]
    x = setting.random(setting.batch, resolution, resolution, K)
    weight, bias = setting.random(N, K, scale=K**-0.5), setting.random(N)
    out = setting.unwritten(*x.shape[:3], N)
    if part == "fc2":
        residual = setting.random(*x.shape[:3], N)
        rival = Rival(linear_residual_reference, (x, weight, bias, residual))
        kernel: Any = partial(linear_residual, x, weight, bias, residual, out=out)
        return _linear_work(kernel, rival, out, x, weight, residual)
    gain, offset = setting.random(K), setting.random(K)
    gelu = part == "fc1"

    def layer(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        return norm_linear_reference(x, weight, bias, norm_weight=gain, norm_bias=offset, gelu=gelu)

    kernel = partial(
        norm_linear, x, weight, bias, norm_weight=gain, norm_bias=offset, gelu=gelu, out=out
    )
    return _linear_work(kernel, Rival(layer, (x, weight, bias, gain, offset)), out, x, weight)


def merging(stage: int, setting: Setting) -> Work:
    htsat = setting.config.htsat
    resolution, C = htsat.resolution(stage), htsat.embed_dim * 2**stage
    x = setting.random(setting.batch, resolution, resolution, C)
    weight = setting.random(2 * C, 4 * C, scale=(4 * C) ** -0.5)
    gain, offset = setting.random(4 * C), setting.random(4 * C)
    out = setting.unwritten(setting.batch, resolution // 2, resolution // 2, 2 * C)
    rival = Rival(patch_merging_reference, (x, weight, gain, offset))
    kernel = partial(patch_merging, x, weight, gain, offset, out=out)
    return _linear_work(kernel, rival, out, x, weight)


def _linear_work(
    kernel: Any, rival: Rival, out: Tensor, x: Tensor, weight: Tensor, *others: Tensor
) -> Work:
    return Work(
        kernel=kernel,
        result=lambda: out,
        exact=lambda: in_float64(rival),
        rivals={"torch": rival},
        nbytes=size(x, weight, out, *others),
        flop=2.0 * out.numel() * weight.shape[1],
    )


def audio_cases(config: PengiConfig) -> tuple[Case, ...]:
    """Attention at every stage, and linear layers where they are largest and most frequent."""
    stages = range(len(config.htsat.depths))
    busiest = max(stages, key=lambda stage: config.htsat.depths[stage])
    parts = {"qkv": "norm_linear", "fc1": "norm_linear gelu", "fc2": "norm_linear residual"}
    windows = [
        (stage, shifted)
        for stage in stages
        for shifted in (False, True)
        if not shifted or config.htsat.resolution(stage) > config.htsat.window_size
    ]
    linears = [(stage, part) for stage in dict.fromkeys((0, busiest)) for part in parts]
    return (
        Case("log_mel", front_end_work, ("fp32",)),
        *(
            Case(
                f"window_attention stage {stage}{' shifted' if shifted else ''}",
                cast("Any", partial(attention, stage, shifted)),
            )
            for stage, shifted in windows
        ),
        *(
            Case(f"{parts[part]} stage {stage} {part}", cast("Any", partial(linear, stage, part)))
            for stage, part in linears
        ),
        Case("patch_merging stage 0", cast("Any", partial(merging, 0))),
    )
