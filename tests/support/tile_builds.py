"""Every tile that a launcher may choose at full-size base's shapes, as builds to be compiled.

The launchers list them: they are called with tensors of those shapes that nobody reads, and what
they would have launched is recorded. A process that interprets kernels has nothing to record;
:func:`kernel_builds.compile_kernels` imports this module in another one.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pengi_rt.backends.triton.audio import front_end_tables
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.kernels.add_norm import Norm, Stream
from pengi_rt.kernels.beam_attention import Segments, beam_attention
from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import Launch
from pengi_rt.kernels.lm_head import Head, lm_head
from pengi_rt.kernels.log_mel import log_mel
from pengi_rt.kernels.norm_linear import linear_residual, norm_linear
from pengi_rt.kernels.patch_merging import patch_merging
from pengi_rt.kernels.small_linear_launch import KeyValueCache, Linear, fuses, linear_launch, splits
from pengi_rt.kernels.tuning import RunTile, use_chooser
from pengi_rt.kernels.tuning_file import Tile
from pengi_rt.kernels.vocab_tiles import VocabTiles
from pengi_rt.kernels.window_attention import window_attention
from pengi_rt.models.mel import LogMel

HALF, SINGLE, INT8, INT32 = torch.float16, torch.float32, torch.int8, torch.int32
CLIPS, BEAMS = (1, 8, 64), 5


def builds() -> tuple[Build, ...]:
    """Half precision (bfloat16 compiles alike), int8 and float32, each build once."""
    found: dict[str, Build] = {}
    launches: list[Launch] = []

    def note(launch: Launch) -> None:
        launches.append(launch)

    def every(name: str, tiles: Sequence[Tile], run: RunTile) -> Tile:
        for tile in tiles:
            launches.clear()
            run(tile)
            (launch,) = launches
            build = launch.build(f"{name} {tuple(tile)}")
            found.setdefault(repr((build.kernel.__name__, *specialization(build))), build)
        return tiles[0]

    run, Launch.run = Launch.run, note  # type: ignore[method-assign,assignment]
    try:
        with use_chooser(torch.device("cpu"), every):
            call_all()
    finally:
        Launch.run = run  # type: ignore[method-assign]
    return tuple(found.values())


def specialization(build: Build) -> Iterator[object]:
    yield from (sorted(build.signature.items()), sorted(build.constexprs.items(), key=repr))
    yield from (build.num_warps, build.num_stages)


def call_all() -> None:
    """Everything that base runs, for every number of clips and every precision."""
    for clips in CLIPS:
        for dtype in (HALF, SINGLE):
            call_htsat(clips, dtype)
            call_beam_attention(clips, dtype)
        call_log_mel(clips)
        for weight, dtype in ((HALF, HALF), (INT8, HALF), (SINGLE, SINGLE)):
            call_linears(clips * BEAMS, weight, dtype)
            call_head(clips, 0, weight, dtype)
            call_head(clips * BEAMS, 3, weight, dtype)


def call_htsat(clips: int, dtype: torch.dtype) -> None:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    for stage in range(4):
        side, C, heads = 64 >> stage, 96 << stage, 4 << stage
        x = empty(clips, side, side, C)
        norm: dict[str, Any] = {"norm_weight": empty(C), "norm_bias": empty(C)}
        qkv = norm_linear(x, empty(3 * C, C), empty(3 * C), **norm)
        for shift in (0, 4):
            window_attention(qkv, empty(225, heads), heads=heads, window=8, shift=shift)
        linear_residual(x, empty(C, C), empty(C), x)
        y = norm_linear(x, empty(4 * C, C), empty(4 * C), **norm, gelu=True)
        linear_residual(y, empty(C, 4 * C), empty(C), x)
        if stage < 3:
            patch_merging(x, empty(2 * C, 4 * C), empty(4 * C), empty(4 * C))


def call_log_mel(clips: int) -> None:
    config = PengiConfig.preset("base")
    tables = front_end_tables(LogMel(config).requires_grad_(False), torch.device("cpu"))
    wave, size = torch.empty(clips, config.clip_samples), config.htsat.spec_size
    log_mel(wave, tables, torch.empty(clips, 1, size, size, dtype=HALF))


def call_beam_attention(clips: int, dtype: torch.dtype) -> None:
    prefix = torch.empty(clips, 12, 80, 64, dtype=dtype)
    keys = torch.empty(clips, BEAMS, 12, 20, 64, dtype=dtype)
    numbers = torch.zeros(clips, dtype=INT32)
    ancestry = torch.zeros(21, clips, BEAMS, 20, dtype=INT32)
    q = torch.empty(clips * BEAMS, 768, dtype=dtype)
    beam_attention(q, Segments(prefix, prefix, numbers, keys, keys, ancestry, numbers))


def call_linears(rows: int, weight: torch.dtype, dtype: torch.dtype) -> None:
    """The launches of a decode step."""
    x, hidden = torch.empty(rows, 768, dtype=dtype), torch.empty(rows, 3072, dtype=dtype)
    keys = torch.empty(rows // BEAMS, BEAMS, 12, 20, 64, dtype=dtype)
    cache = KeyValueCache(keys, keys, torch.zeros(rows // BEAMS, dtype=INT32))
    qkv, expansion = layer_of(768, 2304, weight), layer_of(768, 3072, weight)
    linear_launch(x, qkv, x, "qkv", cache=cache)
    linear_launch(x, expansion, hidden, "gelu")
    for source in (x, hidden):
        layer = layer_of(source.shape[1], 768, weight)
        partials = torch.empty(splits(rows, layer.weight), rows, 768)
        linear_launch(source, layer, partials, "partials")
        if fuses(rows, 768, dtype):
            norm, residual = Norm(layer.bias, layer.bias), torch.empty(rows, 768)
            due = Stream(residual, layer.bias, partials, torch.empty_like(residual))
            for stream in (Stream(residual), due):
                linear_launch(stream, qkv, x, "qkv", norm=norm, cache=cache)
                linear_launch(stream, expansion, hidden, "gelu", norm=norm)


def layer_of(depth: int, columns: int, weight: torch.dtype) -> Linear:
    scale = torch.empty(columns) if weight == INT8 else None
    return Linear(torch.empty(depth, columns, dtype=weight), torch.empty(columns), scale)


def call_head(rows: int, due: int, weight: torch.dtype, dtype: torch.dtype) -> None:
    vocab, width = 50_257, 768
    stream, vector = Stream(torch.empty(rows, width)), torch.empty(width)
    if due:
        partials = torch.empty(due, rows, width)
        stream = stream._replace(bias=vector, partials=partials, out=torch.empty(rows, width))
    scale = torch.empty(vocab) if weight == INT8 else None
    lm_head(
        stream,
        Norm(vector, vector),
        Head(torch.empty(vocab, width, dtype=weight), scale),
        torch.ones(1, dtype=torch.float64),
        hidden=torch.empty(rows, width, dtype=dtype),
        out=VocabTiles.empty(rows, vocab, BEAMS, "cpu"),
    )
