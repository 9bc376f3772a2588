"""The linear layers of a decode step, against PyTorch in float64."""

from collections.abc import Callable

import pytest
from triton_interpreter import DEVICE, check_guards, guarded, poisoned, programs_backwards

# isort: split
import torch
from kernel_close import assert_kernel_close
from residual_stream import MEAN_ROUNDED, exact, make_norm, make_stream, own, random
from torch import Tensor

from pengi_rt.kernels.small_linear import (
    linear,
    linear_partials,
    linear_partials_reference,
    linear_reference,
    norm_gelu_linear,
    norm_gelu_linear_reference,
    norm_qkv,
    norm_qkv_reference,
)
from pengi_rt.kernels.small_linear_launch import KeyValueCache, Linear, fuses, splits

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
KINDS = [(SINGLE, False), (HALF, False), (BRAIN, False), (HALF, True), (BRAIN, True)]
"""Compute dtype, and whether weights are int8."""


def make_layer(depth: int, columns: int, dtype: torch.dtype, quantized: bool) -> Linear:
    weight = random(depth, columns, seed=1)
    bias = random(columns, seed=2)
    if not quantized:
        return Linear(guarded((weight * depth**-0.5).to(dtype)), bias)
    scale = guarded(random(columns, seed=3).abs() * 0.01 + 0.001)
    return Linear(guarded((weight * 50).round().clamp(-127, 127).to(torch.int8)), bias, scale)


@pytest.mark.parametrize(("dtype", "quantized"), KINDS)
@pytest.mark.parametrize(
    ("rows", "depth", "columns", "count"),
    [
        (1, 16, 16, 1),
        (5, 48, 40, 2),
        (3, 21, 19, 4),  # 16 + 5 of K, then two empty slices
        (17, 80, 33, 2),
        (65, 33, 65, 1),
    ],
)
def test_partials(
    rows: int, depth: int, columns: int, count: int, dtype: torch.dtype, quantized: bool
) -> None:
    layer = make_layer(depth, columns, dtype, quantized)
    x = random(rows, depth, seed=9, dtype=dtype)
    found = linear_partials(x, layer, out=poisoned(count, rows, columns))
    check_guards(found)
    truth = torch.empty_like(found, dtype=torch.float64)
    linear_partials_reference(x.double(), exact(layer), out=truth)
    native = linear_partials_reference(x, layer, out=torch.empty_like(found))
    assert_kernel_close(found, truth, native)


@pytest.mark.parametrize("dtype", [HALF, SINGLE])
def test_plain_linear_over_several_tiles(dtype: torch.dtype) -> None:
    layer = make_layer(1040, 17, dtype, quantized=False)
    x = random(2, 1040, seed=9, dtype=dtype)
    found = linear(x, layer, out=poisoned(2, 17, dtype=dtype))
    check_guards(found)
    assert_kernel_close(
        found, linear_reference(x.double(), exact(layer)), linear_reference(x, layer)
    )
    assert torch.equal(linear(x, layer), found)


@pytest.mark.parametrize(("dtype", "quantized"), KINDS)
@pytest.mark.parametrize(
    ("rows", "width", "columns", "due"),
    [(1, 16, 16, 0), (5, 48, 72, 3), (3, 21, 19, 1), (9, 24, 40, 2)],
)
def test_norm_gelu(
    rows: int, width: int, columns: int, due: int, dtype: torch.dtype, quantized: bool
) -> None:
    stream, norm = make_stream(rows, width, due), make_norm(width)
    layer = make_layer(width, columns, dtype, quantized)
    before = own(stream)
    found = norm_gelu_linear(stream, norm, layer, out=poisoned(rows, columns, dtype=dtype))
    truth, native = exact(before), own(before)
    y = norm_gelu_linear_reference(
        truth, exact(norm), exact(layer), out=torch.empty_like(found, dtype=torch.float64)
    )
    own_y = norm_gelu_linear_reference(native, norm, layer, out=torch.empty_like(found))
    assert_kernel_close(found, y, own_y, floor=MEAN_ROUNDED)
    check_guards(found)
    assert torch.equal(stream.residual, before.residual), "what other programs read was changed"
    if stream.out is not None:
        check_guards(stream.out)
        assert_kernel_close(stream.out, truth.out, native.out)


@pytest.mark.parametrize(("dtype", "quantized"), KINDS)
@pytest.mark.parametrize(
    ("clips", "beams", "heads", "slots", "width"),
    [(1, 1, 1, 1, 16), (2, 3, 3, 4, 7), (3, 3, 2, 3, 16)],
)
def test_norm_qkv(
    clips: int, beams: int, heads: int, slots: int, width: int, dtype: torch.dtype, quantized: bool
) -> None:
    rows, channels = clips * beams, heads * width
    stream, norm = make_stream(rows, channels, 2), make_norm(channels)
    layer = make_layer(channels, 3 * channels, dtype, quantized)
    position = guarded(torch.arange(clips, dtype=torch.int32) % slots)
    shape = (clips, beams, heads, slots, width)
    cache = KeyValueCache(poisoned(*shape, dtype=dtype), poisoned(*shape, dtype=dtype), position)
    before, untouched = own(stream), own(cache)
    q = norm_qkv(stream, norm, layer, cache, out=poisoned(rows, channels, dtype=dtype))
    assert stream.out is not None
    check_guards(q, cache.keys, cache.values, stream.out)

    truth, native = exact(untouched), own(untouched)
    exact_q = norm_qkv_reference(exact(before), exact(norm), exact(layer), truth)
    native_q = norm_qkv_reference(own(before), norm, layer, native)
    assert_kernel_close(q, exact_q, native_q, floor=MEAN_ROUNDED)
    for name in ("keys", "values"):
        found, wanted = getattr(cache, name), getattr(truth, name)
        assert torch.equal(found.isnan(), wanted.isnan()), f"another slot of {name} was written"
        written = ~wanted.isnan()
        own_values = getattr(native, name)[written]
        assert_kernel_close(found[written], wanted[written], own_values, floor=MEAN_ROUNDED)


def test_both_the_fused_and_the_separate_norm_are_tested() -> None:
    assert fuses(5, 48, HALF)
    assert fuses(6, 21, BRAIN)
    assert not fuses(9, 24, HALF)
    assert not fuses(5, 48, SINGLE)


def test_programs_do_not_depend_on_each_other() -> None:
    def run() -> list[Tensor]:
        stream, norm = make_stream(3, 32, 2), make_norm(32)
        cache = KeyValueCache(
            torch.zeros(1, 3, 2, 2, 16, dtype=HALF, device=DEVICE),
            torch.zeros(1, 3, 2, 2, 16, dtype=HALF, device=DEVICE),
            torch.ones(1, dtype=torch.int32, device=DEVICE),
        )
        q = norm_qkv(stream, norm, make_layer(32, 96, HALF, quantized=False), cache)
        return [q, cache.keys, cache.values, stream.out]  # type: ignore[list-item]

    forwards = run()
    with programs_backwards():
        backwards = run()
    assert all(torch.equal(*pair) for pair in zip(forwards, backwards, strict=True))


def test_new_outputs() -> None:
    layer = make_layer(600, 24, HALF, quantized=False)
    x = random(2, 600, seed=9, dtype=HALF)
    partials = linear_partials(x, layer)
    assert partials.shape == (splits(2, layer.weight), 2, 24)
    assert partials.shape[0] == 2
    stream, norm = make_stream(2, 16, 0), make_norm(16)
    assert norm_gelu_linear(stream, norm, make_layer(16, 24, HALF, quantized=False)).dtype == HALF


def test_splits_keep_processors_busy() -> None:
    """At 5 rows the attention's projection and the MLP's second layer have few columns."""
    for depth in (768, 3072):
        weight = torch.empty(depth, 768, dtype=HALF, device="meta")
        assert 100 <= 768 / 16 * splits(5, weight) <= 150
    assert splits(5, torch.empty(64, 64, dtype=HALF, device="meta")) == 1


def _refusals() -> dict[str, tuple[str, Callable[[], object]]]:
    norm, stream = make_norm(16), make_stream(2, 16, 1)
    layer = make_layer(16, 48, HALF, quantized=False)
    small = make_layer(16, 48, HALF, quantized=True)
    keys = torch.zeros(1, 2, 1, 3, 16, dtype=HALF)
    position = torch.zeros(1, dtype=torch.int32)
    cache = KeyValueCache(keys, keys.clone(), position)
    x = torch.zeros(2, 16, dtype=HALF)
    wide = torch.zeros(2, 32, dtype=HALF)
    return {
        "strided input": (r"x must be contiguous .* strided", lambda: linear(wide[:, ::2], layer)),
        "depth": (r"x must be .*\[2, 16\].*\[2, 32\]", lambda: linear(wide, layer)),
        "weight dtype": (
            "weight must be .*float16",
            lambda: linear(x, layer._replace(weight=layer.weight.float())),
        ),
        "transposed weight": (
            "weight must be .*strided",
            lambda: linear(x, layer._replace(weight=layer.weight.mT.contiguous().mT)),
        ),
        "half bias": (
            "bias must be .*float32",
            lambda: linear(x, layer._replace(bias=layer.bias.half())),
        ),
        "int8 with float32": ("compute dtype must be float16", lambda: linear(x.float(), small)),
        "int8 without out": (
            "compute dtype must be float16",
            lambda: norm_gelu_linear(stream, norm, small),
        ),
        "partials dtype": (
            "out must be .*float32",
            lambda: linear_partials(x, layer, out=torch.empty(1, 2, 48, dtype=HALF)),
        ),
        "stream in place": (
            "stream.out is residual itself",
            lambda: norm_qkv(stream._replace(out=stream.residual), norm, layer, cache),
        ),
        "half a stream": (
            "give all three",
            lambda: norm_qkv(stream._replace(bias=None), norm, layer, cache),
        ),
        "cache of other rows": (
            "are not for 2 rows",
            lambda: norm_qkv(stream, norm, layer, cache._replace(keys=keys[:, :1])),
        ),
        "strided cache": (
            "values must be .*strided",
            lambda: norm_qkv(
                stream,
                norm,
                layer,
                cache._replace(values=keys.mT.contiguous().mT),
            ),
        ),
        "position": (
            "position must be .*int32",
            lambda: norm_qkv(stream, norm, layer, cache._replace(position=position.long())),
        ),
    }


@pytest.mark.parametrize("case", list(_refusals()))
def test_refusals(case: str) -> None:
    message, call = _refusals()[case]
    with pytest.raises(ValueError, match=message):
        call()
