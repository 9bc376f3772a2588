"""The packed linear layer against NumPy, on every instruction set of this CPU.

Tolerances: int8 is exact. In fp32 and bf16 a sum of K products of size about one, added one after
the other, is off by about sqrt(K) rounding errors of its largest partial sum; eight times that is
allowed. GELU adds 1e-6 of the value.
"""

import numpy as np
import pytest

from pengi_rt.kernels.packed_linear import (
    F32,
    PackedLinear,
    instruction_sets,
    packed_linear_reference,
)

SETS = instruction_sets()
PRECISIONS = ("fp32", "bf16", "int8")
SHAPES = [  # rows, inputs, outputs
    (1, 1, 1),
    (2, 3, 5),
    (5, 64, 16),
    (6, 65, 17),
    (7, 768, 64),
    (13, 513, 130),
    (80, 128, 65),
    (5, 3072, 96),
]


def arrays(rows: int, inputs: int, outputs: int) -> tuple[F32, F32, F32, F32]:
    """Rows, weights, biases, residuals; some rows and columns are zero or subnormal."""
    generator = np.random.default_rng(rows + inputs + outputs)

    def normal(*shape: int) -> F32:
        return generator.normal(size=shape).astype(np.float32)

    x, weight = normal(rows, inputs), normal(inputs, outputs)
    if rows > 2:
        x[1] = 0
    if outputs > 3:
        weight[:, 1] = 0
        weight[:, 2] *= 1e-39  # subnormal
    return x, weight, normal(outputs), normal(rows, outputs)


def close(precision: str, inputs: int) -> float:
    return 0.0 if precision == "int8" else 8 * inputs**0.5 * 2**-24 * inputs**0.5


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_its_reference(precision: str, instructions: str, shape: tuple[int, int, int]) -> None:
    x, weight, bias, residual = arrays(*shape)
    layer = PackedLinear(weight, bias, precision=precision, instructions=instructions)
    atol = close(precision, shape[1])
    expected = packed_linear_reference(x, weight, bias, precision=precision, residual=residual)
    np.testing.assert_allclose(layer(x, residual=residual), expected, rtol=0, atol=atol)
    expected = packed_linear_reference(x, weight, bias, precision=precision, gelu=True)
    np.testing.assert_allclose(layer(x, gelu=True), expected, rtol=1e-6, atol=atol + 1e-6)
    bare = PackedLinear(weight, precision=precision, instructions=instructions)
    expected = packed_linear_reference(x, weight, precision=precision)
    np.testing.assert_allclose(bare(x), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("inputs", [768, 3072])
@pytest.mark.parametrize("signs", ["same", "opposite", "mixed"])
def test_int8_sums_do_not_overflow(instructions: str, inputs: int, signs: str) -> None:
    """All values at the ends of their ranges."""
    x, weight = np.ones((5, inputs), np.float32), np.ones((inputs, 32), np.float32)
    if signs == "opposite":
        weight[:] = -1
    elif signs == "mixed":
        generator = np.random.default_rng(inputs)
        x *= generator.choice([-1, 1], x.shape)
        weight *= generator.choice([-1, 1], weight.shape)
    layer = PackedLinear(weight, precision="int8", instructions=instructions)
    expected = packed_linear_reference(x, weight, precision="int8")
    np.testing.assert_array_equal(layer(x), expected)
    np.testing.assert_allclose(expected, x @ weight, rtol=1e-6)  # the reference is right, too


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("instructions", SETS)
def test_a_row_does_not_depend_on_others(precision: str, instructions: str) -> None:
    x, weight, bias, _ = arrays(23, 200, 150)
    layer = PackedLinear(weight, bias, precision=precision, instructions=instructions)
    threaded = PackedLinear(weight, bias, precision=precision, instructions=instructions, threads=3)
    alone = np.concatenate([layer(x[i : i + 1], gelu=True) for i in range(len(x))])
    np.testing.assert_array_equal(layer(x, gelu=True), alone)
    np.testing.assert_array_equal(threaded(x, gelu=True), alone)
    np.testing.assert_array_equal(layer(x[4:11], gelu=True), alone[4:11])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_not_lost(precision: str, instructions: str, bad: float) -> None:
    x, weight, bias, _ = arrays(3, 70, 20)
    x[2, 69] = bad
    y = PackedLinear(weight, bias, precision=precision, instructions=instructions)(x)
    assert np.isfinite(y[:2]).all()
    assert not np.isfinite(y[2, [0, 2, 19]]).any()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_weight_is_not_lost(precision: str, instructions: str, bad: float) -> None:
    x, weight, _, _ = arrays(2, 70, 20)
    weight[3, 7], weight[69, 19] = bad, bad
    y = PackedLinear(weight, precision=precision, instructions=instructions)(x)
    assert not np.isfinite(y[:, [7, 19]]).any()
    assert np.isfinite(np.delete(y, [7, 19], axis=1)).all()


@pytest.mark.parametrize("instructions", SETS)
def test_gelu_far_out(instructions: str) -> None:
    """Large magnitudes give x or 0; only NaN gives NaN."""
    x = np.array([[-3e38], [-1e30], [-90], [-10], [-0.0], [10], [90], [1e30]], np.float32)
    layer = PackedLinear(np.ones((1, 1), np.float32), instructions=instructions)
    expected = [0, 0, 0, 0, 0, 10, 90, 1e30]
    np.testing.assert_allclose(layer(x, gelu=True)[:, 0], expected, rtol=1e-6, atol=1e-6)
    assert np.isnan(layer(np.full((1, 1), np.nan, np.float32), gelu=True)).all()


def test_refusals() -> None:
    weight = np.ones((4, 4), np.float32)
    with pytest.raises(ValueError, match="there is no precision 'fp8'"):
        PackedLinear(weight, precision="fp8")
    with pytest.raises(ValueError, match="there is no instruction set 'mmx'"):
        PackedLinear(weight, instructions="mmx")
    with pytest.raises(ValueError, match="weight must be C-contiguous float32"):
        PackedLinear(weight.astype(np.float64))
    with pytest.raises(ValueError, match="weight must be C-contiguous"):
        PackedLinear(weight[:, ::2])
    with pytest.raises(ValueError, match="weight is empty"):
        PackedLinear(weight[:0])
    with pytest.raises(ValueError, match=r"bias must be C-contiguous float32 \[4\]"):
        PackedLinear(weight, np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"x must be C-contiguous float32 \[\*, 4\]"):
        PackedLinear(weight)(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"residual must be C-contiguous float32 \[2, 4\]"):
        PackedLinear(weight)(weight[:2], residual=weight[:1])
