"""With any tile, a launcher's result is as close to float64 as PyTorch's."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from triton_interpreter import DEVICE, check_guards, guarded, poisoned

# isort: split
import torch
from kernel_close import assert_kernel_close
from torch import Tensor
from triton.runtime.errors import OutOfResources

from pengi_rt.backends.triton.audio import front_end_tables
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.kernels import beam_attention as beam
from pengi_rt.kernels import (
    lm_head,
    lm_head_tiles,
    log_mel,
    log_mel_tiles,
    small_linear_tiles,
    swin_linear_tiles,
    window_attention,
)
from pengi_rt.kernels.add_norm import Norm, Stream
from pengi_rt.kernels.norm_linear import (
    linear_residual,
    linear_residual_reference,
    norm_linear,
    norm_linear_reference,
)
from pengi_rt.kernels.small_linear import (
    linear,
    linear_reference,
    norm_gelu_linear,
    norm_gelu_linear_reference,
)
from pengi_rt.kernels.small_linear_launch import Linear
from pengi_rt.kernels.tuning import RunTile, adopt, tuning, use_chooser
from pengi_rt.kernels.tuning_file import Tile
from pengi_rt.kernels.vocab_tiles import VocabTiles, vocab_tiles_reference
from pengi_rt.models.mel import LogMel

HALF, SINGLE, INT8 = torch.float16, torch.float32, torch.int8
HERE = torch.empty(0, device=DEVICE).device


def draw(*shape: int, seed: int, dtype: torch.dtype = SINGLE, scale: float = 1) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return guarded(values.to(dtype))


@contextmanager
def taking(tile: Tile) -> Iterator[None]:
    """Make every launcher take ``tile``; at least one must."""
    taken = []

    def chooser(name: str, tiles: Sequence[Tile], run: RunTile) -> Tile:
        taken.append(name)
        return tile

    try:
        with use_chooser(HERE, chooser):
            yield
    except OutOfResources as error:
        pytest.skip(f"measuring leaves {tile} out on this GPU: {error}")
    assert taken


def row_tiles(dtype: torch.dtype) -> Sequence[Tile]:
    return (
        *swin_linear_tiles.TILES[dtype.itemsize],
        *swin_linear_tiles.OTHER_TILES[dtype.itemsize],
    )


@pytest.mark.parametrize(
    ("dtype", "tile"), [(dtype, tile) for dtype in (HALF, SINGLE) for tile in row_tiles(dtype)]
)
def test_many_rows(dtype: torch.dtype, tile: Tile) -> None:
    """Every size is larger than the largest tile, and not a multiple of it."""
    M, K, N = 130, 136, 140
    x, weight = draw(M, K, seed=0, dtype=dtype), draw(N, K, seed=1, dtype=dtype, scale=K**-0.5)
    bias, gain, offset = (draw(n, seed=n, dtype=dtype) for n in (N, K, K))
    out = poisoned(M, N, dtype=dtype)
    with taking(tile):
        norm_linear(x, weight, bias, norm_weight=gain, norm_bias=offset, gelu=True, out=out)
    check_guards(out)

    def reference(*tensors: Tensor) -> Tensor:
        a, b, c, d, e = tensors
        return norm_linear_reference(a, b, c, norm_weight=d, norm_bias=e, gelu=True)

    tensors = (x, weight, bias, gain, offset)
    assert_kernel_close(out, reference(*(t.double() for t in tensors)), reference(*tensors))


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let launchers choose tiles for as few rows as the interpreter can handle."""
    monkeypatch.setattr(swin_linear_tiles, "WAVES", (0, 64))
    swin_linear_tiles.tiles.cache_clear()
    yield
    swin_linear_tiles.tiles.cache_clear()


@pytest.mark.usefixtures("few_programs")
def test_a_residual_in_place_is_added_once() -> None:
    """The result is right although every tile was run with this residual many times."""
    x, weight = draw(70, 40, seed=0), draw(72, 40, seed=1, scale=0.2)
    residual = draw(70, 72, seed=2)
    expected = linear_residual_reference(x.double(), weight.double(), None, residual.double())
    native = linear_residual_reference(x, weight, None, residual)
    with tuning(HERE, None, timed) as tuner:
        linear_residual(x, weight, None, residual, out=residual)
    assert len(tuner.measured) == 1
    assert_kernel_close(residual, expected, native)


def timed(call: object) -> float:
    """A timer that runs the call twice and reports all tiles as equally fast."""
    assert callable(call)
    call()
    call()
    return 1.0


def make_linear(K: int, N: int, dtype: torch.dtype) -> Linear:
    bias = draw(N, seed=2)
    if dtype != INT8:
        return Linear(draw(K, N, seed=1, dtype=dtype, scale=K**-0.5), bias)
    weight = (draw(K, N, seed=1) * 50).round().clamp(-127, 127)
    return Linear(guarded(weight.to(INT8)), bias, guarded(draw(N, seed=3).abs() * 0.002))


def exact(layer: Linear) -> Linear:
    weight, bias, scale = layer
    return Linear(weight.double(), bias.double(), None if scale is None else scale.double())


LINEARS = [
    (weight, rows, tile)
    for weight in (HALF, INT8, SINGLE)
    for rows, chunk in ((5, 1040), (5, 60), (40, 1040), (130, 72))
    for tile in small_linear_tiles.tiles(rows, chunk, weight, norm=False)
]


@pytest.mark.parametrize(("weight", "rows", "tile"), dict.fromkeys(LINEARS))
def test_step_linear(weight: torch.dtype, rows: int, tile: Tile) -> None:
    dtype = HALF if weight == INT8 else weight
    K, N = (1040, 40) if rows < 130 else (72, 140)
    layer, x = make_linear(K, N, weight), draw(rows, K, seed=9, dtype=dtype)
    with taking(tile):
        found = linear(x, layer, out=poisoned(rows, N, dtype=dtype))
    check_guards(found)
    truth = linear_reference(x.double(), exact(layer))
    assert_kernel_close(found, truth, linear_reference(x, layer))


NORMED = [
    (weight, width, tile)
    for weight in (HALF, INT8)
    for width in (520, 40)
    for tile in small_linear_tiles.tiles(5, width, weight, norm=True)
]


@pytest.mark.parametrize(("weight", "width", "tile"), NORMED)
def test_step_norm_and_linear(weight: torch.dtype, width: int, tile: Tile) -> None:
    """The whole row is one tile, for any number of groups."""
    assert tile[2] * tile[3] >= width
    layer, norm = make_linear(width, 72, weight), Norm(draw(width, seed=7), draw(width, seed=8))
    stream = Stream(
        draw(5, width, seed=4), draw(width, seed=5), draw(2, 5, width, seed=6), poisoned(5, width)
    )
    with taking(tile):
        found = norm_gelu_linear(stream, norm, layer, out=poisoned(5, 72, dtype=HALF))
    assert stream.out is not None
    check_guards(found, stream.out)
    double = Stream(*(None if x is None else x.double() for x in stream))  # type: ignore[arg-type]
    truth = norm_gelu_linear_reference(
        double,
        Norm(norm.weight.double(), norm.bias.double()),
        exact(layer),
        out=torch.empty_like(found, dtype=torch.float64),
    )
    native = norm_gelu_linear_reference(stream, norm, layer, out=torch.empty_like(found))
    assert_kernel_close(found, truth, native)


HEADS = [
    (weight, rows, tile)
    for weight in (HALF, INT8, SINGLE)
    for rows in (5, 70)
    for tile in lm_head_tiles.tiles(rows, weight)
]


@pytest.mark.parametrize(("weight", "rows", "tile"), HEADS)
def test_head(weight: torch.dtype, rows: int, tile: Tile) -> None:
    dtype, width, vocab = HALF if weight == INT8 else weight, 136, 150
    values = draw(vocab, width, seed=1)
    head = lm_head.Head(guarded((values * width**-0.5).to(weight)))
    if weight == INT8:
        scale = values.abs().amax(1) / 127
        head = lm_head.Head(guarded((values / scale[:, None]).round().to(INT8)), guarded(scale))
    stream, norm = Stream(draw(rows, width, seed=4) + 3), Norm(*draw(2, width, seed=7))
    temperature = guarded(torch.ones(1, dtype=torch.float64))
    hidden, logits = poisoned(rows, width, dtype=dtype), poisoned(rows, vocab)
    empty = VocabTiles.empty(rows, vocab, 3, "cpu")
    out = VocabTiles._make([poisoned(*x.shape, dtype=x.dtype) for x in empty])
    with taking(tile):
        lm_head.lm_head(stream, norm, head, temperature, hidden=hidden, out=out, logits=logits)
    check_guards(*out, hidden, logits)
    kept = vocab_tiles_reference(logits, temperature, VocabTiles.empty(rows, vocab, 3, HERE))
    assert torch.equal(out.candidates, kept.candidates)
    assert torch.equal(out.maxima, kept.maxima)
    torch.testing.assert_close(out.sums, kept.sums, rtol=1e-5, atol=0)  # 128 of float32
    normed = torch.nn.functional.layer_norm(
        stream.residual.double(), (width,), norm.weight.double(), norm.bias.double()
    )
    factor = 1.0 if head.scale is None else head.scale.double()
    truth = normed @ head.weight.double().T * factor
    native = normed.to(dtype).float() @ head.weight.float().T * factor
    assert_kernel_close(logits, truth, native.float())


WINDOWS = [
    (dtype, tile) for dtype in (HALF, SINGLE) for tile in window_attention.tiles(8, 600, dtype)
]


@pytest.mark.parametrize(("dtype", "tile"), WINDOWS)
def test_windows(dtype: torch.dtype, tile: Tile) -> None:
    """From one clip per program to more clips per program than exist."""
    qkv, table = draw(5, 8, 8, 96, seed=0, dtype=dtype), draw(49, 2, seed=1, dtype=dtype)
    out = poisoned(5, 8, 8, 32, dtype=dtype)
    options: dict[str, Any] = {"heads": 2, "window": 4, "shift": 2}
    with taking(tile):
        window_attention.window_attention(qkv, table, **options, out=out)
    check_guards(out)
    reference = window_attention.window_attention_reference
    truth = reference(qkv.double(), table.double(), **options)
    assert_kernel_close(out, truth, reference(qkv, table, **options))


def short_mel() -> LogMel:
    config = PengiConfig.preset("tiny")
    htsat = dataclasses.replace(config.htsat, spec_size=32)
    seconds = 9760 / config.mel.sample_rate
    return LogMel(dataclasses.replace(config, clip_seconds=seconds, htsat=htsat)).eval()


MELS = [(source, *schedule) for source in (32, 64) for schedule in log_mel_tiles.SCHEDULES[source]]


@pytest.mark.parametrize("tile", MELS)
def test_log_mel(tile: Tile) -> None:
    model = short_mel().requires_grad_(False)
    tables = front_end_tables(model, HERE)
    assert tile in log_mel_tiles.tiles(1, tables, None)
    wave, out = draw(1, 9760, seed=3, scale=0.1), poisoned(1, 1, 32, 32)
    with taking(tile):
        log_mel.log_mel(wave, tables, out, precision="ieee")
    check_guards(out)
    native = model(wave.cpu())
    assert_kernel_close(out, model.double()(wave.cpu().double()), native)


def test_a_source_that_is_asked_for_is_kept() -> None:
    tables = front_end_tables(short_mel(), HERE)
    for source in (32, 64):
        assert {tile[0] for tile in log_mel_tiles.tiles(1, tables, source)} == {source}


ATTENTIONS = [(dtype, tile) for dtype in (HALF, SINGLE) for tile in beam.tiles(5, 16, dtype)]


def attention_case(dtype: torch.dtype) -> tuple[Tensor, beam.Segments]:
    """5 beams of 2 clips, with a prefix longer than 128 keys, in the middle of an answer."""
    prefix, clips, beams, slots = 130, 2, 5, 30
    generator = torch.Generator().manual_seed(1)
    table = torch.randint(beams, (slots + 1, clips, beams, slots), generator=generator)
    segments = beam.Segments(
        draw(clips, 1, prefix, 16, seed=1, dtype=dtype),
        draw(clips, 1, prefix, 16, seed=2, dtype=dtype),
        guarded(torch.tensor([prefix, 1], dtype=torch.int32)),
        draw(clips, beams, 1, slots, 16, seed=3, dtype=dtype),
        draw(clips, beams, 1, slots, 16, seed=4, dtype=dtype),
        guarded(table.int()),
        guarded(torch.tensor([27, 0], dtype=torch.int32)),
    )
    return draw(clips * beams, 16, seed=5, dtype=dtype, scale=2), segments


def check_attention(q: Tensor, segments: beam.Segments, found: Tensor) -> None:
    check_guards(found)
    double = beam.Segments(*(x.double() if x.is_floating_point() else x for x in segments))
    reference = beam.beam_attention_reference
    assert_kernel_close(found, reference(q.double(), double), reference(q, segments))


@pytest.mark.parametrize(("dtype", "tile"), ATTENTIONS)
def test_beam_attention(dtype: torch.dtype, tile: Tile) -> None:
    q, segments = attention_case(dtype)
    with taking(tile):
        found = beam.beam_attention(q, segments, out=poisoned(10, 16, dtype=dtype))
    check_attention(q, segments, found)


def test_beam_attention_is_measured_in_the_middle_of_an_answer() -> None:
    """Warm-up runs at the first position, whose time is not typical."""
    q, segments = attention_case(HALF)
    out, seen = poisoned(10, 16, dtype=HALF), []

    def timer(call: object) -> float:
        assert callable(call)
        call()
        seen.append(out.clone())
        return 1.0

    with tuning(HERE, None, timer):
        beam.beam_attention(q, segments, out=out)
    typical = beam._typical(segments)
    assert typical.prefix_lengths.tolist() == [130, 130]
    assert typical.position.tolist() == [15, 15]
    assert len(seen) == len(beam.tiles(5, 16, HALF))
    for measured in seen:
        check_attention(q, typical, guarded(measured))
    check_attention(q, segments, out)


def test_every_tile_is_tried_somewhere() -> None:
    """With base's shapes, for 1 clip or for 64."""
    for dtype in (HALF, SINGLE):
        shapes = [
            (clips * 4096 >> 2 * stage, n * 96 << stage)
            for clips in (1, 64)
            for stage in range(4)
            for n in (1, 3, 4)
        ]
        tried = {tile for M, N in shapes for tile in swin_linear_tiles.tiles(M, N, dtype)}
        assert tried == {*row_tiles(dtype)}
    for weight in (HALF, INT8, SINGLE):
        tried = {tile for rows in (5, 40, 320) for tile in lm_head_tiles.tiles(rows, weight)}
        assert tried >= {*lm_head_tiles.OTHER_TILES[weight.itemsize]}
    tried = {
        tile
        for weight in (HALF, SINGLE)
        for rows in (5, 25, 40, 320)
        for tile in small_linear_tiles.tiles(rows, 768, weight, norm=False)
    }
    assert tried >= {tile for tiles in small_linear_tiles.OTHER_TILES.values() for tile in tiles}


def test_no_tile_is_offered_twice() -> None:
    for tiles in (
        swin_linear_tiles.tiles(4096, 288, HALF),
        small_linear_tiles.tiles(5, 16, HALF, norm=True),
        small_linear_tiles.tiles(5, 48, INT8, norm=False),
        lm_head_tiles.tiles(5, HALF),
        window_attention.tiles(64, 1, HALF),
        beam.tiles(5, 64, HALF),
    ):
        assert len(tiles) == len(set(tiles))
        assert len(tiles) <= 8


@pytest.mark.usefixtures("few_programs")
def test_tiles_are_stored_under_names_with_their_shapes(tmp_path: Path) -> None:
    """Every choice is stored under a name with its shapes, and read back under it."""
    x, weight = draw(70, 40, seed=0), draw(72, 40, seed=1)
    with tuning(HERE, tmp_path, timed) as tuner:
        norm_linear(x, weight)
        norm_linear(x, weight, gelu=True)
    names = list(tuner.measured)
    with tuning(HERE, tmp_path, timed) as tuner:
        norm_linear(x, weight)
    assert tuner.measured == {}
    assert names[0] == (
        "swin_linear x=float32 weight=float32 out=float32 M=70 N=72 K=40 norm=False bias=False "
        "gelu=False merge=False residual=False"
    )
    assert names[1] == names[0].replace("gelu=False", "gelu=True")
    adopt(HERE, tmp_path / "none")
