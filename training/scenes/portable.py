"""Elementary functions and sums that give the same bits on every processor.

NumPy computes sine, exponential, logarithm and power with whatever vector instructions a processor
has, or calls the C library, which also chooses. Matrix products and :func:`numpy.dot` add in an
order that depends on the processor, the number of threads and memory alignment. The last bits
differ, and then one in thousands of samples is rounded to another 16-bit value.

What IEEE 754 defines exactly is the same everywhere: sums, differences, products, quotients, square
roots and rounding of single numbers. Everything here uses only these, in float64, with an error of
a few units in the last place.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

LN2: Final = 0.6931471805599453
LOG2_10: Final = 3.321928094887362


def _series(first: float, square: float, terms: int) -> list[float]:
    """Coefficients of a Taylor series in x^2: each is the last times square / (n (n + 1))."""
    coefficients = [first]
    for n in range(2, 2 * terms, 2):
        coefficients.append(coefficients[-1] * square / (n * (n + 1)))
    return coefficients


# The first terms left out are (pi / 2)^21 / 21!, (ln 2 / 2)^13 / 13! and, for the logarithm,
# (3 - sqrt(8))^23 / 23: all below 3e-16.
_SIN: Final = _series(math.pi, -math.pi * math.pi, 10)
_EXP2: Final = [math.prod(LN2 / k for k in range(1, n + 1)) for n in range(13)]
_LOG2: Final = [2 / LN2 / n for n in range(1, 22, 2)]


def sinpi(x: ArrayLike) -> F64:
    """sin(pi x)."""
    turns = np.asarray(x, np.float64) / 2
    half = 2 * (turns - np.floor(turns + 0.5))  # in [-1, 1)
    folded = np.where(np.abs(half) > 0.5, np.copysign(1.0, half) - half, half)
    sine: F64 = folded * _polynomial(folded * folded, _SIN)
    return sine


def cospi(x: ArrayLike) -> F64:
    """cos(pi x)."""
    return sinpi(np.asarray(x, np.float64) + 0.5)


def exp2(x: ArrayLike) -> F64:
    """2^x, for any finite x."""
    power = np.clip(np.asarray(x, np.float64), -1100, 1100)
    whole = np.floor(power + 0.5)
    result: F64 = np.ldexp(_polynomial(power - whole, _EXP2), whole.astype(np.int32))
    return result


def exp(x: ArrayLike) -> F64:
    """e^x."""
    return exp2(np.asarray(x, np.float64) / LN2)


def log2(x: ArrayLike) -> F64:
    """The logarithm to base 2, for x above 0."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))  # in [0.5, 1)
    small = mantissa < math.sqrt(0.5)
    mantissa = np.where(small, 2 * mantissa, mantissa)
    s = (mantissa - 1) / (mantissa + 1)
    result: F64 = exponent - small + s * _polynomial(s * s, _LOG2)
    return result


def log(x: ArrayLike) -> F64:
    """The natural logarithm."""
    return LN2 * log2(x)


def power(base: ArrayLike, exponent: ArrayLike) -> F64:
    """base^exponent, for a base above 0."""
    return exp2(np.asarray(exponent, np.float64) * log2(base))


def from_decibels(decibels: ArrayLike) -> F64:
    """The ratio of powers for a level in decibels."""
    return exp2(np.asarray(decibels, np.float64) * (LOG2_10 / 10))


def total(x: ArrayLike) -> F64:
    """The sum over the last axis, added one number after another.

    The order of NumPy's own sum is unspecified; a running sum has this order.
    """
    result: F64 = np.add.accumulate(np.asarray(x, np.float64), axis=-1)[..., -1]
    return result


def energy(sound: F32) -> F64:
    """The sum of squares over the last axis."""
    return total(np.square(sound, dtype=np.float64))


def _polynomial(x: F64, coefficients: list[float]) -> F64:
    """The sum of coefficients[n] x^n, by Horner's rule."""
    result = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result *= x
        result += coefficient
    return result
