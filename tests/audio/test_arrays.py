"""Samples in memory, in any container: the same answer, or one line that says what to do."""

import array
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from pengi_rt.audio.arrays import array_samples, float_samples
from pengi_rt.audio.audio_like import is_samples
from pengi_rt.errors import AudioError

RATE = 16_000
MONO = np.array([0.5, -0.25, 0.125, 0.0], np.float32)
STEREO = np.stack([MONO, MONO[::-1]], axis=1)


class Convertible:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return MONO


class Exchanged:
    """Implements only what the DLPack protocol requires."""

    def __dlpack__(self, **options: Any) -> Any:
        return MONO.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return MONO.__dlpack_device__()


class OnGpu:
    """A stand-in for a torch tensor on another device: only ``detach().cpu()`` can be read."""

    def detach(self) -> "Moved":
        return Moved()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class Moved:
    def cpu(self) -> Any:
        return torch.tensor(MONO)


class Broken:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("first\nsecond")


def read_only() -> Any:
    samples = MONO.copy()
    samples.flags.writeable = False
    return samples


ACCEPTED = {
    "float32": MONO,
    "float16": MONO.astype(np.float16),
    "longdouble": MONO.astype(np.longdouble),
    "big-endian": MONO.astype(">f8"),
    "read-only": read_only(),
    "strided": np.repeat(MONO, 2)[::2],
    "list": MONO.tolist(),
    "tuple": tuple(MONO.tolist()),
    "one channel": MONO[:, None],
    "matrix": MONO[None].view(np.matrix).T,
    "masked, nothing masked": np.ma.array(MONO),
    "buffer": array.array("f", MONO.tolist()),
    "memoryview": memoryview(MONO.data),
    "__array__": Convertible(),
    "__dlpack__": Exchanged(),
    "GPU": OnGpu(),
    "tensor": torch.tensor(MONO),
    "gradient": torch.tensor(MONO, requires_grad=True),
    "half": torch.tensor(MONO).half(),
    "bfloat16": torch.tensor(MONO).bfloat16(),
    "int16 tensor": torch.tensor((MONO * 2**15).astype(np.int16)),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_accepted(kind: str) -> None:
    samples, rate = array_samples((ACCEPTED[kind], RATE), "x")
    assert rate == RATE
    np.testing.assert_array_equal(float_samples(samples), MONO[None])
    assert is_samples(ACCEPTED[kind]) == (kind not in ("list", "tuple"))


@pytest.mark.parametrize(
    "samples", [STEREO, STEREO.tolist(), torch.tensor(STEREO), STEREO.view(np.matrix)], ids=type
)
def test_channels(samples: Any) -> None:
    got, _ = array_samples((samples, RATE), "x")
    np.testing.assert_array_equal(float_samples(got), STEREO.T)


def test_nothing_is_copied() -> None:
    assert np.shares_memory(array_samples((STEREO, RATE), "x")[0], STEREO)


@pytest.mark.parametrize(
    "rate",
    [
        16_000.0,
        np.float32(16_000),
        np.int32(RATE),
        np.array(RATE),
        torch.tensor(RATE),
        Fraction(RATE),
    ],
    ids=repr,
)
def test_rates(rate: Any) -> None:
    got = array_samples((MONO, rate), "x")[1]
    assert got == RATE
    assert type(got) is int


@pytest.mark.parametrize(
    "rate",
    [
        16_000.5,
        "16000",
        b"16000",
        True,
        np.True_,
        None,
        float("nan"),
        float("inf"),
        10**5000,
        [16_000],
        np.array([RATE]),
        16_000 + 0j,
        MONO,
    ],
    ids=lambda rate: type(rate).__name__,
)
def test_invalid_rates(rate: Any) -> None:
    with pytest.raises(
        AudioError, match=r"^x: the rate must be a whole number of Hz, got "
    ) as caught:
        array_samples((MONO, rate), "x")
    assert len(str(caught.value)) < 250


SWAPPED = "in the order (rate, samples), as in scipy; swap them"
FIRST = "transpose them (samples.T): they are in the order [channels, frames], as in torch"
REFUSED: dict[str, tuple[Any, str]] = {
    "scipy's order": ((RATE, MONO), SWAPPED),
    "scipy's order, tensor": ((RATE, torch.tensor(MONO)), SWAPPED),
    "scipy's order, list": ((RATE, MONO.tolist()), SWAPPED),
    "channels first": ((torch.zeros(2, 999), RATE), FIRST),
    "channels first, mono": ((torch.zeros(1, 999), RATE), FIRST),
    "row of a matrix": ((np.zeros((1, 99)).view(np.matrix), RATE), FIRST),
    "a batch": (
        (np.zeros((2, 3, 4)), RATE),
        "must be [frames] or [frames, channels], got (2, 3, 4",
    ),
    "no dimensions": ((np.zeros(()), RATE), "must be [frames] or [frames, channels], got ()"),
    "masked": (
        (np.ma.array(MONO, mask=[True, True, False, False]), RATE),
        "2 samples are masked; fill them",
    ),
    "whole numbers": (([1, 2, 3], RATE), "a list of whole numbers has no known full scale"),
    "int64": ((np.zeros(9, np.int64), RATE), "samples of type int64; supported: float32"),
    "uint16": ((np.zeros(9, np.uint16), RATE), "samples of type uint16; supported"),
    "objects": ((np.zeros(9, object), RATE), "samples of type object; supported"),
    "a structure": (
        (np.zeros(9, [("l", "f4"), ("r", "f4")]), RATE),
        "samples of type void64; supp",
    ),
    "ragged": (([[0.5, 0.5], [0.5]], RATE), "samples of type list cannot be read as an array"),
    "no numbers": ((["a"], RATE), "samples of type str32; supported"),
    "nothing there": (
        (torch.empty(9, device="meta"), RATE),
        "samples of type Tensor cannot be read",
    ),
    "sparse": ((torch.tensor(MONO).to_sparse(), RATE), "samples of type Tensor cannot be read"),
    "raises": ((Broken(), RATE), r"samples of type Broken cannot be read as an array: 'first\nsec"),
    "bytes": ((b"RIFF", RATE), "bytes do not say what type of numbers they hold; np.frombuffer"),
    "memory of bytes": (
        (memoryview(b"RIFF"), RATE),
        "bytes do not say what type of numbers they hold",
    ),
    "a path": (("a.wav", RATE), "got (str, int): a file has its own rate; give only the file"),
    "three": ((MONO, RATE, "x"), "an array recording is (samples, rate); got (ndarray, int, str)"),
    "a number": (
        (np.float32(1), RATE),
        "an array recording is (samples, rate); got (float32, int)",
    ),
    "nothing": ((None, RATE), "an array recording is (samples, rate); got (NoneType, int)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    source, message = REFUSED[kind]
    with pytest.raises(AudioError) as caught:
        array_samples(source, "x")
    assert str(caught.value).startswith("x: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["a", b"a", bytearray(b"a"), memoryview(b"a"), 3, np.int8(3), np.ndarray, None, [0.5], print],
    ids=lambda value: type(value).__name__,
)
def test_arrays_without_samples(value: Any) -> None:
    assert not is_samples(value)
