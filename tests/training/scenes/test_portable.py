"""Elementary functions are accurate to a few units in the last place, and equal everywhere."""

import math
import subprocess
import sys
from collections.abc import Callable

import instruction_sets
import numpy as np
import pytest
import scene_digest

from pengi_rt.training.scenes import portable
from pengi_rt.training.scenes.portable import F64

# Units in the last place of float64; for e^x and powers, times the size of the exponent.
EPS = float(np.finfo(np.float64).eps)


def drawn(low: float, high: float) -> F64:
    return np.random.default_rng(0).uniform(low, high, 2000)


@pytest.mark.parametrize(
    ("ours", "exact", "x"),
    [
        (portable.sinpi, lambda x: math.sin(math.pi * math.remainder(x, 2)), drawn(-50, 50)),
        (portable.cospi, lambda x: math.cos(math.pi * math.remainder(x, 2)), drawn(-50, 50)),
        (portable.sinpi, lambda x: math.sin(math.pi * x), drawn(-1e-3, 1e-3)),
        (portable.exp2, lambda x: 2**x, drawn(-1, 1)),
        (portable.exp2, lambda x: 2**x, drawn(-1000, 1000)),
        (portable.exp, math.exp, drawn(-1, 1)),
        (portable.log2, math.log2, drawn(0.5, 2)),
        (portable.log2, math.log2, np.exp(drawn(-600, 600))),
        (portable.log, math.log, np.exp(drawn(-600, 600))),
        (lambda x: portable.power(x, -1.3), lambda x: x**-1.3, drawn(0.5, 2)),
        (lambda x: portable.power(3.0, x), lambda x: 3**x, drawn(-1, 1)),
        (portable.from_decibels, lambda x: 10 ** (x / 10), drawn(-3, 3)),
    ],
)
def test_functions_are_accurate(
    ours: Callable[[F64], F64], exact: Callable[[float], float], x: F64
) -> None:
    wanted = np.array([exact(value) for value in x.tolist()])
    # Sine and cosine near their zeros, and the logarithm near 1, are accurate to an ulp of 1.
    np.testing.assert_allclose(ours(x), wanted, rtol=4 * EPS, atol=2 * EPS)
    assert float(ours(x[0])) == ours(x)[0]  # the same for a single number


def test_special_values() -> None:
    assert portable.sinpi([0, 1, -1, 2, 1e6]).tolist() == [0, 0, 0, 0, 0]
    assert portable.exp2([0, 1, -3, -2000, 1023]).tolist() == [1, 2, 0.125, 0, 2.0**1023]
    assert portable.log2([1, 2, 0.5, 8]).tolist() == [0, 1, -1, 3]


def test_total_adds_in_order() -> None:
    """Another order keeps some of the ones: pairs of them are added to each other first."""
    ones = np.array([2.0**53, *[1.0] * 1000])
    assert portable.total(ones) == 2.0**53
    rows = np.stack([ones, ones[::-1]])
    assert portable.total(rows).tolist() == [2.0**53, 2.0**53 + 1000]


def test_memory_alignment_does_not_matter() -> None:
    sound = np.random.default_rng(0).normal(size=1001).astype(np.float32)
    memory = np.empty(4 * 1001 + 64, np.uint8)
    for start in (1, 4, 12, 32):
        moved = memory[start : start + 4 * 1001].view(np.float32)
        moved[:] = sound
        for function in (portable.energy, portable.sinpi, portable.exp2, portable.cospi):
            np.testing.assert_array_equal(function(moved), function(sound))


@pytest.mark.parametrize("name", instruction_sets.here())
def test_the_same_sounds_on_every_processor(name: str) -> None:
    """Thread counts differ too: one there, all of this process's here."""
    environment = instruction_sets.environment(name) | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, scene_digest.__file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [scene_digest.digest()]
